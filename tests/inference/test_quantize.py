"""Layers in 8 bits beside the same layers in float32 over the same rounded numbers."""

import ctypes

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn

from htc_fast.device import supports
from htc_fast.errors import UserError
from htc_fast.inference.quantize import Map, QuantizedLayer, Range, scale_of
from htc_fast.ops import _onednn_int8

# Without them oneDNN adds up pairs in 16 bits, which may overflow: `optimize` computes in float32 there.
quantized = pytest.mark.skipif(
    not (_onednn_int8.offered() and supports(torch.int8, torch.device("cpu"))), reason="the processor has no int8"
)
LAYERS = {
    "3x3": lambda: nn.Conv2d(16, 24, 3, padding=1),
    "strided": lambda: nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False),
    "1x1": lambda: nn.Conv2d(16, 33, 1),
    "depthwise": lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16),
    "dilated": lambda: nn.Conv2d(16, 8, 3, padding=2, dilation=2),
    "padded by size": lambda: Conv2dSame(16, 24, 3, stride=2),
    "product": lambda: nn.Linear(16, 40),
}
ACTIVATIONS = {"none": None, "relu": nn.ReLU(), "relu6": nn.ReLU6()}


def rounded(layer):
    """A copy of a layer whose weights are those that 8 bits leave."""
    weight = layer.weight.detach()
    steps = weight.flatten(1).abs().amax(dim=1).view(-1, *[1] * (weight.dim() - 1)) / 127
    layer.weight = nn.Parameter((weight / steps).round() * steps)
    return layer


def settled(layer, x, other=None):
    with torch.no_grad():
        layer(x) if other is None else layer(x, other)
    layer.settle()
    assert layer.packed is not None and layer.exact == []
    return layer


def batch(kind, count=3):
    return torch.randn(count, 16) if kind == "product" else torch.randn(count, 16, 9, 12)


@quantized
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("keeps", [True, False])
@torch.no_grad()
def test_a_layer_is_its_fake_quantised_self(kind, activation, keeps):
    torch.manual_seed(0)
    made, after = LAYERS[kind](), ACTIVATIONS[activation]
    layer = settled(QuantizedLayer(made, after, torch.float32, keeps), batch(kind))
    x = batch(kind, 2)
    found, given = layer(x), layer.input.quantized(x)
    want = rounded(made)(given.floats(torch.float32))
    want = want if after is None else after(want)
    if not keeps:
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
        return
    step, zero = found.scale
    exact = (want / step + zero).clamp(0, 255)
    assert found.values.dtype == torch.uint8 and found.values.shape == want.shape
    # Half a step, and what float32 leaves of it.
    assert ((found.values - exact).abs() <= 0.5 + 1e-3).all()


@quantized
@pytest.mark.parametrize("overwrites", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@torch.no_grad()
def test_a_sum_is_its_fake_quantised_self(activation, overwrites):
    torch.manual_seed(0)
    made, after = nn.Conv2d(16, 24, 1), ACTIVATIONS[activation]
    x, other = batch("1x1"), torch.randn(3, 24, 9, 12) * 2
    layer = settled(QuantizedLayer(made, after, torch.float32, True, overwrites), x, other)
    summand = layer.addend.quantized(other)
    before = summand.values.clone()
    want = rounded(made)(layer.input.quantized(x).floats(torch.float32)) + summand.floats(torch.float32)
    want = want if after is None else after(want)
    found = layer(x, summand)
    step, zero = found.scale
    assert ((found.values - (want / step + zero).clamp(0, 255)).abs() <= 0.5 + 1e-3).all()
    assert torch.equal(summand.values, before) != overwrites
    assert torch.equal(layer(x, other).values, found.values)


@quantized
@torch.no_grad()
def test_layers_hand_each_other_the_range_of_the_first():
    torch.manual_seed(0)
    first = QuantizedLayer(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), torch.float32, True)
    second = QuantizedLayer(nn.Conv2d(16, 8, 1), None, torch.bfloat16, False)
    x = batch("3x3")
    want = second(first(x))
    for layer in (first, second):
        layer.settle()
    found = second(first(x))
    assert second.input is first.output and found.dtype == torch.bfloat16
    assert (found - want).float().abs().max() < 0.05 * want.float().abs().max()


@quantized
@pytest.mark.parametrize("zero", [0, 100])
@torch.no_grad()
def test_no_weight_is_turned_at_a_call(zero, capfd):
    x = torch.rand(1, 512, 25, 42) - zero / 255
    for made in (nn.Conv2d(512, 2048, 1), nn.Conv2d(512, 64, 3, padding=1)):
        layer = settled(QuantizedLayer(made, nn.ReLU(), torch.float32, True), x)
        assert (layer.input.scale[1] == 0) == (zero == 0)
        given = layer.input.quantized(x)
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            layer(given)
            ctypes.CDLL(None).fflush(None)
        lines = [one for one in capfd.readouterr().out.splitlines() if ",exec," in one]
        assert len(lines) == 1 and ",convolution," in lines[0]


@quantized
@torch.no_grad()
def test_the_layout_is_for_the_largest_maps_seen():
    layer = QuantizedLayer(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), torch.float32, True)
    for size in ((9, 12), (18, 24), (5, 6)):
        layer(torch.randn(1, 16, *size))
    assert layer.largest == (1, 16, 18, 24)


@quantized
@torch.no_grad()
def test_no_maps():
    layer = settled(QuantizedLayer(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), torch.float32, True), batch("3x3"))
    assert layer(torch.empty(0, 16, 9, 12)).values.shape == (0, 8, 9, 12)


def test_what_saw_nothing_stays_in_float32():
    layer = QuantizedLayer(nn.Linear(4, 3), nn.ReLU(), torch.float32, False)
    layer.settle()
    assert layer.packed is None and torch.equal(layer(torch.ones(1, 4)), F.relu(layer.exact[0](torch.ones(1, 4))))
    keeps = QuantizedLayer(nn.Linear(4, 3), None, torch.float32, True)
    keeps.settle()
    kept = keeps(torch.ones(1, 4))
    assert kept.values.dtype == torch.float32 and keeps.input.seen == keeps.output.seen == [], "nothing is kept"


@torch.no_grad()
def test_floats_that_come_out_are_of_the_type_that_the_network_is_cast_to():
    layer = QuantizedLayer(nn.Linear(4, 3), None, torch.bfloat16, False)
    assert layer(torch.ones(1, 4)).dtype == torch.bfloat16
    assert layer.to(torch.float32)(torch.ones(1, 4)).dtype == torch.float32
    with pytest.raises(UserError, match=r"float32 or bfloat16, got torch\.float16 on cpu: optimize the detector"):
        nn.Sequential(layer).half()
    with pytest.raises(UserError, match=r"got torch\.float32 on meta"):
        layer.to("meta")
    assert layer.dtype == torch.float32


def test_a_range_is_the_mean_of_the_pictures_and_covers_zero():
    assert scale_of(0.0, 5.1) == (5.1 / 255, 0) and scale_of(-5.1, 0.0) == (5.1 / 255, 255)
    seen = Range()
    for values in ([1.0, 4.1], [3.0, 6.1], []):
        seen.see(torch.tensor(values))
    assert seen.settle() and seen.scale == (pytest.approx(5.1 / 255), 0) and seen.seen == []
    nothing = Range()
    nothing.see(torch.zeros(1, 2, 3, 3))
    assert nothing.settle() and nothing.quantized(torch.zeros(1, 2, 3, 3)).values.unique().tolist() == [0]


def test_a_map_reads_back_as_what_it_stands_for():
    seen = Range()
    seen.scale = (0.5, 10)
    values = torch.tensor([[[[10, 12], [0, 255]]]], dtype=torch.uint8)
    assert Map(values, seen).floats(torch.float32).flatten().tolist() == [0, 1, -5, 122.5]
    assert Map(values, seen).resized((4, 4)).values[0, 0, 0].tolist() == [10, 10, 12, 12]
