"""conv3x3_relu in Triton at sizes that the interpreter is too slow for, and by both of its kernels."""

import pytest
import torch

from htc_fast import ops
from tests.ops.backends import TRITON, columns, convolutions_in
from tests.ops.matrix_cases import note_launches

pytestmark = [pytest.mark.gpu, *columns("conv3x3_relu", (TRITON,))[0].marks]
CHANNELS = 256


def draw(*shape: int, dtype=torch.bfloat16, scale: float = 1.0) -> torch.Tensor:
    made = torch.randn(shape, device="cuda", dtype=torch.float32) * scale
    made = made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made
    return made.to(dtype)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.isfinite().all()
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [1, 3, 12, 100, 257, 1000])
def test_convolution_at_full_size(count, dtype):
    torch.manual_seed(count)
    x, bias = draw(count, CHANNELS, 14, 14, dtype=dtype), draw(256, dtype=dtype)
    weight = draw(256, CHANNELS, 3, 3, dtype=dtype, scale=0.02)
    with ops.use_backend("triton"):
        found = ops.conv3x3_relu(x, weight, bias)
    wanted = torch.nn.functional.conv2d(x.float(), weight.float(), bias.float(), padding=1).relu()
    assert error(found, wanted) < (5e-3 if dtype == torch.bfloat16 else 1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [1, 100])
def test_gradients_at_full_size(count, dtype):
    torch.manual_seed(count)
    given = [draw(count, CHANNELS, 14, 14, dtype=dtype), draw(256, CHANNELS, 3, 3, dtype=dtype, scale=0.02),
             draw(256, dtype=dtype)]  # fmt: skip
    found = [one.requires_grad_() for one in given]
    wanted = [one.detach().float().requires_grad_() for one in given]
    with ops.use_backend("triton"):
        out = ops.conv3x3_relu(*found)
    grad = draw(*out.shape, dtype=dtype)
    expected = torch.nn.functional.conv2d(*wanted, padding=1).relu()
    for one, other in zip(torch.autograd.grad(out, found, grad), torch.autograd.grad(expected, wanted, grad.float())):
        assert error(one, other) < 2e-2


@pytest.fixture
def theirs(monkeypatch):
    """Who did gradients: masks of cuDNN's calls, and the names of our kernels."""
    from htc_fast.ops.triton import gradients

    made, whole = [], gradients.convolution_backward
    monkeypatch.setattr(gradients, "convolution_backward", lambda *some: (made.append(some[-1]), whole(*some))[1])
    note_launches(monkeypatch, made)
    return made


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [1, 100])
def test_gradients_by_cudnn(count, dtype, residual, frozen, theirs):
    """No backend is forced. frozen: the weight needs no gradient."""
    torch.manual_seed(count)
    given = [draw(count, CHANNELS, 14, 14, dtype=dtype), draw(256, CHANNELS, 3, 3, dtype=dtype, scale=0.02),
             draw(256, dtype=dtype), *[draw(count, 256, 14, 14, dtype=dtype)] * residual]  # fmt: skip
    asked = [one for i, one in enumerate(given) if not (frozen and i == 1)]
    found = [one.detach().requires_grad_(not (frozen and i == 1)) for i, one in enumerate(given)]
    wanted = [one.detach().float().requires_grad_() for one in given]
    with convolutions_in("ieee"):
        total = torch.nn.functional.conv2d(*wanted[:3], padding=1) + (wanted[3] if residual else 0)
        grad = torch.where(total.detach().abs() < 0.02, 0, draw(*total.shape, dtype=dtype))
        out = ops.conv3x3_relu(*found)
        theirs.clear()
        grads = torch.autograd.grad(out, [one for one in found if one.requires_grad], grad)
        masks = [one for one in theirs if not isinstance(one, str)]
        assert masks == [[True, not frozen, False]] and set(theirs[:1]) == {"gate_kernel"} and len(theirs) == 2
        expected = torch.autograd.grad(total.relu(), wanted, grad.float())
    expected = [one for i, one in enumerate(expected) if not (frozen and i == 1)]
    assert len(grads) == len(asked)
    for one, other in zip(grads, expected, strict=True):
        assert error(one, other) < (1e-4 if dtype == torch.float32 else 1e-2)


def test_counted_and_exact_gradients_are_ours(theirs):
    given = [draw(4, CHANNELS, 14, 14), draw(256, CHANNELS, 3, 3, scale=0.02), draw(256)]
    leaves = [one.requires_grad_() for one in given]
    ops.conv3x3_relu(*leaves, count=torch.tensor([3], device="cuda")).sum().backward()
    before = torch.backends.cudnn.deterministic
    try:
        torch.backends.cudnn.deterministic = True
        for _ in range(2):
            ops.conv3x3_relu(*leaves).sum().backward()
    finally:
        torch.backends.cudnn.deterministic = before
    assert theirs.count("weight_gradient_kernel") == 3 and all(isinstance(one, str) for one in theirs)


def test_a_training_step_is_captured_and_replayed():
    """Forward and gradients of a small head through cuDNN and cuBLAS, in a CUDA graph."""
    torch.manual_seed(0)
    dtype = torch.bfloat16
    leaves = [draw(12, CHANNELS, 14, 14, dtype=dtype), draw(256, CHANNELS, 3, 3, dtype=dtype, scale=0.02),
              draw(256, dtype=dtype), draw(CHANNELS, 256, 2, 2, dtype=dtype, scale=0.05), draw(256, dtype=dtype),
              draw(80, 256, 1, 1, dtype=dtype, scale=0.05), draw(80, dtype=dtype)]  # fmt: skip
    leaves = [one.requires_grad_() for one in leaves]
    grad = draw(12, 80, 28, 28, dtype=dtype)

    def step():
        out = ops.mask_predict(ops.mask_flow(leaves[0], ops.conv3x3_relu(*leaves[:3]), *flow), *leaves[3:])
        return [out.detach(), *torch.autograd.grad(out, leaves, grad)]

    flow = draw(256, CHANNELS, 1, 1, dtype=dtype, scale=0.05), draw(256, dtype=dtype)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    with torch.no_grad():
        leaves[0].copy_(draw(*leaves[0].shape, dtype=dtype))
    for one in found:
        one.fill_(float("nan"))
    graph.replay()
    with ops.use_backend("triton"):
        wanted = step()
    for one, other in zip(found, wanted, strict=True):
        assert error(one, other) < 5e-2  # a ReLU near zero opens or closes by rounding


@pytest.mark.parametrize("name", ["flow", "all classes", "one class", "merge"])
def test_gradients_by_cublas(name, theirs):
    """What has 1x1 products, in 16 bits and with no backend forced, beside our kernels."""
    torch.manual_seed(1)
    dtype = torch.bfloat16
    x, square = draw(30, CHANNELS, 14, 14, dtype=dtype), draw(256, CHANNELS, 1, 1, dtype=dtype, scale=0.05)
    bias, up = draw(256, dtype=dtype), draw(CHANNELS, 256, 2, 2, dtype=dtype, scale=0.05)
    logits = draw(80, 256, 1, 1, dtype=dtype, scale=0.05), draw(80, dtype=dtype)
    labels = torch.arange(30, device="cuda") % 81
    levels = [draw(1, CHANNELS, h, w, dtype=dtype) for h, w in ((40, 64), (20, 32), (10, 16))]
    call, given = {
        "flow": (ops.mask_flow, [x, draw(*x.shape, dtype=dtype), square, bias]),
        "all classes": (ops.mask_predict, [x, up, bias, *logits]),
        "one class": (lambda *some: ops.mask_predict(*some, labels), [x, up, bias, *logits]),
        "merge": (
            lambda *some: ops.semantic_merge(some[:3], some[3:6], some[6:]),
            [*levels, *(draw(256, CHANNELS, 1, 1, dtype=dtype, scale=0.05) for _ in levels), *[bias] * 3],
        ),
    }[name]
    leaves = [one.detach().requires_grad_() for one in given]
    out = call(*leaves)
    grad = draw(*out.shape, dtype=dtype)
    found = torch.autograd.grad(out, leaves, grad)
    assert theirs.count("weight_gradient_kernel") == (1 if name == "one class" else 0)  # of classes, in float32
    with ops.use_backend("triton"):
        wanted = torch.autograd.grad(call(*leaves), leaves, grad)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape and error(one, other) < 1e-2


SHAPES = [(1, 64, 64, 7, 7), (7, 128, 256, 28, 28), (129, 320, 320, 14, 14), (1000, 256, 256, 7, 7),
          (2, 256, 256, 100, 168), (3, 72, 40, 13, 21)]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_kernels_at_other_sizes(shape, dtype, monkeypatch):
    """Copied in bulk (TMA) where the GPU can, and gathered; forward and all gradients, exact in float32."""
    from htc_fast.ops.triton import matrix, tiles

    count, channels, outputs, height, width = shape
    torch.manual_seed(count)
    given = [draw(count, channels, height, width, dtype=dtype), draw(outputs, channels, 3, 3, dtype=dtype, scale=0.02),
             draw(outputs, dtype=dtype), draw(count, outputs, height, width, dtype=dtype)]  # fmt: skip
    grad = draw(count, outputs, height, width, dtype=dtype)
    wanted = [one.detach().float().requires_grad_() for one in given]
    with convolutions_in("ieee"):
        total = torch.nn.functional.conv2d(*wanted[:3], padding=1) + wanted[3]
        # A ReLU near zero opens or closes by rounding, which changes a few gradients altogether: none comes to those.
        grad = torch.where(total.detach().abs() < 0.02, 0, grad)
        expected = [total.relu(), *torch.autograd.grad(total.relu(), wanted, grad.float())]
    for precise in (True, False):
        for box in (True, False):

            def choose(x, taps, outputs, run, tma, extra, box=box):
                found = tiles.candidates(x, outputs, tiles.device_of(x), tma, extra)
                kind = [tile for tile in found if (tile.box is not None) == box] or found
                return tiles.by_waves((x.shape[0], *x.shape[2:]), outputs, kind, tiles.device_of(x))

            monkeypatch.setattr(matrix, "tile_for", choose)
            leaves = [one.detach().requires_grad_() for one in given]
            with ops.use_backend("triton"), convolutions_in("ieee" if precise else "tf32"):
                out = ops.conv3x3_relu(*leaves)
                found = [out, *torch.autograd.grad(out, leaves, grad)]
            limit = {torch.float32: 1e-5 if precise else 2e-3, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
            for one, other in zip(found, expected):
                assert error(one, other) < (limit if one is out else 10 * limit)


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability()[0] < 9, reason="needs a GPU with bulk copies"
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_chosen_tma_kernel_is_trusted(dtype):
    """Each agrees with torch on this GPU: else convolutions went without it, with a warning."""
    from htc_fast.ops.triton import tma

    for count in (1, 12, 100, 1000):
        x = draw(count, CHANNELS, 14, 14, dtype=dtype).requires_grad_()
        weight, bias = draw(256, CHANNELS, 3, 3, dtype=dtype, scale=0.02), draw(256, dtype=dtype)
        with ops.use_backend("triton"), convolutions_in("tf32"):
            ops.conv3x3_relu(x, weight, bias).sum().backward()
    seen = {variant: agrees for (_, variant), agrees in tma._agreeing.items() if variant.dtype == dtype}
    assert seen and all(seen.values()), seen
