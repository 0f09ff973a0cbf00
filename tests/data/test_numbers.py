"""Numbers, flags and ids as text: taken where they mean one thing, told where not."""

import json
import math

import pytest

from htc_fast import UserError
from htc_fast.data import CocoDataset
from htc_fast.data.annotations import read_annotations
from htc_fast.data.numbers import as_json, flag, identity, number, whole
from htc_fast.errors import say_once
from htc_fast.evaluation import coco
from tests.data.builder import CATEGORIES, image, instance, two_pictures, write

NUMBERS = {
    "0": 0,
    " -1.5 ": -1.5,
    "1e3": 1000,
    ".5": 0.5,
    7: 7,
    1e15: 1e15,
    "1,5": None,
    "1_000": None,
    "0x10": None,
    "nan": None,
    "١": None,
    "": None,
    "1e999": None,
    math.nan: None,
    math.inf: None,
    1e16: None,
    10**400: None,
    True: None,
    None: None,
}


@pytest.mark.parametrize("value, wanted", NUMBERS.items(), ids=map(repr, range(len(NUMBERS))))
def test_numbers(value, wanted):
    assert number(value) == wanted and whole(value) == (wanted if wanted in (0, 1000, 7, 1e15) else None)


FLAGS = [(0, False), (1, True), (0.0, False), ("0", False), ("1", True), ("1.0", True), ("False", False)]
FLAGS += [("true", True), (True, True), (False, False), (None, False), ("", False), ("no", False)]
FLAGS += [(2, None), ("maybe", None), ([], None), (math.nan, False), (-1, None), ("None", None)]


@pytest.mark.parametrize("value, wanted", FLAGS, ids=[repr(value) for value, _ in FLAGS])
def test_flags(value, wanted):
    assert flag(value) is wanted


IDS = [(10, 10), ("10", 10), (10.0, 10), ("10.0", 10), ("010", "010"), ("+1", "+1"), (" 1", " 1"), ("a", "a"), ("0", 0)]
IDS += [("-3", -3), ("-0", "-0"), (10**400, 10**400), ("9" * 200, "9" * 200), (1.5, None), (math.nan, None)]
IDS += [(math.inf, None), (True, None), (False, None), (None, None), ([1], None), ("", "")]


@pytest.mark.parametrize("value, wanted", IDS, ids=[repr(value)[:9] for value, _ in IDS])
def test_ids(value, wanted):
    assert identity(value) == wanted and type(identity(value)) is type(wanted)


def test_values_are_shown_with_their_types():
    assert as_json("10") == "'10' (text)" and as_json(True) == "True (boolean)" and as_json(None) == "nothing"
    deep = "x"
    for _ in range(5000):
        deep = [deep]
    assert as_json(deep) == "[[[[...]]]] (list)" and len(as_json(["x" * 9000] * 9000)) < 120


def as_text(value):
    """A JSON value with all its numbers as text."""
    if isinstance(value, dict):
        return {key: as_text(one) for key, one in value.items()}
    return [as_text(one) for one in value] if isinstance(value, list) else str(value)


def read(tmp_path, content):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return read_annotations(path)


def mixed():
    """Polygons and runs, a crowd among them."""
    content = two_pictures()
    runs = {"size": [48, 64], "counts": [48 * 8, 48 * 4, 48 * 52]}
    content["annotations"] += [instance(10, 7, 8, 0, 4, 48, segmentation=runs, iscrowd=crowd) for crowd in (0, 1)]
    return content


@pytest.mark.parametrize("part", ["annotations", "images", "categories"])
def test_all_numbers_of_a_part_as_text(tmp_path, capsys, part):
    """The same data set, but for the file's own ids, which results are to give back."""
    right, found = read(tmp_path, mixed()), read(tmp_path, {**mixed(), part: as_text(mixed()[part])})
    assert [one.annotations for one in found.pictures] == [one.annotations for one in right.pictures]
    assert found.trainable == [3, 1] and found.sizes == [(48, 64), (72, 40)] and found.classes == right.classes
    assert [one.id for one in found.pictures] == (["10", "11"] if part == "images" else [10, 11])
    assert found.category_ids == (["3", "7", "90"] if part == "categories" else [3, 7, 90])
    assert "not used" not in capsys.readouterr().err


def test_whole_floats_are_ids(tmp_path):
    content = mixed()
    content["images"] = [{**one, "id": float(one["id"]), "width": float(one["width"])} for one in content["images"]]
    found = read(tmp_path, content)
    assert found.trainable == [3, 1] and json.dumps([one.id for one in found.pictures]) == "[10, 11]"


def test_results_have_the_file_s_ids(tmp_path):
    content = as_text(two_pictures())
    content["categories"][0]["id"] = "seven"
    content["annotations"][2]["category_id"] = "seven"
    root = write(tmp_path, two_pictures())
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    dataset = CocoDataset(root, "val", semantic="none")
    found = {index: dataset.truth(index) for index in range(2)}
    assert coco.score(dataset, found).metrics["mask_AP"] == pytest.approx(1)
    boxes, _ = coco.results(dataset, found)
    assert [(one["image_id"], one["category_id"]) for one in boxes] == [("10", "3"), ("10", "90"), ("11", "seven")]


TWICE = {
    "images": [image(1), image("1", name="b.png")],
    "categories": [{"id": 1, "name": "cat"}, {"id": "1", "name": "dog"}],
}


@pytest.mark.parametrize("part", TWICE)
def test_ids_that_are_one_are_refused(tmp_path, part):
    content = {"images": [image(1)], "categories": CATEGORIES, part: TWICE[part]}
    with pytest.raises(
        UserError, match=rf"'{part}' must have different ids, but 1 \(number\) and '1' \(text\) are one"
    ):
        read(tmp_path, content)


@pytest.mark.parametrize("value", [True, None, [1], math.nan, 1.5, 1e999])
def test_what_is_no_id_is_as_json(tmp_path, value):
    for part in ("images", "categories"):
        content = two_pictures()
        content[part] = [{**content[part][0], "id": value}]
        with pytest.raises(UserError, match=rf"'{part}' must have different ids, numbers or text, but one has "):
            read(tmp_path, content)


UNREADABLE = {
    "of an image that is not listed, such as '010' (text)": {"image_id": "010"},
    "of an image that is not listed, such as True (boolean)": {"image_id": True},
    "of an unknown category, such as '3.5' (text)": {"category_id": "3.5"},
    "of an unknown category, such as nothing": {"category_id": None},
    "with an 'iscrowd' that is neither 0 nor 1, such as 'maybe' (text)": {"iscrowd": "maybe"},
    "with an 'ignore' that is neither 0 nor 1, such as 2 (number)": {"ignore": 2},
    "with a malformed mask, such as '1,5' (text)": {"segmentation": [[1, 2, 3, 4, 5, "1,5"]]},
    "with a malformed mask, such as True (boolean)": {"segmentation": [[1, 2, 3, 4, 5, True]]},
    "with a malformed mask, such as 100000000000000000000000000000000000000000000000000000000000… (number)": {
        "segmentation": [[1, 2, 3, 4, 5, 10**400]]
    },
    "with a malformed mask, such as nan (number)": {"segmentation": [[1, 2, 3, 4, 5, math.nan]]},
    "with a malformed mask, such as {'counts': [3077, -5], 'size': [48, 64]} (object)": {
        "segmentation": {"counts": [3077, -5], "size": [48, 64]}
    },
}


@pytest.mark.parametrize("reason, change", UNREADABLE.items(), ids=UNREADABLE)
def test_dropped_ones_are_counted_and_one_is_as_json(tmp_path, capsys, reason, change):
    say_once.cache_clear()
    content = two_pictures()
    content["annotations"] += [{**instance(10, 3, 8, 4, 20, 16), **change}] * 2
    assert read(tmp_path, content).trainable == [2, 1]
    said = capsys.readouterr().err
    assert f"2 of 5 annotations are not used (2 {reason})" in said and said.count("\n") == 1
