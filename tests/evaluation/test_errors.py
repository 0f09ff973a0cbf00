"""Errors by kind, who is taken for whom, calibration: every case by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from htc_fast import ops
from htc_fast.data import CocoDataset
from htc_fast.data.instances import Instances
from htc_fast.errors import UserError, say_once
from htc_fast.evaluation import coco
from htc_fast.evaluation.calibration import Bin, best_threshold, calibration
from htc_fast.evaluation.errors import Judged, find_errors, judge
from htc_fast.evaluation.report import report
from tests.data.builder import CATEGORIES, image, instance, rectangle, write
from tests.evaluation import drawn

DOG, CAT, OWL, NONE = 0, 1, 2, -1  # labels by rank of the ids
SIZE = (48, 64)
BOX = (10, 10, 20, 20)


def instances(*objects, size=SIZE, names=("dog", "cat", "owl")):
    """Of (label, score, box x, y, w, h, box of the mask where it is another)."""
    masks = [rectangle(*(one[3] if len(one) > 3 else one[2])) for one in objects]
    boxes = torch.tensor([one[2] for one in objects], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = torch.tensor([one[1] for one in objects], dtype=torch.float32)
    labels = torch.tensor([one[0] for one in objects], dtype=torch.int64)
    return Instances(boxes, scores, labels, ops.rasterize(masks, size) if masks else [], size, names)


def dataset(root, *truths):
    content = {"images": [image(10)], "annotations": list(truths), "categories": CATEGORIES}
    say_once.cache_clear()
    return CocoDataset(write(root, content), "val", semantic="none", keep_empty=True)


# Detections, best first -> errors (kind, detection, truth, better detection) and who is taken for whom; the truth is a
# dog in BOX and a cat beside it.
CASES = {
    "right": ([(DOG, 0.9, BOX), (CAT, 0.8, (40, 10, 20, 20))], [], {(DOG, DOG): 1, (CAT, CAT): 1}),
    "missed": ([(DOG, 0.9, BOX)], [("missed", None, 1, None)], {(DOG, DOG): 1, (CAT, NONE): 1}),
    "wrong class": (
        [(DOG, 0.9, BOX), (OWL, 0.8, (40, 10, 20, 20))],
        [("wrong class", 1, 1, None)],
        {(DOG, DOG): 1, (CAT, OWL): 1},
    ),
    "poor mask": (
        [(DOG, 0.9, BOX, (10, 10, 20, 9)), (CAT, 0.8, (40, 10, 20, 20))],
        [("poor mask", 0, 0, None)],
        {(DOG, NONE): 1, (NONE, DOG): 1, (CAT, CAT): 1},
    ),
    "doubled": (
        [(DOG, 0.9, BOX), (CAT, 0.8, (40, 10, 20, 20)), (DOG, 0.7, (10, 10, 20, 18))],
        [("doubled", 2, 0, 0)],
        {(DOG, DOG): 1, (CAT, CAT): 1, (NONE, DOG): 1},
    ),
    "doubled as another": (
        [(DOG, 0.9, BOX), (CAT, 0.8, (40, 10, 20, 20)), (OWL, 0.7, BOX)],
        [("doubled", 2, 0, 0)],
        {(DOG, DOG): 1, (CAT, CAT): 1, (NONE, OWL): 1},
    ),
    "invented": (
        [(DOG, 0.9, BOX), (CAT, 0.8, (40, 10, 20, 20)), (OWL, 0.7, (2, 38, 8, 8))],
        [("invented", 2, None, None)],
        {(DOG, DOG): 1, (CAT, CAT): 1, (NONE, OWL): 1},
    ),
    "the right one counts, though a wrong one is surer": (
        [(OWL, 0.9, BOX), (DOG, 0.6, (10, 10, 20, 15)), (CAT, 0.5, (40, 10, 20, 20))],
        [("doubled", 0, 0, 1)],
        {(DOG, DOG): 1, (CAT, CAT): 1, (NONE, OWL): 1},
    ),
    "nothing": ([], [("missed", None, 0, None), ("missed", None, 1, None)], {(DOG, NONE): 1, (CAT, NONE): 1}),
    "below the threshold": (
        [(DOG, 0.2, BOX), (OWL, 0.1, BOX)],
        [("missed", None, 0, None), ("missed", None, 1, None)],
        {(DOG, NONE): 1, (CAT, NONE): 1},
    ),
}


@pytest.mark.parametrize("objects, errors, confusion", CASES.values(), ids=CASES)
def test_kinds(tmp_path, objects, errors, confusion):
    data = dataset(tmp_path, instance(10, 3, *BOX), instance(10, 7, 40, 10, 20, 20))
    found = find_errors(data, {0: instances(*objects)}, 0.3)
    assert [(one.kind, one.found, one.truth, one.other) for one in found.every] == errors
    assert dict(found.confusion) == confusion


def test_who_is_right_is_wrong_about_nothing_else(tmp_path):
    data = dataset(tmp_path, instance(10, 3, *BOX), instance(10, 7, *BOX))
    found = find_errors(data, {0: instances((DOG, 0.9, BOX))}, 0.5)
    assert [(one.kind, one.truth) for one in found.every] == [("missed", 1)]
    assert found.confusion == {(DOG, DOG): 1, (CAT, NONE): 1}


def test_numbers_of_an_error(tmp_path):
    data = dataset(tmp_path, instance(10, 3, *BOX))
    [error] = find_errors(data, {0: instances((DOG, 0.75, BOX, (10, 10, 20, 8)))}, 0.5).every
    assert (error.score, error.mask_iou, error.box_iou, error.area) == (0.75, 0.4, 1.0, 400)


@pytest.mark.parametrize("flag", ["iscrowd", "ignore"])
def test_crowds_and_ignored_ones_count_nowhere(tmp_path, flag):
    """Three detections lie in the crowd; the fourth is of another class, which the crowd does not excuse."""
    data = dataset(tmp_path, instance(10, 3, 8, 8, 40, 30, **{flag: 1}))
    inside = (8, 8, 40, 20 if flag == "ignore" else 10)
    found = {0: instances(*((DOG, 0.9 - place / 10, inside) for place in range(3)), (OWL, 0.5, inside))}
    judged = judge(data, found)
    assert judged.truths == 0 and judged.scores.tolist() == [0.5] and not judged.right.any()
    errors = find_errors(data, found, 0.1)
    assert [(one.kind, one.found) for one in errors.every] == [("invented", 3)] and errors.confusion == {(NONE, OWL): 1}


def test_a_class_that_the_data_set_lacks_counts_nowhere(tmp_path):
    data = dataset(tmp_path, instance(10, 3, *BOX)).relabelled(["dog", "elk", "cat", "owl"])
    guesses = [(0, 0.9, BOX), (1, 0.8, (40, 10, 20, 20)), (1, 0.7, BOX), (3, 0.6, (2, 38, 8, 8))]
    found = {0: instances(*guesses, names=("dog", "elk", "cat", "owl"))}
    judged, errors = judge(data, found), find_errors(data, found, 0.3)
    assert judged.right.tolist() == [True, False] and judged.scores.round(2).tolist() == [0.9, 0.6]
    assert [(one.kind, one.found) for one in errors.every] == [("invented", 3)]
    assert dict(errors.confusion) == {(0, 0): 1, (NONE, 3): 1}


def test_only_the_best_of_a_class_count(tmp_path):
    data = dataset(tmp_path, instance(10, 3, *BOX))
    found = {0: instances((OWL, 0.9, BOX), (OWL, 0.8, BOX), (OWL, 0.7, BOX), (DOG, 0.6, BOX))}
    assert judge(data, found, 2).scores.round(2).tolist() == [0.9, 0.8, 0.6]


def test_the_worst_come_first_and_not_all_from_one_picture(tmp_path):
    content = {"images": [image(10), image(11)], "categories": CATEGORIES}
    content["annotations"] = [instance(10, 3, 2, 2, side, side) for side in (9, 7, 8)] + [instance(11, 3, 2, 2, 5, 5)]
    data = CocoDataset(write(tmp_path, content), "val", semantic="none")
    errors = find_errors(data, {0: instances(), 1: instances()}, 0.5)
    assert [one.area for one in errors.worst("missed", 9)] == [81, 64, 25] and errors.count("missed") == 4
    assert [one.area for one in errors.worst("missed", 1)] == [81]


def judged(truths, *pairs):
    return Judged(np.array([score for score, _ in pairs]), np.array([right for _, right in pairs], dtype=bool), truths)


def test_calibration():
    found = calibration(judged(9, (0.96, 1), (0.94, 0), (0.15, 0), (1.0, 1), (0.0, 0)))
    assert found.bins[0] == Bin(0.0, 0.1, 1, 0.0, 0.0) and found.bins[1] == Bin(0.1, 0.2, 1, 0.15, 0.0)
    assert found.bins[2].count == 3 and found.bins[2].right == pytest.approx(2 / 3) and len(found.bins) == 3
    assert found.error == pytest.approx((3 * abs(2.9 / 3 - 2 / 3) + 0.15) / 5)
    kept = calibration(judged(9, (0.95, 1), (0.15, 0)), least=0.5)
    assert kept.error == pytest.approx(0.05) and len(kept.bins) == 1
    assert calibration(judged(9)).error == 0 and calibration(judged(9)).bins == ()


def test_the_threshold_of_the_best_f1():
    best = best_threshold(judged(4, (0.9, 1), (0.8, 1), (0.7, 0), (0.6, 1), (0.5, 0)))
    assert (best.threshold, best.precision, best.recall, best.f1) == (0.6, 0.75, 0.75, 0.75)
    # The first of two equal scores alone would be best.
    best = best_threshold(judged(2, (0.9, 1), (0.6, 1), (0.6, 0)))
    assert (best.threshold, best.f1) == (0.6, 0.8)
    assert best_threshold(judged(2, (0.9, 0))).threshold == best_threshold(judged(0)).threshold == 0.5


def test_what_is_right_is_what_average_precision_counts(tmp_path):
    """AP50 of a class from these matches is COCOeval's, on pictures with crowds, ties and wrong classes."""
    content, results = drawn.dataset(3, pictures=20)
    for one in content["annotations"]:
        one.pop("ignore", None)
    content["images"] = [{**one, "file_name": f"{one['id']}.png"} for one in content["images"]]
    data = CocoDataset(write(tmp_path, content), "val", semantic="none", keep_empty=True)
    labels = {name: label for label, name in enumerate(data.category_ids)}
    found = {}
    for index in range(len(data)):
        mine = [one for one in results if one["image_id"] == data.picture(index).id]
        objects = [(labels[one["category_id"]], one["score"], one["bbox"]) for one in mine]
        size = (drawn.HEIGHT, drawn.WIDTH)
        found[index] = replace(
            instances(*objects, size=size, names=data.classes), rle=[one["segmentation"] for one in mine]
        )
    scores = coco.score(data, found).per_class
    for label, name in enumerate(data.classes):
        one = {index: each[each.labels == label] for index, each in found.items()}
        told = sum(int((data.truth(index).labels == label).sum()) for index in found)
        if told:
            assert average_precision(judge(data, one), told) == pytest.approx(scores[name]["mask_AP50"], abs=1e-9)
    assert sum(values["mask_AP50"] > 0.01 for values in scores.values()) >= 2


def average_precision(judged, truths):
    order = np.argsort(-judged.scores, kind="mergesort")
    right = np.cumsum(judged.right[order])
    precision, recall = right / np.arange(1, len(right) + 1), right / truths
    return np.mean([precision[recall >= level].max(initial=0.0) for level in np.linspace(0, 1, 101)])


def test_numbers_of_a_report_are_those_of_the_scores(tmp_path):
    data = dataset(tmp_path, instance(10, 3, *BOX), instance(10, 7, 40, 10, 20, 20))
    found = {0: instances((DOG, 0.9, BOX, (10, 10, 18, 16)), (OWL, 0.8, (40, 10, 20, 20)))}
    scores = coco.score(data, found)
    numbers = report(data, found, {"stage 1": scores, "ensemble": scores}).numbers
    assert numbers["of"] == "ensemble" and numbers["stages"]["stage 1"]["metrics"] == scores.metrics
    for name, values in scores.per_class.items():
        assert {key: numbers["classes"][name][key] for key in values} == values
    dog = numbers["classes"]["dog"]
    assert dog["objects"] == 1 and dog["mask_AP"] == pytest.approx(0.5) and dog["mask_AP_small"] == dog["mask_AP"]
    assert (
        dog["box_AP75"] == pytest.approx(1)
        and dog["mask_AP_large"] == -1
        and numbers["classes"]["owl"]["mask_AP"] == -1
    )
    assert dog["mask_AP50"] == pytest.approx(1) and dog["mask_AP75"] == 0  # IoU 0.72
    mean = numbers["curves"]["mean"]
    assert np.mean(mean["mask"]["0.5:0.95"]) == pytest.approx(scores.metrics["mask_AP"], abs=1e-4)
    assert np.mean(mean["box"]["0.5"]) == pytest.approx(scores.metrics["box_AP50"], abs=1e-4)
    assert [one["class"] for one in numbers["curves"]["classes"]] == ["dog", "cat"]
    assert {"truth": "cat", "found": "owl", "count": 1} not in numbers["confusion"]  # F1 is best without the owl
    assert numbers["operating"]["threshold"] == pytest.approx(0.9) and numbers["errors"]["missed"]["count"] == 1
    assert numbers["errors"]["missed"]["worst"][0]["file_name"] == "000000000010.png"
    with pytest.raises(UserError, match="a report needs scores"):
        report(data, found, {})
