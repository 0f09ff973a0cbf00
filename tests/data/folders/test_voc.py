"""Pascal VOC's folders as VOC has them: palettes, borders, lists; and what other tools make of them."""

import numpy as np
import pytest
from PIL import Image

from htc_fast import UserError
from htc_fast.data import CocoDataset
from htc_fast.data.folders.voc import colormap
from tests.data.folders.kit import areas, picture

# Numbers of objects and of classes with VOC's border of 255: a dog (12), a person (15), and between them no object.
OBJECTS = np.zeros((48, 64), dtype=np.uint8)
OBJECTS[4:24, 4:24], OBJECTS[4:24, 24:26], OBJECTS[4:24, 26:46] = 1, 255, 2
CLASSES = np.select([OBJECTS == 1, OBJECTS == 2, OBJECTS == 255], [12, 15, 255]).astype(np.uint8)
FOUND = [("dog", 400), ("person", 400)]
PALETTE = [channel for colour in colormap() for channel in (colour & 255, colour >> 8 & 255, colour >> 16)]


def write(root, names="abc", lists=(("train", "ab"), ("val", "c"), ("trainval", "abc")), mode="P"):
    for name in names:
        picture(root / "JPEGImages" / f"{name}.jpg")
        for folder, values in (("SegmentationObject", OBJECTS), ("SegmentationClass", CLASSES)):
            (root / folder).mkdir(exist_ok=True)
            image = Image.fromarray(values)
            if mode != "L":
                image.putpalette(PALETTE)
            image.convert(mode).save(root / folder / f"{name}.png")
    for name, stems in lists:
        place = root / "ImageSets" / "Segmentation"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.txt").write_text("\n".join(stems) + "\n")
    return root


def test_colours_of_voc():
    assert [PALETTE[3 * place : 3 * place + 3] for place in (1, 15, 20, 255)] == [
        [128, 0, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
@pytest.mark.parametrize("place", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_as_it_is_packed(tmp_path, mode, place):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    write(tmp_path / place, mode=mode)
    prefix = f"{place}/JPEGImages/".lstrip("/")
    assert areas(tmp_path) == {f"{prefix}a": FOUND, f"{prefix}b": FOUND}
    assert areas(tmp_path, "val") == {f"{prefix}c": FOUND}
    # In VOC's own order, which has the dog before the person.
    assert CocoDataset(tmp_path, "val").classes == ["dog", "person"]


def test_a_palette_of_greys(tmp_path):
    write(tmp_path, mode="L")
    for path in (tmp_path / "SegmentationClass").iterdir():
        image = Image.open(path)
        image.putpalette([number for number in range(256) for _ in range(3)])
        image.save(path)
    assert Image.open(path).mode == "P" and areas(tmp_path, "val") == {"JPEGImages/c": FOUND}


def test_classes_alone(tmp_path):
    write(tmp_path)
    (tmp_path / "SegmentationObject").rename(tmp_path / "other")
    with pytest.raises(UserError, match="SegmentationClass/ alone does not tell objects of one class apart"):
        CocoDataset(tmp_path)


def test_without_lists(tmp_path):
    write(tmp_path, "abcde", lists=())
    assert len(areas(tmp_path)) == 4 and len(areas(tmp_path, "val")) == 1


def test_a_labelmap_names_the_colours(tmp_path):
    """As CVAT writes it, in an order of its own."""
    write(tmp_path, mode="RGB")
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\napple:192,128,128::\nbackground:0,0,0::\npear:64,0,128::\nplum:1,2,3::\n"
    )
    assert areas(tmp_path, "val") == {"JPEGImages/c": [("pear", 400), ("apple", 400)]}
    assert CocoDataset(tmp_path).classes == ["apple", "pear", "plum"]


def test_classes_of_the_xml_file(tmp_path):
    write(tmp_path)
    for path in (tmp_path / "SegmentationClass").iterdir():
        path.unlink()
    (tmp_path / "Annotations").mkdir()
    objects = "".join(f"<object><name>{name}</name></object>" for name in ("hen", "egg"))
    for name in "abc":
        (tmp_path / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    assert areas(tmp_path, "val") == {"JPEGImages/c": [("hen", 400), ("egg", 400)]}


def test_an_xml_file_that_grows_without_end(tmp_path):
    write(tmp_path, "a", lists=())
    (tmp_path / "SegmentationClass" / "a.png").unlink()
    (tmp_path / "Annotations").mkdir()
    entities = "".join(f'<!ENTITY a{place} "{f"&a{place - 1};" * 10}">' for place in range(1, 10))
    (tmp_path / "Annotations" / "a.xml").write_text(
        f'<!DOCTYPE x [<!ENTITY a0 "ha">{entities}]><annotation><object><name>&a9;</name></object></annotation>'
    )
    with pytest.raises(UserError, match=r"have no object with an outline .*2 of no known class"):
        CocoDataset(tmp_path)


def test_what_is_not_used_is_counted(tmp_path, capsys):
    write(tmp_path, "abcdef", lists=[("train", [*"abcdex", "f"]), ("val", "c")])
    Image.fromarray(OBJECTS[:40]).save(tmp_path / "SegmentationObject" / "a.png")
    (tmp_path / "SegmentationObject" / "b.png").write_text("x")
    (tmp_path / "SegmentationObject" / "d.png").unlink()
    (tmp_path / "SegmentationClass" / "e.png").unlink()
    found = areas(tmp_path)
    assert found == {"JPEGImages/d": [], "JPEGImages/e": [], "JPEGImages/f": FOUND}
    said = capsys.readouterr().err
    assert "3 of 7 pictures are not used" in said and "1 missing in JPEGImages, such as 'x'" in said
    assert (
        "1 of another size than their masks, such as 'a'" in said and "2 of 6 objects are not used (2 of no kn" in said
    )
    assert "1 listed pictures have no file in SegmentationObject and are taken for empty ones, such as d" in said


def test_boxes_alone_and_two_years(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        (tmp_path / year).mkdir()
        write(tmp_path / year)
    with pytest.raises(UserError, match=r"holds several VOC folders: name one of them with --data .*VOC2007.*VOC2012"):
        CocoDataset(tmp_path)
    picture(tmp_path / "boxes" / "JPEGImages" / "a.jpg")
    with pytest.raises(UserError, match="Pascal VOC without SegmentationObject/: its boxes are no outlines"):
        CocoDataset(tmp_path / "boxes")
