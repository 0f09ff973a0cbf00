"""Whatever stands in an annotation file: it becomes a data set that can be used to the end, or one sentence.

200 files are tried, and 100 panoptic ones. For 10 000 of each, which takes minutes:

    HTC_FAST_FUZZ=10000 python -m pytest tests/data/test_fuzz_annotations.py
"""

import copy
import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from htc_fast import UserError
from htc_fast.data import CocoDataset
from htc_fast.evaluation import coco
from tests.data.builder import rectangle

CASES = int(os.environ.get("HTC_FAST_FUZZ", "0"))
COUNTS = [5 * 36, 36, 34 * 36]
DIGITS = "<5000 digits>"


def tries(usual):
    return settings(
        max_examples=CASES or usual,
        deadline=None,
        database=None,
        derandomize=not CASES,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def content():
    """Every kind of segmentation, a crowd, ids as numbers and as text."""
    polygon, runs = rectangle(3, 4, 12, 9), {"size": [36, 40], "counts": COUNTS}
    compressed = {"size": [36, 40], "counts": coco_mask.frPyObjects(runs, 36, 40)["counts"].decode()}
    masks = [polygon, runs, [3, 4, 15, 4, 15, 13], compressed, [[3, 4], [9, 4], [9, 9]]]
    annotations = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": [3, 4, 12, 9], "area": 108, "iscrowd": 0, "ignore": 0}
        | {"segmentation": mask}
        for n, mask in enumerate(masks)
    ]
    annotations += [{**annotations[0], "image_id": "two", "category_id": "x", "iscrowd": 1, "segmentation": runs}]
    annotations += [{**annotations[0], "image_id": "two", "category_id": "x"}]
    return {
        "info": {"semantic_classes": 5},
        "images": [
            {"id": 1, "file_name": "a.png", "height": 36, "width": 40},
            {"id": "two", "file_name": "sub/b.png", "height": 36, "width": 40},
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": "x", "name": "dog"}],
    }


ODD_NUMBERS = [10**400, float("nan"), float("inf"), 1e8, -1e7, 1e15, 1e16, 1e300, 2**31, 2**63]
ODD_NUMBERS += [-1, 0.5, 1.0, 40, 36.0, 2]
ODD_TEXT = [DIGITS, "\ud800", "\0", "n" * 5000, "1e999", "nan", "010", "1.0", "two", "true", "maybe", "", " "]
ODD_TEXT += ["../a.png", "sub\\b.png", "/a.png", "C:\\a.png", "a.PNG", "a.png"]
ODD = st.sampled_from([*ODD_NUMBERS, *ODD_TEXT, True, None, [], {}, [[]], [None] * 4])
NUMBERS = st.sampled_from(ODD_NUMBERS) | st.floats() | st.integers()
TEXT = st.sampled_from(ODD_TEXT) | st.text(max_size=8) | NUMBERS.map(str)
PLAIN = st.none() | st.booleans() | NUMBERS | TEXT
ANYTHING = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.dictionaries(st.sampled_from(["size", "counts", "id", "name"]) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)
POLYGONS = st.lists(st.lists(NUMBERS | st.floats(-1e6, 1e6) | TEXT, max_size=12), max_size=3)
DEEP = st.integers(1, 300).map(lambda depth: json.loads("[" * depth + "]" * depth))


def places(value, path=()):
    """The path of everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


@st.composite
def files(draw, start):
    """A file's bytes: one that is right, with one to six things taken out, changed or put in twice."""
    found = copy.deepcopy(start)
    for _ in range(draw(st.integers(1, 6))):
        *above, last = draw(st.sampled_from(places(found)[1:] or [("images",)]))
        parent = found
        for key in above:
            parent = parent[key]
        action = draw(st.sampled_from(["out", "change", "change", "change", "polygons", "as text", "again"]))
        if action == "out" and last in (parent if isinstance(parent, dict) else range(len(parent))):
            del parent[last]
        elif action == "as text" and isinstance(parent, dict) and not isinstance(parent.get(last), (dict, list)):
            parent[last] = str(parent.get(last))
        elif action == "again" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[last]))
        else:
            value = draw(POLYGONS if action == "polygons" else ODD | ODD | PLAIN | ANYTHING | DEEP)
            parent[last] = copy.deepcopy(value)
    text = json.dumps(found).replace(f'"{DIGITS}"', "1" + "0" * 5000)
    encoding = draw(st.sampled_from(["utf-8"] * 8 + ["utf-8-sig", "utf-16"]))
    cut = draw(st.just(None) | st.just(None) | st.just(None) | st.integers(0, len(text)))
    return text[:cut].encode(encoding)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    for name in ("images/a.png", "images/sub/b.png"):
        (root / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 36)).save(root / name)
    (root / "panoptic").mkdir()
    segments = np.zeros((36, 40, 3), np.uint8)
    segments[:9, :9, 0] = 7
    Image.fromarray(segments).save(root / "panoptic" / "a.png")
    (root / "whole.json").write_text(json.dumps(content()))
    return root


def use(root, annotations, keep_empty, semantic):
    """Read a data set, and all that training and evaluation take of it; returns the sentence that refuses it, if so."""
    try:
        dataset = CocoDataset(annotations=annotations, images=root / "images", keep_empty=keep_empty, semantic=semantic)
    except UserError as error:
        return str(error)
    found = {}
    for index in range(len(dataset)):
        found[index] = dataset.truth(index)
        try:
            sample = dataset[index]
        except UserError:
            continue
        count = len(sample["labels"])
        assert len(sample["masks"]) == len(sample["boxes"]) == len(found[index]) == count
        assert not count or (sample["labels"].max() < len(dataset.classes) and sample["boxes"].isfinite().all())
    try:
        scores = coco.score(dataset, found)
    except UserError as error:
        assert not dataset.annotations.labelled
        return str(error)
    assert scores.metrics["mask_AP"] == -1 or scores.metrics["mask_AP"] >= 0
    json.dumps(coco.results(dataset, found))
    return ""


def is_a_sentence(text, name):
    """Nothing, or one line of a length that can be read, which names the file."""
    return not text or (name in text and len(text.splitlines()) == 1 and len(text) < 600 and text.endswith("."))


def test_the_start_is_right(root):
    dataset = CocoDataset(annotations=root / "whole.json", images=root / "images", semantic="derive")
    assert dataset.annotations.trainable == [5, 1] and dataset.annotations.untrained == {"marked 'iscrowd'": 1}
    assert use(root, root / "whole.json", False, "derive") == ""


@tries(200)
@given(data=files(content()), keep_empty=st.booleans(), semantic=st.sampled_from(["derive", "none"]))
def test_any_annotation_file(root, data, keep_empty, semantic):
    path = root / "annotations.json"
    path.write_bytes(data)
    assert is_a_sentence(use(root, path, keep_empty, semantic), "annotations.json")


PANOPTIC = {
    "categories": [{"id": 3}, {"id": 200, "name": "sky"}],
    "annotations": [
        {"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 7, "category_id": 200}]},
        {"image_id": "two", "file_name": "a.png", "segments_info": []},
    ],
}


@tries(100)
@given(data=files(PANOPTIC))
def test_any_panoptic_file(root, data):
    path = root / "panoptic.json"
    path.write_bytes(data)
    assert is_a_sentence(use(root, root / "whole.json", False, path), "panoptic")
