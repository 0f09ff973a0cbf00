"""Deformable convolutions: their definition, their place in backbones, training, and other libraries' weights."""

import itertools
import math

import pytest
import torch
from torch import nn
from torchvision.ops import deform_conv2d

from htc_fast import UserError
from htc_fast.models import deformable
from htc_fast.models.backbone import Backbone
from htc_fast.models.deformable import DeformableConv2d, deformable_convolution, sampled_convolution
from tests.inference.test_fuse import settled
from tests.models.test_zoo import SIZES, tiny
from tests.training.tiny import Pictures, collate

# in channels, out channels, groups, stride, padding, dilation, height, width
GEOMETRIES = {
    "plain": (3, 4, 1, (1, 1), (1, 1), (1, 1), 5, 6),
    "stride": (4, 2, 1, (2, 2), (1, 1), (1, 1), 7, 5),
    "groups": (6, 4, 2, (1, 1), (1, 1), (1, 1), 4, 5),
    "stride and groups": (8, 8, 4, (2, 2), (1, 1), (1, 1), 6, 5),
    "dilation": (3, 3, 3, (1, 2), (2, 1), (2, 1), 6, 7),
    "one row": (2, 2, 1, (1, 1), (1, 1), (1, 1), 1, 4),
}


def pixel(plane, y, x):
    inside = 0 <= y < plane.shape[0] and 0 <= x < plane.shape[1]
    return float(plane[y, x]) if inside else 0.0


def bilinear(plane, y, x):
    """Between four pixels; those outside are zero."""
    top, left = math.floor(y), math.floor(x)
    down, across = y - top, x - left
    return sum(
        pixel(plane, top + i, left + j) * (down if i else 1 - down) * (across if j else 1 - across)
        for i in (0, 1)
        for j in (0, 1)
    )


def defined(x, offset, weight, bias, stride, padding, dilation):
    """Dai et al., equations 2 to 4, one number after the other."""
    groups, out = x.shape[1] // weight.shape[1], x.new_zeros(len(x), len(weight), *offset.shape[2:])
    for n, o, i, j in itertools.product(*map(range, out.shape)):
        first, total = o // (len(weight) // groups) * weight.shape[1], float(bias[o])
        for tap, (a, b) in enumerate(itertools.product(range(3), range(3))):
            y = i * stride[0] - padding[0] + a * dilation[0] + float(offset[n, 2 * tap, i, j])
            z = j * stride[1] - padding[1] + b * dilation[1] + float(offset[n, 2 * tap + 1, i, j])
            for c in range(weight.shape[1]):
                total += float(weight[o, c, a, b]) * bilinear(x[n, first + c], y, z)
        out[n, o, i, j] = total
    return out


def layer(case, spread=1.5):
    """A deformable convolution of float64 whose offsets reach beyond the borders, and an input."""
    inputs, outputs, groups, stride, padding, dilation, height, width = GEOMETRIES[case]
    torch.manual_seed(len(case))
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding, dilation, groups, dtype=torch.float64)
    made = DeformableConv2d(conv)
    nn.init.normal_(made.conv_offset.weight, std=spread / inputs**0.5)
    nn.init.normal_(made.conv_offset.bias)
    return conv, made, torch.randn(2, inputs, height, width, dtype=torch.float64)


@pytest.mark.parametrize("case", GEOMETRIES)
def test_definition(case):
    _, made, x = layer(case)
    geometry = made.stride, made.padding, made.dilation
    with torch.no_grad():
        offset = made.conv_offset(x)
        want = defined(x, offset, made.weight, made.bias, *geometry)
        sampled = made(x)
    assert offset.shape[1] == 18 and offset.abs().max() > 2
    operator = made(x)
    assert not torch.equal(operator, sampled)  # with gradients it is torchvision's
    torch.testing.assert_close(sampled, want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(operator.detach(), want, rtol=1e-9, atol=1e-9)
    assert sampled.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("case", GEOMETRIES)
def test_without_offsets_it_is_the_convolution_it_replaces(case):
    conv, _, x = layer(case)
    made = DeformableConv2d(conv)
    assert made.weight is conv.weight and made.bias is conv.bias
    torch.testing.assert_close(made(x), conv(x), rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(made(x), conv(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", ["groups", "stride and groups"])
@pytest.mark.parametrize("run", [deform_conv2d, sampled_convolution])
def test_gradients(case, run):
    _, made, x = layer(case)
    x = x[:1, :, :3]
    tensors = [one.detach().requires_grad_() for one in (x, made.conv_offset(x), made.weight, made.bias)]
    geometry = made.stride, made.padding, made.dilation
    assert torch.autograd.gradcheck(lambda *given: run(*given, *geometry), tensors, atol=1e-5, nondet_tol=1e-9)


@pytest.mark.parametrize("run", [deform_conv2d, sampled_convolution])
def test_groups_of_channels_with_offsets_of_their_own(run):
    torch.manual_seed(2)
    x, offset = torch.randn(2, 6, 5, 4, dtype=torch.float64), torch.randn(2, 3 * 18, 5, 4, dtype=torch.float64)
    weight = torch.randn(4, 6, 3, 3, dtype=torch.float64)
    geometry = (1, 1), (1, 1), (1, 1)
    # Each pair of channels is a convolution of its own, and they are summed.
    zeros = torch.zeros(4, dtype=torch.float64)
    each = [
        defined(
            x[:, 2 * k : 2 * k + 2], offset[:, 18 * k : 18 * (k + 1)], weight[:, 2 * k : 2 * k + 2], zeros, *geometry
        )
        for k in range(3)
    ]
    torch.testing.assert_close(run(x, offset, weight, None, *geometry), sum(each), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("grad", [False, True], ids=["sampled", "operator"])
def test_an_offset_that_is_no_number_counts_as_none(grad):
    x, weight = torch.randn(1, 4, 5, 7), torch.randn(4, 4, 3, 3, requires_grad=grad)
    offset = torch.zeros(1, 18, 5, 7)
    offset[0, 3, 2:], offset[0, 8] = math.nan, math.nan
    found = deformable_convolution(x, offset, weight, None, padding=(1, 1))
    torch.testing.assert_close(found, torch.nn.functional.conv2d(x, weight, padding=1), rtol=1e-4, atol=1e-5)


def test_points_far_away_read_zeros():
    x, weight = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)
    for far in (1e9, -1e9, math.inf, -math.inf):
        offset = torch.zeros(1, 18, 4, 4)
        offset[:, ::2] = far
        assert torch.equal(
            sampled_convolution(x, offset, weight, None, (1, 1), (1, 1), (1, 1)), torch.zeros(1, 1, 4, 4)
        )


@pytest.mark.parametrize("grad", [False, True], ids=["sampled", "operator"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_round_but_do_not_move_the_points(dtype, grad):
    """At the far end of a map as long as a picture is at stride 8, where bfloat16 knows whole pixels alone."""
    conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    made = DeformableConv2d(conv)
    nn.init.constant_(made.conv_offset.bias, 0.25)
    x = torch.randn(1, 8, 2, 200).to(dtype)
    with torch.set_grad_enabled(grad):
        want = made(x.float())
        with torch.autocast("cpu", dtype):
            cast = made(x)
            same_as_plain = conv(x).dtype
        low = made.to(dtype)(x)
    for found in (cast, low):
        assert found.dtype == dtype == same_as_plain
        torch.testing.assert_close(found.float(), want, rtol=0.02, atol=0.02)


def test_autocast_leaves_the_sum_in_float32():
    _, made, x = layer("groups")
    made, x = made.float(), x.float()
    offset = made.conv_offset(x).detach()
    made.conv_offset = nn.Identity()
    made.conv_offset.forward = lambda _: offset
    want = made(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made(x), want)


def test_kernels_of_an_old_torchvision_run_on_the_default_stream_alone(monkeypatch):
    on_gpu = type("OnGPU", (), {"device": torch.device("cuda"), "requires_grad": True})()
    streams = {"current_stream": 1, "default_stream": 1}
    for name in streams:
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: streams[name])
    for fixed, current, sampled in ((True, 1, False), (True, 2, False), (False, 1, False), (False, 2, True)):
        monkeypatch.setattr(deformable, "ON_CURRENT_STREAM", fixed)
        streams["current_stream"] = current
        assert deformable._by_sampling(on_gpu) is sampled


# Backbones, stages, how many convolutions there are in them, the first one and its groups.
PLACES = {
    "resnet50": ((5,), 3, "layer4.0.conv2", 1),
    "resnext101_64x4d": ((3, 4, 5), 30, "layer2.0.conv2", 64),
    "legacy_senet154": ((5,), 3, "layer4.0.conv2", 64),  # and not the 3x3 of its shortcut
    "seresnet50": ((2,), 3, "layer1.0.conv2", 1),
    "resnet50d": ((2,), 3, "layer1.0.conv2", 1),  # and none of its stem
    "dpn107": ((5,), 3, "features_conv5_1.c3x3_b.conv", 50),
    "test_resnet": ((5,), 2, "layer4.0.conv1", 1),
}


@pytest.mark.parametrize("name", PLACES)
def test_places(name):
    stages, count, first, groups = PLACES[name]
    with torch.device("meta"):
        made = Backbone(name, False, 1, True, dcn=stages).net
        plain = Backbone(name, False, 1, True).net
    found = {path: one for path, one in made.named_modules() if isinstance(one, DeformableConv2d)}
    assert len(found) == count and next(iter(found)) == first and found[first].groups == groups
    for path, one in found.items():
        old = plain.get_submodule(path)
        for field in ("kernel_size", "stride", "padding", "dilation", "groups", "in_channels", "out_channels"):
            assert getattr(one, field) == getattr(old, field)
        assert one.bias is None and one.weight.shape == old.weight.shape
        assert one.conv_offset.weight.shape == (18, one.in_channels, 3, 3) and one.conv_offset.bias.shape == (18,)
        assert one.conv_offset.stride == one.stride and one.conv_offset.groups == 1
    assert found[first].stride == ((1, 1) if stages == (2,) else (2, 2))


@pytest.mark.parametrize("name", ["test_convnext", "tf_efficientnet_lite0", "swin_tiny_patch4_window7_224"])
def test_backbones_without_3x3_convolutions(name):
    sentence = rf"^dcn makes 3x3 convolutions deformable, and stage 5 of backbone '{name}' has none .* such as resnet50"
    with pytest.raises(UserError, match=sentence):
        tiny("htc_r50_dcn", backbone=name)


def test_the_weight_is_the_plain_backbone_s_and_nothing_else_is_drawn():
    plain, made = tiny("htc_r50"), tiny("htc_r50", dcn=(3, 4, 5))
    state, images = made.state_dict(), torch.randn(1, 3, 64, 96)
    assert all(torch.equal(value, state.pop(key)) for key, value in plain.state_dict().items())
    assert len(state) == 10 and all(".conv_offset." in key and (one == 0).all() for key, one in state.items())
    with torch.no_grad():
        for one, other in zip(plain.backbone(images), made.backbone(images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_frozen_stages_and_a_step_of_training():
    model = tiny("htc_r50", dcn=(2, 5), frozen_stages=1)
    settled(model.backbone)  # timm's last norms start at zero, which lets no gradient through
    model.train()
    offsets = {key: one for key, one in model.named_parameters() if ".conv_offset." in key}
    assert {key: one.requires_grad for key, one in offsets.items()} == {key: "layer4" in key for key in offsets}
    before = {key: one.detach().clone() for key, one in offsets.items()}
    images, sizes, targets, _ = collate([Pictures()[0], Pictures()[2]])
    sum(model.losses(images, sizes, targets).values()).backward()
    torch.optim.SGD([one for one in model.parameters() if one.requires_grad], 0.1).step()
    for key, one in offsets.items():
        assert torch.equal(one, before[key]) == ("layer1" in key), key
    assert all(one.grad.abs().max() > 0 for one in model.backbone.net.layer4.parameters() if one.requires_grad)
    assert not any(one.training for one in model.backbone.modules() if isinstance(one, nn.BatchNorm2d))


def test_a_detector_is_not_moved_by_the_size_of_its_batch():
    model = tiny("htc_r50", dcn=(4, 5)).eval()
    for one in model.backbone.modules():
        if isinstance(one, DeformableConv2d):
            nn.init.normal_(one.conv_offset.weight, std=0.1)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        both = model.backbone(images)
        for n in range(2):
            for one, other in zip(model.backbone(images[n : n + 1]), both, strict=True):
                torch.testing.assert_close(one[0], other[n], rtol=1e-4, atol=1e-5)
    assert model.detect(images, SIZES).count.min() > 0
