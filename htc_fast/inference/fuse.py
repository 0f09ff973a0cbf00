"""Convolutional backbones with their batch norms folded, and activation and residual sum inside the convolution.

The network is traced, not known: any timm model profits. One that cannot be traced, or whose copy computes something
else, stays as it was.
"""

import copy
import math
import operator
import warnings

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, pad_same
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from htc_fast.device import supports
from htc_fast.inference.constant import ConstantSwitch, hold_weights
from htc_fast.models.convolution import is_plain
from htc_fast.models.frozen_norms import HIGH, own_takes, padding_of
from htc_fast.models.rfp import blank
from htc_fast.ops import _onednn, packed_convolution
from htc_fast.ops.convolution import convolution
from htc_fast.ops.depthwise import depthwise

# How oneDNN calls an activation, and its constants.
ACTIVATIONS = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}
SUMS = (operator.add, operator.iadd, torch.add)
TOLERANCE = 1e-4  # of the largest value: what rounding through a hundred layers leaves


class FusedConvolution(nn.Module):
    """activation(conv(x) + other), in one pass where the device's library offers it.

    other       [N, O, h, w] or None
    overwrites  the result may take other's place in memory
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None, overwrites: bool = False):
        super().__init__()
        self.conv, self.activation, self.overwrites = conv, activation, overwrites
        self.packed: packed_convolution.Packed | None = None  # the weight in a faster form as well
        self.on_gpu = False  # laid out for a GPU, wherever it is now
        self.pads = type(conv) is Conv2dSame  # by the size of what comes

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        dtype = self.conv.weight.dtype
        if self.on_gpu and not self.pads:
            return self._gpu(x.to(dtype), None if other is None else other.to(dtype))
        unwatched, packed = _onednn.unwatched(x), self.packed
        alone = other is None or packed_convolution.adds(x, other, self.conv.weight)
        if unwatched and packed is not None and alone and self.plain() and packed.fits(self.conv.weight, dtype):
            return packed_convolution.convolution(
                x.to(dtype), packed.values, self.conv.bias, self.activation is not None, other
            )
        if unwatched and supports(dtype, x.device) and (other is None or _addable(x, other, dtype)):
            return self._onednn(x.to(dtype), other)
        y = self.conv(x)
        y = y if other is None else y + other
        return y if self.activation is None else self.activation(y)

    def plain(self) -> bool:
        """Whether it is a 3x3 or 1x1 convolution as every other, with a ReLU or nothing behind it."""
        return packed_convolution.direct(self.conv) and (self.activation is None or type(self.activation) is nn.ReLU)

    def _gpu(self, x: Tensor, other: Tensor | None) -> Tensor:
        conv, relu = self.conv, type(self.activation) is nn.ReLU
        geometry = {name: getattr(conv, name) for name in ("stride", "padding", "dilation", "groups")}
        y = convolution(x, conv.weight, conv.bias, other, relu=relu, **geometry)
        return y if relu or self.activation is None else self.activation(y)

    def _onednn(self, x: Tensor, other: Tensor | None) -> Tensor:
        conv, (name, constants) = self.conv, ACTIVATIONS.get(type(self.activation), (None, []))
        layer = conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups
        if self.pads:
            ends = self.activation is None or type(self.activation) in HIGH
            if conv.bias is not None and ends and own_takes(conv, x, conv.weight):
                high = HIGH.get(type(self.activation))
                return depthwise(x, conv.weight, conv.bias, conv.stride[0], padding_of(conv, x), high)
            x = pad_same(x, conv.kernel_size, conv.stride, conv.dilation)
        if other is None:
            return _onednn.convolution(x, layer, name or "none", constants)
        relu = name == "relu"  # all that oneDNN takes in behind a sum
        y = _onednn.convolution_sum(x, other, layer, relu, self.overwrites)
        return y if relu or self.activation is None else self.activation(y)


def with_relu(layer: nn.Conv2d) -> FusedConvolution:
    """A convolution class of our own that ends in a ReLU, as a plain one with it."""
    geometry = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    conv = nn.Conv2d(layer.in_channels, layer.out_channels, *geometry)
    conv.weight, conv.bias = layer.weight, layer.bias
    return FusedConvolution(conv, nn.ReLU())


def _addable(x: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    # In 16 bits PyTorch hands sums to oneDNN for channels-last tensors alone, and stops at others.
    last = all(one.is_contiguous(memory_format=torch.channels_last) for one in (x, other))
    return other.dtype == dtype and (last or dtype == torch.float32)


def fuse_convolutions(net: nn.Module, channels: int = 3, feedback: int = 0) -> tuple[nn.Module, int]:
    """A copy of `net` for inference, and how many convolutions took in what follows them (0: an unchanged copy).

    net       images [N, channels, H, W] -> list of feature maps
    feedback  channels of the maps that it takes besides, in a recursion; 0: none
    returns   the copy, in evaluation mode; its batch norms are gone where a convolution fed them alone
    """
    plain = copy.deepcopy(net).eval()
    first = next(plain.parameters(), torch.empty(0))
    # Compared on the CPU in float32: a GPU's TF32 would hide, and cause, differences as large as the tolerance.
    exact = copy.deepcopy(plain).to("cpu", torch.float32)
    try:
        graph, count = _fuse(copy.deepcopy(exact))
        if count == 0:
            return plain, 0
        apart = _apart(exact, graph, channels, feedback)
    except Exception as error:  # whatever tracing stumbles over, the network itself still works
        warnings.warn(f"the backbone stays unfused: it cannot be traced ({error}).", stacklevel=3)
        return plain, 0
    if not apart <= TOLERANCE:
        warnings.warn(f"the backbone stays unfused: fused, its maps are {apart:.1g} apart.", stacklevel=3)
        return plain, 0
    return graph.to(first.device, first.dtype), count


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        leaf = isinstance(module, (nn.Conv2d, nn.modules.batchnorm._BatchNorm, *ACTIVATIONS))
        return leaf or super().is_leaf_module(module, name)


def _fuse(net: nn.Module) -> tuple[fx.GraphModule, int]:
    hold_weights(net)
    _split_norms(net)
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules()):
        return net, 0
    traced = fx.GraphModule(net, _Tracer().trace(net))
    _drop_identities(traced)
    count = _fold_norms(traced)
    count += _take_in(traced)
    traced.graph.lint()
    traced.recompile()
    traced.delete_all_unused_submodules()
    return traced, count


def _split_norms(net: nn.Module) -> None:
    """timm's norms with an activation inside become a norm followed by an activation."""
    for name, module in list(net.named_modules()):
        if isinstance(module, BatchNormAct2d):
            norm = nn.BatchNorm2d(module.num_features, module.eps, module.momentum, module.affine)
            norm.load_state_dict(module.state_dict(), strict=False)
            parent, _, own = name.rpartition(".")
            setattr(net.get_submodule(parent), own, nn.Sequential(norm, module.drop, module.act).eval())


def _drop_identities(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        if isinstance(_module(traced, node), (nn.Identity, nn.Dropout)):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)


def _fold_norms(traced: fx.GraphModule) -> int:
    count = 0
    for node in list(traced.graph.nodes):
        norm = _module(traced, node)
        conv = _own_convolution(traced, node.args[0]) if isinstance(norm, nn.modules.batchnorm._BatchNorm) else None
        if conv is not None and norm.track_running_stats:
            if isinstance(conv, ConstantSwitch):
                conv.take_in(norm)
            else:
                traced.set_submodule(node.args[0].target, fuse_conv_bn_eval(conv, norm))
            _erase(traced, node, node.args[0])
            count += 1
    return count


def _take_in(traced: fx.GraphModule) -> int:
    """Residual sums and activations move into the convolution before them."""
    count = 0
    for node in list(traced.graph.nodes):
        if node.op == "call_function" and node.target in SUMS and len(node.args) == 2 and not node.kwargs:
            count += _take_in_sum(traced, node)
        elif type(_module(traced, node)) in ACTIVATIONS:
            count += _take_in_activation(traced, node)
    return count


def _take_in_sum(traced: fx.GraphModule, node: fx.Node) -> int:
    for source, other in (node.args, node.args[::-1]):
        if not isinstance(source, fx.Node) or not isinstance(other, fx.Node) or source is other:
            continue
        conv = _own_convolution(traced, source)
        # The other summand has to be there when the convolution runs.
        if conv is None or not fusible(conv):
            continue
        if (shortcut := _own_convolution(traced, other)) is not None:
            _move_bias(shortcut, conv)
        overwrites = other.op != "placeholder" and all(user <= node for user in other.users)
        with traced.graph.inserting_before(node):
            fused = _add(traced, FusedConvolution(conv, None, overwrites), source, (source.args[0], other))
        _erase(traced, node, fused)
        traced.graph.erase_node(source)
        return 1
    return 0


@torch.no_grad()
def _move_bias(source: nn.Conv2d, conv: nn.Conv2d) -> None:
    """A summand's bias into that of the convolution it is added to."""
    if source.bias is not None:
        conv.bias = nn.Parameter(source.bias if conv.bias is None else conv.bias + source.bias)
        source.bias = None


def _take_in_activation(traced: fx.GraphModule, node: fx.Node) -> int:
    source = node.args[0]
    module = _module(traced, source)
    if len(source.users) != 1:
        return 0
    if isinstance(module, FusedConvolution) and module.activation is None:
        module.activation = _module(traced, node)
        _erase(traced, node, source)
        return 1
    if _own_convolution(traced, source) is None or not (fusible(module) or type(module) is Conv2dSame):
        return 0
    with traced.graph.inserting_before(node):
        fused = _add(traced, FusedConvolution(module, _module(traced, node)), source, (source.args[0],))
    _erase(traced, node, fused)
    traced.graph.erase_node(source)
    return 1


def _add(traced: fx.GraphModule, module: FusedConvolution, source: fx.Node, arguments: tuple) -> fx.Node:
    name = f"fused_{source.name}"
    traced.add_submodule(name, module)
    return traced.graph.call_module(name, arguments)


def _erase(traced: fx.GraphModule, node: fx.Node, successor: fx.Node) -> None:
    node.replace_all_uses_with(successor)
    traced.graph.erase_node(node)


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(node.target) if node.op == "call_module" else None


def _own_convolution(traced: fx.GraphModule, node: fx.Node) -> nn.Conv2d | None:
    """The convolution that made this value, if nothing else reads the value and no other call shares its weights."""
    module = _module(traced, node)
    calls = [one for one in traced.graph.nodes if one.op == "call_module" and one.target == node.target]
    return module if isinstance(module, nn.Conv2d) and len(node.users) == 1 and len(calls) == 1 else None


def fusible(conv: nn.Conv2d) -> bool:
    return is_plain(conv) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


@torch.no_grad()
def _apart(plain: nn.Module, fused: nn.Module, channels: int, feedback: int) -> float:
    """How far their maps are apart, of the largest value, at two sizes: a trace may have taken one for granted."""
    worst = 0.0
    for height, width in ((64, 96), (160, 128)):
        images = _waves(1, channels, height, width)
        given = [_waves(*one.shape) for one in blank(images, feedback)]
        for want, found in zip(plain(images, *given), fused(images, *given), strict=True):
            if found.shape != want.shape:
                return math.inf
            worst = max(worst, float((found - want).abs().max() / want.abs().max().clamp(min=1e-6)))
    return worst


def _waves(count: int, channels: int, height: int, width: int) -> Tensor:
    values = torch.linspace(-2, 2, count * channels * height * width, dtype=torch.float32).roll(height)
    return (values.view(count, channels, height, width) * 7).sin()
