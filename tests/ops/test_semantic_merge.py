"""semantic_merge: the pyramid at one level's size, each level through its 1x1 and ReLU."""

import pytest
import torch
from torch.autograd import forward_ad

from htc_fast import ops
from htc_fast.ops import resampled_sum
from tests.ops.backends import CPP
from tests.ops.matrix_cases import (
    check_compile_and_export,
    check_deterministic,
    compare,
    draw,
    is_channels_last,
    on_triton,
    over_torch,
    torch_told_to_repeat,
    with_dtypes,
    wrong,
)


def leaves(*sides, channels=16, outputs=24, images=2):
    levels = len(sides)
    maps = [draw(images, channels, *side, seed=i) for i, side in enumerate(sides)]
    weights = [draw(outputs, channels, 1, 1, seed=i, scale=0.3) for i in range(levels)]
    return [*maps, *weights, *(draw(outputs, seed=i) for i in range(levels))]


def merge(*given, level=1):
    levels = len(given) // 3
    return ops.semantic_merge(given[:levels], given[levels : 2 * levels], given[2 * levels :], level=level)


PYRAMID = (12, 16), (6, 8), (3, 4), (2, 2), (1, 1)
CASES = {
    # Larger along one axis and smaller along the other, with more pixels, fewer, and as many as the result's 6 x 8.
    "mixed": leaves((3, 20), (6, 8), (12, 3), (8, 6), (6, 5), (1, 9), channels=5, outputs=7),
    "odd sizes": leaves((13, 17), (7, 9), (4, 5), (2, 3), (1, 2), images=1),
    "odd channels": leaves(*PYRAMID[1:4], channels=19, outputs=33),
    "pyramid": leaves(*PYRAMID),
    "two levels": leaves((9, 7), (5, 4), channels=3, outputs=2, images=1),
    "one pixel": leaves((3, 3), (1, 1), (2, 2)),
    "alike": leaves((5, 6), (5, 6), (5, 6)),
    "a row": leaves((2, 7), (1, 7), (1, 4), (1, 9), channels=3, outputs=17),
    "eight": leaves((9, 8), (6, 7), *((k, 8 - k) for k in range(1, 7)), channels=4, outputs=3, images=1),
    "wide": leaves((4, 4), (2, 2), channels=40, outputs=150, images=1),
}


@pytest.mark.parametrize("name, dtype, column", with_dtypes("semantic_merge", CASES))
def test_equals_reference(name, column, dtype):
    assert is_channels_last(compare(merge, CASES[name], column, dtype))


@pytest.mark.parametrize("column", over_torch("semantic_merge"))
@pytest.mark.parametrize("level", [0, 2])
def test_any_level_may_set_the_size(level, column):
    out = compare(lambda *some: merge(*some, level=level), leaves(*PYRAMID[1:4]), column)
    assert out.shape[2:] == PYRAMID[1 + level]


@pytest.mark.parametrize("column", over_torch("semantic_merge"))
@pytest.mark.parametrize("grad", ["expanded", "NCHW"])
def test_gradient_of_any_strides(grad, column):
    given = [one.to(column.device).requires_grad_() for one in CASES["a row"]]
    with ops.use_backend(column.backend):
        out = merge(*given)
    above = draw(*out.shape).to(out) if grad == "NCHW" else draw(17, 1, 1).to(out).expand_as(out)
    dense = above.contiguous(memory_format=torch.channels_last)
    found, wanted = (torch.autograd.grad(out, given, one, retain_graph=True) for one in (above, dense))
    assert len(found) == 12
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, wanted))


@pytest.mark.parametrize("column", over_torch("semantic_merge"))
def test_same_bits_every_time(column):
    with torch_told_to_repeat(column):
        check_deterministic(merge, CASES["a row" if column.name == "triton_interpreted" else "mixed"], column)


@pytest.mark.parametrize("column", over_torch("semantic_merge"))
def test_what_relu_cuts_off_has_no_gradient(column):
    given = [one.to(column.device).requires_grad_() for one in CASES["pyramid"]]
    with torch.no_grad():
        given[-3].fill_(-100.0)  # the bias of the third level: nothing of it is left
        given[-2].fill_(100.0)  # of the fourth: nothing is cut off
    with ops.use_backend(column.backend):
        grads = torch.autograd.grad(merge(*given).sum(), given)
    assert not any(grads[i].any() for i in (2, 7, 12)) and grads[1].any()
    torch.testing.assert_close(grads[13], torch.full_like(grads[13], 2 * 6 * 8.0))


@pytest.mark.parametrize("column", over_torch("semantic_merge"))
def test_autocast(column):
    if reason := wrong(column, torch.bfloat16):
        pytest.skip(reason)
    given = [one.to(column.device).requires_grad_() for one in CASES["pyramid"]]
    with torch.autocast(column.device, torch.bfloat16), ops.use_backend(column.backend):
        out = merge(*given)
    wanted = merge(*given)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), wanted, rtol=0.05, atol=0.1)
    assert {one.dtype for one in torch.autograd.grad(out.sum(), given)} == {torch.float32}


def test_autocast_where_torch_resamples(monkeypatch):
    """As on a GPU without Triton, where autocast resamples in float32."""
    interpolate, widened = torch.nn.functional.interpolate, []

    def in_float32(maps, **how):
        widened.append(maps.dtype)
        return interpolate(maps.float(), **how)

    monkeypatch.setattr(resampled_sum, "takes", lambda maps: False)
    monkeypatch.setattr(torch.nn.functional, "interpolate", in_float32)
    test_autocast(CPP)
    assert torch.bfloat16 in widened


def test_rounds_no_more_than_the_definition():
    given = [one.bfloat16() for one in leaves((48, 64), (24, 32), (12, 16), (6, 8), channels=64, outputs=64)]
    with ops.use_backend("reference"):
        exact, plain = merge(*(one.double() for one in given)), merge(*given)
    assert (merge(*given) - exact).norm() <= 1.1 * (plain - exact).norm()


@pytest.mark.parametrize("column", [*over_torch("semantic_merge")[:1], *on_triton("semantic_merge")])
def test_second_derivative_is_refused(column):
    given = [one.to(column.device).requires_grad_() for one in CASES["two levels"]]
    with ops.use_backend(column.backend):
        out = merge(*given)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(out.square().sum(), given, create_graph=True)


@pytest.mark.parametrize("column", over_torch("semantic_merge"))
def test_compile_and_export(column):
    check_compile_and_export(merge, CASES["two levels"], column)


def test_gradcheck():
    small = leaves((4, 3), (2, 2), (1, 1), channels=2, outputs=2, images=1)
    assert torch.autograd.gradcheck(merge, [one.double().requires_grad_() for one in small])


@pytest.mark.slow
@pytest.mark.parametrize("column", on_triton("semantic_merge"))
def test_opcheck(column):
    given = [one.to(column.device).requires_grad_() for one in CASES["two levels"]]
    torch.library.opcheck(torch.ops.htc_fast_triton.semantic_merge.default, (given[:2], given[2:4], given[4:], 1))
    plain = [one.detach() for one in given]
    torch.library.opcheck(torch.ops.htc_fast_triton.semantic_merge_backward.default,
                          (merge(*plain), plain[:2], plain[2:4], plain[4:], 1))  # fmt: skip


def test_errors():
    given = leaves(*PYRAMID[:2])
    for level, said in ((2, "level must be"), (-1, "level must be")):
        with pytest.raises(ValueError, match=said):
            merge(*given, level=level)
    with pytest.raises(ValueError, match=r"features\[1\].*does not fit"):
        merge(given[0], given[1][:1], *given[2:])
    with pytest.raises(ValueError, match="with a weight and a bias each"):
        ops.semantic_merge(given[:2], given[2:3], given[4:])
    with pytest.raises(ValueError, match=r"features\[1\] must have channels and pixels"):
        merge(given[0], given[1][:, :, :0], *given[2:])


def test_forward_mode_and_transforms_are_those_of_the_definition():
    """A kernel without a forward derivative would give a tangent of zeros, without a word."""
    given = leaves((8, 12), (4, 6), (2, 3))
    tangents = tuple(torch.randn(one.shape, generator=torch.Generator().manual_seed(i)) for i, one in enumerate(given))
    found, tangent = torch.func.jvp(merge, tuple(given), tangents)
    with ops.use_backend("reference"):
        wanted, wanted_tangent = torch.func.jvp(merge, tuple(given), tangents)
    assert tangent.abs().max() > 0.1
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tangent, wanted_tangent, rtol=1e-3, atol=1e-3)
    gradient = torch.func.grad(lambda x: merge(x, *given[1:]).square().sum())(given[0])
    (wanted,) = torch.autograd.grad(merge(x := given[0].clone().requires_grad_(), *given[1:]).square().sum(), x)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_tangent_comes_through(enabled):
    given = leaves((8, 12), (4, 6))
    tangents = []
    for backend in ("cpp", "reference"):
        with ops.use_backend(backend), forward_ad.dual_level(), torch.set_grad_enabled(enabled):
            dual = [forward_ad.make_dual(one, one.flip(0)) for one in given]
            tangents.append(forward_ad.unpack_dual(merge(*dual)).tangent.clone())
    assert tangents[1].abs().max() > 0.1
    torch.testing.assert_close(*tangents, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_no_images(backend):
    given = [one[:0] if number < 2 else one for number, one in enumerate(leaves((8, 12), (4, 6)))]
    with ops.use_backend(backend):
        out = merge(*given)
    assert out.shape == (0, 24, 4, 6)
