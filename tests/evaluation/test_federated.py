"""LVIS's rules: the best 300 of a picture, classes that a picture was searched for, classes searched through."""

import copy

import numpy as np
import pytest

from htc_fast import UserError
from htc_fast.evaluation import evaluate_coco
from tests.evaluation.drawn import coco_eval, dataset


def lvis(seed, **sizes):
    """A drawn data set with what LVIS says of pictures and classes; no crowds."""
    truth, results = dataset(seed, truths=8, guesses=40, **sizes)
    draw = np.random.default_rng(seed)
    names = sorted(one["id"] for one in truth["categories"])
    for n, one in enumerate(sorted(truth["categories"], key=lambda one: one["id"])):
        one["frequency"] = "rcf"[n % 3]
    for one in truth["images"]:
        one["neg_category_ids"] = draw.choice(names, 1).tolist()
        one["not_exhaustive_category_ids"] = draw.choice(names, 2).tolist()
    for one in truth["annotations"]:
        del one["iscrowd"]
    return truth, results


def by_description(truth, results, limit):
    """What LVIS lets count: the best detections of a picture, of classes that it has or was searched for in vain."""
    there = {(one["image_id"], one["category_id"]) for one in truth["annotations"]}
    there |= {(one["id"], name) for one in truth["images"] for name in one["neg_category_ids"]}
    best = []
    for image in truth["images"]:
        mine = [one for one in results if one["image_id"] == image["id"]]
        best += sorted(mine, key=lambda one: -one["score"])[:limit]
    return [one for one in best if (one["image_id"], one["category_id"]) in there]


@pytest.mark.parametrize("limit", [5, 300])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_what_counts(kind, limit):
    truth, results = lvis(1)
    for one in truth["images"]:
        one["not_exhaustive_category_ids"] = []
    for one in truth["annotations"]:
        one.pop("ignore", None)
    ours = evaluate_coco(truth, results, kinds=kind, federated=True, max_detections=limit)
    plain = copy.deepcopy(truth)
    for one in plain["annotations"]:
        one["iscrowd"] = 0
    run = coco_eval(plain, by_description(truth, results, limit), kind, (limit,))
    assert np.array_equal(ours.curves[kind].precision, run.eval["precision"]) and run.eval["precision"].max() > 0
    assert np.array_equal(ours.curves[kind].recall, run.eval["recall"])
    prefix = {"bbox": "box", "segm": "mask"}[kind]
    precision = run.eval["precision"][:, :, :, 0, 0]
    for letter, name in enumerate(("AP_rare", "AP_common", "AP_frequent")):
        values = precision[:, :, letter::3]
        wanted = values[values > -1].mean() if (values > -1).any() else -1
        assert ours.metrics[f"{prefix}_{name}"] == wanted
    assert f"{prefix}_AR{limit}" in ours.metrics


def picture(**extra):
    """One picture with one cat; two guesses beside it, a worse one on it."""
    image = {"id": 1, "height": 100, "width": 100, "neg_category_ids": [], "not_exhaustive_category_ids": [], **extra}
    cats = [{"id": n, "name": name, "frequency": "f"} for n, name in ((1, "cat"), (2, "dog"))]
    box = [10, 10, 20, 20]
    truth = {"images": [image], "categories": cats}
    truth["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 400}]
    places = [([60, 60, 20, 20], 0.9, 1), ([70, 10, 20, 20], 0.8, 2), (box, 0.5, 1)]
    return truth, [{"image_id": 1, "category_id": k, "bbox": one, "score": score} for one, score, k in places]


def test_not_searched_through():
    whole = evaluate_coco(*picture(), federated=True).metrics
    assert whole["box_AP"] == pytest.approx(0.5) and whole["box_AR300"] == 1
    partly = evaluate_coco(*picture(not_exhaustive_category_ids=[1]), federated=True).metrics
    assert partly["box_AP"] == pytest.approx(1), "a guess that finds nothing may be a cat that nobody marked"


def test_best_of_a_picture():
    assert evaluate_coco(*picture(), federated=True, max_detections=2).metrics["box_AP"] == 0
    assert evaluate_coco(*picture(), federated=True, max_detections=3).metrics["box_AP"] > 0


def test_ignored_ones():
    truth, results = picture()
    truth["annotations"][0]["ignore"] = 1
    assert evaluate_coco(truth, results, federated=True).metrics["box_AP"] == -1


def test_wrong_data():
    truth, results = picture()
    truth["categories"][0]["frequency"] = "often"
    with pytest.raises(UserError, match=r'"frequency" r, c or f, got \'often\''):
        evaluate_coco(truth, results, federated=True)
    truth, results = picture(neg_category_ids=None)
    with pytest.raises(UserError, match="image 1 has no list neg_category_ids"):
        evaluate_coco(truth, results, federated=True)
