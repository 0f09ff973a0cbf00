"""What a cascade's heads say turned into detections, beside PyTorch's operators with our NMS, and torchvision's."""

import pytest
import torch

from benchmarks import rivals
from benchmarks.cases import as_on_the_cpu, close, number, plural, select
from htc_fast import ops
from htc_fast.ops.reference import detections as definition
from tests.inputs import generator

STD = (0.033, 0.033, 0.067, 0.067)
# rows, classes, stages, whether deltas differ by class: HTC, Mask R-CNN, LVIS
USUAL = [(1000, 80, 3, False), (1000, 80, 1, True), (1000, 1203, 3, False)]
REST = [(1000, 80, 3, True), (1000, 1, 3, False), (300, 80, 3, False), (1000, 1203, 1, True)]


def heads(draw, rows: int, classes: int, stages: int, by_class: bool) -> tuple:
    """logits, deltas, boxes, valid, image_sizes: the stages agree on what is in a third of the boxes."""
    boxes = draw.proposals(rows)[None, :, 1:]
    rows, rng = boxes.shape[1], generator(1)
    said = torch.randn(1, rows, classes + 1, generator=rng)
    said[..., -1] += 4
    something = torch.rand(rows, generator=rng) < 0.3
    said[0, torch.arange(rows), torch.randint(classes, (rows,), generator=rng)] += 7.0 * something
    logits = [(said + torch.randn(said.shape, generator=rng) / 2).to(draw.device) for _ in range(stages)]
    deltas = torch.randn(1, rows, 4 * (classes if by_class else 1), generator=rng).to(draw.device)
    valid = torch.ones(1, rows, dtype=torch.bool, device=draw.device)
    return logits, deltas, boxes, valid, torch.tensor([draw.image], device=draw.device)


def composed(logits, deltas, boxes, valid, sizes):
    """As it was before it was one operator: everything decoded, then our NMS."""
    options = STD, True, 0.001, 0.5, 100
    return definition.detections(logits, deltas, boxes, valid, sizes, *options, suppress=own_nms)[:2]


def own_nms(boxes, scores, labels, iou_threshold, limit, score_threshold=-torch.inf):
    """Ours whatever backend is asked for, as an operator that a compiled program need not look into."""
    return torch.ops.htc_fast.batched_nms_padded(boxes, scores, labels, iou_threshold, limit, score_threshold)


@rivals.needs("torchvision")
def torchvision_heads(logits, deltas, boxes, valid, sizes):
    """Its own step, for one stage and deltas by class: background first, a loop over the images."""
    from torchvision.models.detection.roi_heads import RoIHeads

    own = RoIHeads(*[None] * 3, 0.5, 0.5, 512, 0.25, [1 / one for one in STD], 0.001, 0.5, 100)
    scores, moves = logits[0][0].roll(1, 1), torch.nn.functional.pad(deltas[0], (4, 0))
    shapes = [tuple(one) for one in sizes.tolist()]

    def call():
        found = own.postprocess_detections(scores, moves, [boxes[0]], shapes)
        return found[0][0][None], found[1][0][None]

    return call


@torch.no_grad()
@pytest.mark.parametrize(("rows", "classes", "stages", "by_class"), select(USUAL, USUAL, REST))
def bench_detections(compare, draw, rows, classes, stages, by_class):
    given = heads(draw, rows, classes, stages, by_class)
    options = {"std": STD, "score_average": "logits", "score_threshold": 0.001, "iou_threshold": 0.5, "limit": 100}
    layers = lambda: composed(*given)  # noqa: E731
    theirs = rivals.Absent("one stage whose deltas differ by class is all that it takes")

    def check(ours, other, who):
        # torchvision moves classes apart by offsets, whose rounding may change a box.
        close(1e-3 if who == "torchvision" else 1e-5)(ours[1], other[1], who)

    found = lambda *given: ops.detections(given[:stages], *given[stages:], **options)[:2]  # noqa: E731
    flat = (*given[0], *given[1:])
    calls = {
        "htc_fast": lambda: found(*flat),
        "torchvision": torchvision_heads(*given) if by_class and stages == 1 else theirs,
        "PyTorch, our NMS": rivals.plain(layers),
        "PyTorch, our NMS, compiled": rivals.plain(rivals.compiled(layers, draw)),
    }
    agnostic = "deltas by class" if by_class else "deltas for all classes"
    case = f"{number(rows)} boxes, {plural(classes, 'class', 'classes')}, {plural(stages, 'stage')}, {agnostic}"
    moved = sum(one.nbytes for one in (*given[0], *(() if by_class else given[1:2]), given[2])) / 1e9
    same = as_on_the_cpu(lambda *given: torch.cat([one.flatten() for one in found(*given)]), *flat)
    verify = lambda result: same(torch.cat([one.flatten() for one in result]))  # noqa: E731
    compare(case, calls, check, op="detections", gigabytes=moved, verify=verify)
