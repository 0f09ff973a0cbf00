"""labelme's files, whole and damaged."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from htc_fast import UserError
from htc_fast.data import CocoDataset
from tests.data.folders.kit import areas, picture

SQUARE = {"label": "cat", "points": [[8, 8], [18, 8], [18, 18], [8, 18]], "shape_type": "polygon", "group_id": None}


def png(mask):
    with io.BytesIO() as file:
        Image.fromarray(np.asarray(mask, dtype=bool)).save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()


def write(root, shapes=(SQUARE,), name="a", **more):
    picture(root / f"{name}.png")
    about = {"version": "6.3.1", "flags": {}, "shapes": list(shapes), "imagePath": f"{name.rpartition('/')[2]}.png"}
    content = {**about, "imageData": None, "imageHeight": 48, "imageWidth": 64, **more}
    (root / f"{name}.json").write_text(json.dumps(content))
    return root


SHAPES = {
    "without a group": ([{**SQUARE, "group_id": None}] * 2, [("cat", 100)] * 2),
    "one group": ([{**SQUARE, "group_id": 3}, {**SQUARE, "points": [[30, 8], [40, 8], [40, 18]], "group_id": 3}], 145),
    "a group of two labels": ([{**SQUARE, "group_id": 3}, {**SQUARE, "label": "dog", "group_id": 3}], 2),
    "a bitmap and a polygon of a group": (
        [
            {**SQUARE, "group_id": 1},
            {**SQUARE, "group_id": 1, "shape_type": "mask", "points": [[15, 8], [20, 9]], "mask": png(np.ones((2, 6)))},
        ],
        106,
    ),
    "a bitmap beyond the picture": (
        [{**SQUARE, "shape_type": "mask", "points": [[60, 44], [69, 53]], "mask": png(np.ones((10, 10)))}],
        16,
    ),
    "a rectangle from below": ([{**SQUARE, "shape_type": "rectangle", "points": [[18, 18], [8, 8]]}], 100),
    "a number for a label": ([{**SQUARE, "label": 7}, {**SQUARE, "label": "7"}], [("7", 100)] * 2),
    "a turned rectangle of X-AnyLabeling": ([{**SQUARE, "shape_type": "rotation"}], 100),
    "an old file without types": ([{"label": "cat", "points": SQUARE["points"]}], 100),
}


@pytest.mark.parametrize("shapes, expected", SHAPES.values(), ids=SHAPES)
def test_shapes(tmp_path, shapes, expected):
    [found] = areas(write(tmp_path, shapes)).values()
    if isinstance(expected, list):
        assert found == expected
    else:
        assert len(found) == expected or found[0][1] == pytest.approx(expected, abs=5)


BAD = {
    "two points": ({**SQUARE, "points": [[1, 1], [9, 9]]}, "with a malformed polygon"),
    "words for points": ({**SQUARE, "points": [["a", 1], [2, 2], [3, 9]]}, "with a malformed polygon"),
    "no points": ({**SQUARE, "points": None}, "with a malformed polygon"),
    "a point": ({**SQUARE, "points": [[1, 1]], "shape_type": "point"}, "that are no areas but a point"),
    "a bitmap of another size": (
        {**SQUARE, "shape_type": "mask", "points": [[1, 1], [4, 4]], "mask": png(np.ones((3, 3)))},
        "with a malformed mask",
    ),
    "a bitmap that is none": (
        {**SQUARE, "shape_type": "mask", "points": [[1, 1], [4, 4]], "mask": "bm9uZQ=="},
        "with a malformed mask",
    ),
    "no text": ({**SQUARE, "shape_type": "mask", "points": [[1, 1], [4, 4]], "mask": 5}, "with a malformed mask"),
    "no label": ({**SQUARE, "label": None}, "without a label"),
    "no object": (7, "without a label"),
    "beyond the picture": ({**SQUARE, "points": [[90, 90], [99, 90], [99, 99]]}, "without a pixel in the picture"),
    "a circle of no size": ({**SQUARE, "shape_type": "circle", "points": [[9, 9], [9, 9]]}, "without a pixel"),
}


@pytest.mark.parametrize("shape, said", BAD.values(), ids=BAD)
def test_shapes_that_are_not_used_are_counted(tmp_path, capsys, shape, said):
    assert areas(write(tmp_path, [shape, SQUARE])) == {"a": [("cat", 100)]}
    assert f"1 of 2 objects are not used (1 {said}" in capsys.readouterr().err


def test_pictures_that_are_not_used_are_counted(tmp_path, capsys):
    for name in "abcdef":
        write(tmp_path, name=name)
    write(tmp_path, name="wrong", imageHeight=50)
    write(tmp_path, name="twice", imagePath="a.png")
    write(tmp_path, name="x", shapes=[], imagePath="..\\pictures\\x.png")
    write(tmp_path, name="gone", imagePath="../../gone.png")
    (tmp_path / "gone.png").unlink()
    (tmp_path / "cut.json").write_text('{"shapes": [')
    picture(tmp_path / "alone.png")
    found = {**areas(tmp_path), **areas(tmp_path, "val")}
    assert found.keys() == {*"abcdef", "x"} and found["x"] == []
    said = capsys.readouterr().err
    assert (
        "4 of 11 pictures are not used" in said and "1 with a JSON file that cannot be read, such as 'cut.json'" in said
    )
    assert "1 missing beside their JSON file" in said and "1 of another size than their JSON file says" in said
    assert "1 described by two JSON files" in said and "have no JSON file beside them and are left out" in said


def test_sorted_keys_with_the_picture_inside(tmp_path):
    """The picture's bytes come before the shapes then."""
    write(tmp_path, imageData="A" * 100_000)
    content = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(content, sort_keys=True))
    assert areas(tmp_path, "all") == {"a": [("cat", 100)]}


def test_a_folder_of_json_files(tmp_path, capsys):
    for name in ("images/a", "images/b"):
        write(tmp_path, name=name)
    (tmp_path / "labels").mkdir()
    (tmp_path / "images" / "a.json").rename(tmp_path / "labels" / "a.json")
    (tmp_path / "labels" / "b.json").write_bytes(
        (tmp_path / "labels" / "a.json").read_bytes().replace(b"a.png", b"b.png")
    )
    assert areas(tmp_path, "all") == {"images/a": [("cat", 100)], "images/b": [("cat", 100)]}
    said = capsys.readouterr().err
    assert "1 pictures lie elsewhere than their JSON files say, such as that of labels/a.json, which is images" in said
    assert "1 of 3 pictures are not used (1 missing beside their JSON file" in said  # as b has its own


def test_pictures_as_they_are_stored(tmp_path):
    """Tools turn a picture as EXIF says or not: the size in the JSON file tells."""
    exif = Image.Exif()
    exif[274] = 6
    for name, size in (("a", (64, 48)), ("b", (48, 64))):
        write(tmp_path, name=name, imageHeight=size[0], imageWidth=size[1], imagePath=f"{name}.jpg")
        picture(tmp_path / f"{name}.jpg", exif=exif)
        (tmp_path / f"{name}.png").unlink()
    data = CocoDataset(tmp_path, "all")
    assert [tuple(data[place]["image"].shape) for place in (0, 1)] == [(3, 64, 48), (3, 48, 64)]


def test_a_file_that_is_nested_without_end(tmp_path, capsys):
    write(tmp_path)
    picture(tmp_path / "b.png")
    (tmp_path / "b.json").write_text('{"shapes": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert areas(tmp_path, "all") == {"a": [("cat", 100)]}
    assert "1 with a JSON file that cannot be read, such as 'b.json'" in capsys.readouterr().err


def test_folders_are_splits(tmp_path):
    for name in ("train/a", "train/b", "Validation/c", "test/d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path, name=name)
    assert areas(tmp_path).keys() == {"train/a", "train/b"} and areas(tmp_path, "val").keys() == {"Validation/c"}
    assert areas(tmp_path, "test").keys() == {"test/d"}


def test_nothing_left(tmp_path):
    with pytest.raises(
        UserError, match=r"looks like labelme, but its 1 pictures have no object.*1 with a malformed polygon"
    ):
        CocoDataset(write(tmp_path, [{**SQUARE, "points": [[1, 1]]}]))
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match="looks like labelme, but no picture of it can be used"):
        CocoDataset(tmp_path)
    with pytest.raises(UserError, match=r"a\.json describes no data set.*or its folder .* for all"):
        CocoDataset(tmp_path / "a.json")
