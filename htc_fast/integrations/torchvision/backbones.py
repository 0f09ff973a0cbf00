"""torchvision's backbones and the convolutions of its heads: norms folded, ReLU and sums in the convolution's pass."""

from typing import Any

from torch import Tensor, nn
from torchvision.models import _utils, resnet
from torchvision.models.detection import faster_rcnn, keypoint_rcnn, mask_rcnn
from torchvision.ops import Conv2dNormActivation

from htc_fast.integrations import _layers
from htc_fast.integrations.torchvision.scripting import Exchanged


def _layer(x: Tensor, conv: Any, norm: Any, *, relu: bool, other: Tensor | None = None) -> Tensor:
    """relu(norm(conv(x)) + other), folded where that is possible; without gradient."""
    if _layers.is_fixed(norm) and _layers.takes(x, conv, norm):
        return _layers.run(x, conv, norm, relu=relu, other=other)
    out = norm(conv(x))
    out = out if other is None else out + other
    return out.relu_() if relu else out


def _block(block: Any, x: Tensor, count: int) -> Tensor | None:
    """A residual block of so many convolutions; None where it is to be left to torchvision."""
    if _layers.watched(x) or not _layers.is_relu(block.relu):
        return None
    other = x if block.downsample is None else block.downsample(x)
    out = x
    for number in range(1, count + 1):
        pair = getattr(block, f"conv{number}"), getattr(block, f"bn{number}")
        out = _layer(out, *pair, relu=True, other=other if number == count else None)
    return out


class FastBottleneck(Exchanged, resnet.Bottleneck):
    """torchvision's."""

    def forward(self, x: Tensor) -> Tensor:
        out = _block(self, x, 3)
        return super().forward(x) if out is None else out


class FastBasicBlock(Exchanged, resnet.BasicBlock):
    """torchvision's."""

    def forward(self, x: Tensor) -> Tensor:
        out = _block(self, x, 2)
        return super().forward(x) if out is None else out


class _InOrder(Exchanged):
    """Modules one after the other."""

    def forward(self: Any, input: Tensor) -> Tensor:
        if _layers.watched(input):
            return super().forward(input)  # type: ignore[misc]
        return _layers.run_all(self, input)


class FastSequential(_InOrder, nn.Sequential):
    """torch's, within a detector."""


class FastConv2dNormActivation(_InOrder, Conv2dNormActivation):
    """torchvision's."""


class FastMaskRCNNHeads(_InOrder, mask_rcnn.MaskRCNNHeads):
    """torchvision's."""


class FastFastRCNNConvFCHead(_InOrder, faster_rcnn.FastRCNNConvFCHead):
    """torchvision's."""


class FastKeypointRCNNHeads(_InOrder, keypoint_rcnn.KeypointRCNNHeads):
    """torchvision's."""


class FastIntermediateLayerGetter(Exchanged, _utils.IntermediateLayerGetter):
    """torchvision's."""

    def forward(self, x: Tensor) -> Any:
        if _layers.watched(x):
            return super().forward(x)
        out, waiting = {}, []
        for name, module in self.items():
            waiting.append(module)
            if name in self.return_layers:
                x, waiting = _layers.run_all(waiting, x), []
                out[self.return_layers[name]] = x
        return out


OURS: dict[type, type] = {
    resnet.Bottleneck: FastBottleneck,
    resnet.BasicBlock: FastBasicBlock,
    nn.Sequential: FastSequential,
    Conv2dNormActivation: FastConv2dNormActivation,
    mask_rcnn.MaskRCNNHeads: FastMaskRCNNHeads,
    faster_rcnn.FastRCNNConvFCHead: FastFastRCNNConvFCHead,
    keypoint_rcnn.KeypointRCNNHeads: FastKeypointRCNNHeads,
    _utils.IntermediateLayerGetter: FastIntermediateLayerGetter,
}
