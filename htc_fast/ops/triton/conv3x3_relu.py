"""3x3 convolution, bias, residual and ReLU in one launch, in Triton; its gradient with the same kernel."""

from torch import Tensor

from htc_fast.ops.triton.epilogue import ALL, COUNTED, PLAIN, RELU
from htc_fast.ops.triton.launch import check_floats
from htc_fast.ops.triton.matrix import gate, product, rows_of, weight_gradient


def conv3x3_relu(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, count: Tensor | None) -> Tensor:
    check_floats("x", x)
    weight, (outputs, channels) = rows_of(weight), weight.shape[:2]  # in memory [outputs, 3, 3, channels]
    steps, wanted = (1, 9 * channels, channels), ALL if count is None else COUNTED
    return product(x, weight, outputs, steps, 9, RELU, bias.contiguous(), residual, count, wanted)


def conv3x3_relu_backward(
    grad: Tensor, out: Tensor, x: Tensor, weight: Tensor, count: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and residual; padded maps cost nothing here either."""
    weight, (outputs, channels) = rows_of(weight), weight.shape[:2]
    wanted = ALL if count is None else COUNTED
    gated, bias_grad = gate(grad, out)
    x_grad = product(gated, weight, channels, (9 * channels, 1, -channels), 9, PLAIN, choice=count, wanted=wanted)
    weight_grad = weight_gradient(gated, x, 9, count).to(weight.dtype).view(outputs, 3, 3, channels)
    return x_grad, weight_grad.permute(0, 3, 1, 2), bias_grad.to(weight.dtype), gated
