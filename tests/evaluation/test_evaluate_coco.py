"""evaluate_coco: COCOeval's arrays, bit for bit."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from htc_fast import UserError
from htc_fast.evaluation import evaluate_coco
from htc_fast.evaluation.summary import NAMES, RECALLS
from htc_fast.ops import use_backend
from tests.evaluation.drawn import HEIGHT, WIDTH, coco_eval, dataset, without


def same(curves, run):
    """Whether COCOeval has the same numbers, every bit of them."""
    return all(
        np.array_equal(getattr(curves, name), run.eval[name]) and curves.precision.max() > 0
        for name in ("precision", "recall", "scores")
    )


@pytest.mark.parametrize("limits", [(1, 10, 100), (1, 2, 3), (500,), (4, 1)])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_cocoeval(seed, kind, limits):
    truth, results = dataset(seed)
    results = results if seed else without(results, "bbox")
    scores = evaluate_coco(truth, results, kinds=kind, max_detections=limits)
    assert same(scores.curves[kind], coco_eval(truth, results, kind, limits))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_what_is_printed(kind):
    truth, results = dataset(5)
    run, prefix = coco_eval(truth, results, kind), {"bbox": "box", "segm": "mask"}[kind]
    scores = evaluate_coco(truth, results)
    assert [scores.metrics[f"{prefix}_{name}"] for name in NAMES + RECALLS] == run.stats.tolist()
    ids = sorted(one["id"] for one in truth["categories"])
    for n, one in enumerate(ids):
        values = run.eval["precision"][:, :, n, 0, -1]
        assert scores.per_class[f"class {one}"][f"{prefix}_AP"] == pytest.approx(values.mean())
    assert scores.per_class["class 10"][f"{prefix}_AP"] == -1 and 0.05 < scores.metrics[f"{prefix}_AP"] < 0.95


@settings(max_examples=25, deadline=None)
@given(st.integers(100, 10**6), st.integers(1, 12), st.integers(2, 5), st.integers(1, 9), st.integers(1, 30))
def test_equal_on_anything(seed, pictures, classes, truths, guesses):
    truth, results = dataset(seed, pictures, classes, truths, guesses)
    if results:
        for kind in ("bbox", "segm"):
            ours, run = evaluate_coco(truth, results, kinds=kind).curves[kind], coco_eval(truth, results, kind)
            assert np.array_equal(ours.precision, run.eval["precision"])
            assert np.array_equal(ours.scores, run.eval["scores"]) and np.array_equal(ours.recall, run.eval["recall"])


def test_the_reference_is_the_same():
    truth, results = dataset(11, pictures=4, guesses=6)
    kinds = ("bbox", "segm", "boundary")
    native = evaluate_coco(truth, results, kinds=kinds)
    with use_backend("reference"):
        plain = evaluate_coco(truth, results, kinds=kinds)
    assert native.metrics == plain.metrics and native.metrics["boundary_AP"] > 0
    for kind in kinds:
        for name in ("precision", "recall", "scores"):
            assert np.array_equal(getattr(native.curves[kind], name), getattr(plain.curves[kind], name)), (kind, name)


def test_files_objects_and_arrays(tmp_path):
    truth, results = dataset(2)
    for name, content in (("truth", truth), ("results", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    told = COCO()
    told.dataset = truth
    told.createIndex()
    wanted = evaluate_coco(truth, results).metrics
    assert evaluate_coco(tmp_path / "truth.json", str(tmp_path / "results.json")).metrics == wanted
    assert evaluate_coco(told, results).metrics == wanted
    rows = [[one["image_id"], *one["bbox"], one["score"], one["category_id"]] for one in results]
    boxes = evaluate_coco(truth, np.array(rows)).metrics
    assert boxes == {name: value for name, value in wanted.items() if name.startswith("box")}
    kept = copy.deepcopy((truth, results))
    evaluate_coco(truth, results)
    assert kept == (truth, results), "what is given stays as it is"


def test_masks_of_every_form():
    truth, results = dataset(3)
    wanted = evaluate_coco(truth, results, kinds="segm").metrics
    changed = copy.deepcopy(results)
    for n, one in enumerate(changed):
        if n % 2:
            one["segmentation"]["counts"] = one["segmentation"]["counts"].encode()
        one["segmentation"]["size"] = tuple(one["segmentation"]["size"])
    assert evaluate_coco(truth, changed, kinds="segm").metrics == wanted
    polygons = copy.deepcopy(truth)
    for one in polygons["annotations"]:
        x, y, w, h = one["bbox"]
        one["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    scores = evaluate_coco(polygons, results, kinds="segm")
    assert same(scores.curves["segm"], coco_eval(polygons, results, "segm"))


def test_text_ids_and_a_truth_with_id_0():
    truth, results = dataset(4, ids=str)
    assert same(evaluate_coco(truth, results).curves["segm"], coco_eval(truth, results, "segm"))
    truth, results = dataset(4)
    wanted = evaluate_coco(truth, results).metrics
    for one in truth["annotations"]:
        one["id"] -= 1  # pycocotools takes 0 for "no match"
    assert evaluate_coco(truth, results).metrics == wanted


def test_pictures_and_classes_chosen():
    truth, results = dataset(6, truths=9, guesses=30)
    images, classes = sorted(one["id"] for one in truth["images"])[2:6], [1, 7]
    told = {**truth, "images": [one for one in truth["images"] if one["id"] in images]}
    told["categories"] = [one for one in truth["categories"] if one["id"] in classes]
    kept = [one for one in results if one["image_id"] in images]
    run = coco_eval(told, kept, "segm")
    scores = evaluate_coco(truth, results, kinds="segm", images=images, classes=classes)
    assert same(scores.curves["segm"], run) and list(scores.per_class) == ["class 1", "class 7"]


def test_areas_by_boxes_or_masks():
    truth, results = dataset(7)
    by_mask = evaluate_coco(truth, results, kinds="segm", box_areas=False)
    assert same(by_mask.curves["segm"], coco_eval(truth, without(results, "bbox"), "segm"))
    by_box = evaluate_coco(truth, results, kinds="segm", box_areas=True)
    assert same(by_box.curves["segm"], coco_eval(truth, results, "segm"))
    assert not np.array_equal(by_box.curves["segm"].precision, by_mask.curves["segm"].precision)


def test_nothing_found_and_nothing_there():
    truth, results = dataset(8)
    nothing = evaluate_coco(truth, [])
    assert nothing.metrics["box_AP"] == nothing.metrics["mask_AR100"] == 0
    empty = evaluate_coco({**truth, "annotations": []}, results)
    assert set(empty.metrics.values()) == {-1} and empty.per_class["class 1"]["box_AP"] == -1
    assert set(evaluate_coco({"images": [], "annotations": [], "categories": []}, []).metrics.values()) == {-1}


def changed(results, **values):
    return [*results[:3], {**results[3], **values}, *results[4:]]


NO_RLE = {"size": [HEIGHT, WIDTH], "counts": "111"}
WRONG = {
    "truth": (lambda t, r: (17, r), r"truth must be a COCO file.*got 17 \(int\)"),
    "truth of lists": (lambda t, r: ({"images": 3}, r), "truth must be a COCO file"),
    "no file": (lambda t, r: ("/nowhere.json", r), "truth: cannot read /nowhere.json: No such file"),
    "results": (lambda t, r: (t, {"a": 1}), "results must be a COCO results file or a list"),
    "a result": (lambda t, r: (t, [*r, 5]), r"must be a dict such as COCO results have, got 5"),
    "array": (lambda t, r: (t, np.zeros((2, 6))), r"\[N, 7\], got \[2, 6\]"),
    "image": (lambda t, r: (t, changed(r, image_id=999)), r"results\[3\] has image_id 999, which the truth does not"),
    "class": (lambda t, r: (t, changed(r, category_id=99)), r"results\[3\] has category_id 99, which the truth"),
    "no class": (lambda t, r: (t, without(r, "category_id")), r"results\[0\] has no category_id"),
    "no score": (lambda t, r: (t, without(r, "score")), r"results\[0\] has no score"),
    "score": (lambda t, r: (t, changed(r, score=float("nan"))), r"results\[3\] must have a score that is a number"),
    "text": (
        lambda t, r: (t, changed(r, score="much")),
        r"results\[3\] must have a score that is a number, got 'much'",
    ),
    "box": (lambda t, r: (t, changed(r, bbox=[1, 2, 3])), r"results\[3\] must have a bbox of four numbers"),
    "box of NaN": (lambda t, r: (t, changed(r, bbox=[1, 2, 3, float("nan")])), r"results\[3\] must have a bbox"),
    "size": (
        lambda t, r: (t, changed(r, segmentation={"size": [5, 5], "counts": "i0"})),
        r"results\[3\] has an RLE of size \[5, 5\], but its picture has height, width \[110, 150\]",
    ),
    "counts": (lambda t, r: (t, changed(r, segmentation=NO_RLE)), r"results\[3\] has no RLE .*do not add up"),
    "mask": (lambda t, r: (t, changed(r, segmentation="all")), r"results\[3\] has no segmentation of a picture"),
    "mixed ids": (lambda t, r: ({**t, "images": [*t["images"], {"id": "a"}]}, r), "images have ids of several kinds"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_data(case):
    make, sentence = WRONG[case]
    with pytest.raises(UserError, match=sentence):
        evaluate_coco(*make(*dataset(9)))


def test_wrong_options():
    truth, results = dataset(9)
    with pytest.raises(UserError, match="unknown kind 'keypoints'"):
        evaluate_coco(truth, results, kinds="keypoints")
    with pytest.raises(UserError, match="max_detections takes"):
        evaluate_coco(truth, results, max_detections=0)
    with pytest.raises(UserError, match="classes: the truth has no id 5"):
        evaluate_coco(truth, results, classes=[1, 5])
    with pytest.raises(UserError, match="neg_category_ids"):
        evaluate_coco(truth, results, federated=True)
    with pytest.raises(UserError, match=r"results\[0\] has no segmentation"):
        evaluate_coco(truth, without(results, "segmentation"), kinds="segm")
