"""Every file of examples/ runs, small, in a folder where train.py has left what the others use."""

import importlib.util
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SAYS = {
    "predict": "1 pictures drawn: runs/example/found",
    "evaluate": "ensemble: box AP 0.",
    "export": "'masks': [1, 100, 28, 28]",
    "fine_tune": "person, bottle: runs/tuned/model.safetensors",
    "convert": "objects of 80 classes",
    "accelerate_torchvision": "objects as before",
    "own_detector": "boxes are left",
    "compile": "one graph for three numbers of boxes, the results as without compiling",
}
MMDETECTION = "mmdetection_without_extension"
LEAVES = {"predict": "found/000001.png", "export": "model.pt2"}


def run(name, folder, patch, *more):
    """The exit status."""
    patch.chdir(folder)
    patch.setattr(sys, "argv", [f"{name}.py", *([] if name == "evaluate" else ["--small"]), *more])
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        assert run("train", folder, patch) == 0
    return folder


def test_every_example_is_run_and_short():
    found = {path.stem: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert set(found) == {"train", MMDETECTION, *SAYS} and max(found.values()) <= 40


def test_train(folder):
    for name in ("model.safetensors", "losses.csv", "predictions.png"):
        assert (folder / "runs" / "example" / name).stat().st_size > 100


SLOW = ("export", "accelerate_torchvision")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in SAYS]
)
def test_runs(name, folder, monkeypatch, capsys):
    assert run(name, folder, monkeypatch) == 0
    assert SAYS[name] in capsys.readouterr().out
    assert name not in LEAVES or (folder / "runs" / "example" / LEAVES[name]).stat().st_size > 1000


def test_it_leaves_compiling_as_it_was(folder, monkeypatch):
    assert run("compile", folder, monkeypatch) == 0
    twice = torch.compile(lambda tensor: 2 * tensor, backend="eager")  # an error, where no more may be compiled
    assert twice(torch.tensor([1, 2])).tolist() == [2, 4]


@pytest.mark.skipif(importlib.util.find_spec("mmdet") is None, reason="scripts/integrations_check.sh runs it")
def test_mmdetection_without_its_extension(tmp_path, monkeypatch, capsys):
    assert run(MMDETECTION, tmp_path, monkeypatch) == 0
    assert "10 objects of mmdetection's HTC in " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["evaluate", "export", "predict", "train"])
def test_what_is_missing_is_a_sentence(name, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").touch()  # a file, so that nothing can be read or written there
    assert run(name, tmp_path, monkeypatch) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and "runs/example" in err


@pytest.mark.parametrize("name", ["train", MMDETECTION, *SAYS])
def test_options_that_there_are_not(name, tmp_path, monkeypatch, capsys):
    assert run(name, tmp_path, monkeypatch, "--nonsense") == 2
    assert "unrecognized arguments: --nonsense" in capsys.readouterr().err
