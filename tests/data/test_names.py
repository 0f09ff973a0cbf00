"""File names as converters write them: found where only one file can be meant, under the file's own name."""

import json

import numpy as np
import pytest
from PIL import Image

from htc_fast import UserError
from htc_fast.data import CocoDataset
from htc_fast.data.annotations import read_annotations
from htc_fast.data.names import Folder
from htc_fast.evaluation import coco
from tests.data.builder import CATEGORIES, image, two_pictures, write

MEANT = {
    "images\\a.png": "images/a.png",
    ".\\images\\a.png": "images/a.png",
    "./a.png": None,
    "data/a.png": "a.png",
    "set/data/a.png": "a.png",
    "data\\images\\a.png": "images/a.png",
    "b c.png ": "b c.png",
    " b c.png": "b c.png",
    "b%20c.png": "b c.png",
    "a.PNG": "a.png",
    "images/A.png": "images/a.png",
    "u\u0308.png": "ü.png",
    "back\\slash.png": None,
    "12:30.png": None,
}
UNSURE = {
    "D.png": ["d.PNG", "d.png"],
    "no.png": [],
    "x/y/a.png": [],
    "other/a.png": [],
    "a.jpg": [],
    "n" * 5000: [],
    "\ud800.png": [],
    "%00.png": [],
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "set" / "data"
    (folder / "images").mkdir(parents=True)
    for name in ("a.png", "images/a.png", "b c.png", "ü.png", "d.png", "d.PNG", "back\\slash.png", "12:30.png"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("name, file", MEANT.items(), ids=MEANT)
def test_the_one_file_that_is_meant(folder, name, file):
    other, missing = Folder(folder).find([name])
    assert other == ({name: file} if file else {}) and missing == {}


@pytest.mark.parametrize("name", UNSURE, ids=range(len(UNSURE)))
def test_nothing_is_guessed(folder, name):
    assert Folder(folder).find([name]) == ({}, {name: UNSURE[name]})


def test_the_file_of_another_picture_is_not_taken(folder):
    assert Folder(folder).find(["a.png", "A.png"]) == ({}, {"A.png": ["a.png"]})
    assert Folder(folder).find(["A.png", "data/a.png"]) == ({}, {"A.png": ["a.png"], "data/a.png": ["a.png"]})


def windows(root, split="val"):
    """A data set whose names have the separators of Windows; the pictures lie in images/."""
    content = two_pictures()
    for one in content["images"]:
        one["file_name"] = f"images\\{one['id']}.png"
    content["annotations"] = [{"id": n, **one} for n, one in enumerate(content["annotations"], start=1)]
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    for one in content["images"]:
        pixels = np.full((one["height"], one["width"], 3), one["id"], np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{one['id']}.png")
    return root


@pytest.mark.parametrize("images", [None, ".", "images"])
def test_separators_of_windows(tmp_path, images):
    root = windows(tmp_path)
    dataset = CocoDataset(root, "val", images=images and root / images)
    assert [int(dataset[index]["image"].max()) for index in range(2)] == [10, 11]
    assert dataset.image(1).shape == (72, 40, 3) and dataset[0]["name"] == "images\\10.png"
    assert dataset.picture(0).file_name == "images\\10.png"
    boxes, _ = coco.results(dataset, {0: dataset.truth(0)})
    assert [one["image_id"] for one in boxes] == [10, 10]


def test_semantic_maps_of_such_pictures(tmp_path):
    root = windows(tmp_path)
    (root / "maps" / "images").mkdir(parents=True)
    for name, size in ((10, (64, 48)), (11, (40, 72))):
        Image.new("L", size, name).save(root / "maps" / "images" / f"{name}.png")
    dataset = CocoDataset(root, "val", images=root, semantic=root / "maps")
    assert [int(dataset[index]["semantic"].max()) for index in range(2)] == [10, 11]


def test_what_may_be_meant_is_said(tmp_path):
    root = write(tmp_path)
    place = root / "val2017" / "000000000010.png"
    for name in ("A.png", "a.PNG"):
        (root / "val2017" / name).write_bytes(place.read_bytes())
    content = two_pictures()
    content["images"][0]["file_name"] = "a.png"
    write(tmp_path, content, pictures=False)
    with pytest.raises(UserError, match=r"1 of 2 pictures are missing .*\(a\.png, which may mean A\.png or a\.PNG\)"):
        CocoDataset(root, "val", images=root / "val2017")


@pytest.mark.parametrize(
    "name", ["/home/me/a.jpg", "C:\\data\\a.jpg", "d:/a.jpg", "\\\\host\\a.jpg", "http://x.org/a.jpg"]
)
def test_paths_of_another_machine_are_told_what_to_write(tmp_path, name):
    path = tmp_path / "f.json"
    path.write_text(json.dumps({"images": [image(1, name=name)], "categories": CATEGORIES}))
    with pytest.raises(UserError, match=r"begins at the root of a machine: write it relative .*, such as a\.jpg\."):
        read_annotations(path)
