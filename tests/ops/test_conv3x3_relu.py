"""conv3x3_relu: torch's convolution and Triton's against the reference."""

import pytest
import torch

from htc_fast import ops
from tests.ops.backends import convolutions_in
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

try:
    from htc_fast.ops.triton.launch import launch
except ImportError:  # no Triton
    launch = None


def leaves(count=3, channels=32, outputs=24, height=5, width=7, residual=False):
    maps = [draw(count, outputs, height, width)] if residual else []
    return [draw(count, channels, height, width), draw(outputs, channels, 3, 3, scale=0.1), draw(outputs), *maps]


CASES = {
    "plain": leaves(),
    "odd channels": leaves(3, 19, 33, 6, 5),
    "RoI features": leaves(2, 64, 64, 14, 14),
    "residual": leaves(residual=True),
    "one map": leaves(1, 16, 16, 3, 3),
    "one pixel": leaves(4, 16, 16, 1, 1),
    "one row": leaves(2, 8, 8, 1, 9),
    "one channel": leaves(2, 1, 1, 4, 4),
    "a whole map": leaves(1, 16, 8, 23, 31),
    "no maps": leaves(0),
}


@pytest.mark.parametrize("name, dtype, column", with_dtypes("conv3x3_relu", CASES))
def test_equals_reference(name, column, dtype):
    assert is_channels_last(compare(ops.conv3x3_relu, CASES[name], column, dtype))


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("column", over_torch("conv3x3_relu"))
def test_not_finite_stays_visible(column):
    x, weight, bias = (one.to(column.device) for one in leaves())
    x[1, 0, 2, 3] = float("nan")
    with ops.use_backend(column.backend):
        out = ops.conv3x3_relu(x, weight, bias)
    assert out[1, :, 1:4, 2:5].isnan().all() and out[[0, 2]].isfinite().all()


@pytest.mark.parametrize("column", over_torch("conv3x3_relu"))
def test_deterministic(column):
    with torch_told_to_repeat(column):
        check_deterministic(ops.conv3x3_relu, leaves(residual=True), column)


@pytest.mark.slow
@pytest.mark.parametrize("column", over_torch("conv3x3_relu"))
@pytest.mark.parametrize("counts", [[2, 0, 1], [9, 3, 0], [0, 0, 0]])
def test_padding_is_skipped(column, counts):
    count = torch.tensor(counts, dtype=torch.int32, device=column.device)
    given = leaves(9)
    live = [k % 3 < counts[k // 3] for k in range(9)]
    out = compare(lambda *some: ops.conv3x3_relu(*some, count=count), given, column)
    assert not out[[not one for one in live]].any()
    whole = compare(ops.conv3x3_relu, given, column)
    torch.testing.assert_close(out[live], whole[live])


@pytest.mark.parametrize("column", over_torch("conv3x3_relu"))
def test_padding_may_hold_anything(column):
    x, weight, bias = (one.to(column.device) for one in leaves(4))
    x[2:] = float("nan")
    with ops.use_backend(column.backend):
        out = ops.conv3x3_relu(x, weight, bias, count=torch.tensor([2], device=column.device))
    assert out.isfinite().all() and out[:2].any() and not out[2:].any()
    if column.backend == "triton":  # torch's own convolution multiplies the padding by zero, which leaves NaN
        given = [one.requires_grad_() for one in (x, weight, bias)]
        with ops.use_backend(column.backend):
            out = ops.conv3x3_relu(*given, count=torch.tensor([2], device=column.device))
        grads = torch.autograd.grad(out, given, torch.ones_like(out))
        assert all(one.isfinite().all() for one in grads) and not grads[0][2:].any()


TMA = {
    "four lines of RoIs": (5, 64, 80, 7, 14, (4, 2, 16)),
    "a whole map": (2, 64, 64, 9, 19, (1, 8, 16)),
    "small RoIs": (3, 64, 128, 7, 7, (2, 8, 8)),
    "one pixel": (1, 64, 64, 1, 1, (2, 2, 16)),
}


@pytest.mark.parametrize("name", TMA)
@pytest.mark.parametrize("column", on_triton("conv3x3_relu"))
def test_copied_by_tma(name, monkeypatch, column):
    """The kernel of GPUs with TMA, which takes channels in units of 64; the interpreter reads its descriptors."""
    from htc_fast.ops.triton import matrix, tma
    from htc_fast.ops.triton.tiles import Device, Tile

    count, channels, outputs, height, width, box = TMA[name]
    tile, kernels = Tile(box[0] * box[1] * box[2], 64, 64, 8, 3, box), []
    monkeypatch.setattr(matrix, "device_of", lambda x: Device("none", 1, 232448, tma=True))
    monkeypatch.setattr(matrix, "trusted", lambda *some: True)  # test_tma.py looks at that
    monkeypatch.setattr(matrix, "tile_for", lambda x, taps, outputs, run, fits, extra: tile if fits else Tile(64, 64))
    monkeypatch.setattr(tma, "launch", lambda kernel, *some, **more: (kernels.append(kernel.fn.__name__),
                                                                       launch(kernel, *some, **more)))  # fmt: skip
    given, counted = (
        leaves(count, channels, outputs, height, width, residual=True),
        torch.tensor([count], device=column.device),
    )
    for wanted in (None, counted - 1):
        kernels.clear()
        compare(lambda *some, wanted=wanted: ops.conv3x3_relu(*some, count=wanted), given, column, torch.float16)
        assert kernels == ["tma_kernel"] * (1 + (outputs % 64 == 0))  # forward and gradient of x


@pytest.mark.parametrize("column", on_triton("conv3x3_relu"))
def test_flags_of_torch_are_followed(column):
    from htc_fast.ops.triton.tiles import precision

    for wanted in ("tf32", "ieee"):
        with convolutions_in(wanted):
            assert precision(torch.float32) == wanted and precision(torch.bfloat16) == "tf32"


@pytest.mark.parametrize("column", over_torch("conv3x3_relu"))
def test_memory_layouts(column):
    """Inputs, weights and gradients that are not channels-last, and slices."""
    x, weight, bias = leaves(3, 16, 16, 6, 8)
    wide = draw(3, 16, 12, 16)
    last = {"memory_format": torch.channels_last}
    for given, kernel in (
        (x, weight.contiguous(**last)),
        (x.contiguous(**last), weight),
        (wide[:, :, ::2, 1::2], weight),
    ):
        assert is_channels_last(compare(ops.conv3x3_relu, [given, kernel, bias], column))


@pytest.mark.parametrize("column", over_torch("conv3x3_relu"))
def test_compile_and_export(column):
    check_compile_and_export(ops.conv3x3_relu, leaves(residual=True), column)


@pytest.mark.slow
@pytest.mark.parametrize("column", on_triton("conv3x3_relu"))
def test_opcheck(column):
    given = [one.to(column.device).requires_grad_() for one in leaves(residual=True)]
    torch.library.opcheck(torch.ops.htc_fast_triton.conv3x3_relu.default, (*given, None))
    torch.library.opcheck(torch.ops.htc_fast_triton.conv3x3_relu_backward.default,
                          (*(one.detach() for one in (given[3], given[3], given[0], given[1])), None))  # fmt: skip


def test_gradcheck():
    given = [one.double().requires_grad_() for one in leaves(2, 3, 2, 3, 3, residual=True)]
    assert torch.autograd.gradcheck(ops.conv3x3_relu, given)


@pytest.mark.parametrize("column", on_triton("conv3x3_relu"))
def test_second_derivative_is_refused(column):
    given = [one.to(column.device).requires_grad_() for one in leaves()]
    with ops.use_backend("triton"):
        out = ops.conv3x3_relu(*given)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(out.square().sum(), given, create_graph=True)


@pytest.mark.parametrize("column", over_torch("conv3x3_relu"))
def test_autocast(column):
    if reason := wrong(column, torch.bfloat16):
        pytest.skip(reason)
    given = [one.to(column.device) for one in leaves()]
    with ops.use_backend(column.backend), torch.autocast(column.device, torch.bfloat16):
        assert ops.conv3x3_relu(*given).dtype == torch.bfloat16


X, W, B = leaves()


@pytest.mark.parametrize(
    "arguments, options, error, said",
    [
        ((X[0], W, B), {}, ValueError, r"x must be \[K, C, H, W\], got \[32, 5, 7\]"),
        ((X[:, :5], W, B), {}, ValueError, "x must have 32 channels"),
        ((X.int(), W, B), {}, TypeError, "floating point"),
        ((X, W[:, :, :1], B), {}, ValueError, r"weight must be \[O, C, 3, 3\]"),
        ((X, W, B[:3]), {}, ValueError, r"bias of weight must be \[24\]"),
        ((X, W.half(), B), {}, TypeError, "weight must be torch.float32 like the input"),
        ((X, W, B, X), {}, ValueError, r"residual must be \[3, 24, 5, 7\]"),
        ((X, W, B), {"count": torch.tensor([1.0])}, ValueError, "count must be"),
        ((X, W, B), {"count": torch.tensor([1, 2])}, ValueError, "one number per image"),
        ((X, W.to("meta"), B), {}, ValueError, "move them together"),
    ],
)
def test_errors(arguments, options, error, said):
    with pytest.raises(error, match=said):
        ops.conv3x3_relu(*arguments, **options)


@pytest.mark.parametrize("column", on_triton("conv3x3_relu"))
def test_float64_has_no_triton(column):
    with ops.use_backend("triton"), pytest.raises(TypeError, match="float64"):
        ops.conv3x3_relu(*(one.to(column.device).double() for one in leaves()))
