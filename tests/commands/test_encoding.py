"""Terminals of any encoding: no name and no sign of ours ends a command."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from htc_fast import evaluate, export, info, predict
from htc_fast.commands import entry, network
from htc_fast.errors import say_once
from tests.data.builder import image, instance, write
from tests.inference.fake import Fake

NAMES = ("B\u00e4r", "\u043a\u043e\u0442", "\u732b \u00d7")
ENCODINGS = ("ascii", "cp1252", "cp437", "utf-8")


@pytest.fixture
def terminal(monkeypatch):
    """Run a command with a terminal of an encoding; returns status and the text of stdout and stderr."""

    def run(main, encoding, *words):
        streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
        monkeypatch.setattr("sys.argv", ["command", *map(str, words)])
        with monkeypatch.context() as patch:
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            with pytest.raises(SystemExit) as end:
                entry.run(main)
            for stream in streams.values():
                stream.flush()
        return end.value.code, *(stream.buffer.getvalue().decode(encoding) for stream in streams.values())

    return run


@pytest.fixture
def model(monkeypatch):
    say_once.cache_clear()
    made = Fake()
    made.config = replace(made.config, class_names=NAMES)
    monkeypatch.setattr(network, "load", lambda *_, **__: made)
    return made


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_evaluate(tmp_path, terminal, model, encoding):
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES[:2])]
    annotations = [instance(1, 1, 16, 12, 32, 24)]
    content = {"images": [image(1, name="\u00e4.png")], "annotations": annotations, "categories": categories}
    words = ("--data", write(tmp_path / "data" / "\u00e4", content), "--out", tmp_path / "out")
    status, out, err = terminal(evaluate.main, encoding, *words, "--weights", "w", "--image-size", "64")
    assert status == 0, err
    shown = {name: name.encode(encoding, "backslashreplace").decode(encoding) for name in NAMES}
    assert all(f"\n{name}" in out for name in shown.values()) and shown[NAMES[2]] in err
    per_class = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["ensemble"]["per_class"]
    assert tuple(per_class) == NAMES and per_class[NAMES[1]]["box_AP"] == pytest.approx(1)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are text")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_predict_files_whose_names_are_no_text(tmp_path, monkeypatch, terminal, model, encoding):
    monkeypatch.chdir(tmp_path)
    names = ["\udcff.png", "\u00e4.png", "\udce4\u732b-broken.png"]
    for name in names[:2]:
        with open(name, "wb") as file:
            Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save(file, format="PNG")
    Path(names[2]).write_bytes(b"no picture")
    words = ("*.png", "--weights", "w", "--image-size", "64", "--out", "out\udcff\u00d7")
    status, out, err = terminal(predict.main, encoding, *words)
    assert status == 1 and "2 pictures, 1 skipped, 4 instances" in out and "-broken.png cannot be read" in err
    results = json.loads(Path("out\udcff\u00d7", "results.json").read_text(encoding="utf-8"))
    assert {item["file_name"] for item in results} == set(names[:2])


@pytest.mark.parametrize("main", [evaluate.main, predict.main, export.main, info.main])
def test_help_and_wrong_names(terminal, main):
    status, out, _ = terminal(main, "ascii", "--help")
    assert status == 0 and "usage:" in out
    status, _, err = terminal(main, "ascii", "--w\u00e4ights", "\u732b")
    assert status == 2 and err.startswith("error: ") and "Traceback" not in err


def test_a_system_that_cannot_say_a_name(terminal, monkeypatch):
    def main():
        "\u00e4.png".encode("ascii")

    status, _, err = terminal(main, "ascii")
    assert status == 2 and "encoding, ascii, cannot say '\\xe4.png'" in err and "PYTHONUTF8=1" in err
    assert entry.about_encoding("\u00e4.png is missing") == ""
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert "PYTHONUTF8=1" in entry.about_encoding("\u00e4.png is missing")
    assert entry.about_encoding("a.png is missing") == ""
