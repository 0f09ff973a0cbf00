"""Every file of examples/ runs, small, in a folder where train.py has left what the others use."""

import runpy
import sys
from pathlib import Path

import pytest
import torchvision

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
INTEGRATION = "operators_in_torchvision"
SAYS = {
    "predict": "1 pictures drawn: runs/example/found",
    "evaluate": "ensemble: box AP 0.",
    "export": "'masks': [1, 100, 28, 28]",
    INTEGRATION: "2 poolings replaced",
}
LEAVES = {"predict": "found/000001.png", "export": "model.pt2"}


def run(name, folder, patch):
    patch.chdir(folder)
    patch.setattr(sys, "argv", [f"{name}.py", "--small"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        run("train", folder, patch)
    return folder


def test_every_example_is_run_and_short():
    found = {path.stem: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert set(found) == {"train", *SAYS} and max(found.values()) <= 40


def test_train(folder):
    for name in ("model.safetensors", "losses.csv", "predictions.png"):
        assert (folder / "runs" / "example" / name).stat().st_size > 100


SLOW = ("export", "operators_in_torchvision")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in SAYS]
)
def test_runs(name, folder, monkeypatch, capsys):
    # One of the examples puts ours in its place.
    monkeypatch.setattr(torchvision.ops.boxes, "batched_nms", torchvision.ops.boxes.batched_nms)
    run(name, folder, monkeypatch)
    assert SAYS[name] in capsys.readouterr().out
    assert name not in LEAVES or (folder / "runs" / "example" / LEAVES[name]).stat().st_size > 1000
