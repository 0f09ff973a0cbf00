"""`python -m htc_fast.predict --annotations`: classes and pictures are who they are called."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from htc_fast import predict as command
from htc_fast.commands import entry, network
from htc_fast.errors import say_once
from tests.inference.fake import Fake


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run the command in a folder with im/a/1.png and im/b/1.png, 64 x 48; returns status, stderr, results, stdout."""
    monkeypatch.chdir(tmp_path)
    say_once.cache_clear()
    for name in ("im/a/1.png", "im/b/1.png"):
        picture(name)

    def run(names, images, categories, *options):
        model = Fake(len(names) or 2)
        model.config = replace(model.config, class_names=names)
        monkeypatch.setattr(network, "load", lambda *_, **__: model)
        content = {"images": images, "categories": categories, "annotations": []}
        (tmp_path / "f.json").write_text(json.dumps(content))
        given = ["im/**/*.png", "--weights", "w", "--image-size", "64", "--annotations", "f.json", "--out", "out"]
        monkeypatch.setattr("sys.argv", ["predict", *given, *options])
        with pytest.raises(SystemExit) as end:
            entry.run(command.main)
        said = capsys.readouterr()
        path = tmp_path / "out" / "results.json"
        results = json.loads(path.read_text()) if path.exists() else []
        return end.value.code, said.err, results, said.out

    return run


def picture(name, width=64, height=48):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8)).save(name)


BOTH = [
    {"id": 10, "file_name": "a/1.png", "width": 64, "height": 48},
    {"id": 20, "file_name": "b\\1.png", "width": 64, "height": 48},
]
SWAPPED = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
OWL = [{"id": 3, "name": "owl"}, {"id": 5, "name": "cat"}]


# The fake finds its class 1 with 0.9 and its class 0 with 0.4 in every picture.
def by_score(results, value):
    return sorted((item["image_id"], item["category_id"]) for item in results if abs(item["score"] - value) < 0.01)


def test_a_cat_is_a_cat(run, monkeypatch):
    """Weights [dog, cat], file [cat, dog]: ids are the file's, names the model's."""
    drawn = []
    monkeypatch.setattr(command, "draw", lambda picture, found, **_: drawn.append(found) or Image.new("RGB", (4, 4)))
    status, err, results, _ = run(("dog", "cat"), BOTH, SWAPPED)
    assert status == 0 and err == ""
    assert by_score(results, 0.9) == [(10, 1), (20, 1)] and by_score(results, 0.4) == [(10, 2), (20, 2)]
    assert [one.name(0) for one in drawn] == ["cat", "cat"] and [one.name(1) for one in drawn] == ["dog", "dog"]


def test_a_class_that_the_file_lacks_has_no_id(run):
    status, err, results, out = run(("dog", "cat"), BOTH, OWL)
    assert status == 0 and by_score(results, 0.9) == [(10, 5), (20, 5)] and by_score(results, 0.4) == []
    assert "f.json lacks 1 of the model's 2 classes (dog)" in err and "left out of results.json" in err
    assert "4 instances (2 of them not in results.json: f.json has no dog)" in out


def test_no_class_in_common(run):
    status, err, results, _ = run(("Dog", "cow"), BOTH, SWAPPED)
    assert status == 2 and not results
    assert "f.json has none of the classes Dog, cow: it has cat, dog" in err and "'Dog' the same as its 'dog'" in err


def test_weights_without_names(run):
    status, err, results, _ = run((), BOTH, SWAPPED)
    assert status == 0 and by_score(results, 0.9) == [(10, 2), (20, 2)]
    assert "they are taken for those of f.json in its order (cat, dog)" in err
    status, err, results, _ = run((), BOTH, [*SWAPPED, {"id": 9, "name": "owl"}])
    assert status == 2 and "the model has 2 classes, none with a name, and f.json has 3 (cat, dog, owl)" in err


def test_weights_without_names_of_80_classes_are_coco_s(run, monkeypatch):
    model = Fake(80)  # its classes 1 and 0 are COCO's bicycle and person
    monkeypatch.setattr(command.PredictionRun, "load", lambda _: model)
    status, err, results, _ = run((), BOTH, [{"id": 3, "name": "bicycle"}, {"id": 4, "name": "person"}])
    assert status == 0 and by_score(results, 0.9) == [(10, 3), (20, 3)] and by_score(results, 0.4) == [(10, 4), (20, 4)]
    assert "lacks 78 of the model's 80 classes" in err


def test_a_picture_that_is_not_listed_gets_a_free_id(run):
    picture("im/c/x.png")
    status, err, results, _ = run(("dog", "cat"), BOTH, SWAPPED)
    ids = {item["file_name"]: item["image_id"] for item in results}
    assert status == 0 and ids == {"im/a/1.png": 10, "im/b/1.png": 20, "im/c/x.png": 21}
    assert "1 of 3 pictures is not listed in f.json (im/c/x.png)" in err


def test_none_is_listed(run):
    images = [{"id": 1, "file_name": "other.png", "width": 64, "height": 48}]
    status, err, results, _ = run(("dog", "cat"), images, SWAPPED)
    assert status == 0 and {item["image_id"] for item in results} == {2, 3}
    assert "2 of 2 pictures are not listed in f.json" in err


def test_two_listed_pictures_fit_equally_well(run):
    images = [{"id": 1, "file_name": "x/2.png", "width": 64, "height": 48},
              {"id": 2, "file_name": "y/2.png", "width": 64, "height": 48}]  # fmt: skip
    picture("im/2.png")
    status, err, results, _ = run(("dog", "cat"), images, SWAPPED)
    assert status == 2 and not results and "im/2.png may be x/2.png or y/2.png of f.json" in err


def test_two_copies_of_one_listed_picture(run):
    images = [{"id": 1, "file_name": "1.png", "width": 64, "height": 48}]
    status, err, results, _ = run(("dog", "cat"), images, SWAPPED)
    assert status == 2 and not results and "im/a/1.png and im/b/1.png may both be 1.png of f.json" in err


def test_another_picture_of_that_name(run):
    picture("im/a/1.png", 32, 40)
    status, err, results, _ = run(("dog", "cat"), BOTH, SWAPPED)
    assert status == 0 and "1 picture is of another size than f.json lists" in err and "im/a/1.png" in err
    assert {tuple(item["segmentation"]["size"]) for item in results if item["image_id"] == 10} == {(40, 32)}


def test_masks_lie_as_the_annotations_do(run):
    """A picture that its EXIF turns is predicted as the file lists it: turned, or as its pixels lie."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save("im/a/1.png", exif=exif)
    _, err, results, _ = run(("dog", "cat"), BOTH, SWAPPED)
    assert {tuple(item["segmentation"]["size"]) for item in results} == {(48, 64)} and err == ""
    turned = [{**BOTH[0], "width": 48, "height": 64}, BOTH[1]]
    _, err, results, _ = run(("dog", "cat"), turned, SWAPPED)
    assert {tuple(item["segmentation"]["size"]) for item in results if item["image_id"] == 10} == {(64, 48)}
    assert err == ""


def test_numbers_in_names_that_are_not_all_different(run, monkeypatch, capsys, tmp_path):
    model = Fake(2)
    monkeypatch.setattr(network, "load", lambda *_, **__: model)
    monkeypatch.setattr("sys.argv", ["predict", "im/**/*.png", "--weights", "w", "--image-size", "64", "--out", "out"])
    with pytest.raises(SystemExit):
        entry.run(command.main)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {item["image_id"] for item in results} == {1, 2}
    assert "image ids count from 1" in capsys.readouterr().err


def test_a_full_picture_is_said(run):
    status, err, results, _ = run(("dog", "cat"), BOTH, SWAPPED, "--detections", "2")
    assert status == 0 and len(results) == 4
    assert "a picture has 2 objects, which is the limit" in err and "--detections" in err
