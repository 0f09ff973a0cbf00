"""3x3 convolution, bias, residual and ReLU in one launch, in Triton; its gradient with the same kernel, or by cuDNN."""

from torch import Tensor

from htc_fast.ops.triton.epilogue import ALL, COUNTED, PLAIN
from htc_fast.ops.triton.gradients import by_cudnn, by_library, gate, weight_gradient
from htc_fast.ops.triton.launch import check_floats
from htc_fast.ops.triton.matrix import convolution_relu, product, rows_of


def conv3x3_relu(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, count: Tensor | None) -> Tensor:
    check_floats("x", x)
    return convolution_relu(x, weight, bias.contiguous(), residual, count, ALL if count is None else COUNTED)


def conv3x3_relu_backward(
    grad: Tensor,
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    count: Tensor | None,
    x_needed: bool = True,
    weight_needed: bool = True,
    forced: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight (empty where not needed), bias and residual; padded maps cost nothing here either."""
    weight, (outputs, channels) = rows_of(weight), weight.shape[:2]
    gated, bias_grad = gate(grad, out)
    needed = x_needed, weight_needed
    library = count is None and any(needed) and by_library(x, forced)
    found = by_cudnn(gated, x, weight, needed) if library else None
    x_grad, weight_grad = found or (None, None)
    if x_needed and found is None:
        wanted, steps = ALL if count is None else COUNTED, (9 * channels, 1, -channels)
        x_grad = product(gated, weight, channels, steps, 9, PLAIN, choice=count, wanted=wanted)
    if weight_needed and found is None:
        sums = weight_gradient(gated, x, 9, count).to(weight.dtype)
        weight_grad = sums.view(outputs, 3, 3, channels).permute(0, 3, 1, 2)
    x_grad, weight_grad = (x.new_empty(0) if one is None else one for one in (x_grad, weight_grad))
    return x_grad, weight_grad, bias_grad.to(weight.dtype), gated
