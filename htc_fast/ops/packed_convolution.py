"""3x3 and 1x1 convolutions on a CPU whose weights are laid out for it: Winograd's form (3x3), or a matrix unit's.

For inference weights are laid out once, and owned by the module that owns the weight; in training at every call. A 1x1
of float32 has no such form; its gradients are products of matrices as they lie.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from htc_fast.device import is_intel
from htc_fast.ops import _backend, amx, winograd
from htc_fast.ops._declare import watched

FORMS = amx, winograd
VIEWS = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)
FEWEST = 200  # pixels below which laying out weights for one call costs what it saves


def direct(conv: nn.Conv2d) -> bool:
    """Whether its geometry is theirs: every pixel in, every pixel out, zeros around."""
    side = conv.kernel_size[0]
    geometry = conv.kernel_size, conv.padding, conv.stride, conv.dilation, conv.groups
    around = side // 2, side // 2
    return geometry == ((side, side), around, (1, 1), (1, 1), 1) and conv.padding_mode == "zeros"


def pays(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether a convolution with weight [O, C, k, k] over maps of this type is faster in one of the forms, here."""
    return any(form.pays(weight, dtype) for form in FORMS)


def pack(weight: Tensor, dtype: torch.dtype, turned: bool = False) -> Tensor:
    """weight [O, C, k, k] -> what `convolution` takes, in the form for maps of this type.

    turned  around, its channels and outputs exchanged: that is the convolution's gradient
    raises  ValueError, TypeError, RuntimeError
    """
    return _form(weight, dtype).pack(weight, turned)


def convolution(x: Tensor, packed: Tensor, bias: Tensor | None, relu: bool, other: Tensor | None = None) -> Tensor:
    """3x3 with one pixel of padding, or 1x1.

    x        [N, C, H, W] of the type that the weight was packed for;  packed: of `pack`;  bias [O] or None
    other    [N, O, H, W] of that type, added before the ReLU, behind a 1x1 one alone; or None
    returns  [N, O, H, W], channels-last in memory; no gradient
    raises   ValueError, TypeError, RuntimeError
    """
    if other is not None:
        return amx.convolution(x, packed, bias, relu, other)
    return _of(packed).convolution(x, packed, bias, relu)


def adds(x: Tensor, other: Tensor, weight: Tensor) -> bool:
    """Whether `convolution` of maps x with weight [O, C, k, k], packed, adds `other` too: as large as its result."""
    alike = other.dtype == weight.dtype and other.shape == (len(x), len(weight), *x.shape[2:])
    return alike and weight.shape[2:] == (1, 1)


class Packed:
    """A weight in a faster form: of use for this very weight, for as long as it stays as it is.

    values  of `pack`; None: made here, for maps of the weight's type. To be given where the weight has lost bits since
            it was packed
    """

    def __init__(self, weight: Tensor, values: Tensor | None = None):
        self.weight, self.values = weight, pack(weight, weight.dtype) if values is None else values
        self._state = _state(weight)

    def fits(self, weight: Tensor, dtype: torch.dtype) -> bool:
        """Whether a convolution of maps of that type with `weight` may use it."""
        return weight is self.weight and _state(weight) == self._state and dtype in _of(self.values).TYPES


def learns(x: Tensor, weight: Tensor) -> bool:
    """Whether `learned` takes maps x [N, C, H, W] and weight [O, C, k, k], and is faster, with nothing looking on."""
    if not torch.is_grad_enabled() or x.device.type != "cpu" or watched((x, weight)) or _backend.in_forward_mode():
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    same = weight.dtype == torch.float32 or weight.dtype == dtype
    if not same or x.dim() != 4 or weight.dim() != 4 or x.shape[0] * x.shape[2] * x.shape[3] < FEWEST:
        return False
    return _multiplies(weight, dtype) or (weight.shape[1] % 32 == 0 and pays(weight, dtype))


def learned(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """`convolution` with gradients, where `learns` says so; arguments and result of its own."""
    if torch.is_autocast_enabled("cpu"):
        x = x.to(torch.get_autocast_dtype("cpu"))
    if _multiplies(weight, x.dtype):  # here, where a second derivative sees it
        x = x.contiguous(memory_format=torch.channels_last)
    return _Learned.apply(x, weight, bias, relu)


class _Learned(torch.autograd.Function):
    """Its second derivative is that of torch's own convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        if _multiplies(weight, x.dtype):
            out = torch.conv2d(x, weight, bias)
            out = out.relu_() if relu else out
        else:
            with torch._C._ExcludeDispatchKeyGuard(VIEWS):  # else the result, a view, could not be written to
                out = convolution(x, pack(weight, x.dtype), bias, relu)
        ctx.save_for_backward(x, weight, out if relu else None)
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:  # nobody took the result
            return None, None, None, None
        x, weight, out = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        if out is not None:
            grad = torch.ops.aten.threshold_backward(grad, out, 0)
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            needed, side = [for_x, for_weight, False], weight.shape[2]
            geometry = [1, 1], [side // 2] * 2, [1, 1], False, [0, 0], 1
            grads = torch.ops.aten.convolution_backward(grad, x, weight.to(x.dtype), None, *geometry, needed)
            x_grad, weight_grad, _ = grads
            bias_grad = grad.sum((0, 2, 3)) if for_bias else None
        elif _multiplies(weight, x.dtype):
            rows, pixels = grad.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1).flatten(0, 2)
            x_grad = (rows @ weight[:, :, 0, 0]).permute(0, 3, 1, 2) if for_x else None
            weight_grad = (rows.flatten(0, 2).t() @ pixels)[:, :, None, None] if for_weight else None
            bias_grad = rows.sum((0, 1, 2)) if for_bias else None
        else:
            x_grad = convolution(grad, pack(weight, grad.dtype, turned=True), None, False) if for_x else None
            weight_grad, bias_grad = _gradients(weight, x, grad, for_weight, for_bias)
        return x_grad, weight_grad, bias_grad, None


def _state(weight: Tensor) -> tuple[int, int]:
    """Where it lies, and how often it was written to, which tensors made in inference mode do not count."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def _form(weight: Tensor, dtype: torch.dtype) -> ModuleType:
    return next((form for form in FORMS if form.pays(weight, dtype)), winograd)


def _multiplies(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether the gradients of a convolution with weight [O, C, k, k] over such maps are products of matrices.

    source  two cores of an Intel server: 1.2 to 2.2 times oneDNN's rate, with AVX2 as with AVX-512
    """
    fits = weight.shape[2:] == (1, 1) and dtype == weight.dtype == torch.float32 and weight.numel() > 0
    return fits and weight.device.type == "cpu" and is_intel() and torch.backends.mkl.is_available()


def _gradients(
    weight: Tensor, x: Tensor, grad: Tensor, for_weight: bool, for_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    if for_weight and _form(weight, x.dtype) is amx:
        to_weight, to_bias = amx.gradients(x, grad, weight.shape[2], for_bias)
        return to_weight, to_bias if for_bias else None
    # The bias's is rounded once to the maps' type, as torch's own under autocast: in float32 it would copy all of them.
    return winograd.weight_gradient(x, grad) if for_weight else None, grad.sum((0, 2, 3)) if for_bias else None


def _of(packed: Tensor) -> ModuleType:
    return amx if packed.dtype == torch.bfloat16 else winograd
