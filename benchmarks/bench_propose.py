"""Proposals of a region proposal network beside PyTorch's operators with our NMS, and torchvision's."""

import pytest
import torch

from benchmarks import rivals
from benchmarks.bench_detections import own_nms
from benchmarks.cases import number, plural, select
from htc_fast import ops
from htc_fast.ops.reference import propose as definition
from tests.inputs import generator

STRIDES = (4, 8, 16, 32, 64)
RATIOS = (0.5, 1.0, 2.0)
ANCHORS = [[[-4 * s / r**0.5, -4 * s * r**0.5, 4 * s / r**0.5, 4 * s * r**0.5] for r in RATIOS] for s in STRIDES]
# images, per level and in all, type: detection, training
USUAL = [(1, 1000, "float32"), (1, 1000, "bfloat16"), (2, 2000, "float32")]
QUICK = [(1, 1000, "bfloat16"), (1, 1000, "float32"), (8, 1000, "bfloat16")]
REST = [(1, 100, "float32"), (1, 6000, "float32"), (1, 1000, "float16"), (8, 1000, "float32")]


def maps(draw, images: int, dtype: torch.dtype) -> tuple:
    """Channels of one map of 16 for each level, as one convolution gives them: few logits are large."""
    objectness, deltas, rng = [], [], generator(0)
    for stride in STRIDES:
        height, width = (-(-side // stride) for side in draw.image)
        both = torch.randn(images, height, width, 16, generator=rng)
        both[..., :3] = both[..., :3] * 2.5 - 7
        both[..., 3:] *= 0.3
        both = both.to(dtype).to(draw.device).permute(0, 3, 1, 2)
        objectness.append(both[:, :3])
        deltas.append(both[:, 3:15])
    return objectness, deltas, torch.tensor([draw.image] * images, device=draw.device)


def composed(objectness, deltas, sizes, count):
    """As it was before it was one operator: anchors, sorts, decoding, then our NMS."""
    flat = [value for level in ANCHORS for row in level for value in row]
    steps = [float(stride) for stride in STRIDES for _ in range(2)]
    found = definition.candidates(objectness, deltas, sizes, flat, steps, count, 0.0, [1.0] * 4)
    return definition.chosen(*found[:2], own_nms(*found, 0.7, count)[0])


@rivals.needs("torchvision")
def torchvision_rpn(objectness, deltas, sizes, count, image):
    """Its own network's steps behind the head: every anchor is made and decoded, in float32; a loop over the images."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList
    from torchvision.models.detection.rpn import RegionProposalNetwork

    anchors = AnchorGenerator(tuple((8 * stride,) for stride in STRIDES), (RATIOS,) * len(STRIDES))
    anchors.cell_anchors = [torch.tensor(one) for one in ANCHORS]
    given = [one.float() for one in objectness], [one.float() for one in deltas]
    network = RegionProposalNetwork(anchors, lambda _: given, 0.7, 0.3, 256, 0.5, {"testing": count},
                                    {"testing": count}, 0.7).eval()  # fmt: skip
    features = {str(level): one[:, :1].float() for level, one in enumerate(objectness)}
    pictures = ImageList(objectness[0].new_zeros(len(sizes), 1, *image), [tuple(one) for one in sizes.tolist()])
    return lambda: network(pictures, features)[0]


def alike(ours, other, who):
    """Equal logits come in any order out of torchvision's topk, and overlaps at the threshold are rounded otherwise."""
    boxes, _, valid = ours
    theirs = other if isinstance(other, list) else [one[mask] for one, mask in zip(other[0], other[2])]
    for mine, mask, one in zip(boxes, valid, theirs):
        assert abs(int(mask.sum()) - len(one)) <= len(one) / 100, f"{who} finds {len(one)}"
        apart = torch.cdist(mine[mask], one, p=torch.inf).amin(dim=1)
        assert (apart < 1e-2).float().mean() > 0.99, f"differs from {who}"


@torch.no_grad()
@pytest.mark.parametrize(("images", "count", "dtype"), select(USUAL, QUICK, REST))
def bench_propose(compare, draw, images, count, dtype):
    objectness, deltas, sizes = maps(draw, images, getattr(torch, dtype))
    call = lambda *maps, sizes: ops.propose(*maps, STRIDES, sizes, ANCHORS, per_level=count, limit=count)  # noqa: E731
    ours = lambda: call(objectness, deltas, sizes=sizes)  # noqa: E731
    exact = dtype == "float32"
    calls = {
        "htc_fast": ours,
        "PyTorch and our NMS": rivals.plain(lambda: composed(objectness, deltas, sizes, count)),
        "torchvision": torchvision_rpn(objectness, deltas, sizes, count, draw.image) if exact
        else rivals.Absent("equal logits of 16 bits in any order: other boxes"),
    }  # fmt: skip

    def verify(found):
        on_cpu = [[one.cpu() for one in some] for some in (objectness, deltas)]
        wanted = call(*on_cpu, sizes=sizes.cpu())
        assert all(torch.equal(mine.cpu(), one) for mine, one in zip(found, wanted)), "differs from the CPU"

    gigabytes = (sum(one.nbytes for one in objectness) + sum(one.nbytes for one in ours())) / 1e9
    case = f"the best {number(count)} of {plural(images, 'image')} of {draw.image[0]}×{draw.image[1]}"
    compare(case, calls, alike, op="propose", gigabytes=gigabytes, dtype=getattr(torch, dtype), verify=verify)
