"""`python -m htc_fast.look`: what is counted, what is found wrong, and a page that shows it."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from htc_fast import look as command
from htc_fast.commands import entry
from htc_fast.errors import UserError
from htc_fast.look import Look
from tests.data.builder import CATEGORIES, image, instance, two_pictures, write
from tests.pages.browser import needs_browser, screenshot


def looked(tmp_path, **options):
    return command.look(Look(data=(tmp_path / "data",), out=tmp_path / "look", **options))


@pytest.fixture
def both(tmp_path):
    """Two splits: train of two pictures with three objects and an empty one, val of one of their pictures again."""
    content = two_pictures()
    content["images"].append(image(12))
    content["annotations"].append(instance(11, 7, 5, 40, 16, 24, iscrowd=1))
    write(tmp_path / "data", content, "train")
    again = {"images": [image(10)], "annotations": [instance(10, 3, 8, 4, 1, 2)], "categories": CATEGORIES}
    write(tmp_path / "data", again, "val")
    return tmp_path


def test_numbers(both):
    found = looked(both)
    train = found["splits"]["train"]
    assert list(found["splits"]) == ["train", "val"]
    assert (train["pictures"], train["objects"], train["not_trained_on"]) == (3, 3, 1)
    assert train["pictures_without_objects"] == 1 and train["most_objects_in_a_picture"] == 2
    dog = {"name": "dog", "objects": 1, "pictures": 1, "median_side": pytest.approx((20 * 16) ** 0.5)}
    assert [one["name"] for one in train["classes"]] == ["dog", "cat", "owl"] and train["classes"][0] == dog
    assert train["shares"] == {"small": 1.0, "medium": 0.0, "large": 0.0}
    # 64 x 48 is seen 16.67 times as large, 40 x 72 18.5 times.
    sides = sorted([(20 * 16) ** 0.5 * 800 / 48, (24 * 30) ** 0.5 * 800 / 48, (16 * 24) ** 0.5 * 1333 / 72])
    assert train["median_side_seen"] == pytest.approx(sides[1], rel=1e-3)
    assert json.loads((both / "look" / "look.json").read_text()) == json.loads(json.dumps(found))


def test_problems(both):
    shutil.copy(both / "data" / "train2017" / "000000000011.png", both / "data" / "train2017" / "000000000012.png")
    Image.fromarray(np.zeros((48, 40, 3), dtype=np.uint8)).save(both / "data" / "train2017" / "000000000011.png")
    problems = looked(both)["problems"]
    assert any("is 40 × 48, listed as 40 × 72" in one for one in problems)
    assert any(one.startswith("1 picture in more than one split, byte for byte") for one in problems)
    assert any(one == "val: 1 object of less than 4 pixels." for one in problems)
    assert any(one == "val: no object of 2 classes (cat, owl)." for one in problems)
    (both / "data" / "val2017" / "000000000010.png").write_bytes(b"no picture")
    problems = looked(both)["problems"]
    assert problems[0].startswith("1 picture cannot be opened (val: 000000000010.png: it cannot be read: it is")


def test_what_was_said_is_kept(tmp_path):
    content = two_pictures()
    content["annotations"].append(instance(99, 3, 0, 0, 4, 4))
    write(tmp_path / "data", content, "train")
    for _ in range(2):  # what one process says once, each page holds
        found = looked(tmp_path)
        assert found["said"] == [
            "instances_train2017.json: 1 of 4 annotations are not used (1 of an image that is not listed, such as 99 "
            "(number))."
        ]


def test_areas_that_are_not_given_are_measured(tmp_path):
    content = two_pictures()
    for one in content["annotations"]:
        del one["area"]
    write(tmp_path / "data", content, "train")
    assert looked(tmp_path)["splits"]["train"]["classes"][0]["median_side"] == pytest.approx((20 * 16) ** 0.5)


def test_advice(tmp_path):
    crowd = [instance(1, 3, i % 60, i // 60, 2, 2) for i in range(120)]
    content = {"images": [image(1, 600, 500), image(2)], "annotations": crowd, "categories": CATEGORIES[:2]}
    write(tmp_path / "data", content, "train")
    advice = " ".join(looked(tmp_path)["advice"])
    assert "A picture holds 120 objects and a model gives 100: --detections 150." in advice
    assert "--tile in prediction" in advice and "--keep-empty" in advice and "--recipe small-data" in advice


@pytest.mark.parametrize(
    "change", [{"annotations": []}, {"categories": [{"id": 3, "name": "<script>$x_1$</script>"}]}], ids=["none", "name"]
)
def test_a_page_of_little(tmp_path, change):
    content = {**two_pictures(), **change}
    content["annotations"] = [one for one in content["annotations"] if one["category_id"] == 3]
    write(tmp_path / "data", content, "train")
    looked(tmp_path)
    source = (tmp_path / "look" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in source and source.count("<section>") >= 4


def test_many_classes(tmp_path):
    names = [{"id": number, "name": f"class {number} of a thousand"} for number in range(1, 1001)]
    content = {"images": [image(1)], "annotations": [instance(1, 5, 2, 2, 9, 9)], "categories": names}
    write(tmp_path / "data", content, "train")
    assert len(looked(tmp_path)["splits"]["train"]["classes"]) == 1000
    assert (tmp_path / "look" / "index.html").stat().st_size < 500_000


def test_one_split_or_file(both, capsys):
    assert list(looked(both, split="val")["splits"]) == ["val"]
    file = both / "data" / "annotations" / "instances_val2017.json"
    run = Look(annotations=file, images=both / "data" / "val2017", out=both / "look")
    assert list(command.look(run)["splits"]) == ["val2017"]
    with pytest.raises(UserError, match=r"split .test."):
        looked(both, split="test")


def test_nothing_is_overwritten(both):
    file = both / "data" / "look.json"
    shutil.copy(both / "data" / "annotations" / "instances_val2017.json", file)
    with pytest.raises(UserError, match="would replace the annotation file"):
        command.look(Look(annotations=file, images=both / "data" / "val2017", out=both / "data"))


def test_the_command(both, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["look", str(both / "data"), "--out", str(both / "out")])
    with pytest.raises(SystemExit) as end:
        entry.run(command.main)
    told = capsys.readouterr().out
    assert end.value.code == 0 and "train: 3 pictures, 3 objects" in told and told.strip().endswith("out/index.html")


@needs_browser
def test_a_browser_shows_it(both):
    looked(both)
    seen = screenshot(both / "look" / "index.html", both / "seen.png", 1200, 2400).astype(int)
    blue = (abs(seen - [31, 111, 235]).max(axis=-1) < 12).sum()
    noise = (seen.std(axis=-1) > 60).sum()
    assert blue > 1500 and noise > 3000  # bars of train, and its pictures
