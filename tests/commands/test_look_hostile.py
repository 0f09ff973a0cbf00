"""`python -m htc_fast.look` on what is broken, empty, strange or very large: a page and a sentence, always."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from htc_fast import look as command
from htc_fast.errors import UserError
from htc_fast.look import Look
from htc_fast.pages.dataset_pictures import _shares
from tests.data.builder import CATEGORIES, image, instance, two_pictures, write
from tests.pages.browser import needs_browser, screenshot

FIRST = "000000000010.png"


def looked(tmp_path, **options):
    return command.look(Look(data=(tmp_path / "data",), out=tmp_path / "look", **options))


def source(tmp_path):
    return (tmp_path / "look" / "index.html").read_text(encoding="utf-8")


def named(*names):
    return {**two_pictures(), "categories": [{"id": i, "name": name} for i, name in zip((3, 7, 90), names)]}


def test_hostile_names(tmp_path, recwarn):
    content = named("</title><script>alert(1)</script>", '"><img src=x onerror=alert(1)> $\\frac{1', "\ud800 狗 a\nb\0")
    content["images"][0]["file_name"] = "<b>&'\"é.png"
    write(tmp_path / "data", content, "train")
    assert looked(tmp_path, split=None)["problems"] == []
    page = source(tmp_path)
    assert "<script" not in page and "<img src=x" not in page and "<b>&" not in page
    assert "&lt;b&gt;&amp;&#x27;&quot;é.png, 2 objects" in page
    assert not [one for one in recwarn if "Glyph" in str(one.message)]


def test_names_of_thousands_of_letters(tmp_path):
    write(tmp_path / "data", named("x" * 5000, "y " * 3000, "z"), "train")
    looked(tmp_path)
    advice = json.loads((tmp_path / "look" / "look.json").read_text())["advice"]
    assert all(len(one) < 400 for one in advice) and "x" * 5000 in source(tmp_path)  # whole in the table alone


@pytest.mark.parametrize(
    "spoil, why",
    [
        (lambda file: None, "it is missing: check the path or the data set's image folder"),
        (lambda file: file.mkdir(), "it is a folder: name the pictures in it"),
        (os.mkfifo, "it cannot be read: it is a device or a pipe, expected a file"),
        (
            lambda file: file.write_bytes(b""),
            "it cannot be read: it is empty (0 bytes) and not a picture; replace it or take it out",
        ),
    ],
    ids=["missing", "folder", "pipe", "empty"],
)
def test_a_picture_that_is_none(tmp_path, spoil, why):
    file = write(tmp_path / "data", split="train") / "train2017" / FIRST
    file.unlink()
    spoil(file)
    found = looked(tmp_path)
    assert found["problems"] == [f"1 picture cannot be opened (train: {FIRST}: {why})."]
    assert found["files"]["unreadable"] == [(f"train: {FIRST}", why)]
    page = source(tmp_path)
    assert "2 objects cannot be read." in page and page.count("data:image/jpeg") == 2  # the other one, and its cat


def test_damage_of_every_kind(tmp_path):
    random = np.random.default_rng(0)
    content = {"images": [image(i) for i in range(1, 31)], "categories": CATEGORIES}
    content["annotations"] = [instance(i, 3, 1, 1, 9, 9) for i in range(1, 31)]
    files = sorted((write(tmp_path / "data", content, "train") / "train2017").iterdir())
    for number, file in enumerate(files[:-1]):
        Image.open(file).save(file, ("PNG", "TIFF", "JPEG", "GIF", "WEBP")[number % 5])
        damaged = bytearray(file.read_bytes())
        for place in random.integers(0, 200, 16):
            damaged[place] = random.integers(0, 256)
        file.write_bytes(damaged)
    found = looked(tmp_path)
    assert 15 <= len(found["files"]["unreadable"]) <= 29 and found["splits"]["train"]["objects"] == 30
    assert "pictures cannot be opened" in found["problems"][0] and "; and " in found["problems"][0]


def test_all_pictures_missing(tmp_path):
    write(tmp_path / "data", split="train", pictures=False)
    with pytest.raises(UserError, match=f"picture {FIRST} of .* is missing: looked in"):
        looked(tmp_path)


def test_turned_by_exif(tmp_path):
    content = {"images": [image(1, 48, 64, "a.jpg"), image(2, 48, 64, "b.png"), image(3, 64, 48, "c.jpg")]}
    content |= {"annotations": [instance(1, 3, 1, 1, 9, 9)], "categories": CATEGORIES}
    folder = write(tmp_path / "data", content, "train") / "train2017"
    exif = Image.Exif()
    exif[274] = 6
    for name in ("a.jpg", "b.png", "c.jpg"):
        Image.new("RGB", (64, 48)).save(folder / name, exif=exif)
    found = looked(tmp_path)
    assert found["files"]["turned_by_exif"] == ["train: a.jpg", "train: b.png", "train: c.jpg"]
    assert found["files"]["of_another_size"] == []


def test_a_header_is_all_that_is_read(tmp_path, monkeypatch):
    content = {"images": [image(1), image(2, 50, 50)], "annotations": [instance(1, 3, 1, 1, 9, 9)]}
    write(tmp_path / "data", {**content, "categories": CATEGORIES[1:2]}, "train")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("a picture was decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("a picture was decoded"))
    assert looked(tmp_path, pictures=0)["problems"] == []
    assert "data:image/jpeg" not in source(tmp_path)


def test_beyond_pillows_limit(tmp_path):
    content = {"images": [image(1, 12000, 8000)], "categories": CATEGORIES[1:2]}
    content["annotations"] = [instance(1, 3, 11000, 7000, 200, 100)]
    folder = write(tmp_path / "data", content, "train", pictures=False) / "train2017"
    Image.new("1", (12000, 8000)).save(folder / "000000000001.png", compress_level=1)
    assert looked(tmp_path)["problems"] == []
    assert source(tmp_path).count('<img width="640" height="427"') == 1
    assert source(tmp_path).count('<img width="170" height="117"') == 1  # 321 x 221 around the object


def test_objects_annotated_twice(tmp_path):
    content = two_pictures()
    content["annotations"] += [content["annotations"][0], {**content["annotations"][0], "category_id": 90}]
    write(tmp_path / "data", content, "train")
    found = looked(tmp_path, pictures=0)
    assert found["problems"] == ["train: 1 object annotated twice, with the same class and box."]
    assert found["splits"]["train"]["annotated_twice"] == 1


def test_no_more_detections_than_there_may_be(tmp_path):
    content = {"images": [image(1)], "categories": CATEGORIES[1:2]}
    content["annotations"] = [instance(1, 3, i % 60, i // 60 % 40, 2, 2) for i in range(10_500)]
    write(tmp_path / "data", content, "train")
    assert any(
        "10,500 objects and a model gives 100: --detections 10000." in one
        for one in looked(tmp_path, pictures=0)["advice"]
    )


def test_two_beginnings_that_are_alike(tmp_path):
    content = {"images": [image(i, 200, 100, f"{i}.bmp") for i in range(1, 5)], "annotations": []}
    folder = write(tmp_path / "data", {**content, "categories": CATEGORIES}, "train") / "train2017"
    pixels = np.zeros((100, 200, 3), np.uint8)
    for number, (first, last) in enumerate([(0, 0), (0, 1), (0, 1), (1, 1)], start=1):
        pixels[-1], pixels[0] = first, last  # the last row comes first in the file
        Image.fromarray(pixels).save(folder / f"{number}.bmp")
    assert looked(tmp_path, pictures=0)["files"]["same_bytes"] == [["train: 2.bmp", "train: 3.bmp"]]


@pytest.mark.parametrize(
    "sizes, count, shares",
    [
        ([240, 60], 12, [10, 2]),
        ([240, 60], 1, [1, 0]),
        ([1000, 1, 1], 6, [4, 1, 1]),
        ([2, 3], 100, [2, 3]),
        ([5, 5], 0, [0, 0]),
    ],
)
def test_shares(sizes, count, shares):
    assert _shares(sizes, count) == shares


@needs_browser
@pytest.mark.slow
def test_a_thousand_classes_in_a_browser(tmp_path):
    names = [{"id": number, "name": f"class {number} {'of a thousand ' * 9}"} for number in range(1, 1001)]
    random = np.random.default_rng(0)
    content = {"images": [image(i) for i in range(1, 4)], "categories": names}
    content["annotations"] = [instance(1 + i % 3, int(random.integers(1, 1001)), i % 50, 2, 9, 9) for i in range(300)]
    write(tmp_path / "data", content, "train")
    looked(tmp_path)
    seen = screenshot(tmp_path / "look" / "index.html", tmp_path / "seen.png", 1200, 6000)
    # The ground below the last section: a table of all rows would be ten times as long.
    assert (seen[-200:] == seen[-1, 0]).all()
