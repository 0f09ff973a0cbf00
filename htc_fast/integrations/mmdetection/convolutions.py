"""mmcv's ConvModule and mmdetection's ResNet: as they are while gradients are wanted, and folded where not."""

from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmdet.models.backbones import detectors_resnet, resnet, resnext
from mmdet.models.layers import SimplifiedBasicBlock
from torch import Tensor, nn

from htc_fast.integrations import _layers

USUAL = ("conv", "norm", "act")


class FastConvModule(ConvModule):
    """mmcv's, with norm and ReLU in the convolution's pass."""

    def forward(self, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
        act = self.activate if activate and self.with_activation else None
        usual = (
            self.order == USUAL
            and (norm or not self.with_norm)
            and not (self.with_explicit_padding or self.with_spectral_norm)
            and (act is None or (_layers.is_relu(act)))
        )
        if usual and _layers.takes(x, self.conv, self.norm):
            return _layers.run(x, self.conv, self.norm, relu=act is not None)
        return super().forward(x, activate, norm)


def _layer(x: Tensor, conv: Any, norm: Any, *, relu: bool, other: Tensor | None = None) -> Tensor:
    """relu(norm(conv(x)) + other), folded where that is possible; without gradient."""
    if _layers.takes(x, conv, norm):
        return _layers.run(x, conv, norm, relu=relu, other=other)
    out = conv(x) if norm is None else norm(conv(x))
    out = out if other is None else out + other
    return out.relu_() if relu else out


def _block(block: Any, x: Tensor, count: int, last_relu: bool = True) -> Tensor | None:
    """A residual block of so many convolutions; None where it is to be left to mmdetection."""
    if torch.is_grad_enabled() or getattr(block, "with_plugins", False):
        return None
    if not _layers.is_relu(block.relu):
        return None
    other = x
    if block.downsample is not None:
        plain = type(block.downsample) is nn.Sequential and not _layers.hooked(block.downsample)
        fits = plain and len(block.downsample) == 2
        other = _layer(x, *block.downsample, relu=False) if fits else block.downsample(x)
    out = x
    for i in range(1, count + 1):
        last = i == count
        pair = getattr(block, f"conv{i}"), getattr(block, f"norm{i}")
        out = _layer(out, *pair, relu=last_relu or not last, other=other if last else None)
    return out


class _ThreeConvolutions:
    """A block of three convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        out = _block(self, x, 3)
        return super().forward(x) if out is None else out  # type: ignore[misc]


class FastBottleneck(_ThreeConvolutions, resnet.Bottleneck):
    """mmdetection's."""


class FastResNeXtBottleneck(_ThreeConvolutions, resnext.Bottleneck):
    """mmdetection's."""


class FastDetectoRSBottleneck(_ThreeConvolutions, detectors_resnet.Bottleneck):
    """mmdetection's."""


class FastBasicBlock(resnet.BasicBlock):
    """mmdetection's."""

    def forward(self, x: Tensor) -> Tensor:
        out = _block(self, x, 2)
        return super().forward(x) if out is None else out


class FastSimplifiedBasicBlock(SimplifiedBasicBlock):
    """mmdetection's."""

    def forward(self, x: Tensor) -> Tensor:
        out = _block(self, x, 2, last_relu=False)
        return super().forward(x) if out is None else out


class _ChannelsLast:
    """A backbone whose maps are channels-last in memory from the first on."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x.contiguous(memory_format=torch.channels_last))  # type: ignore[misc]


class FastResNet(_ChannelsLast, resnet.ResNet):
    """mmdetection's."""


class FastResNetV1d(_ChannelsLast, resnet.ResNetV1d):
    """mmdetection's."""


class FastResNeXt(_ChannelsLast, resnext.ResNeXt):
    """mmdetection's."""


class FastDetectoRSResNet(_ChannelsLast, detectors_resnet.DetectoRS_ResNet):
    """mmdetection's."""


OURS: dict[type, type] = {
    ConvModule: FastConvModule,
    resnet.Bottleneck: FastBottleneck,
    resnet.BasicBlock: FastBasicBlock,
    SimplifiedBasicBlock: FastSimplifiedBasicBlock,
    resnet.ResNet: FastResNet,
    resnet.ResNetV1d: FastResNetV1d,
    resnext.Bottleneck: FastResNeXtBottleneck,
    resnext.ResNeXt: FastResNeXt,
    detectors_resnet.Bottleneck: FastDetectoRSBottleneck,
    detectors_resnet.DetectoRS_ResNet: FastDetectoRSResNet,
}
