"""What a detector did wrong, error by error: missed, wrong class, poor mask, doubled, invented.

Detections of a picture find their truths greedily, best first, as COCO matches them at a mask IoU of 0.5: each takes
the free truth of its own class that it overlaps most, and is right. What is left over is looked at in this order:

wrong class  overlaps a truth of another class that nobody found, mask IoU at least 0.5
poor mask    the box of a truth of its class that nobody found has a box IoU of at least 0.5, the mask has not
doubled      overlaps what a better detection has found: mask IoU at least 0.5, or box IoU within its class
invented     none of these: there is nothing, or it is too far off
missed       a truth that no detection found, with its own class or another, or by its box

Crowds and ignored truths are never missed, and who finds one (by COCO's overlap with crowds) counts nowhere. Neither
does a detection of a class that the data set does not have: nobody has looked for such objects in its pictures.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torchvision.ops import box_iou
from tqdm import tqdm

from htc_fast import ops
from htc_fast.data.coco import CocoDataset
from htc_fast.data.instances import Instances
from htc_fast.data.masks import to_rles
from htc_fast.evaluation.summary import MAX_DETECTIONS

KINDS = ("missed", "wrong class", "poor mask", "doubled", "invented")
IOU = 0.5
BACKGROUND = -1  # label of what is no object


@dataclass(frozen=True)
class Error:
    """One error.

    index  sample of the data set;  found, truth: which of its detections and of its truths, None: there is none
    other  the detection that is better, of a doubled one
    score  of the detection, 0 without one;  mask_iou, box_iou: with the truth;  area: pixels of the truth, else 0
    """

    kind: str
    index: int
    found: int | None = None
    truth: int | None = None
    other: int | None = None
    score: float = 0.0
    mask_iou: float = 0.0
    box_iou: float = 0.0
    area: int = 0

    @property
    def badness(self) -> float:
        """What makes it worse than another of its kind: objects that are large, masks that are poor, sure mistakes."""
        return {"missed": float(self.area), "poor mask": 1 - self.mask_iou}.get(self.kind, self.score)


@dataclass
class Errors:
    """Errors of all pictures.

    every      in the order of the pictures
    confusion  (label of the truth, label of the detection) -> how many; BACKGROUND where there is none
    """

    every: list[Error] = field(default_factory=list)
    confusion: Counter = field(default_factory=Counter)

    def count(self, kind: str) -> int:
        """Errors of a kind."""
        return sum(error.kind == kind for error in self.every)

    def worst(self, kind: str, most: int, each: int = 2) -> list[Error]:
        """The worst errors of a kind, at most `each` of one picture."""
        seen: Counter = Counter()
        chosen = []
        for error in sorted((one for one in self.every if one.kind == kind), key=lambda one: -one.badness):
            seen[error.index] += 1
            if seen[error.index] <= each:
                chosen.append(error)
            if len(chosen) == most:
                break
        return chosen


class Scene:
    """The detections and truths of one picture, and which detection is right about which truth.

    chosen   [n] int64, of the picture's detections those that are looked at, best first
    labels   [n], told: [g] labels of the truths
    masks    [n, g] IoU of masks, boxes: of boxes
    right    [n] int64, the truth that a detection has found, -1: none
    counted  [n] bool, False for what found a crowd
    """

    def __init__(self, dataset: CocoDataset, index: int, found: Instances, least: float, limit: int):
        scores, labels = found.scores.double().numpy(), found.labels.numpy()
        order = np.argsort(-scores, kind="stable")
        annotated = np.array([one is not None for one in dataset.category_ids])
        order = order[(scores[order] >= least) & annotated[labels[order]]]
        place: Counter = Counter()
        kept = []
        for number in order.tolist():
            label = int(labels[number])
            place[label] += 1
            if place[label] <= limit:
                kept.append(number)
        self.index, self.chosen = index, np.array(kept, dtype=np.int64)
        self.scores, self.labels = scores[self.chosen], labels[self.chosen]
        self.found, self.truth = found[self.chosen], dataset.truth(index)
        self.told = self.truth.labels.numpy()
        self.same = self.labels[:, None] == self.told
        self.masks = np.asarray(ops.mask_iou(self.found.rle, self.truth.rle)).reshape(self.same.shape)
        self.taken = np.zeros(len(self.told), dtype=bool)
        self.right = self.pairs(self.masks, self.same)
        self.counted = ~self._lenient(dataset) | (self.right >= 0)

    def pairs(self, overlaps: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """Each detection's truth, -1 for none: greedily, best first; of equal overlaps the last, as in COCOeval."""
        partners = np.full(len(overlaps), -1, dtype=np.int64)
        near = allowed & (overlaps >= IOU)
        for number in np.flatnonzero(near.any(axis=1)):
            free = np.where(near[number] & ~self.taken, overlaps[number], 0.0)
            best = len(free) - 1 - int(free[::-1].argmax())
            if free[best] >= IOU:
                partners[number], self.taken[best] = best, True
        return partners

    @property
    def boxes(self) -> np.ndarray:
        """[n, g] IoU of boxes."""
        return box_iou(self.found.boxes.double(), self.truth.boxes.double()).numpy()

    def _lenient(self, dataset: CocoDataset) -> np.ndarray:
        """[n] bool: overlaps a crowd of its class, or what is to be ignored."""
        picture = dataset.picture(self.index)
        others = [item for item in picture.annotations if not item.trainable]
        if not others or not len(self.labels):
            return np.zeros(len(self.labels), dtype=bool)
        rles = to_rles([item.segmentation for item in others], picture.height, picture.width)
        crowd = torch.tensor([item.crowd for item in others])
        overlaps = np.asarray(ops.mask_iou(self.found.rle, rles, crowd))
        same = self.labels[:, None] == np.array([item.label for item in others])
        return (same & (overlaps >= IOU)).any(axis=1)


@dataclass
class Judged:
    """Every detection that counts: scores [N] float64, right [N] bool; and the number of truths."""

    scores: np.ndarray
    right: np.ndarray
    truths: int


def judge(dataset: CocoDataset, found: dict[int, Instances], limit: int = MAX_DETECTIONS) -> Judged:
    """Which detections are right at a mask IoU of 0.5, and which are wrong.

    dataset  with the labels of the predictions, as `coco.in_classes_of` gives it
    found    sample index -> predictions;  limit: that count in a picture and class
    """
    scores, right, truths = [np.zeros(0)], [np.zeros(0, dtype=bool)], 0
    for scene in _scenes(dataset, found, 0.0, limit):
        scores.append(scene.scores[scene.counted])
        right.append(scene.right[scene.counted] >= 0)
        truths += len(scene.told)
    return Judged(np.concatenate(scores), np.concatenate(right), truths)


def find_errors(
    dataset: CocoDataset, found: dict[int, Instances], threshold: float, limit: int = MAX_DETECTIONS
) -> Errors:
    """All errors of the detections that score at least `threshold`, and who is taken for whom; see `judge`."""
    errors = Errors()
    for scene in _scenes(dataset, found, threshold, limit):
        _sort_out(scene, errors)
    return errors


def _scenes(dataset: CocoDataset, found: dict[int, Instances], least: float, limit: int) -> Iterator[Scene]:
    for index in tqdm(sorted(found), desc="matching", unit="img", leave=False, disable=None, delay=2):
        yield Scene(dataset, index, found[index], least, limit)


def _sort_out(scene: Scene, errors: Errors) -> None:
    """Add the errors of a picture."""
    boxes, told, labels = scene.boxes, scene.told, scene.labels
    finder = {int(truth): number for number, truth in enumerate(scene.right) if truth >= 0}
    left = scene.counted & (scene.right < 0)
    wrong = scene.pairs(scene.masks, ~scene.same & left[:, None])
    finder |= {int(truth): number for number, truth in enumerate(wrong) if truth >= 0}
    # Who finds an object by its box alone has not found it: of the matrix both are among the background.
    poor = scene.pairs(boxes, scene.same & (left & (wrong < 0))[:, None])
    areas = scene.truth.areas.numpy()
    errors.confusion.update((int(told[truth]), int(labels[number])) for truth, number in finder.items())
    errors.confusion.update((int(told[truth]), BACKGROUND) for truth in range(len(told)) if truth not in finder)
    errors.confusion.update((BACKGROUND, int(labels[number])) for number in np.flatnonzero(left & (wrong < 0)))
    for number in np.flatnonzero(left).tolist():
        kind, truth, other = "invented", None, None
        near = (scene.masks[number] >= IOU) | (scene.same[number] & (boxes[number] >= IOU))
        held = [one for one in np.flatnonzero(near).tolist() if finder.get(one, number) != number]
        if wrong[number] >= 0:
            kind, truth = "wrong class", int(wrong[number])
        elif poor[number] >= 0:
            kind, truth = "poor mask", int(poor[number])
        elif held:
            truth = max(held, key=lambda one: scene.masks[number, one])
            kind, other = "doubled", int(scene.chosen[finder[truth]])
        overlaps = (0.0, 0.0, 0) if truth is None else (*_at(scene, boxes, number, truth), int(areas[truth]))
        score = float(scene.scores[number])
        errors.every.append(Error(kind, scene.index, int(scene.chosen[number]), truth, other, score, *overlaps))
    for truth in np.flatnonzero(~scene.taken).tolist():
        errors.every.append(Error("missed", scene.index, truth=truth, area=int(areas[truth])))


def _at(scene: Scene, boxes: np.ndarray, number: int, truth: int) -> tuple[float, float]:
    return float(scene.masks[number, truth]), float(boxes[number, truth])
