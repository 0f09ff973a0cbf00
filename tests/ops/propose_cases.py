"""Maps of region proposal networks: named cases, for every backend of propose."""

from dataclasses import dataclass

import torch
from torch import Tensor

MEMORY = ("view", "nchw", "nhwc", "turned")


@dataclass(frozen=True)
class Case:
    """levels: (h, w) of each; memory: how maps lie in it, "view" as channels of one wider map."""

    levels: tuple[tuple[int, int], ...]
    per_level: int
    limit: int
    images: int = 1
    anchors: tuple[int, ...] = (3,)  # one number, or one per level
    memory: str = "view"
    dtype: torch.dtype = torch.float32
    alike: bool = False  # all logits


class Inputs:
    """objectness, deltas, strides, image_sizes, anchors of a case, with many equal logits; images are smaller than
    what the maps cover."""

    def __init__(self, case: Case, seed: int = 0):
        self.case, generator = case, torch.Generator().manual_seed(seed)
        counts = case.anchors * len(case.levels) if len(case.anchors) == 1 else case.anchors
        self.strides = [4.0 * 2**level for level in range(len(case.levels))]
        self.objectness, self.deltas, self.anchors = [], [], []
        for (height, width), count, stride in zip(case.levels, counts, self.strides):
            shape = case.images, count, height, width
            logits = (torch.randn(shape, generator=generator) * 16).round() / 8 - 2
            moves = torch.randn((case.images, 4 * count, height, width), generator=generator) * 0.3
            both = torch.cat([torch.zeros_like(logits) if case.alike else logits, moves], dim=1).to(case.dtype)
            maps = lay(both, count, case.memory)
            self.objectness.append(maps[0])
            self.deltas.append(maps[1])
            sides = (torch.rand(count, 2, generator=generator) + 0.5) * 4 * stride
            self.anchors.append(torch.cat([-sides, sides], dim=1).tolist())
        height, width = (4 * side for side in case.levels[0])
        self.image_sizes = torch.tensor([[height - 3 - n, width - 5 - n] for n in range(case.images)]).view(-1, 2)

    def arguments(self) -> tuple:
        return self.objectness, self.deltas, self.strides, self.image_sizes, self.anchors

    def options(self) -> dict:
        return {"per_level": self.case.per_level, "limit": self.case.limit, "iou_threshold": 0.7}


def lay(both: Tensor, count: int, memory: str) -> tuple[Tensor, Tensor]:
    """Logits and deltas out of [N, 5A, h, w], in memory as asked."""
    if memory == "view":  # channels-last, with a channel between them and one behind
        images, _, height, width = both.shape
        wide = both.new_full((images, height, width, 5 * count + 2), 99).permute(0, 3, 1, 2)
        wide[:, :count], wide[:, count + 1 : 5 * count + 1] = both[:, :count], both[:, count:]
        return wide[:, :count], wide[:, count + 1 : 5 * count + 1]
    one, other = both[:, :count], both[:, count:]
    if memory == "nchw":
        return one.contiguous(), other.contiguous()
    if memory == "nhwc":
        return tuple(some.contiguous(memory_format=torch.channels_last) for some in (one, other))
    return tuple(some.transpose(2, 3).contiguous().transpose(2, 3).repeat(2, 1, 1, 1)[::2] for some in (one, other))


PYRAMID = ((24, 32), (12, 16), (6, 8))
CASES = {
    "pyramid": Case(PYRAMID, 50, 60, images=2),
    "one pixel": Case(((1, 1),), 10, 5, anchors=(1,)),
    "fewer than wanted": Case(((4, 5), (2, 3)), 1000, 300, images=2),
    "nobody": Case(PYRAMID, 50, 60, images=0),
    "nothing wanted": Case(PYRAMID, 50, 0),
    "no candidates": Case(PYRAMID, 0, 7),
    "an empty level": Case(((8, 8), (0, 4), (2, 2), (1, 0)), 20, 40),
    "nothing at all": Case(((0, 0),), 20, 3, images=2),
    "other counts": Case(((9, 7), (5, 4), (3, 2)), 30, 50, anchors=(1, 5, 3)),
    "eight levels": Case(tuple((17 - 2 * level, 9) for level in range(8)), 40, 90, anchors=(2,)),
    "several blocks": Case(((40, 61), (20, 30)), 100, 120),
    "many tiles": Case(((40, 61), (20, 30)), 700, 900, images=2),
    "several blocks alike": Case(((40, 61),), 100, 100, alike=True),
    "a batch of ties": Case(((37, 41),), 2048, 500, anchors=(2,)),
    "two batches": Case(((46, 46),), 2100, 40, anchors=(1,)),
    "more than a batch": Case(((50, 60),), 2500, 2600, anchors=(1,)),
    "nchw": Case(PYRAMID, 50, 60, images=2, memory="nchw"),
    "nchw blocks": Case(((40, 61), (20, 30)), 100, 120, memory="nchw"),
    "nhwc": Case(PYRAMID, 50, 60, images=2, memory="nhwc"),
    "turned": Case(PYRAMID, 50, 60, images=2, memory="turned"),
    "float16": Case(PYRAMID, 50, 60, images=2, dtype=torch.float16),
    "float16 nchw": Case(PYRAMID, 50, 60, memory="nchw", dtype=torch.float16),
    "bfloat16": Case(PYRAMID, 50, 60, images=2, dtype=torch.bfloat16),
    "bfloat16 nchw": Case(PYRAMID, 50, 60, memory="nchw", dtype=torch.bfloat16),
    "float64": Case(PYRAMID, 50, 60, dtype=torch.float64),
}
