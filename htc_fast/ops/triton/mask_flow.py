"""Information flow between mask heads, x + relu(1x1(m)), in one launch, in Triton."""

from torch import Tensor

from htc_fast.ops.triton.epilogue import FLOW, GATE
from htc_fast.ops.triton.gradients import by_library, gate, pointwise_gradient, weight_gradient
from htc_fast.ops.triton.launch import check_floats
from htc_fast.ops.triton.matrix import product


def mask_flow(x: Tensor, m: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    check_floats("x", x)
    weight, (outputs, channels) = weight.contiguous(), weight.shape[:2]
    return product(m, weight, outputs, (1, channels, 0), 1, FLOW, bias.contiguous(), x)


def mask_flow_backward(
    grad: Tensor, m: Tensor, weight: Tensor, bias: Tensor, forced: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of m, weight and bias; that of x is grad itself.

    The product is made again: in 16 bits x + relu hides a small relu, and with it where it was cut off.
    """
    weight, (outputs, channels) = weight.contiguous(), weight.shape[:2]
    gated = product(m, weight, outputs, (1, channels, 0), 1, GATE, bias.contiguous(), grad)
    library = by_library(m, forced)
    m_grad = pointwise_gradient(gated, weight.view(outputs, channels), library)
    weight_grad = weight_gradient(gated, m, 1, library=library).to(weight.dtype).view_as(weight)
    return m_grad, weight_grad, gate(gated)[1].to(bias.dtype)
