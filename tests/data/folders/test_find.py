"""Which format is read, COCO in other layouts, and what is kept in the cache."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from htc_fast import UserError
from htc_fast.data import CocoDataset
from htc_fast.data.folders import find
from htc_fast.errors import say_once
from tests.data import builder
from tests.data.folders import test_yolo
from tests.data.folders.kit import areas, picture

AREAS = {"000000000010": [("dog", 320), ("owl", 720)], "000000000011": [("cat", 384)]}
LAYOUTS = {
    "CVAT's": "annotations/instances_Train.json images/Train annotations/instances_Validation.json images/Validation",
    "Roboflow's": "train/_annotations.coco.json train valid/_annotations.coco.json valid",
    "names of one's own": "fruit_train.json train fruit_val.json val",
    "files in folders": "train/labels.json train val/labels.json val",
    "training and validation": "annotations/training.json images annotations/validation.json images",
}


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
def test_coco_with_splits(tmp_path, names):
    """The files are read where they lie."""
    file, folder, val, val_folder = names.split()
    for target, place in ((file, folder), (val, val_folder)):
        builder.write(tmp_path, folder=place)
        (tmp_path / target).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "annotations" / "instances_val2017.json").rename(tmp_path / target)
    data = CocoDataset(tmp_path, "train", held_out=True)
    assert data.path == tmp_path / file and data.images == tmp_path / folder
    assert areas(tmp_path, "val") == AREAS and CocoDataset(tmp_path, "val").path == tmp_path / val


@pytest.mark.parametrize("file", ["annotations/instances_default.json", "result.json", "via_project_1_coco.json"])
@pytest.mark.parametrize("folder", ["images", "images/default", "."])
def test_coco_without_splits(tmp_path, capsys, file, folder):
    builder.write(tmp_path, folder=folder)
    (tmp_path / "annotations" / "instances_val2017.json").rename(tmp_path / file)
    train, val, every = areas(tmp_path), areas(tmp_path, "val"), areas(tmp_path, "all")
    assert len(train) == len(val) == 1 and {**train, **val} == every
    assert {name.rpartition("/")[2]: found for name, found in every.items()} == AREAS
    assert "has no val, so 1 of 2 pictures are held out of train (by class, seed 0)" in capsys.readouterr().err
    assert areas(tmp_path / file, "all").values() and len(areas(tmp_path / file, "val")) == 1


def test_coco_of_one_split(tmp_path):
    """A file that is called train is all of it, until a run asks for what is held out."""
    builder.write(tmp_path, split="train")
    assert len(CocoDataset(tmp_path, "train")) == 2 == len(CocoDataset(tmp_path, "train", held_out=False))
    train, val = CocoDataset(tmp_path, "train", held_out=True), CocoDataset(tmp_path, "val")
    assert len(train) == len(val) == 1 and train.picture(0).file_name != val.picture(0).file_name
    assert train.classes == val.classes == ["dog", "cat", "owl"]
    with pytest.raises(UserError, match=r"no annotation file for split 'test'.*found annotations/instances_train2017"):
        CocoDataset(tmp_path, "test")


NAMES = {
    "of an upload": "/data/upload/3/1a2b3c4d-{}",
    "of another machine": "C:\\pictures\\{}",
    "of a server": "http://localhost:8080/data/local-files/?d=set/{}",
    "of a server, on Windows": "/data/local-files/?d=set%5Cmy%20pictures%5C{}",
    "signed": "https://bucket.example/set/{}?X-Signature=ab/cd&d=1",
    "above": "../../media/{}",
    "of another folder": "elsewhere/{}",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_that_lead_nowhere(tmp_path, capsys, name):
    content = builder.two_pictures()
    builder.write(tmp_path, content, folder="some/where")
    content["images"].append(builder.image(99, name="lost.png"))
    for one in content["images"]:
        one["file_name"] = name.format(one["file_name"])
    (tmp_path / "annotations" / "instances_val2017.json").unlink()
    (tmp_path / "result.json").write_text(json.dumps(content))
    assert areas(tmp_path, "all") == {f"some/where/{stem}": found for stem, found in AREAS.items()}
    said = capsys.readouterr().err
    assert "2 pictures lie elsewhere than their names say" in said and "1 of 3 pictures are missing" in said


def test_names_of_another_machine_where_coco_keeps_its_files(tmp_path, capsys):
    for split, stem in (("train", "a"), ("valid", "b")):
        picture(tmp_path / split / f"{stem}.png")
        content = {**builder.two_pictures(), "images": [builder.image(7, name=f"C:\\x\\{split}\\{stem}.png")]}
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    assert areas(tmp_path).keys() == {"train/a"} and areas(tmp_path, "val").keys() == {"valid/b"}
    assert find.splits_in(tmp_path) == ["train", "val"]
    assert "1 pictures lie elsewhere than their names say" in capsys.readouterr().err


def test_pictures_without_a_size(tmp_path):
    content = builder.two_pictures()
    builder.write(tmp_path, content, folder="images")
    (tmp_path / "annotations" / "instances_val2017.json").unlink()
    for one in content["images"]:
        del one["height"], one["width"]
    (tmp_path / "result.json").write_text(json.dumps(content))
    assert areas(tmp_path, "all") == {f"images/{stem}": found for stem, found in AREAS.items()}


def test_two_pictures_that_may_be_meant(tmp_path, capsys):
    content = {**builder.two_pictures(), "images": [builder.image(1, name="a.png"), builder.image(2, name="b.png")]}
    for place in ("one/a.png", "two/a.png", "one/b.png"):
        picture(tmp_path / place)
    (tmp_path / "result.json").write_text(json.dumps(content))
    assert len(CocoDataset(tmp_path, "all", keep_empty=True)) == 1
    said = capsys.readouterr().err
    assert "result.json: picture a.png may be one/a.png or two/a.png, so it counts as missing: write the" in said
    assert "1 of 2 pictures are missing (a.png)" in said


def test_two_files_that_may_be_meant(tmp_path):
    builder.write(tmp_path)
    for name in ("one.json", "two.json"):
        (tmp_path / name).write_bytes((tmp_path / "annotations" / "instances_val2017.json").read_bytes())
    (tmp_path / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(UserError, match=r"holds 2 COCO files for any split \(one\.json, two\.json\): name one"):
        CocoDataset(tmp_path)


def test_a_file_that_is_no_coco(tmp_path):
    (tmp_path / "result.json").write_text('{"images": 5, "annotations": [], "categories": []}')
    with pytest.raises(UserError, match="has no list of 'images', but 5"):
        CocoDataset(tmp_path)
    picture(tmp_path / "a.png")
    content = {"images": [builder.image(1, name="a.png")], "annotations": [], "categories": 3.5}
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"has no list of 'categories', but 3\.5"):
        CocoDataset(tmp_path)
    (tmp_path / "result.json").write_text(
        json.dumps({"images": [builder.image(1, name="a.png")], "annotations": "x", "categories": []})
    )
    with pytest.raises(UserError, match=r"result\.json has no list of 'annotations', but 'x'"):
        CocoDataset(tmp_path)


def test_two_formats(tmp_path, capsys):
    test_yolo.write(tmp_path)
    builder.write(tmp_path, folder="images")
    (tmp_path / "annotations" / "instances_val2017.json").rename(tmp_path / "mine.json")
    assert areas(tmp_path, "all") == AREAS
    assert "it looks like YOLO too; COCO is what is read" in capsys.readouterr().err
    assert areas(tmp_path / "data.yaml", "val") == {"images/val/c": [("dog", 192)]}


UNKNOWN = {
    "pictures": (["a/1.jpg", "a/2.jpg"], r"found 2 \.jpg in a/"),
    "nothing": ([], "found no pictures and no annotations"),
    "Cellpose's pickles": (
        ["1.png", "1_seg.npy"],
        r"found 1 \.png, 1 \.npy; _seg\.npy are pickles, which may run code",
    ),
    "results": (["results.json"], r"found 1 \.json\."),
}


@pytest.mark.parametrize("files, said", UNKNOWN.values(), ids=UNKNOWN)
def test_nothing_that_is_known(tmp_path, files, said):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('[{"image_id": 1, "annotations": []}]')
    with pytest.raises(
        UserError, match=rf"no annotations that are read: looked for COCO .*YOLO .*labelme .*{said}"
    ) as error:
        CocoDataset(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(
        UserError, match=r"describes no data set: name a folder, a data\.yaml, or a COCO or VIA JSON file"
    ):
        (tmp_path / "x.zip").write_text("")
        CocoDataset(tmp_path / "x.zip")


def test_links_that_go_round(tmp_path):
    test_yolo.write(tmp_path)
    (tmp_path / "images" / "loop").symlink_to(tmp_path)
    assert len(areas(tmp_path)) == 2


def test_read_again_where_something_changed(tmp_path, cache, monkeypatch):
    test_yolo.write(tmp_path)
    reads, read = [], find._read
    monkeypatch.setattr(find, "_read", lambda *given: reads.append(1) or read(*given))
    label = tmp_path / "labels" / "train" / "a.txt"
    for count in (1, 1, 2, 3, 4, 5):
        if count > len(reads):
            label.write_text(f"0 {test_yolo.SQUARE}\n" + "\n" * count)
        assert len(areas(tmp_path)) == 2 and len(reads) == count
    # The folders of older ones go, and nothing half written stays.
    [folder] = cache.iterdir()
    assert len([one for one in folder.iterdir() if one.is_dir()]) == find.KEPT
    for path in folder.glob("*/*-val.json"):
        path.unlink()
    assert len(areas(tmp_path)) == 2 and len(reads) == 6


def test_said_every_time(tmp_path, capsys):
    test_yolo.write(tmp_path)
    for _ in range(2):
        say_once.cache_clear()
        areas(tmp_path), areas(tmp_path, "val")
        assert capsys.readouterr().err.count("is read as YOLO: 3 pictures (2 train, 1 val), 2 classes (cat, dog)") == 1


def test_several_at_once(tmp_path, monkeypatch):
    """One converts, the others wait for it; the lock is a file's, for processes as for threads."""
    test_yolo.write(tmp_path)
    reads, read = [], find._read

    def slowly(*given):
        reads.append(1)
        time.sleep(0.3)
        return read(*given)

    monkeypatch.setattr(find, "_read", slowly)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: find.find_split(tmp_path, "val"), range(4)))
    assert len(reads) == 1 and len(set(found)) == 1 and found[0].annotations.is_file()


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    test_yolo.write(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "data.yaml"))
    with pytest.raises(UserError, match=r"cannot write what was read to .*name another folder as XDG_CACHE_HOME"):
        CocoDataset(tmp_path)


@pytest.mark.slow
def test_many_pictures_in_seconds(tmp_path):
    """500 maps of 256 x 256 with 100 objects each."""
    labels = np.zeros((256, 256), dtype=np.uint8)
    for number in range(100):
        y, x = 25 * (number // 10) + 2, 25 * (number % 10) + 2
        labels[y : y + 20, x : x + 20] = number + 1
    for place in range(500):
        Image.fromarray(labels).save(tmp_path / f"{place}_masks.png", compress_level=1)
        Image.fromarray(labels).save(tmp_path / f"{place}.png", compress_level=1)
    began = time.monotonic()
    assert len(CocoDataset(tmp_path, "val")) == 100
    assert time.monotonic() - began < 40
