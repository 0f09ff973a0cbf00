"""Batch norms that keep their statistics, taken into the convolutions before them while training on a CPU.

Such a norm is a factor and an offset per channel: of a weight, which is small, instead of two passes over the maps
forwards and two backwards. Weights of both learn as before, and everything is called as before.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.layers.conv2d_same import conv2d_same
from torch import Tensor, fx, nn

from htc_fast.models.convolution import Conv2d

NORMS = (nn.BatchNorm2d, BatchNormAct2d)
Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


def pairs(net: nn.Module) -> list[Pair]:
    """Convolutions, and the norm that alone reads what each of them gives; none of a network that cannot be traced."""
    if not any(isinstance(module, NORMS) for module in net.modules()):
        return []
    try:
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
        if once and type(conv) in (nn.Conv2d, Conv2d, Conv2dSame) and conv.padding_mode == "zeros" and norm.affine:
            found.append((conv, norm))
    return found


@contextlib.contextmanager
def folded(pairs: list[Pair]) -> Iterator[None]:
    """Within, the norms among them that keep their statistics are part of their convolutions."""
    changed = [pair for pair in pairs if not pair[1].training and pair[1].running_mean is not None]
    for conv, norm in changed:
        conv.__dict__["forward"], norm.__dict__["forward"] = _convolution(conv, norm), _activation(norm)
    try:
        yield
    finally:
        for pair in changed:
            for module in pair:
                del module.__dict__["forward"]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (nn.Conv2d, *NORMS)) or super().is_leaf_module(module, name)


def _convolution(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = conv.weight * scale[:, None, None, None]
        bias = torch.addcmul(
            norm.bias, norm.running_mean if conv.bias is None else norm.running_mean - conv.bias, -scale
        )
        if isinstance(conv, Conv2dSame):
            return conv2d_same(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        return conv._conv_forward(x, weight, bias)

    return forward


def _activation(norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
    return lambda x: norm.act(norm.drop(x)) if isinstance(norm, BatchNormAct2d) else x
