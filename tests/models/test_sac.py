"""Switchable atrous convolution: its definition, the switch, its place in backbones, and a step of training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from htc_fast import UserError
from htc_fast.models.backbone import Backbone
from htc_fast.models.sac import SwitchableConv2d, means
from tests.models import test_deformable, test_standardised
from tests.models.test_zoo import tiny

# Inputs, outputs, groups, stride, height, width.
CASES = {
    "plain": (3, 4, 1, 1, 5, 6),
    "stride": (4, 2, 1, 2, 7, 5),
    "groups": (4, 4, 2, 1, 4, 3),
    "two rows": (2, 2, 1, 1, 2, 4),
    "one pixel": (2, 3, 1, 2, 1, 1),
}


def stirred(module, spread=0.3):
    """What starts at zero, as after some training."""
    torch.manual_seed(4)
    for name, one in module.named_parameters():
        if any(word in name for word in ("difference", "switch", "context", "offset", "feedback", "gate")):
            nn.init.normal_(one, std=spread / max(1, one[0].numel()) ** 0.5)
    return module


def layer(case):
    """A layer of float64 whose every part does something, and an input."""
    inputs, outputs, groups, stride, height, width = CASES[case]
    torch.manual_seed(len(case))
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False, dtype=torch.float64)
    made = stirred(SwitchableConv2d(conv), spread=1.0)
    with torch.no_grad():
        made.weight_std.mul_(1.5)
        made.weight_mean.add_(0.1)
    return conv, made, torch.randn(2, inputs, height, width, dtype=torch.float64)


def pointwise(x, conv):
    """A 1x1 convolution."""
    return torch.einsum("oi,nihw->nohw", conv.weight[:, :, 0, 0], x) + conv.bias[:, None, None]


def mirrored(x):
    """Means of 5 x 5 pixels, by numpy's mirroring, which goes on for ever where a map is small."""
    padded = np.pad(x.detach().numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(2, 3))
    return torch.from_numpy(windows.mean(axis=(4, 5)))


def defined(made, x, stride):
    """Section 4 of the paper and the peers' order of its parts, the sums written out."""
    x = x + pointwise(x.mean((2, 3), keepdim=True), made.pre_context)
    around = mirrored(x)
    switch = pointwise(around[:, :, ::stride, ::stride], made.switch)
    weight = test_standardised.defined(made.weight, made.weight_std, made.weight_mean)
    parts, bias = [], torch.zeros(len(weight))
    for wide, own, offset in (
        (1, weight, made.near_offset),
        (3, weight + made.weight_difference, made.far_offset),
    ):
        moved = F.conv2d(around, offset.weight, offset.bias, stride, 1)
        parts.append(test_deformable.defined(x, moved, own, bias, (stride,) * 2, (wide, wide), (wide, wide)))
    y = switch * parts[0] + (1 - switch) * parts[1]
    return y + pointwise(y.mean((2, 3), keepdim=True), made.post_context)


@pytest.mark.parametrize("case", CASES)
def test_definition(case):
    _, made, x = layer(case)
    with torch.no_grad():
        want, sampled = defined(made, x, CASES[case][3]), made(x)
    torch.testing.assert_close(sampled, want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(made(x).detach(), want, rtol=1e-9, atol=1e-9)  # torchvision's operator
    assert sampled.is_contiguous(memory_format=torch.channels_last) or sampled.shape[2:] == (1, 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 2), (2, 7), (3, 3), (4, 9)])
def test_means_of_small_maps(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(means(x), mirrored(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_it_starts_as_the_convolution_it_replaces(case):
    conv, _, x = layer(case)
    made = SwitchableConv2d(conv)
    assert made.weight is conv.weight
    torch.testing.assert_close(made(x), conv(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", [1.0, 0.0, 0.25, -1.0])
def test_the_switch_is_the_share_of_the_near_dilation(share):
    """It is what a 1x1 gives, no probability: beyond 0 and 1 it goes on."""
    conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    made, x = SwitchableConv2d(conv), torch.randn(1, 3, 8, 9)
    nn.init.constant_(made.switch.bias, share)
    nn.init.normal_(made.weight_difference)
    near = F.conv2d(x, conv.weight, padding=1)
    far = F.conv2d(x, conv.weight + made.weight_difference, padding=3, dilation=3)
    torch.testing.assert_close(made(x), share * near + (1 - share) * far, rtol=1e-4, atol=1e-5)


def test_each_pixel_switches_by_itself():
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    made, x = SwitchableConv2d(conv), torch.zeros(1, 1, 4, 20)
    x[..., 10:] = 1.0
    nn.init.zeros_(made.switch.bias)
    nn.init.ones_(made.switch.weight)
    near, far = F.conv2d(x, conv.weight, padding=1), F.conv2d(x, conv.weight, padding=3, dilation=3)
    torch.testing.assert_close(made(x)[..., :8], far[..., :8], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made(x)[..., 12:], near[..., 12:], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(near[..., 17:], far[..., 17:], atol=1e-3)


@pytest.mark.parametrize("case", ["groups", "two rows"])
def test_gradients(case):
    _, made, x = layer(case)
    names, tensors = zip(*made.named_parameters())
    run = lambda x, *tensors: torch.func.functional_call(made, dict(zip(names, tensors)), (x,))  # noqa: E731
    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *tensors), fast_mode=True)


@pytest.mark.parametrize("grad", [False, True], ids=["sampled", "operator"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_round_but_do_not_move_the_points(dtype, grad):
    conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    made, x = stirred(SwitchableConv2d(conv)), torch.randn(1, 8, 2, 200).to(dtype)
    with torch.set_grad_enabled(grad):
        want = made(x.float())
        with torch.autocast("cpu", dtype):
            cast = made(x)
        low = made.to(dtype)(x)
    for found in (cast, low):
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), want, rtol=0.03, atol=0.03)


def test_places():
    with torch.device("meta"):
        net = Backbone("resnext50_32x4d", False, 1, True, sac=(3, 4, 5), standardised=True).net
    found = {path: one for path, one in net.named_modules() if isinstance(one, SwitchableConv2d)}
    assert list(found) == [f"layer{n}.{k}.conv2" for n, count in ((2, 4), (3, 6), (4, 3)) for k in range(count)]
    first = found["layer2.0.conv2"]
    assert first.groups == 32 and first.stride == first.switch.stride == first.far_offset.stride == (2, 2)
    assert first.near_offset.weight.shape == (18, 256, 3, 3) and first.switch.weight.shape == (1, 256, 1, 1)


@pytest.mark.parametrize("name", ["test_convnext", "tf_efficientnet_lite0", "swin_tiny_patch4_window7_224"])
def test_backbones_without_3x3_convolutions_are_refused(name):
    sentence = rf"^sac makes 3x3 convolutions switchable, and stage 3 of backbone '{name}' has none .* such as resnet50"
    with pytest.raises(UserError, match=sentence):
        tiny("detectors_htc_r50_sac", backbone=name)


def test_two_kinds_for_one_stage_are_refused():
    with pytest.raises(UserError, match=r"^dcn and sac both replace the 3x3 convolutions of stages 4, 5: choose one"):
        tiny("detectors_htc_r50_sac", dcn=(2, 4, 5))
    with pytest.raises(UserError, match=r"^dcn and sac both replace the 3x3 convolutions of stage 3: choose one"):
        tiny("htc_r50", sac=(3,), dcn=(3,))


def test_each_kind_in_its_own_stage():
    model = tiny("htc_r50", sac=[5, 4, 5], dcn=(3,)).eval()
    assert model.config.sac == (4, 5)
    found = {key.split(".")[2] for key in model.state_dict() if key.endswith(".weight_difference")}
    assert found == {"layer3", "layer4"} and "backbone.net.layer2.0.conv1.conv_offset.weight" in model.state_dict()
    assert model.detect(torch.randn(1, 3, 64, 96), torch.tensor([[64, 96]])).count.item() > 0


def test_frozen_stages():
    model = tiny("htc_r50", sac=(2, 5), frozen_stages=1).train()
    parts = {key: one.requires_grad for key, one in model.named_parameters() if "weight_difference" in key}
    assert parts == {key: "layer4" in key for key in parts} and len(set(parts.values())) == 2


def test_the_paper_s_model_by_its_sizes():
    """In every layer of C channels: C * C * 9 of the difference, C + 1 of the switch, contexts, twice 18 offsets."""
    with torch.device("meta"):
        model, plain = tiny("detectors_htc_r50_sac", backbone="resnet50"), tiny("htc_r50", backbone="resnet50")
    each = {c: c * c * 9 + (c + 1) + 2 * (c * c + c) + 2 * (c * 9 * 18 + 18) for c in (128, 256, 512)}
    more = 4 * each[128] + 6 * each[256] + 3 * each[512]
    counts = [sum(one.numel() for one in model.parameters()) for model in (model, plain)]
    assert more == 14_869_473 and counts[0] - counts[1] == more
