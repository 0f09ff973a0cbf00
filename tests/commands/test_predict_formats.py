"""`predict --format`: what it writes for other tools, and what it never replaces."""

import csv
import json
import os

import numpy as np
import pytest
import yaml
from PIL import Image, TiffImagePlugin

from htc_fast import ops
from htc_fast import predict as command
from htc_fast.commands import entry, network
from htc_fast.commands.exports import FILES, Exports
from htc_fast.commands.output import Table
from htc_fast.errors import UserError
from tests.inference.fake import Fake

NAMES = "12.jpg", 'a "quoted", né.png', "12.png"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for number, name in enumerate(NAMES):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys, folder):
    """Run the command in a folder with pictures in in/, with a fake model; returns exit status, stdout and stderr."""
    monkeypatch.setattr(network, "load", lambda *_, **__: Fake())
    monkeypatch.chdir(folder)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["predict", *map(str, arguments), "--weights", "w", "--image-size", "64"])
        with pytest.raises(SystemExit) as end:
            entry.run(command.main)
        return end.value.code, *capsys.readouterr()

    return run


def written(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_every_format_at_once(folder, run):
    status, out, _ = run("in", "--format", *FILES, "--out", "out", "--no-overlays")
    assert status == 0 and "3 pictures, 6 instances: out" in out
    stems = ["12", "12-2", NAMES[1][:-4]]
    files = [place.format(stem) for each in FILES.values() for place in each for stem in stems]
    links = [f"{place}/{name}" for place in ("images", "labelme") for name in ("12.jpg", "12-2.png", NAMES[1])]
    assert written(folder / "out") == sorted({*files, *links})


def test_labelme_finds_its_picture(folder, run):
    (folder / "disk").mkdir()
    (folder / "out").symlink_to(folder / "disk", target_is_directory=True)
    assert run("in", "--format", "labelme", "--out", "out", "--no-overlays")[0] == 0
    assert not (folder / "out" / "results.json").exists()
    for stem, name in (("12", "12.jpg"), ("12-2", "12.png"), (NAMES[1][:-4], NAMES[1])):
        content = json.loads((folder / "out" / "labelme" / f"{stem}.json").read_text())
        assert os.path.samefile(folder / "out" / "labelme" / content["imagePath"], folder / "in" / name)
        assert content["imagePath"] == f"{stem}{name[-4:]}", "labelme opens the folder by itself"
        assert [one["label"] for one in content["shapes"]] == ["class 2", "class 1"]
    assert content["shapes"][0]["points"] == [[16, 12], [48, 12], [48, 36], [16, 36]]


def test_yolo_is_a_data_set(folder, run):
    assert run("in", "--format", "yolo", "--out", "out", "--no-overlays", "--score", 0.5)[0] == 0
    assert yaml.safe_load((folder / "out" / "data.yaml").read_text()) == {
        "train": "images",
        "val": "images",
        "names": {0: "class 1", 1: "class 2", 2: "class 3"},
    }
    for image in (folder / "out" / "images").iterdir():
        assert image.is_symlink() and Image.open(image).size == (64, 48)
        text = (folder / "out" / "labels" / f"{image.stem}.txt").read_text()
        assert text == "1 0.250000 0.250000 0.750000 0.250000 0.750000 0.750000 0.250000 0.750000\n"
    (folder / "nothing").mkdir()
    assert run("in", "--format", "yolo", "--out", "nothing", "--no-overlays", "--score", 1)[0] == 0
    assert (folder / "nothing" / "labels" / "12.txt").read_text() == "", "a picture without objects has an empty file"


def test_a_table_of_all_pictures(folder, run):
    assert run("in", "--format", "csv", "geojson", "--out", "out", "--no-overlays")[0] == 0
    with open(folder / "out" / "objects.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"in/{name}" for name in sorted(NAMES) for _ in range(2)]
    assert list(rows[0].values()) == [
        "in/12.jpg", "class 2", "1", "0.9", "768", "32.0", "24.0", "16.0", "12.0", "48.0", "36.0", "1.0",
    ]  # fmt: skip
    (feature, _) = json.loads((folder / "out" / "geojson" / "12.geojson").read_text())["features"]
    assert feature["geometry"]["coordinates"] == [[[16, 12], [48, 12], [48, 36], [16, 36], [16, 12]]]


def test_geojson_of_a_geotiff_is_on_its_map(folder, run):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[33550], tags[33922] = (0.5, 0.5, 0.0), (0.0, 0.0, 0.0, 1000.0, 9000.0, 0.0)
    tags[34735] = (1, 1, 0, 1, 3072, 0, 1, 32633)
    Image.new("RGB", (64, 48)).save(folder / "field.tif", tiffinfo=tags)
    assert run("field.tif", "--format", "geojson", "--out", "out", "--no-overlays")[0] == 0
    found = json.loads((folder / "out" / "geojson" / "field.geojson").read_text())
    assert found["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    corners = [[1008, 8994], [1008, 8982], [1024, 8982], [1024, 8994], [1008, 8994]]
    assert found["features"][0]["geometry"]["coordinates"] == [corners]


def test_what_may_be_corrected_is_never_replaced(folder, run):
    assert run("in", "--format", *FILES, "--out", "out", "--no-overlays")[0] == 0
    before = {name: (folder / "out" / name).read_bytes() for name in written(folder / "out")}
    for one, file in (("labelme", "labelme/12.json"), ("yolo", "labels/12.txt"), ("geojson", "geojson/12.geojson")):
        status, _, err = run("in", "--format", one, "--out", "out", "--no-overlays")
        assert status == 2 and f"{file} is there already, like " in err and "choose another --out" in err
    assert {name: (folder / "out" / name).read_bytes() for name in written(folder / "out")} == before
    assert run("in", "--format", "coco", "csv", "--out", "out", "--no-overlays")[0] == 0, "these are of the last run"


def test_a_data_set_of_ones_own(folder, run):
    (folder / "in").rename(folder / "images")
    assert run("images", "--format", "yolo", "--out", ".", "--no-overlays")[0] == 0
    assert not (folder / "images" / "12.jpg").is_symlink() and (folder / "labels" / "12.txt").is_file()
    for path in (folder / "labels").iterdir():
        path.unlink()
    (folder / "data.yaml").unlink()
    (folder / "other").mkdir()
    Image.new("RGB", (64, 48)).save(folder / "other" / "12.jpg")
    status, _, err = run("other", "--format", "yolo", "--out", ".", "--no-overlays")
    assert status == 2 and "images/12.jpg is there already, and may be somebody's work" in err
    assert not (folder / "data.yaml").exists()


def test_masks_without_a_pixel_are_told(folder, run, monkeypatch):
    class Blank(Fake):
        def detect(self, images, image_sizes):
            found = super().detect(images, image_sizes)
            found.masks[:, 1] = 0
            return found

    monkeypatch.setattr(network, "load", lambda *_, **__: Blank())
    _, out, _ = run("in", "--format", "labelme", "yolo", "csv", "--out", "out", "--no-overlays")
    assert "3 pictures, 6 instances (3 of them, without a pixel, have no outline): out" in out
    assert len((folder / "out" / "labels" / "12.txt").read_text().splitlines()) == 1
    assert len((folder / "out" / "objects.csv").read_text().splitlines()) == 7


def test_fewer_corners(folder, run):
    assert run("in/12.jpg", "--format", "labelme", "--out", "out", "--tolerance", "1.5", "--no-overlays")[0] == 0
    (_, second) = json.loads((folder / "out" / "labelme" / "12.json").read_text())["shapes"]
    mask = ops.decode(ops.rasterize([[np.ravel(second["points"]).tolist()]], (48, 64)))[0]
    assert mask[:11, :31].all() and not mask[14:].any() and len(second["points"]) == 4


def test_names_of_formats_and_pictures_behind_them(folder, run):
    status, out, _ = run("--format", "csv", "coco", "in/12.jpg", "--out", "out", "--no-overlays")
    assert status == 0 and "1 pictures" in out and written(folder / "out") == ["objects.csv", "results.json"]
    for wrong, sentence in (
        (["in", "--format", "lableme"], "did you mean labelme"),
        (["in", "--format", "voc"], "unknown --format 'voc': "),
        (["in", "--format", "yolo", "--tolerance", "-1"], "--tolerance takes a finite number of at least 0"),
    ):
        status, out, err = run(*wrong, "--out", "out")
        assert status == 2 and sentence in err and len(err.splitlines()) == 1, err
    run_ = command.PredictionRun(weights="w", pictures=("a.jpg",), format="csv")
    assert run_.format == ("csv",) and command.PredictionRun(weights="w", pictures=("a",)).format == ("coco",)


def test_an_error_leaves_no_half_table(tmp_path):
    with pytest.raises(RuntimeError), Table(tmp_path / "a.csv", ("x", "y")) as table:
        table.add([{"x": 1, "y": None}])
        raise RuntimeError("power is out")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), Table(tmp_path / "a.csv", ("x", "y")) as table:
        table.add([{"x": 1, "y": None}, {"x": "a\nb", "y": "=1"}, {"x": "\udcff", "y": "é"}])
        raise KeyboardInterrupt
    assert (tmp_path / "a.csv").read_bytes() == b'x,y\n1,\n"a\nb",=1\n\xff,\xc3\xa9\n'
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_second_file_that_cannot_be_opened_leaves_no_first(tmp_path):
    (tmp_path / "objects.csv.partial").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*objects\.csv"), Exports(("coco", "csv"), tmp_path, [], []):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["objects.csv.partial"]


def test_where_links_cannot_be_made_it_is_said(folder, run, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    status, _, err = run("in", "--format", "yolo", "labelme", "--out", "elsewhere", "--no-overlays")
    assert (
        status == 0 and "elsewhere/images cannot hold links (Operation not permitted): copy the pictures there" in err
    )
    assert (folder / "elsewhere" / "labels" / "12.txt").is_file()
    content = json.loads((folder / "elsewhere" / "labelme" / "12.json").read_text())
    assert content["imagePath"] == "../../in/12.jpg"
