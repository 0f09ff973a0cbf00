"""`python -m htc_fast.predict`: what is found, what is written, and how it ends."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from htc_fast import predict as command
from htc_fast.commands import entry, network
from htc_fast.commands.pictures import find_pictures
from htc_fast.errors import UserError
from tests.data.builder import CATEGORIES, image, write
from tests.inference.fake import Fake


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("000000000012.jpg", "000000000007.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run the command with a fake model; returns exit status, stdout and stderr."""
    monkeypatch.setattr(network, "load", lambda *_, **__: Fake())

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["predict", *map(str, arguments), "--weights", "w", "--image-size", "64"])
        with pytest.raises(SystemExit) as end:
            entry.run(command.main)
        return end.value.code, *capsys.readouterr()

    return run


def test_a_folder(folder, run):
    status, out, _ = run(folder, "--out", folder / "out")
    assert status == 0 and "2 pictures, 4 instances" in out
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "000000000007.jpg",
        "000000000012.jpg",
        "results.json",
    ]
    results = json.loads((folder / "out" / "results.json").read_text())
    assert [item["image_id"] for item in results] == [7, 7, 12, 12] and results[0]["category_id"] == 2
    assert results[0]["bbox"] == pytest.approx([16, 12, 32, 24]) and results[0]["segmentation"]["size"] == [48, 64]
    assert Image.open(folder / "out" / "000000000007.jpg").size == (64, 48)


def test_files_globs_and_doubles(folder, run):
    path = folder / "000000000007.png"
    status, out, _ = run(path, path, str(folder / "*7.png"), "--out", folder / "out", "--score", 0.5, "--no-overlays")
    assert status == 0 and "1 pictures, 1 instances" in out
    assert [item.name for item in (folder / "out").iterdir()] == ["results.json"]


def test_ids_and_categories_from_annotations(folder, run, tmp_path_factory):
    content = {"images": [image(500, name="000000000007.png"), image(501, name="000000000012.jpg")]}
    root = write(tmp_path_factory.mktemp("data"), {**content, "categories": CATEGORIES}, pictures=False)
    annotations = root / "annotations" / "instances_val2017.json"
    assert run(folder, "--out", folder / "out", "--annotations", annotations)[0] == 0
    results = json.loads((folder / "out" / "results.json").read_text())
    assert {item["image_id"] for item in results} == {500, 501} and {item["category_id"] for item in results} == {3, 7}
    annotations.write_text(json.dumps({**content, "categories": CATEGORIES[:2]}))
    status, _, err = run(folder, "--out", folder / "out", "--annotations", annotations)
    assert status == 2 and "has 3 classes" in err


def test_bad_pictures_are_reported_and_skipped(folder, run):
    (folder / "bad.jpg").write_bytes((folder / "000000000012.jpg").read_bytes()[:500])
    status, out, err = run(
        folder, folder / "gone.jpg", folder / "notes.txt", "--out", folder / "out", "--batch-size", 2
    )
    assert status == 1 and "2 pictures, 3 skipped" in out
    assert err.count("skipped: ") == 3 and "bad.jpg cannot be read" in err and "gone.jpg is missing" in err
    assert (folder / "out" / "000000000007.jpg").is_file() and (folder / "out" / "results.json").is_file()


def test_links_that_lead_nowhere_are_reported(folder, run):
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    status, said, err = run(folder, "--out", folder / "out")
    assert status == 1 and "gone.jpg is missing" in err and "2 pictures, 1 skipped, 4 instances" in said


def test_without_overlays_results_may_lie_among_the_pictures(folder, run):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(folder, "--out", folder, "--no-overlays")[0] == 0
    assert {path.name for path in folder.iterdir()} == {*before, "results.json"}
    assert all((folder / name).read_bytes() == content for name, content in before.items())


def test_no_file_that_is_there_already_is_lost(folder, run):
    (folder / "000000000007.jpg").write_bytes(b"another picture")  # which is not predicted
    (folder / "results.json").write_text('{"images": [], "categories": [], "annotations": []}')
    status, _, err = run(folder / "000000000007.png", "--out", folder)
    assert status == 2 and "000000000007.jpg would replace a picture: choose another --out" in err
    status, _, err = run(folder, "--out", folder, "--no-overlays", "--annotations", folder / "results.json")
    assert status == 2 and "results.json would replace the annotation file itself" in err
    assert (folder / "000000000007.jpg").read_bytes() == b"another picture"


def test_folders_without_rights(folder, monkeypatch, capsys):
    (folder / "shut").mkdir()

    def without(look):
        def call(place="."):
            if "shut" in os.fspath(place):
                raise PermissionError(13, "Permission denied", os.fspath(place))
            return look(place)

        return call

    monkeypatch.setattr(os, "scandir", without(os.scandir))
    monkeypatch.setattr(os, "listdir", without(os.listdir))
    found = find_pictures([f"{folder}/**/*.png"])
    assert [path.name for path in found] == ["000000000007.png"]
    assert re.search(r"1 folder that .* cannot be read \(.*shut: Permission denied\)", capsys.readouterr().err)
    with pytest.raises(UserError, match=r"shut cannot be read \(Permission denied\): check its rights"):
        find_pictures([str(folder / "shut")])


def test_same_stems_do_not_collide(folder, run):
    (folder / "000000000007.png").rename(folder / "000000000012.png")
    assert run(folder, "--out", folder / "out")[0] == 0
    assert {path.name for path in (folder / "out").glob("*.jpg")} == {"000000000012.jpg", "000000000012-2.jpg"}
    results = json.loads((folder / "out" / "results.json").read_text())
    assert {item["image_id"] for item in results} == {1, 2} and len({item["file_name"] for item in results}) == 2


ERRORS = {
    "nothing": ([], "no pictures to predict"),
    "empty folder": (["{empty}"], "holds no pictures"),
    "glob without match": (["{folder}/*.gif"], "nothing matches"),
    "overlay on the picture": (["{folder}", "--out", "{folder}"], "would replace a picture"),
    "score": (["{folder}", "--score", "3"], "from 0 to 1"),
    "image size": (
        ["{folder}", "--image-size", "9", "--out", "{folder}/out"],
        "takes a whole number from 32 to 65536, got 9",
    ),
    "out is a file": (["{folder}", "--out", "{folder}/notes.txt"], "cannot write"),
    "stage": (["{folder}", "--stage", "4", "--out", "{folder}/out"], "there is no stage 4: fake has stages 1 to 3"),
    "font": (["{folder}", "--font", "{folder}/notes.txt", "--out", "{folder}/out"], "notes.txt cannot be used"),
    "unknown option": (["{folder}", "--scoer", "1"], "did you mean --score"),
}


@pytest.mark.parametrize("arguments, sentence", ERRORS.values(), ids=ERRORS)
def test_errors(folder, monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr(network, "load", lambda *_, **__: Fake())
    (folder / "empty").mkdir()
    places = {"folder": str(folder), "empty": str(folder / "empty")}
    monkeypatch.setattr("sys.argv", ["predict", "--weights", "w", *(text.format(**places) for text in arguments)])
    with pytest.raises(SystemExit) as end:
        entry.run(command.main)
    err = capsys.readouterr().err
    assert end.value.code == 2 and sentence in err and "Traceback" not in err
