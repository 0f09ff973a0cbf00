"""Convolutions whose norm is folded in: equal to the layers one after the other, whatever happens to their weights."""

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from htc_fast.integrations import _layers

KINDS = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "3x3, no bias": {"kernel_size": 3, "padding": 1, "bias": False},
    "1x1": {"kernel_size": 1},
    "halving": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilated groups": {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 4},
}
NORMS = {"none": None, "counted": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d}


def layers(kind: str, norm: str, outputs: int = 64):
    torch.manual_seed(0)
    conv = nn.Conv2d(32, outputs, **KINDS[kind])
    made = None if NORMS[norm] is None else NORMS[norm](outputs).eval()
    for one in [] if made is None else [*made.parameters(), *made.buffers()]:
        if one.is_floating_point():
            one.data.uniform_(0.5, 1.5)
    return conv, made


def apart(x, conv, norm, relu, other=None):
    out = conv(x) if norm is None else norm(conv(x))
    out = out if other is None else out + other
    return out.relu() if relu else out


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_one_pass_is_what_the_layers_make_one_after_the_other(kind, norm):
    pair = layers(kind, norm)
    for size in ((1, 17), (2, 12)):
        x = torch.randn(size[0], 32, size[1], 19)
        other = torch.randn_like(pair[0](x))
        for relu, more in ((True, None), (False, None), (True, other), (False, other)):
            kept = None if more is None else more.clone()
            assert _layers.takes(x, *pair)
            found = _layers.run(x, *pair, relu=relu, other=more)
            torch.testing.assert_close(found, apart(x, *pair, relu, more), rtol=1e-4, atol=1e-4)
            assert more is None or more.equal(kept)


@pytest.mark.parametrize("kind", ["1x1", "3x3"])
@torch.no_grad()
def test_in_bfloat16_too(kind):
    conv, _ = layers(kind, "none")
    conv, x, other = conv.bfloat16(), torch.randn(2, 32, 11, 7).bfloat16(), torch.randn(2, 64, 11, 7).bfloat16()
    for relu, more in (
        (True, None),
        (False, None),
        (True, other),
        (False, other),
        (True, other.float()),
        (True, other[:1]),
    ):
        found = _layers.run(x, conv, relu=relu, other=more)
        want = apart(x.float(), copy.deepcopy(conv).float(), None, relu, None if more is None else more.float())
        torch.testing.assert_close(found.float(), want, rtol=2**-6, atol=2**-6)


@torch.no_grad()
def test_outputs_that_winograd_does_not_like():
    for outputs in (1, 12, 91, 100):
        pair = layers("3x3", "none", outputs)
        x = torch.randn(1, 32, 15, 14)
        found = _layers.run(x, *pair, relu=False)
        assert found.shape == (1, outputs, 15, 14)
        torch.testing.assert_close(found, apart(x, *pair, False), rtol=1e-4, atol=1e-4)


def by_inference_mode(conv, norm):
    with torch.inference_mode():
        conv.weight.add_(0.1)


CHANGES = {
    "in place": lambda conv, norm: conv.weight.add_(0.1),
    "through data": lambda conv, norm: conv.weight.data.mul_(1.5),
    "a copy through data": lambda conv, norm: conv.weight.data.copy_(torch.randn_like(conv.weight)),
    "other data": lambda conv, norm: setattr(conv.weight, "data", torch.randn_like(conv.weight)),
    "another parameter": lambda conv, norm: setattr(conv, "weight", nn.Parameter(torch.randn_like(conv.weight))),
    "the bias through data": lambda conv, norm: conv.bias.data.add_(3),
    "loaded": lambda conv, norm: conv.load_state_dict({k: torch.randn_like(v) for k, v in conv.state_dict().items()}),
    "the norm's mean": lambda conv, norm: norm.running_mean.add_(2),
    "the norm's spread through data": lambda conv, norm: norm.running_var.data.mul_(4),
    "the norm's epsilon": lambda conv, norm: setattr(norm, "eps", 0.5),
    "in inference mode": by_inference_mode,
    "one row through data": lambda conv, norm: conv.weight.data[3].mul_(5),
    "one number of the norm": lambda conv, norm: norm.bias.data[1].add_(5),
    "through numpy": lambda conv, norm: conv.weight.detach().numpy().__setitem__(9, 3),
    "the geometry": lambda conv, norm: (setattr(conv, "dilation", (2, 2)), setattr(conv, "padding", (2, 2))),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_what_is_kept_follows_the_weights(change):
    pair, x = layers("3x3", "counted"), torch.randn(1, 32, 16, 16)
    before = _layers.run(x, *pair, relu=False)
    CHANGES[change](*pair)
    found = _layers.run(x, *pair, relu=False)
    torch.testing.assert_close(found, apart(x, *pair, False), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, before, atol=1e-3)


@torch.no_grad()
def test_what_is_no_number_stays_none():
    x = torch.full((1, 32, 8, 8), torch.nan)
    for kind in KINDS:
        pair = layers(kind, "counted")
        for other in (None, torch.zeros_like(pair[0](x))):
            assert _layers.run(x, *pair, relu=True, other=other).isnan().all(), kind


@torch.no_grad()
def test_parameters_of_inference_mode_are_looked_at_too():
    with torch.inference_mode():
        conv, x = nn.Conv2d(32, 64, 3, padding=1), torch.randn(1, 32, 8, 8)
        _layers.run(x, conv, relu=False)
        conv.weight[3] *= 20
        torch.testing.assert_close(_layers.run(x, conv, relu=False), conv(x), rtol=1e-4, atol=1e-4)


def test_what_looks_on_is_let_through():
    (conv, norm), x = layers("3x3", "counted"), torch.randn(1, 32, 8, 8)
    assert not _layers.takes(x, conv, norm)  # gradients
    with torch.no_grad():
        assert _layers.takes(x, conv, norm)
        assert not _layers.takes(x.half(), conv, norm) and not _layers.takes(x[:, :, :0], conv, norm)
        assert not _layers.takes(x, conv, norm.train())
        norm.eval()
        with torch.autocast("cpu", torch.bfloat16):
            assert not _layers.takes(x, conv, norm)
        handle = conv.register_forward_hook(lambda *_: None)
        assert not _layers.takes(x, conv, norm)
        handle.remove()
        conv.forward = conv.forward
        assert not _layers.takes(x, conv, norm)


@torch.no_grad()
def test_a_copy_keeps_its_own_and_nothing_outlives_its_layer():
    (conv, _), x = layers("3x3", "none"), torch.randn(1, 32, 8, 8)
    first = _layers.run(x, conv, relu=False)
    other = copy.deepcopy(conv)
    other.weight.mul_(2), other.bias.mul_(2)
    torch.testing.assert_close(_layers.run(x, other, relu=False), 2 * first, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(_layers.run(x, conv, relu=False), first)
    count = len(_layers._folded)
    _layers.forget(conv)
    del other
    assert len(_layers._folded) == count - 2
