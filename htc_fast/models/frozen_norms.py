"""Batch norms that keep their statistics, taken into the convolutions before them while training on a CPU.

Such a norm is a factor and an offset per channel: of a weight, which is small, instead of two passes over the maps
forwards and two backwards. Weights of both learn as before, and everything is called as before.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, get_same_padding
from timm.layers.conv2d_same import conv2d_same
from torch import Tensor, fx, nn

from htc_fast.models.convolution import is_plain
from htc_fast.ops import depthwise

NORMS = (nn.BatchNorm2d, BatchNormAct2d)
HIGH: dict[type, float] = {nn.ReLU: math.inf, nn.ReLU6: 6.0}  # where an activation cuts values off
Pair = tuple[nn.Conv2d, nn.BatchNorm2d]
StandIn = tuple[nn.Module, Callable]


def pairs(net: nn.Module) -> list[Pair]:
    """Convolutions, and the norm that alone reads what each of them gives; none of a network that cannot be traced."""
    if not any(isinstance(module, NORMS) for module in net.modules()):
        return []
    try:
        with torch.no_grad():  # in which nothing is computed again
            graph = _Tracer().trace(net)
    except Exception:  # whatever tracing stumbles over: the network itself works
        return []
    calls = [node for node in graph.nodes if node.op == "call_module"]
    targets = [node.target for node in calls]
    found = []
    for node in calls:
        norm, before = net.get_submodule(str(node.target)), node.args[0]
        if not (isinstance(norm, NORMS) and isinstance(before, fx.Node) and before in calls and len(before.users) == 1):
            continue
        conv = net.get_submodule(str(before.target))
        once = targets.count(node.target) == targets.count(before.target) == 1
        if once and (is_plain(conv) or type(conv) is Conv2dSame) and conv.padding_mode == "zeros" and norm.affine:
            found.append((conv, norm))
    return found


@contextlib.contextmanager
def folded(pairs: list[Pair]) -> Iterator[None]:
    """Within, the norms among them that keep their statistics are part of their convolutions."""
    own: list[StandIn] = []
    for conv, norm in pairs:
        if _folds(conv, norm):
            one = _Folded(conv, norm)
            own += [(conv, one.convolution), (norm, one.activation)]
    with instead(own):
        yield


@contextlib.contextmanager
def instead(forwards: Sequence[StandIn]) -> Iterator[None]:
    """Within, modules compute what is given instead of their own `forward`."""
    for module, forward in forwards:
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module, _ in forwards:
            module.__dict__.pop("forward", None)


def stand_ins(block: nn.Module) -> list[StandIn]:
    """What the modules inside a block compute now instead of their own `forward`."""
    inside = (one for one in block.modules() if one is not block)
    return [(one, one.__dict__["forward"]) for one in inside if "forward" in one.__dict__]


def _watched(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Whether somebody reads or changes what goes from one to the other, which folded is something else."""
    inside = conv._forward_hooks, conv._backward_hooks, norm._forward_pre_hooks, norm._backward_pre_hooks
    gradients = conv._backward_pre_hooks, norm._backward_hooks
    return any(map(bool, (*inside, *gradients))) or any("forward" in one.__dict__ for one in (conv, norm))


def all_own(net: nn.Module, pairs: list[Pair], images: Tensor) -> bool:
    """Whether every depthwise convolution of the network is folded, and is our own."""
    ready = {conv for conv, norm in pairs if _folds(conv, norm) and own_takes(conv, images, conv.weight)}
    return ready.issuperset(conv for conv in net.modules() if is_depthwise(conv))


def is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1


def _folds(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    return not norm.training and norm.running_mean is not None and not _watched(conv, norm)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (nn.Conv2d, *NORMS)) or super().is_leaf_module(module, name)


class _Folded:
    """What stands in for a convolution, and for the norm behind it."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d):
        self.conv, self.norm, self.activated = conv, norm, False

    def convolution(self, x: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = conv.weight * scale[:, None, None, None]
        mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
        bias = torch.addcmul(norm.bias, mean, scale, value=-1)
        if own_takes(conv, x, weight):
            high = _high(norm)
            self.activated = high is not None
            return depthwise.depthwise(x, weight, bias, conv.stride[0], padding_of(conv, x), high)
        if isinstance(conv, Conv2dSame):
            return conv2d_same(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        return conv._conv_forward(x, weight, bias)

    def activation(self, x: Tensor) -> Tensor:
        norm = self.norm
        return norm.act(norm.drop(x)) if isinstance(norm, BatchNormAct2d) and not self.activated else x


def own_takes(conv: nn.Conv2d, x: Tensor, weight: Tensor) -> bool:
    """Whether our depthwise convolution takes this one."""
    alike = conv.stride[0] == conv.stride[1] and conv.dilation == (1, 1) and not isinstance(conv.padding, str)
    alike = alike and conv.in_channels == conv.out_channels
    return is_depthwise(conv) and alike and depthwise.takes(x, weight)


def padding_of(conv: nn.Conv2d, x: Tensor) -> tuple[int, int, int, int]:
    """Above, below, left and right."""
    if not isinstance(conv, Conv2dSame):
        rows, columns = map(int, conv.padding)
        return rows, rows, columns, columns
    sides = zip(x.shape[2:], conv.kernel_size, conv.stride, conv.dilation)
    above, left = (get_same_padding(*side) for side in sides)
    return above // 2, above - above // 2, left // 2, left - left // 2


def _high(norm: nn.BatchNorm2d) -> float | None:
    """Where the activation inside the norm cuts values off; None: it does not, or does something else."""
    quiet = isinstance(norm, BatchNormAct2d) and isinstance(norm.drop, nn.Identity)
    return HIGH.get(type(norm.act)) if quiet else None
