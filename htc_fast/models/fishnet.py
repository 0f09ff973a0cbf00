"""FishNet-150: fine maps that coarse ones have been mixed into, and coarse maps made from these once more.

The tail goes down to stride 32 as other networks do, the body goes up to stride 4, the head down again. Body and head
put earlier maps of their stride beside their own. Every convolution comes behind a batch norm and a ReLU of its input,
so a map, being a sum or a concatenation, has neither: `Backbone` puts them on those that leave the network.
"""

import re
from functools import reduce

import torch
from timm.models import FeatureInfo
from torch import Tensor, nn

from htc_fast.errors import UserError

NAME = "fishnet150"


class Bottleneck(nn.Module):
    """Norm and ReLU before each of 1x1, 3x3, 1x1, beside a shortcut.

    inputs    C channels
    outputs   O channels
    dilation  of the 3x3
    gathers   the shortcut is the sum of every C / O neighbouring channels, not a projection
    """

    def __init__(self, inputs: int, outputs: int, dilation: int = 1, gathers: bool = False):
        super().__init__()
        inner = outputs // 4
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, inner)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm3, self.conv3 = nn.BatchNorm2d(inner), _conv(inner, outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if gathers and inputs != outputs:
            self.shortcut = Gather(inputs // outputs)
        elif inputs != outputs:
            self.shortcut = nn.Sequential(*_norm_relu(inputs), _conv(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, O, H, W]."""
        y = self.conv1(self.relu(self.norm1(x)))
        y = self.conv2(self.relu(self.norm2(y)))
        return self.conv3(self.relu(self.norm3(y))) + self.shortcut(x)


class Gather(nn.Module):
    """x [N, C, H, W] -> sums of `count` neighbouring channels [N, C / count, H, W]."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        # Slices keep the layout of the memory, which a sum over a dimension does not.
        return reduce(torch.add, [x[:, first :: self.count] for first in range(self.count)])


class Stage(nn.Module):
    """Blocks and a change of resolution, with an earlier map of the new resolution put beside the result.

    trunk       x [N, C, H, W] -> [N, O, H, W]
    resample    halves or doubles both sides
    transfer    what the earlier map [N, D, h, w] goes through; None: nothing is put beside
    """

    def __init__(self, trunk: nn.Module, resample: nn.Module, transfer: nn.Module | None = None):
        super().__init__()
        self.trunk, self.resample, self.transfer = trunk, resample, transfer

    def forward(self, x: Tensor, earlier: Tensor | None = None) -> Tensor:
        """[N, C, H, W] -> [N, O + D, h, w]."""
        y = self.resample(self.trunk(x))
        return y if self.transfer is None else torch.cat([y, self.transfer(earlier)], 1)


class Bridge(nn.Module):
    """From tail to body, at stride 32: x [N, 512, h, w] -> [N, 512, h, w], channels weighted by the whole picture."""

    def __init__(self, channels: int, blocks: int):
        super().__init__()
        wide, narrow = 2 * channels, channels // 2
        expand = [*_norm_relu(channels), _conv(channels, narrow), *_norm_relu(narrow), nn.Conv2d(narrow, wide, 1)]
        squeeze = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, channels // 16, 1), nn.ReLU(inplace=True)]
        self.expand = nn.Sequential(*expand)
        self.trunk = _blocks(wide, channels, blocks)
        excite = nn.Conv2d(channels // 16, channels, 1)
        self.attention = nn.Sequential(*_norm_relu(wide), *squeeze, excite, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x)
        weights = self.attention(x)
        return self.trunk(x) * weights + weights


class FishNet(nn.Module):
    """images [N, 3, H, W], H and W multiples of 32 -> maps [N, 320 | 832 | 1600 | 2112, H / s, W / s], s 4, 8, 16, 32.

    Without norm and ReLU, and without the classifier.

    source  Sun et al., FishNet: A Versatile Backbone for Image, Region, and Pixel Level Prediction, NeurIPS 2018, with
            the depths that its authors published as FishNet-150
    """

    output_fmt = "NCHW"
    frozen_ends = ("tail1", "tail2", "tail3", "bridge")  # the last that 1, 2, 3, 4 frozen stages freeze

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(_stem(3, 32, 2), _stem(32, 32, 1), _stem(32, 64, 1), nn.MaxPool2d(3, 2, 1))
        self.tail1 = Stage(_blocks(64, 128, 2), _down())
        self.tail2 = Stage(_blocks(128, 256, 4), _down())
        self.tail3 = Stage(_blocks(256, 512, 8), _down())
        self.bridge = Bridge(512, 4)
        self.body1 = Stage(_blocks(512, 512, 2, 1, gathers=True), _up(), _blocks(256, 256, 2))
        self.body2 = Stage(_blocks(768, 384, 2, 2, gathers=True), _up(), _blocks(128, 128, 2))
        self.body3 = Stage(_blocks(512, 256, 2, 4, gathers=True), _up(), _blocks(64, 64, 2))
        self.head1 = Stage(_blocks(320, 320, 2), _down(), _blocks(512, 512, 2))
        self.head2 = Stage(_blocks(832, 832, 2), _down(), _blocks(768, 768, 2))
        self.head3 = Stage(_blocks(1600, 1600, 4), _down(), _blocks(512, 512, 4))
        made = zip(("body3", "head1", "head2", "head3"), (320, 832, 1600, 2112), (4, 8, 16, 32))
        maps = [{"module": name, "num_chs": count, "reduction": stride} for name, count, stride in made]
        self.feature_info = FeatureInfo(maps, (0, 1, 2, 3))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        stem = self.stem(images)
        tail1 = self.tail1(stem)
        tail2 = self.tail2(tail1)
        bridge = self.bridge(self.tail3(tail2))
        body1 = self.body1(bridge, tail2)
        body2 = self.body2(body1, tail1)
        body3 = self.body3(body2, stem)
        head1 = self.head1(body3, body2)
        head2 = self.head2(head1, body1)
        return [body3, head1, head2, self.head3(head2, bridge)]


# The published classifier's names, and ours.
STAGES = {**{str(i): f"tail{i + 1}" for i in range(3)}, "3": "bridge"}
STAGES |= {**{str(i + 4): f"body{i + 1}" for i in range(3)}, **{str(i + 7): f"head{i + 1}" for i in range(3)}}
PARTS = {"0": "trunk", "1": "transfer"}
BRIDGE = {"0": "expand", "1": "expand.5", "2": "trunk", "3.0": "attention"}
# For norms of the maps that leave: what reads the same map in the classifier begins with one.
NORMS = ("fish.7.0.0.bn1.", "fish.8.0.0.bn1.", "fish.9.0.0.bn1.", "fish.9.3.0.")


def published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the authors' ImageNet classifier FishNet-150, as a state dict of `Backbone("fishnet150", ...)`.

    state    by their names, with or without `module.` in front
    returns  net.* and norms.*, the same tensors; the classifier's last layers are left out
    raises   UserError for a name that their model does not have
    """
    made: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix("module.").removeprefix("fish.")
        made |= {f"norms.{i}.{name[len(norm) :]}": value for i, norm in enumerate(NORMS) if name.startswith(norm)}
        if (own := _own_name(name)) is not None:
            made[f"net.{own}"] = value
    return made


def _own_name(name: str) -> str | None:
    """How `FishNet` calls it; None for the classifier's last layers."""
    if stem := re.fullmatch(r"conv([1-3])\.(.+)", name):
        return f"stem.{int(stem[1]) - 1}.{stem[2]}"
    found = re.fullmatch(r"fish\.(\d)\.(3\.0|\d)\.(.+)", name)
    if found is None:
        raise UserError(f"FishNet's authors have no weight {name!r} in their model: take the state_dict of their file.")
    stage = STAGES[found[1]]
    part = (BRIDGE if stage == "bridge" else PARTS).get(found[2])
    return part and f"{stage}.{part}." + re.sub(r"\bbn(\d)", r"norm\1", found[3])


def _blocks(inputs: int, outputs: int, count: int, dilation: int = 1, gathers: bool = False) -> nn.Sequential:
    first = Bottleneck(inputs, outputs, dilation, gathers)
    return nn.Sequential(first, *(Bottleneck(outputs, outputs, dilation) for _ in range(count - 1)))


def _stem(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), *_norm_relu(outputs))


def _norm_relu(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def _down() -> nn.Module:
    return nn.MaxPool2d(2)


def _up() -> nn.Module:
    return nn.Upsample(scale_factor=2)
