"""Fused backbones: the same maps from fewer passes, for any timm model, and nothing broken where tracing fails."""

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from htc_fast.inference import fuse
from htc_fast.inference.fuse import FusedConvolution, fuse_convolutions
from htc_fast.models.backbone import Backbone
from htc_fast.ops import amx, packed_convolution

AMX = pytest.mark.skipif(
    not amx._ready(), reason="a processor without a matrix unit has no such form of a 1x1 convolution"
)


def settled(net: nn.Module) -> nn.Module:
    """Batch norms as after some training."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return net.eval()


def assert_same(fused: nn.Module, plain: nn.Module, images: torch.Tensor, tolerance: float = 1e-5) -> None:
    for found, want in zip(fused(images), plain(images), strict=True):
        torch.testing.assert_close(found, want, rtol=0, atol=tolerance * float(want.detach().abs().max()))


BACKBONES = (
    "resnet18",
    "test_resnet",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_050",
    "regnety_002",
    "resnext50_32x4d",
)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("watched", [False, True], ids=["no gradient", "gradient"])
def test_same_maps_without_norms(name, watched):
    net = settled(Backbone(name, pretrained=False, frozen_stages=0, norm_eval=True).net)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fused, count = fuse_convolutions(net)
    assert count > 10 and not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in fused.modules())
    with torch.set_grad_enabled(watched):
        for shape in ((1, 3, 64, 96), (2, 3, 96, 160)):
            assert_same(fused, net, torch.randn(shape).contiguous(memory_format=torch.channels_last))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name, shortcuts", [("resnet18", 3), ("resnext50_32x4d", 4), ("regnety_002", 4)])
def test_a_shortcut_s_bias_is_part_of_the_sum_s(name, shortcuts):
    net = settled(Backbone(name, pretrained=False, frozen_stages=0, norm_eval=True).net)
    fused, _ = fuse_convolutions(net)
    layers = [one for one in fused.modules() if isinstance(one, nn.Conv2d)]
    assert sum(one.bias is None for one in layers) == shortcuts and len(layers) > 15


@pytest.mark.parametrize("name", ["test_convnext", "swin_tiny_patch4_window7_224"])
def test_backbones_without_batch_norm_stay_as_they_are(name):
    net = Backbone(name, pretrained=False, frozen_stages=0, norm_eval=True).net.eval()
    fused, count = fuse_convolutions(net)
    assert count == 0 and type(fused) is type(net) and fused is not net
    assert_same(fused, net, torch.randn(1, 3, 64, 96), tolerance=0)


class Net(nn.Module):
    """What must not be folded beside what may: a shared convolution, a value read twice, a sum with the input."""

    def __init__(self, after: nn.Module):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.shared, self.shared_norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.read_twice, self.act = nn.Conv2d(3, 3, 1), after

    def forward(self, x):
        y = self.norm(self.conv(x)) + x
        z = self.shared_norm(self.shared(y))
        z = self.shared(z)
        w = self.read_twice(z)
        return [y, self.act(w), w + z, x]


def test_only_what_is_nobody_else_s_is_taken_in():
    net = settled(Net(nn.ReLU()))
    fused, count = fuse_convolutions(net)
    assert count >= 2
    images = torch.randn(1, 3, 8, 8)
    kept = images.clone()
    with torch.no_grad():
        assert_same(fused, net, images)
    assert torch.equal(images, kept)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Hardswish(), None])
@pytest.mark.parametrize("overwrites", [None, False, True], ids=["alone", "sum", "sum in place"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_fused_convolution(activation, overwrites, layout):
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 3, padding=1, stride=2).requires_grad_(False).to(memory_format=layout)
    x, other = (torch.randn(shape).mul(4).contiguous(memory_format=layout) for shape in ((2, 5, 9, 13), (2, 7, 5, 7)))
    want = conv(x) if overwrites is None else conv(x) + other
    want = want if activation is None else activation(want)
    fused = FusedConvolution(conv, activation, bool(overwrites))
    with torch.no_grad():
        found = fused(x) if overwrites is None else fused(x, other.clone())
        low = FusedConvolution(conv.bfloat16(), activation, bool(overwrites))
        low = low(x.bfloat16()) if overwrites is None else low(x.bfloat16(), other.bfloat16())
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), want, rtol=0.03, atol=0.03)


@AMX
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), None])
@pytest.mark.parametrize("added", [False, True])
@torch.no_grad()
def test_a_packed_1x1_convolution_takes_the_sum_in(activation, added, monkeypatch):
    torch.manual_seed(0)
    layer = FusedConvolution(nn.Conv2d(64, 32, 1).bfloat16(), activation, overwrites=True)
    assert layer.plain() == (not isinstance(activation, nn.ReLU6))
    x, other = torch.randn(2, 64, 7, 9).bfloat16(), torch.randn(2, 32, 7, 9).bfloat16()
    assert packed_convolution.adds(x, other, layer.conv.weight)
    assert not packed_convolution.adds(x, other.float(), layer.conv.weight)  # torch converts it
    want = layer.conv.double()(x.double()) + (other.double() if added else 0)
    want = want if activation is None else activation(want)
    layer.conv.bfloat16()
    layer.packed = packed_convolution.Packed(layer.conv.weight)
    asked = []
    monkeypatch.setattr(amx, "convolution", lambda *given, own=amx.convolution: asked.append(1) or own(*given))
    found = layer(x, other) if added else layer(x)
    torch.testing.assert_close(
        found.double(), want, rtol=2**-8, atol=1e-2 if isinstance(activation, nn.ReLU6) else 1e-5
    )
    assert len(asked) == (not isinstance(activation, nn.ReLU6))


@AMX
@pytest.mark.parametrize("shape", [(1, 32, 7, 9), (2, 32, 1, 1), (2, 1, 7, 9), (32, 1, 1)])
@torch.no_grad()
def test_a_sum_that_broadcasts_is_torch_s(shape):
    torch.manual_seed(0)
    layer = FusedConvolution(nn.Conv2d(64, 32, 1).bfloat16(), nn.ReLU())
    x, other = torch.randn(2, 64, 7, 9).bfloat16(), torch.randn(shape).bfloat16()
    want = layer(x, other)
    layer.packed = packed_convolution.Packed(layer.conv.weight)
    torch.testing.assert_close(layer(x, other), want, rtol=2**-6, atol=2**-6)


class Untraceable(Net):
    def forward(self, x):
        return super().forward(x) if float(x.mean()) > -1e9 else []


def test_untraceable_networks_stay_as_they_are():
    net = settled(Untraceable(nn.ReLU()))
    with pytest.warns(UserWarning, match="stays unfused"):
        fused, count = fuse_convolutions(net)
    assert count == 0 and isinstance(fused, Untraceable)


class OneSize(Net):
    def forward(self, x):
        return super().forward(x + 1 if x.shape[3] == 96 else x)


def test_networks_that_look_at_the_size_stay_as_they_are():
    with pytest.warns(UserWarning, match="stays unfused"):
        fused, count = fuse_convolutions(settled(OneSize(nn.ReLU())))
    assert count == 0 and isinstance(fused, OneSize)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.SiLU(), None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel, groups, own", [(3, 16, True), (5, 16, True), (7, 16, False), (3, 1, False)])
def test_what_pads_by_size_takes_its_activation_in(activation, dtype, kernel, groups, own, monkeypatch):
    calls, real = [], fuse.depthwise
    monkeypatch.setattr(fuse, "depthwise", lambda *given: calls.append(1) or real(*given))
    torch.manual_seed(0)
    conv = Conv2dSame(16, 16, kernel, stride=2, groups=groups, bias=True).requires_grad_(False)
    for size in ((8, 12), (9, 13), (1, 2)):
        x = torch.randn(2, 16, *size).mul(4).contiguous(memory_format=torch.channels_last)
        want = conv.float()(x) if activation is None else activation(conv.float()(x))
        with torch.no_grad():
            found = FusedConvolution(conv.to(dtype), activation)(x.to(dtype))
        assert found.dtype == dtype
        close = {"rtol": 0.03, "atol": 0.1} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(found.float(), want, **close)
    native = own and fuse.supports(dtype, torch.device("cpu")) and (activation is None or type(activation) in fuse.HIGH)
    assert len(calls) == 3 * (native and fuse.own_takes(conv, x, conv.weight))
