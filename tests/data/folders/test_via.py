"""VIA's own files, written to the format that its project page documents."""

import json

import numpy as np
import pytest

from htc_fast import UserError
from htc_fast.data import CocoDataset
from tests.data.folders.kit import areas, picture

SHAPES = {
    "polygon": ({"name": "polygon", "all_points_x": [8, 18, 18, 8], "all_points_y": [8, 8, 18, 18]}, 100),
    "rect": ({"name": "rect", "x": 8, "y": 8, "width": 10, "height": 20}, 200),
    "circle": ({"name": "circle", "cx": 30, "cy": 24, "r": 10}, np.pi * 100),
    "ellipse": ({"name": "ellipse", "cx": 30, "cy": 24, "rx": 20, "ry": 5, "theta": 0.4}, np.pi * 100),
}


def entry(name, regions):
    return {"filename": name, "size": 123, "regions": regions, "file_attributes": {}}


def region(shape, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


def write(root, entries, project=False, file="via_region_data.json"):
    for one in entries:
        picture(root / one["filename"])
    content = {f"{one['filename']}123": one for one in entries}
    (root / file).write_text(
        json.dumps({"_via_settings": {}, "_via_img_metadata": content, "_via_attributes": {}} if project else content)
    )
    return root


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("shape, area", SHAPES.values(), ids=SHAPES)
def test_shapes(tmp_path, project, shape, area):
    write(tmp_path, [entry("a.png", [region(shape, label="cat")]), entry("b.png", [])], project)
    [(label, found)] = areas(tmp_path, "all")["a"]
    assert label == "cat" and found == pytest.approx(area, rel=0.03)


def test_classes(tmp_path, capsys):
    square = SHAPES["polygon"][0]
    regions = {
        "0": region(square, type={"cat": True}, note="x"),  # check boxes, in VIA 1's numbered regions
        "1": region(square, type="dog"),
        "2": region(square, note="y"),
        "3": region({"name": "point", "cx": 1, "cy": 1}, type="dog"),
        "4": region({"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]}, type="dog"),
        "6": region({"name": "polygon", "all_points_x": 5, "all_points_y": True}, type="dog"),
        "5": region({"name": "rect", "x": None, "y": 1, "width": 3, "height": 4}, type="dog"),
    }
    write(tmp_path, [entry("a.png", regions), entry("gone.png", [])])
    (tmp_path / "gone.png").unlink()
    assert areas(tmp_path, "all") == {"a": [("cat", 100), ("dog", 100)]}
    said = capsys.readouterr().err
    assert "regions have the attributes type, note: type is taken for the class" in said
    assert "1 of 2 pictures are not used (1 missing, such as 'gone.png'" in said
    assert (
        "5 of 7 objects are not used" in said
        and "1 without a type" in said
        and "1 that are no areas but a point" in said
    )
    assert "of one picture none can be held out" in said


def test_a_picture_that_is_described_twice(tmp_path, capsys):
    """VIA tells pictures apart by their bytes too, so one that was saved again is there twice."""
    square = region(SHAPES["polygon"][0])
    write(tmp_path, [entry("a.png", []), entry("b.png", [])])
    entries = {"a.png123": entry("a.png", [square]), "a.png456": entry("a.png", [square]), "b.png9": entry("b.png", [])}
    (tmp_path / "via_region_data.json").write_text(json.dumps(entries))
    assert areas(tmp_path, "all") == {"a": [("object", 100)], "b": []}
    assert "1 of 3 pictures are not used (1 described twice, such as 'a.png'" in capsys.readouterr().err


def test_names_in_other_letters(tmp_path):
    write(tmp_path, [entry("o\u0308l.PNG", [region(SHAPES["rect"][0])])])
    path = tmp_path / "via_region_data.json"
    path.write_text(json.dumps({"x": entry("\u00f6l.png", [region(SHAPES["rect"][0])])}))
    assert areas(tmp_path, "all") == {"o\u0308l": [("object", 200)]}


def test_splits_and_several_files(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        write(tmp_path / split, [entry(f"{split}.png", [region(SHAPES["rect"][0])])])
    assert areas(tmp_path) == {"train/train": [("object", 200)]} and areas(tmp_path, "val") == {
        "val/val": [("object", 200)]
    }
    write(tmp_path, [entry("c.png", [region(SHAPES["rect"][0])])], file="more.json")
    with pytest.raises(UserError, match=r"holds more\.json, train/via_region_data\.json.*: name the one to read"):
        CocoDataset(tmp_path)
    assert areas(tmp_path / "more.json", "all") == {"c": [("object", 200)]}
