"""Results files: the reader in C++ gives what json gives, or leaves it to json."""

import json

import numpy as np
import pytest
import torch

from htc_fast import UserError
from htc_fast.evaluation import evaluate_coco
from htc_fast.evaluation.results import results_of
from htc_fast.ops import _evaluation, use_backend
from tests.evaluation.drawn import dataset, without


def columns(text):
    return _evaluation.read_results(torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8))


def plain(text):
    return len(columns(text)[5]) > 0


FORMS = {
    "as it is": json.dumps,
    "spread": lambda results: json.dumps(results, indent=3),
    "tight": lambda results: json.dumps(results, separators=(",", ":")),
    "keys in order": lambda results: json.dumps(results, sort_keys=True),
    "more keys": lambda results: json.dumps(
        [{"id": n, "more": [1, {"a": ']}"\\', "b": None}], "name": 'x"y', **one} for n, one in enumerate(results)]
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("missing", ["", "bbox", "segmentation"])
def test_the_same_as_json(form, missing, tmp_path):
    _, results = dataset(1)
    results = without(results, missing)
    (tmp_path / "results.json").write_text(FORMS[form](results))
    assert plain(FORMS[form](results))
    ours = results_of(tmp_path / "results.json")
    with use_backend("reference"):
        slow = results_of(tmp_path / "results.json")
    assert slow.images == ours.images.tolist() and slow.classes == ours.classes.tolist()
    assert slow.scores == ours.scores.tolist() and slow.boxes == ours.boxes.tolist()
    assert (ours.segmentations is None) == (missing == "segmentation")
    if ours.segmentations:
        text, offsets, sizes = ours.segmentations
        strings = [one["segmentation"]["counts"] for one in results]
        assert bytes(text.numpy()).decode() == "".join(strings) and "\\" in "".join(strings)
        assert offsets.diff().tolist() == list(map(len, strings))
        assert sizes.tolist() == [one["segmentation"]["size"] for one in results]


ONE = '{"image_id": 1, "category_id": 2, "score": 0.5, "bbox": [1, 2.5, -3e1, 4]}'
ODD = [" ", "{}", "[", f"[{ONE}", f"[{ONE}, ]", f"[{ONE}] 1", ONE, f"[{ONE}, {{}}]"]
ODD += [f"[{ONE.replace('1,', other, 1)}]" for other in ("1.5,", '"a",', "1e3,", "true,")]
ODD += [f"[{ONE.replace('0.5', other)}]" for other in ("NaN", "null", '"1"')]
ODD += [f"[{ONE.replace('4]', other)}]" for other in ("4, 5]", "]", "[4]]")]
ODD += [f"[{ONE[:-1]}, {more}}}]" for more in ('"score": 1', '"more": "abc', '"more": ')]
DRAWN = [
    "[[1, 2, 3, 4, 5, 6]]",
    '{"size": [1, 1], "counts": [0, 1]}',
    '{"size": [1, 1], "counts": "\\u0030"}',
    '{"size": [1, 1], "counts": "1\\"',
    '{"size": [1, 1]}',
    '{"size": [1], "counts": "1"}',
]
ODD += [f'[{ONE[:-1]}, "segmentation": {one}}}]' for one in DRAWN]


@pytest.mark.parametrize("text", ODD)
def test_what_is_not_plain_is_left_to_json(text):
    assert not plain(text) and all(len(one) == 0 for one in columns(text))


@pytest.mark.parametrize("cut", range(0, len(ONE), 5))
def test_a_file_that_breaks_off(cut, tmp_path):
    (tmp_path / "results.json").write_text(f"[{ONE}, {ONE[:cut]}")
    with pytest.raises(UserError, match=r"results: .*results.json is no JSON"):
        evaluate_coco(dataset(1)[0], tmp_path / "results.json")


def test_numbers_are_read_as_python_reads_them():
    draw = np.random.default_rng(0)
    values = [*(draw.random(300) * 10.0 ** draw.integers(-12, 6, 300)).tolist(), 0, 1, 5e-324, 1e300, -0.0]
    text = json.dumps([{"image_id": n, "category_id": -1, "score": one} for n, one in enumerate(values)])
    images, classes, scores, boxes, *_ = columns(text)
    assert scores.tolist() == values and images.tolist() == list(range(len(values)))
    assert set(classes.tolist()) == {-1} and len(boxes) == 0 and plain(f"[{ONE}]") and plain(" [ ] ")


def test_polygons_and_no_list_in_a_file(tmp_path):
    truth, results = dataset(1)
    for one in results:
        x, y, w, h = one["bbox"]
        one["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
    (tmp_path / "results.json").write_text(json.dumps(results))
    wanted = evaluate_coco(truth, results, kinds="segm").metrics
    assert evaluate_coco(truth, tmp_path / "results.json", kinds="segm").metrics == wanted and wanted["mask_AP"] > 0
    (tmp_path / "results.json").write_text('{"images": []}')
    with pytest.raises(UserError, match=r"results.json must hold a list of dicts"):
        evaluate_coco(truth, tmp_path / "results.json")


BROKEN = ["garbage", "[}", "{1 2 3]", "[,,]", "-", "01", "1.", '"\\q"', '"\n"', "-inf", "tru", "[1", "1 2"]


@pytest.mark.parametrize("value", BROKEN)
def test_what_json_does_not_know_is_not_passed_over(value, tmp_path):
    (tmp_path / "results.json").write_text(f'[{ONE[:-1]}, "more": {value}}}]')
    with pytest.raises(UserError, match="is no JSON"):
        results_of(tmp_path / "results.json")


def test_values_that_nobody_asks_for_are_passed_over():
    for value in ("[]", "{}", "[1, [2.5e-3, {}], true]", '{"a": null, "b": {"c": [false]}}', "-0.5", '"\\"x"'):
        assert plain(f'[{ONE[:-1]}, "more": {value}}}]'), value
