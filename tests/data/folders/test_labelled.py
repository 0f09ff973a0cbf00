"""Pictures beside label maps, and folders of one bitmap per object."""

import numpy as np
import pytest
from PIL import Image

from htc_fast import UserError
from htc_fast.data import CocoDataset
from tests.data.folders.kit import areas, picture

LABELS = np.zeros((48, 64), dtype=np.uint16)
LABELS[4:14, 4:14], LABELS[30:40, 20:30], LABELS[10:20, 40:60] = 700, 700, 2  # one object in two parts, and another
EXPECTED = [("object", 200), ("object", 200)]


def labels(path, values=LABELS):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


PLACES = {
    "accents of another system": "images/o\u0308{0}.png masks/\u00f6{0}.png",
    "Cellpose's": "{0}.png {0}_cp_masks.png",
    "Cellpose's training pictures": "{0}_img.png {0}_masks.png",
    "TIFF": "{0}.tif {0}_masks.tif",
    "a picture of another suffix": "{0}.jpg {0}_mask.png",
    "masks": "images/{0}.png masks/{0}.png",
    "labels": "images/{0}.jpg labels/{0}.tif",
    "stained nuclei": "RawImages/{0}.jpg GroundTruth/{0}.png",
    "both": "image/{0}.png mask/{0}_mask.png",
    "splits inside": "images/train/{0}.png masks/train/{0}.png",
    "splits outside": "training/images/{0}.png training/masks/{0}.png",
    "a folder that is called images": "images/{0}.png images/{0}_masks.png",
}


@pytest.mark.parametrize("names", PLACES.values(), ids=PLACES)
def test_where_maps_lie(tmp_path, names):
    for stem in ("x1", "x2", "x3", "x4"):
        of_picture, of_map = (tmp_path / name.format(stem) for name in names.split())
        picture(of_picture)
        labels(of_map)
    found = {**areas(tmp_path), **areas(tmp_path, "val")}
    assert len(found) == 4 and all(objects == EXPECTED for objects in found.values())


def test_folders_are_splits(tmp_path, capsys):
    for name in ("train/a", "train/b", "test/c"):
        picture(tmp_path / f"{name}.png")
        labels(tmp_path / f"{name}_masks.png")
    picture(tmp_path / "train" / "alone.png")
    # Cellpose's own layout has no val.
    assert (
        len(areas(tmp_path)) == 1 and len(areas(tmp_path, "val")) == 1 and areas(tmp_path, "test").keys() == {"test/c"}
    )
    said = capsys.readouterr().err
    assert "3 pictures (2 train, 1 test)" in said and "1 of 2 pictures are held out of train" in said
    assert "1 picture files have no partner and are left out, such as train/alone.png" in said
    with pytest.raises(UserError, match=r"has no split 'x': it is read as .* and has train, val, all, test"):
        CocoDataset(tmp_path, "x")


def test_what_is_not_used_is_counted(tmp_path, capsys):
    for stem in "abcdef":
        picture(tmp_path / f"{stem}.png")
        labels(tmp_path / f"{stem}_masks.png")
    labels(tmp_path / "a_masks.png", LABELS[:40])
    labels(tmp_path / "b_masks.png", np.zeros((48, 64), dtype=np.uint8))
    (tmp_path / "c_masks.png").write_text("no map")
    (tmp_path / "d.png").write_bytes(b"\x89PNG")
    found = {**areas(tmp_path), **areas(tmp_path, "val")}
    assert found == {"b": [], "e": EXPECTED, "f": EXPECTED}
    said = capsys.readouterr().err
    assert "3 of 6 pictures are not used" in said and "1 of another size than their label maps, such as 'a.png'" in said
    assert "1 with a label map that cannot be used" in said and "1 that cannot be read, such as 'd.png'" in said


def test_one_number_everywhere_is_said(tmp_path, capsys):
    for stem in "ab":
        picture(tmp_path / "images" / f"{stem}.png")
        labels(tmp_path / "masks" / f"{stem}.png", ((LABELS > 0) * 255).astype(np.uint8))
    assert areas(tmp_path, "all") == {"images/a": [("object", 400)], "images/b": [("object", 400)]}
    assert "all label maps hold the number 255 alone, so each picture is read as one object" in capsys.readouterr().err


def test_numbers_that_are_no_objects_are_said(tmp_path, capsys):
    picture(tmp_path / "images" / "a.png")
    labels(tmp_path / "masks" / "a.png", np.random.default_rng(0).integers(0, 4, (48, 64)).astype(np.uint8))
    assert len(areas(tmp_path, "all")["images/a"]) == 3
    said = "3 of 3 objects are scattered over their pictures: every number is read as one object"
    assert said in capsys.readouterr().err
    labels(tmp_path / "masks" / "a.png", np.tile(LABELS[::2, ::2], (2, 2)))  # several parts are no mistake
    assert len(areas(tmp_path, "all")["images/a"]) == 2 and "scattered" not in capsys.readouterr().err


def test_a_folder_per_picture(tmp_path, capsys):
    for stem in ("0a", "1b", "2c"):
        picture(tmp_path / stem / "images" / f"{stem}.png")
        for place, number in enumerate((700, 2)):
            labels(tmp_path / stem / "masks" / f"{place}f.png", ((LABELS == number) * 255).astype(np.uint8))
    labels(tmp_path / "0a" / "masks" / "2f.png", np.zeros((48, 64), dtype=np.uint8))
    labels(tmp_path / "0a" / "masks" / "3f.png", np.ones((48, 60), dtype=np.uint8))
    (tmp_path / "0a" / "masks" / "4f.png").write_text("x")
    found = {**areas(tmp_path), **areas(tmp_path, "val")}
    assert len(found) == 3 and all(objects == EXPECTED for objects in found.values())
    said = capsys.readouterr().err
    assert "is read as a folder per picture with a mask per object: 3 pictures" in said
    assert "3 of 9 objects are not used" in said and "1 with a mask that cannot be read" in said
    assert "1 of another size than their picture" in said and "1 without a pixel" in said


def test_masks_that_are_called_by_numbers(tmp_path, capsys):
    """One of them is called like the picture, which makes it no label map."""
    for stem in ("s1", "s2", "s3"):
        picture(tmp_path / stem / "images" / "1.png")
        for place, number in enumerate((700, 2)):
            labels(tmp_path / stem / "masks" / f"{place}.png", ((LABELS == number) * 255).astype(np.uint8))
    assert areas(tmp_path, "all") == {f"{stem}/images/1": EXPECTED for stem in ("s1", "s2", "s3")}
    assert "is read as a folder per picture with a mask per object: 3 pictures" in capsys.readouterr().err


def test_masks_without_objects(tmp_path):
    picture(tmp_path / "a.png")
    labels(tmp_path / "a_masks.png", np.zeros((48, 64), dtype=np.uint8))
    with pytest.raises(UserError, match="looks like pictures beside label maps, but its 1 pictures have no object"):
        CocoDataset(tmp_path)
