"""The benchmark of large pictures: what it makes, stores and says."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import large_pictures, mosaics
from benchmarks.tables.large_pictures import large_pictures_of
from htc_fast import ops
from htc_fast.data import CocoDataset
from htc_fast.data.masks import to_rles
from htc_fast.errors import UserError

MACHINE = {"device": "a CPU", "date": "2026-01-02", "torch": "2.11.0"}


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["large_pictures", *map(str, words)])
    return large_pictures.main()


def in_this_process(monkeypatch):
    monkeypatch.setattr(large_pictures, "apart", lambda part, words: large_pictures.PARTS[part](**words))


def test_large_pictures_in_a_table():
    rows = [
        {"part": "reading", "case": "PNG, by bands", "side": 20000, "s": 14.53, "MB": 90},
        {"part": "predicting", "case": "PNG, no overlay", "side": 20000, "tile": 1024, "s": 306.4, "core s": 305.7},
        {"part": "ap", "case": "each picture alone", "pictures": 48, "box_AP": 0.3931, "mask_AP": 0.3448, "s": 20.0},
    ]
    rows[1] |= {"MB": 1140, "instances": 1686}
    text = large_pictures_of({"machine": MACHINE, "rows": rows})
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert lines[0] == ["reading", "s", "MB above the imports"]
    assert lines[1] == ["PNG, by bands: 20000 × 20000 pixels", "14.5", "90"]
    assert lines[2] == ["`predict --tile 1024`", "s", "s of a core", "peak MB", "instances"]
    assert lines[3] == ["PNG, no overlay: 20000 × 20000 pixels", "306", "306", "1140", "1686"]
    assert lines[4] == ["48 held-out pictures", "box AP", "mask AP"]
    assert lines[5] == ["each picture alone", "39.3", "34.5"] and text.endswith("a CPU, 2026-01-02, torch 2.11.0")
    assert "box AP" not in large_pictures_of({"machine": MACHINE, "rows": rows[:2]})


def test_the_large_picture_is_the_same_in_both_formats_and_by_bands(tmp_path):
    pytest.importorskip("tifffile")
    paths = [tmp_path / "a.png", tmp_path / "a.tif"]
    mosaics.write_large(paths, 700)
    first, second = (np.asarray(Image.open(path)) for path in paths)
    assert first.shape == (700, 700, 3) and np.array_equal(first, second)
    assert np.array_equal(first[:256], np.asarray(next(mosaics.rows(700)))[:, :700])
    for path in paths:
        banded = list(large_pictures.bands(str(path), whole=False, tile=256))
        assert len(banded) == 4 and np.array_equal(np.concatenate(banded), first)


def test_objects_lie_where_their_pictures_do(tmp_path):
    mosaics.make_mosaics(tmp_path, 18)
    whole, alone = CocoDataset(tmp_path, "val", semantic="none"), mosaics.held_out()
    assert [whole.image(index).shape for index in range(len(whole))] == [(1280, 1280, 3)] * 2
    pixels, one = whole.image(1), alone.image(17)  # the second picture of the second mosaic
    assert np.array_equal(pixels[: one.shape[0], 320 : 320 + one.shape[1]], one) and not pixels[320:].any()
    found = [item for item in whole.picture(1).annotations if item.box[0] >= 320]
    items = alone.picture(17).annotations
    assert len(found) == len(items) > 0
    for moved, item in zip(found, items):
        assert moved.label == item.label and tuple(moved.box) == pytest.approx(tuple(np.add(item.box, [320, 0] * 2)))
        (here,), (there,) = to_rles([moved.segmentation], 1280, 1280), to_rles([item.segmentation], *one.shape[:2])
        assert ops.rle_area([here]).tolist() == ops.rle_area([there]).tolist() and ops.rle_to_box([here])[0, 0] >= 320


def test_rows_that_are_known_stay_where_one_fails(tmp_path, monkeypatch, capsys):
    rows = [("reading", case, {}) for case in ("a", "b", "c")]
    found = iter([{"s": 1.0, "check": 7}, "failed with status -9", {"s": 2.0, "check": 7}])
    monkeypatch.setattr(large_pictures, "tasks", lambda *_: iter(rows))
    monkeypatch.setattr(large_pictures, "apart", lambda *_: next(found))
    assert run(monkeypatch, "--only", "reading", "--out", tmp_path) == 1
    stored = json.loads((tmp_path / "large_pictures.json").read_text())["rows"]
    assert stored == [{"part": "reading", "case": one, "s": s} for one, s in (("a", 1.0), ("c", 2.0))]
    assert "reading: b: failed with status -9" in capsys.readouterr().err


def test_pixels_that_differ_are_no_result(tmp_path, monkeypatch):
    found = iter([{"check": 7}, {"check": 8}])
    monkeypatch.setattr(large_pictures, "tasks", lambda *_: iter([("reading", "a", {}), ("reading", "b", {})]))
    monkeypatch.setattr(large_pictures, "apart", lambda *_: next(found))
    with pytest.raises(UserError, match="pixels of a and b differ"):
        run(monkeypatch, "--only", "reading", "--out", tmp_path)
    assert len(json.loads((tmp_path / "large_pictures.json").read_text())["rows"]) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "python -m htc_fast.train"),
        (["--weights", "/no/such.safetensors"], "there is no file /no/such"),
        (["--side", "100", "--only", "reading"], "--side"),
    ],
)
def test_what_cannot_be_measured_is_refused(words, sentence, monkeypatch):
    monkeypatch.setattr(large_pictures, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(UserError, match=sentence):
        run(monkeypatch, *words)


@pytest.mark.slow
def test_reading_is_measured_in_processes_of_their_own(tmp_path, monkeypatch):
    pytest.importorskip("tifffile")
    assert run(monkeypatch, "--tiny", "--side", 3000, "--only", "reading", "--out", tmp_path) == 0
    rows = {row["case"]: row for row in json.loads((tmp_path / "large_pictures.json").read_text())["rows"]}
    assert set(rows) == {f"{form}, {how}" for form in ("PNG", "TIFF") for how in ("by bands", "whole, by Pillow")}
    # The picture is 27 MB, which Pillow holds with a fourth byte each; a band of 256 rows 2.3.
    for form in ("PNG", "TIFF"):
        assert rows[f"{form}, by bands"]["MB"] < 20 < 60 < rows[f"{form}, whole, by Pillow"]["MB"]


@pytest.mark.slow
@pytest.mark.parametrize(("part", "count"), [("predicting", 6), ("ap", 4)])
def test_a_toy_predicts_and_is_scored(part, count, tmp_path, monkeypatch):
    pytest.importorskip("tifffile")
    in_this_process(monkeypatch)
    assert run(monkeypatch, "--tiny", "--side", 600, "--only", part, "--out", tmp_path) == 0
    rows = json.loads((tmp_path / "large_pictures.json").read_text())["rows"]
    assert len(rows) == count and len({row["case"] for row in rows}) == count
    assert all(row["s"] > 0 and 0 <= row.get("box_AP", 0) < 0.1 for row in rows)
