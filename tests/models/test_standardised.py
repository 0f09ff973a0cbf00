"""Standardised convolutions: their definition, which layers are, and plain weights that they take as they are."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from htc_fast.models.backbone import Backbone
from htc_fast.models.convolution import is_plain
from htc_fast.models.sac import SwitchableConv2d
from htc_fast.models.standardised import StandardisedConv2d, adapt, standardise
from htc_fast.models.weights.load import load_weights
from tests.models.test_zoo import tiny


def defined(weight, deviation, mean):
    """Qiao et al.: (w - mean) / sqrt(variance + 1e-5) of each output, then what is kept, one output after the other."""
    rows = []
    for one, scale, shift in zip(weight, deviation.flatten(), mean.flatten()):
        middle = one.sum() / one.numel()
        variance = ((one - middle) ** 2).sum() / (one.numel() - 1)
        rows.append((one - middle) / (variance + 1e-5) ** 0.5 * scale + shift)
    return torch.stack(rows)


def layer(groups=1):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, 2, 2, dilation=2, groups=groups, bias=False, dtype=torch.float64)
    return conv, StandardisedConv2d(conv), torch.randn(2, 4, 7, 8, dtype=torch.float64)


@pytest.mark.parametrize("groups", [1, 2])
def test_definition(groups):
    conv, made, x = layer(groups)
    torch.testing.assert_close(made(x), conv(x), rtol=1e-12, atol=1e-12)  # it starts as what it replaces
    made.weight_std.copy_(torch.rand(6, 1, 1, 1) + 0.5)
    made.weight_mean.copy_(torch.randn(6, 1, 1, 1))
    weight = defined(made.weight, made.weight_std, made.weight_mean)
    assert not torch.allclose(weight, conv.weight, atol=0.1)
    want = F.conv2d(x, weight, None, (2, 2), (2, 2), (2, 2), groups)
    torch.testing.assert_close(made(x), want, rtol=1e-12, atol=1e-12)


def test_a_multiple_of_the_weight_is_the_same_weight():
    _, made, x = layer()
    want = made(x)
    with torch.no_grad():
        made.weight.mul_(100).add_(3)
    torch.testing.assert_close(made(x), want, rtol=1e-3, atol=1e-4)  # but for the 1e-5 beside a variance of 0.01


def test_gradients_are_the_definition_s():
    _, made, x = layer()
    made(x).square().sum().backward()
    found, made.weight.grad = made.weight.grad, None
    F.conv2d(x, defined(made.weight, made.weight_std, made.weight_mean), None, 2, 2, 2).square().sum().backward()
    torch.testing.assert_close(found, made.weight.grad, rtol=1e-9, atol=1e-9)
    assert set(dict(made.named_parameters())) == {"weight"}  # what is kept is not trained


def test_16_bits_are_standardised_in_float32():
    made = StandardisedConv2d(nn.Conv2d(64, 8, 3, bias=False))
    low = copy.deepcopy(made).to(torch.bfloat16)
    assert low.standardised().dtype == torch.bfloat16
    torch.testing.assert_close(low.standardised().float(), made.standardised(), rtol=0.02, atol=1e-3)


def test_which_layers_are():
    """mmdetection's conv_cfg is that of every convolution of the backbone, also the stem's and the shortcuts'."""
    with torch.device("meta"):
        both = Backbone("resnet50", False, 1, True, sac=(3, 4, 5), standardised=True, feedback=64).net
        plain = Backbone("resnet50", False, 1, True).net
    kinds = [type(one) for one in both.modules()]
    assert kinds.count(SwitchableConv2d) == 13 and kinds.count(StandardisedConv2d) == 53 - 13
    # What is left are 1x1 and 3x3 with a bias: five in each switchable layer, and the feedback's three.
    assert sum(map(is_plain, both.modules())) == 13 * 5 + 3
    assert isinstance(both.conv1, StandardisedConv2d) and isinstance(both.layer1[0].downsample[0], StandardisedConv2d)
    assert not any(isinstance(one, StandardisedConv2d) for one in plain.modules())


def test_squeezing_layers_stay_plain():
    with torch.device("meta"):
        net = Backbone("seresnet50", False, 1, True, standardised=True).net
    assert is_plain(net.layer1[0].se.fc1) and isinstance(net.layer1[0].conv1, StandardisedConv2d)


def test_plain_weights_are_taken_as_they_are(tmp_path):
    """From a file of plain HTC, as ImageNet's: without a deviation and mean of its own a layer takes the weight's."""
    plain, made = tiny("htc_r50"), tiny("detectors_htc_r50_sac")
    for one in plain.backbone.parameters():
        one.data += 0.3 * torch.rand_like(one)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    report = load_weights(made, tmp_path / "plain.pth", strict=False)
    assert {key.rpartition(".")[2] for key in report.missing} >= {"weight_std", "weight_mean", "weight_difference"}
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for one, other in zip(plain.eval().backbone(images), made.eval().backbone(images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def test_what_a_file_brings_is_kept():
    net = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False))
    standardise(net)
    with torch.no_grad():
        net[0].weight_std.fill_(7.0)
    adapt(net, {"0.weight", "0.weight_std"})
    assert (net[0].weight_std == 7).all()
    adapt(net, {"0.weight"})
    torch.testing.assert_close(net[0].standardised(), net[0].weight.detach())
