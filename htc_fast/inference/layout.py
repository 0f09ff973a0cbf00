"""A detector laid out for a device: weights stored in the type they run in, and layers that read memory as it lies."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from htc_fast.inference import int8
from htc_fast.inference.fuse import FusedConvolution, fuse_convolutions, fusible, with_relu
from htc_fast.inference.merged import merged_rpn, stacked
from htc_fast.inference.necks import fuse_necks
from htc_fast.inference.quantize import QuantizedLayer
from htc_fast.inference.scnet import fuse_scnet
from htc_fast.models.backbone import Backbone
from htc_fast.models.box_head import RESOLUTION, BoxHead
from htc_fast.models.conv3x3_relu import Conv3x3ReLU
from htc_fast.models.convolution import fold_norms, is_plain
from htc_fast.models.htc import HTC
from htc_fast.models.panet import AdaptiveBoxHead, largest
from htc_fast.models.rfp import blank
from htc_fast.ops import _onednn, packed_convolution
from htc_fast.ops._fastest import fastest
from htc_fast.ops.fold_images import fold_images, fold_weight
from htc_fast.ops.max_pool import max_pool
from htc_fast.ops.pad_images import pad_images


def prepare(network: HTC, dtype: torch.dtype, device: torch.device | None = None, quantized: bool = False) -> HTC:
    """A copy of a detector that detects in `dtype` without autocast, laid out for `device`.

    quantized  what can have 8 bits will, as `int8` says
    device   None: where it is. The weights stay where they are: what is laid out for a GPU also runs on a CPU, as its
             operators' definitions, and can be traced there
    returns  in evaluation mode; images go in as they would into `network`, geometry and results are float32
    """
    device = next(network.parameters()).device if device is None else device
    made = copy.deepcopy(network).eval()
    for backbone in _backbones(made):
        backbone.net, _ = fuse_convolutions(backbone.net, feedback=backbone.feedback)
    fold_norms(made)
    lay_out(made, dtype, device, quantized)
    return made


def lay_out(network: HTC, dtype: torch.dtype, device: torch.device, quantized: bool = False) -> None:
    """Change `network` (for inference, fused) in place, for `device`, wherever it is now."""
    gpu = device.type == "cuda"
    onednn = device.type == "cpu" and dtype == torch.float32 and fastest().onednn
    for t, head in enumerate(network.box_heads):
        network.box_heads[t] = ChannelsLastBoxHead(head, gpu, onednn)
    network.rpn = merged_rpn(network.rpn)
    fuse_necks(network, gpu)
    fuse_scnet(network)
    if network.semantic_head is not None:
        network.semantic_head.embedding = with_relu(network.semantic_head.embedding)
    if quantized:
        int8.watch(network, dtype)
    stems = [_lay_out_stem(one.net, dtype, gpu) for one in _backbones(network)]
    # Taken from the weights as they were trained, before these lose bits.
    packed = _pack(network, dtype, device)
    for module in network.modules():
        # Norms and whatever else autocast keeps in float32 stay so.
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            module.to(dtype)
    network.to(memory_format=torch.channels_last)
    network.requires_grad_(False)
    for owner, conv, values in packed:
        owner.packed = packed_convolution.Packed(conv.weight, values)
    if gpu:
        _use_gpu(network)
    first, *steps = (
        one if isinstance(one, int8.QuantizedBackbone) else ReadyBackbone(one, dtype, *stem)
        for one, stem in zip(_backbones(network), stems)
    )
    network.backbone = first
    if network.rfp is not None:
        network.rfp.backbones = nn.ModuleList(steps)


def _backbones(network: HTC) -> list[Any]:
    """The first step's, and those of a recursion's further steps."""
    return [network.backbone, *(network.rfp.backbones if network.rfp is not None else ())]


class ReadyBackbone(nn.Module):
    """Images [N, 3, H, W] of any type and layout -> maps of `dtype`.

    channels  that the first convolution takes; those behind the images' own are zeros
    folded    it takes folded images instead
    """

    def __init__(self, backbone: Backbone, dtype: torch.dtype, channels: int, folded: bool = False):
        super().__init__()
        self.backbone, self.dtype, self.channels, self.folded = backbone, dtype, channels, folded
        self.autocasts = dtype != torch.float32 and not self._is_all()

    def forward(self, images: Tensor, feedback: Sequence[Tensor] = ()) -> list[Tensor]:
        if self.autocasts:
            # Weights are stored in their type: nothing is left for its cache, which a captured graph cannot use.
            with torch.autocast(images.device.type, self.dtype, cache_enabled=False):
                maps = self.backbone(self._taken(images, images.dtype), feedback)
        else:
            maps = self.backbone(self._taken(images, self.dtype), feedback)
        return [one.to(self.dtype) for one in maps]

    def _taken(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        return fold_images(images, dtype) if self.folded else pad_images(images, self.channels, dtype)

    def _is_all(self) -> bool:
        """Whether everything with weights is in that type, and nothing between asks for another; tried on a CPU."""
        tensors = [*self.backbone.parameters(), *self.backbone.buffers()]
        if any(one.is_floating_point() and one.dtype != self.dtype for one in tensors):
            return False
        tried, images = copy.deepcopy(self.backbone).to("cpu"), torch.zeros(1, 3, 64, 64)
        try:
            with torch.no_grad():
                feedback = blank(images.to(self.dtype), tried.feedback)
                return all(one.dtype == self.dtype for one in tried(self._taken(images, self.dtype), feedback))
        except Exception:  # whatever a backbone stumbles over
            return False


class ChannelsLastBoxHead(nn.Module):
    """A box head whose first layer takes RoI features [K, C, 7, 7] as they lie in memory: row, column, channel.

    gpu     classes and deltas are views of one product's result
    onednn  products are oneDNN's where nothing looks on, not torch's
    """

    def __init__(self, head: BoxHead | AdaptiveBoxHead, gpu: bool, onednn: bool = False):
        super().__init__()
        self.convs, self.fc1, self.fc2 = head.convs, head.fc1, head.fc2
        for layer in self.fc1 if isinstance(self.fc1, nn.ModuleList) else [self.fc1]:
            weight = layer.weight.detach().unflatten(1, (-1, RESOLUTION, RESOLUTION))
            layer.weight = nn.Parameter(weight.permute(0, 2, 3, 1).flatten(1).contiguous(), requires_grad=False)
        self.gpu, self.onednn = gpu, onednn
        self.moves, self.classes = head.deltas.out_features, head.classes.out_features
        weight, bias = stacked(head.deltas, head.classes)
        self.merged = nn.Linear(weight.shape[1], len(weight))
        self.merged.weight, self.merged.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor | list[Tensor], rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As BoxHead or AdaptiveBoxHead: class logits [K, classes + 1] and deltas [K, 4 | 4 * classes]."""
        return self.predict(self.hidden(x, rows))

    def hidden(self, x: Tensor | list[Tensor], rows: Tensor | None = None) -> Tensor:
        """As BoxHead's."""
        for conv in self.convs or ():
            x = conv(x)
        if isinstance(x, Tensor):
            x = self._first(x, self.fc1)
        else:
            x = largest([self._first(one, layer) for one, layer in zip(x, self.fc1, strict=True)])
        return x if self.fc2 is None else self._dense(x, self.fc2)

    def predict(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """As BoxHead's."""
        both = self._dense(hidden, self.merged, relu=False)
        return both[:, self.moves : self.moves + self.classes], both[:, : self.moves]

    def _first(self, x: Tensor, layer: nn.Linear) -> Tensor:
        return self._dense(x.permute(0, 2, 3, 1).flatten(1), layer)

    def _dense(self, x: Tensor, layer: nn.Linear, relu: bool = True) -> Tensor:
        """x W + b, with ReLU if asked for; on a GPU both are cuBLASLt's epilogue."""
        if self.gpu and relu:
            return torch._addmm_activation(layer.bias, x, layer.weight.t())
        if isinstance(layer, QuantizedLayer):
            return layer(x)  # its ReLU is its own
        if self.onednn and _onednn.unwatched(x) and x.dtype == layer.weight.dtype:
            return _onednn.linear(x, layer.weight, layer.bias, relu)
        return layer(x).relu_() if relu else layer(x)


def _stems(net: nn.Module) -> list[nn.Conv2d]:
    """The convolutions that read the images; none if anything else does."""
    if not isinstance(net, fx.GraphModule):
        return []
    images = next(node for node in net.graph.nodes if node.op == "placeholder")
    readers = [net.get_submodule(node.target) if node.op == "call_module" else None for node in images.users]
    stems = [one.conv if isinstance(one, FusedConvolution) else one for one in readers]
    for node, stem in zip(images.users, stems):
        if node.args != (images,) or not is_plain(stem) or stem.groups != 1:
            return []
    return stems


def _lay_out_stem(net: nn.Module, dtype: torch.dtype, gpu: bool) -> tuple[int, bool]:
    """For a GPU; returns the channels that the network takes then, and whether it takes folded images."""
    if not gpu:
        return 3, False
    if dtype != torch.float32 and _fold_stem(net):
        return 3, True
    return _widen_stem(net, 16 // dtype.itemsize), False


def _widen_stem(net: nn.Module, channels: int) -> int:
    """Give the convolutions that read the images input channels of zeros; how many there are then."""
    stems = _stems(net)
    for stem in stems:
        stem.weight = nn.Parameter(F.pad(stem.weight.detach(), (0, 0, 0, 0, 0, channels - stem.in_channels)))
        stem.in_channels = channels
    return channels if stems else 3


def _fold_stem(net: nn.Module) -> bool:
    """Make a ResNet's first convolution one over folded images; whether there is one."""
    stems = _stems(net)
    if len(stems) != 1 or not fusible(stems[0]):
        return False
    (stem,) = stems
    geometry = stem.kernel_size, stem.stride, stem.padding, stem.dilation
    if geometry != ((7, 7), (2, 2), (3, 3), (1, 1)) or tuple(stem.weight.shape[:2]) != (64, 3):
        return False
    stem.weight = nn.Parameter(fold_weight(stem.weight.detach()))
    stem.in_channels, stem.kernel_size, stem.stride, stem.padding = 16, (4, 4), (1, 1), (0, 0)
    return True


class MaxPool(nn.Module):
    """The one behind a ResNet's first convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, C, ceil(H / 2), ceil(W / 2)]."""
        return max_pool(x)


def _pools(module: nn.Module) -> bool:
    if type(module) is not nn.MaxPool2d or module.ceil_mode or module.return_indices:
        return False
    sides = module.kernel_size, module.stride, module.padding, module.dilation
    return [one if isinstance(one, tuple) else (one, one) for one in sides] == [(3, 3), (2, 2), (1, 1), (1, 1)]


def _use_gpu(network: HTC) -> None:
    """Every convolution whose surroundings were traced, and those of pyramid and RPN, with what follows it."""
    for net in (one.net for one in _backbones(network) if isinstance(one.net, fx.GraphModule)):
        for module in list(net.modules()):
            for name, conv in list(module.named_children()):
                if not isinstance(module, FusedConvolution) and isinstance(conv, nn.Conv2d) and fusible(conv):
                    setattr(module, name, FusedConvolution(conv, None))
                elif _pools(conv):
                    setattr(module, name, MaxPool())
    for module in network.modules():
        if isinstance(module, FusedConvolution):
            module.on_gpu = True


def _pack(network: HTC, dtype: torch.dtype, device: torch.device) -> list[tuple[nn.Module, nn.Conv2d, Tensor]]:
    """The convolutions that run faster in another form, each with its owner and its weight in that form."""
    if device.type != "cpu":
        return []
    owners: list[tuple[nn.Module, nn.Conv2d]] = [
        (one, one.conv) for one in network.modules() if isinstance(one, FusedConvolution) and one.plain()
    ]
    owners += [(one, one) for one in network.modules() if isinstance(one, Conv3x3ReLU)]
    faster = [(owner, conv) for owner, conv in owners if packed_convolution.pays(conv.weight, dtype)]
    return [(owner, conv, packed_convolution.pack(conv.weight, dtype)) for owner, conv in faster]
