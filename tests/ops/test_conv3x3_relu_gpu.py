"""conv3x3_relu in Triton at sizes that the interpreter is too slow for, and by both of its kernels."""

import pytest
import torch

from htc_fast import ops
from tests.ops.backends import TRITON, columns, convolutions_in

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
