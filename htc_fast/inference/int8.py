"""A detector in 8 bits: which of its layers, and how their ranges are found on pictures.

Backbone, pyramid, region proposals, semantic branch, box heads and mask heads compute in 8 bits where each of their
layers can; RoIAlign, and the layers that class logits, deltas and mask logits come from, stay in floats. Between layers
that follow each other features stay in 8 bits.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, fx, nn

from htc_fast.inference.fuse import FusedConvolution, fusible, with_relu
from htc_fast.inference.merged import MergedRPN
from htc_fast.inference.necks import FusedFPN
from htc_fast.inference.quantize import ACTIVATIONS, Features, Map, QuantizedLayer
from htc_fast.models.backbone import Backbone
from htc_fast.models.htc import HTC
from htc_fast.models.mask_head import MaskHead
from htc_fast.models.semantic_head import SemanticHead
from htc_fast.ops.mask_predict import BLOCK
from htc_fast.ops.semantic_merge import merged

RELU = nn.ReLU()


def watch(network: HTC, dtype: torch.dtype) -> None:
    """Put layers that will have 8 bits in place of a fused network's, in place; floats between are of `dtype`."""
    if network.rfp is None and (graph := quantized_graph(network.backbone.net, dtype)) is not None:
        network.backbone = QuantizedBackbone(network.backbone, graph)
    if type(network.fpn) is FusedFPN:
        network.fpn = QuantizedFPN(network.fpn, dtype)
    if type(network.rpn) is MergedRPN:
        network.rpn.conv = QuantizedLayer(with_relu(network.rpn.conv).conv, RELU, dtype, keeps=True)
        network.rpn.merged = QuantizedLayer(network.rpn.merged.conv, None, dtype, keeps=False)
    head, pairs = network.semantic_head, network.config.residual_heads
    if type(head) is SemanticHead and not head.gcn and not pairs:
        network.semantic_head = QuantizedSemanticHead(head, dtype)
    for head in network.box_heads:
        if head.convs is None and isinstance(head.fc1, nn.Linear):
            head.fc1 = QuantizedLayer(head.fc1, RELU, dtype, keeps=True)
            head.fc2 = QuantizedLayer(head.fc2, RELU, dtype, keeps=False)
    if not pairs and all(type(head) is MaskHead for head in network.mask_heads):
        network.mask_heads = nn.ModuleList(QuantizedMaskHead(head, dtype) for head in network.mask_heads)


def settle(network: HTC) -> None:
    """Into 8 bits, with the ranges of what was seen since `watch`."""
    layers = [one for one in network.modules() if isinstance(one, QuantizedLayer)]
    for layer in layers:
        layer.settle()


class QuantizedBackbone(nn.Module):
    """Images [N, 3, H, W] -> Maps C2..C5."""

    def __init__(self, backbone: Backbone, graph: fx.GraphModule):
        super().__init__()
        self.net, self.indices = graph, backbone.indices

    def forward(self, images: Tensor, feedback: Sequence[Tensor] = ()) -> list[Features]:
        """feedback: none."""
        maps = self.net(images.contiguous(memory_format=torch.channels_last))
        return [maps[index] for index in self.indices]


def quantized_graph(net: nn.Module, dtype: torch.dtype) -> fx.GraphModule | None:
    """A copy of a fused backbone with its convolutions in 8 bits; None if there is anything else in it.

    A maximum is taken of steps as of what they stand for.
    """
    if not isinstance(net, fx.GraphModule):
        return None
    graph = fx.GraphModule(net, fx.Graph())
    values: dict[fx.Node, fx.Node] = {}
    made = graph.graph
    for node in net.graph.nodes:
        if node.op in ("placeholder", "output"):
            values[node] = made.node_copy(node, values.__getitem__)
            continue
        module = net.get_submodule(node.target) if node.op == "call_module" else None
        layer = _layer(module, dtype)
        if layer is None or hasattr(graph, node.target):  # which is read twice
            return None
        values[node] = made.node_copy(node, values.__getitem__)
        graph.add_submodule(node.target, layer)
    graph.recompile()
    graph.delete_all_unused_submodules()
    return graph


def _layer(module: nn.Module | None, dtype: torch.dtype) -> nn.Module | None:
    if isinstance(module, FusedConvolution):
        if type(module.activation) not in ACTIVATIONS:
            return None
        return QuantizedLayer(module.conv, module.activation, dtype, True, module.overwrites)
    if isinstance(module, nn.Conv2d) and (fusible(module) or type(module) is Conv2dSame):
        return QuantizedLayer(module, None, dtype, keeps=True)
    plain = type(module) is nn.MaxPool2d and module.dilation in (1, (1, 1))
    return MaxPool(module) if plain and not (module.ceil_mode or module.return_indices) else None


class MaxPool(nn.Module):
    """Of a Map: the largest step stands for the largest value. In uint8 torch's own takes maps of few pixels alone."""

    def __init__(self, pool: nn.MaxPool2d):
        super().__init__()
        self.pool = pool
        sides = pool.kernel_size, pool.stride, pool.padding
        self.sides = [one if isinstance(one, tuple) else (one, one) for one in sides]

    def forward(self, x: Map) -> Map:
        if x.values.dtype != torch.uint8:
            return Map(self.pool(x.values), x.range)
        values = x.values
        (high, wide), strides, (down, across) = self.sides
        values = F.pad(values, (across, across, down, down))  # by the least there is
        for dim, count, stride in ((2, high, strides[0]), (3, wide, strides[1])):
            last = (values.shape[dim] - count) // stride * stride
            parts = (values.narrow(dim, first, last + 1) for first in range(count))
            every = (slice(None),) * dim + (slice(None, None, stride),)
            values = functools.reduce(torch.maximum, (one[every] for one in parts))
        return Map(values.contiguous(memory_format=torch.channels_last), x.range)


class QuantizedFPN(nn.Module):
    """As FusedFPN: Maps C2..C5 -> P2..P6, floats."""

    def __init__(self, fpn: FusedFPN, dtype: torch.dtype):
        super().__init__()
        self.lateral = nn.ModuleList(QuantizedLayer(one.conv, None, dtype, True, True) for one in fpn.lateral)
        self.output = nn.ModuleList(QuantizedLayer(one.conv, None, dtype, keeps=False) for one in fpn.output)

    def forward(self, maps: list[Features]) -> list[Tensor]:
        sums = [self.lateral[-1](maps[-1])]
        for layer, one in zip(reversed(self.lateral[:-1]), reversed(maps[:-1])):
            size = (one.values if isinstance(one, Map) else one).shape[-2:]
            sums.insert(0, layer(one, sums[0].resized(size)))
        pyramid = [conv(one) for conv, one in zip(self.output, sums)]
        return [*pyramid, pyramid[-1][:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)]


class QuantizedSemanticHead(nn.Module):
    """As SemanticHead."""

    def __init__(self, head: SemanticHead, dtype: torch.dtype):
        super().__init__()
        self.lateral = nn.ModuleList(QuantizedLayer(one, None, dtype, keeps=False) for one in head.lateral)
        self.convs = nn.ModuleList(QuantizedLayer(with_relu(one).conv, RELU, dtype, keeps=True) for one in head.convs)
        embedding: Any = head.embedding
        self.embedding = QuantizedLayer(embedding.conv, RELU, dtype, keeps=False)
        self.logits = head.logits

    def forward(self, features: list[Tensor], logits: bool = True) -> tuple[Tensor, Tensor | None]:
        size = features[SemanticHead.FUSED_LEVEL].shape[2:]
        x: Any = merged(features, list(self.lateral), (size[0], size[1]))
        for conv in self.convs:
            x = conv(x)
        return self.embedding(x), self.logits(x.floats(self.embedding.dtype)) if logits else None


class QuantizedMaskHead(nn.Module):
    """As MaskHead, for labels that are given; the deconvolution is a 1x1 convolution to the four pixels of each."""

    def __init__(self, head: MaskHead, dtype: torch.dtype):
        super().__init__()
        self.flow = None if head.flow is None else QuantizedLayer(with_relu(head.flow).conv, RELU, dtype, keeps=False)
        self.convs = nn.ModuleList(QuantizedLayer(with_relu(one).conv, RELU, dtype, keeps=True) for one in head.convs)
        weight = head.upsample.weight.detach().permute(2, 3, 1, 0).flatten(0, 2)
        pixels = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
        pixels.weight = nn.Parameter(weight[..., None, None])
        pixels.bias = nn.Parameter(head.upsample.bias.detach().repeat(4))
        self.upsample = QuantizedLayer(pixels, RELU, dtype, keeps=False)
        self.logits: Any = head.logits

    def features(self, x: Tensor, previous: Map | None = None, rows: Tensor | None = None) -> Map:
        """As MaskHead's, the features a Map."""
        here: Any = x if self.flow is None or previous is None else self.flow(previous).add_(x)
        for conv in self.convs:
            here = conv(here)
        return here

    def predict(self, features: Map, labels: Tensor) -> Tensor:
        """Logits [K, 28, 28] of the given class."""
        classes = labels.long().clamp(0, self.logits.out_channels - 1)
        weight, bias = self.logits.weight.flatten(1)[classes], self.logits.bias[classes]
        blocks = zip(*(one.split(BLOCK) for one in (features.values, weight, bias)))
        return torch.cat([self._predicted(Map(one, features.range), *own) for one, *own in blocks])

    def _predicted(self, features: Map, weight: Tensor, bias: Tensor) -> Tensor:
        count, _, height, width = features.values.shape
        pixels = self.upsample(features).permute(0, 2, 3, 1).reshape(count, -1, weight.shape[1])
        logits = torch.bmm(pixels, weight[..., None])[..., 0] + bias[:, None]
        return logits.view(count, height, width, 2, 2).permute(0, 1, 3, 2, 4).reshape(count, 2 * height, 2 * width)
