"""Recursive feature pyramid (Qiao et al., CVPR 2021, section 3): the pyramid goes through a backbone again.

Each further step has a backbone of its own, which sees the images and, at the first block of three of its stages, what
the step before made of them; pyramid, context and gate are the same in all.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from timm.models._features import FeatureListNet
from timm.models._manipulate import checkpoint
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from htc_fast.errors import UserError
from htc_fast.models.aspp import ConvReLU
from htc_fast.models.fpn import with_coarsest
from htc_fast.ranges import part

RATES = (3, 6)
STRIDES = (8, 16, 32)  # of the maps that go back
LAST = {Bottleneck: "act3", BasicBlock: "act2"}  # the activation behind a block's sum, by its class


class RecursivePyramid(nn.Module):
    """P2..P6 of the first step -> those of the last.

    backbones  of the second and further steps, which take feedback of `feedback_channels`
    gate       the share of the newer step, by pixel: the sigmoid of a 1x1 of the newer pyramid
    source     mmdetection's RFP
    """

    def __init__(self, backbones: Sequence[nn.Module], channels: int):
        super().__init__()
        self.backbones = nn.ModuleList(backbones)
        self.aspp = Context(channels)
        self.gate = nn.Conv2d(channels, 1, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, images: Tensor, features: list[Tensor], fpn: nn.Module) -> list[Tensor]:
        """images [N, 3, H, W], P2..P6 [N, C, H_l, W_l] that `fpn` made of the first backbone -> the same shapes."""
        for backbone in self.backbones:
            feedback = [self.aspp(one) for one in features[1:4]]
            with part("backbone"):
                maps = backbone(images, feedback)
            # The coarsest map is every second pixel of the one before, whose gate is a matter of its pixels alone.
            newer = fpn(maps)[:-1]
            features = with_coarsest([self.fused(new, old) for new, old in zip(newer, features)])
        return features

    def fused(self, new: Tensor, old: Tensor) -> Tensor:
        """Maps [N, C, H, W] of two steps -> one."""
        return old.lerp(new, self.gate(new).sigmoid().to(new.dtype))


class Context(nn.Module):
    """A level seen at four scales, a quarter of the channels each: a 1x1, two dilated 3x3 and the mean of the map.

    x [N, C, H, W] -> [N, 4 * (C // 4), H, W]
    """

    def __init__(self, channels: int):
        super().__init__()
        each = feedback_channels(channels) // 4
        dilated = (ConvReLU(channels, 3, rate, outputs=each) for rate in RATES)
        self.branches = nn.ModuleList([ConvReLU(channels, 1, outputs=each), *dilated])
        self.pooled = ConvReLU(channels, 1, outputs=each)

    def forward(self, x: Tensor) -> Tensor:
        near = [branch(x) for branch in self.branches]
        mean = self.pooled(x.mean(dim=(2, 3), keepdim=True))
        return torch.cat([*near, mean.expand_as(near[0])], dim=1)


def feedback_channels(channels: int) -> int:
    """Of what a pyramid of so many channels gives back."""
    return 4 * max(1, channels // 4)


def blank(images: Tensor, channels: int) -> list[Tensor]:
    """Feedback of zeros, as the first step would have given, [N, channels, H / 8, W / 8] and so on; none without."""
    sides = [[side // stride for side in images.shape[2:]] for stride in STRIDES]
    return [images.new_zeros(images.shape[0], channels, *one) for one in sides] if channels else []


class FeedbackNet(FeatureListNet):
    """timm's features of a ResNet whose stages 3 to 5 add, behind their first block's sum, a 1x1 of what comes back."""

    places: tuple[str, ...]

    def forward(self, x: Tensor, p3: Tensor, p4: Tensor, p5: Tensor) -> list[Tensor]:  # type: ignore[override]
        """images [N, 3, H, W] and feedback at strides 8, 16 and 32 -> maps."""
        given, maps = dict(zip(self.places, (p3, p4, p5))), []
        for name, module in self.items():
            step = functools.partial(_entered, module, given[name]) if name in given else module
            again = self.grad_checkpointing and isinstance(module, nn.Sequential)
            x = checkpoint(step, x) if again else step(x)
            if name in self.return_layers:
                maps.append(x)
        return maps


def _entered(stage: Any, feedback: Tensor, x: Tensor) -> Tensor:
    first, *rest = stage
    x = first.last(first(x) + first.feedback(feedback))
    for block in rest:
        x = block(x)
    return x


def take_feedback(net: Any, name: str, indices: Sequence[int], channels: int) -> None:
    """Let a network take the pyramid back, in place; the layers that read it start at zero.

    net       timm's, which gives features
    name      of the backbone
    indices   of the features at strides 4, 8, 16 and 32
    channels  of what comes back
    raises    UserError if a stage does not begin with a ResNet's block
    """
    places = [net.feature_info.module_name(index) for index in indices[1:]]
    stages = [getattr(net, place, None) for place in places]
    firsts = [stage[0] if isinstance(stage, nn.Sequential) and len(stage) else None for stage in stages]
    if type(net) is not FeatureListNet or any(type(one) not in LAST for one in firsts):
        raise UserError(
            f"fpn_steps above 1 lead the pyramid back into a ResNet's residual blocks, and backbone {name!r} has "
            "stages of another kind: choose one such as resnet50 or resnext101_64x4d, or fpn_steps=1."
        )
    for first, width in zip(firsts, (net.feature_info.channels()[index] for index in indices[1:])):
        assert first is not None
        last = LAST[type(first)]
        first.last = getattr(first, last)
        setattr(first, last, nn.Identity())
        first.feedback = nn.Conv2d(channels, width, 1)
        nn.init.zeros_(first.feedback.weight)
        nn.init.zeros_(first.feedback.bias)
    net.__class__, net.places = FeedbackNet, tuple(places)
