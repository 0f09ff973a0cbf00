"""`python -m htc_fast.export`: a file that detects the same without our models, compiled or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from htc_fast import UserError
from htc_fast.export import ExportRun, export, how_to_run
from htc_fast.inference.onnx import OnnxDetector
from htc_fast.models import zoo
from htc_fast.training.checkpoint import weights_bytes
from tests.models.test_zoo import TINY, tiny

# Runs where only the operators are imported.
PROGRAM = """
import sys, torch, htc_fast.ops
path, kind, out = sys.argv[1:]
load = torch._inductor.aoti_load_package if kind == "aot" else lambda path: torch.export.load(path).module()
torch.manual_seed(5)
found = load(path)(torch.randn(1, 3, 64, 96), torch.tensor([[60, 90]]))
assert not [name for name in sys.modules if name.startswith(("htc_fast.models", "htc_fast.inference", "timm"))]
torch.save(found, out)
"""


# Every part of HTC in two stages instead of three, compiled without optimization: AOTInductor takes half as long.
TWO_STAGES = {"match_iou": (0.5, 0.6), "loss_weight": (1.0, 0.5), "delta_std": ((0.1,) * 4, (0.05,) * 4)}
ENVIRONMENT = {**os.environ, "TORCHINDUCTOR_DEBUG_COMPILE": "1"}


def run(*arguments):
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_another_library_s_file_says_how_many_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(zoo.MODELS, "mask_rcnn_r50", zoo.config("mask_rcnn_r50", **{**TINY, "num_classes": 80}))
    torch.save({"state_dict": tiny("mask_rcnn_r50", num_classes=7).state_dict()}, tmp_path / "seven.ckpt")
    run = {"model": "mask_rcnn_r50", "image_size": (64, 96), "device": "cpu"}
    export(ExportRun(weights=tmp_path / "seven.ckpt", out=tmp_path / "seven.pt2", **run))
    assert "images [1, 3, 64, 96]" in capsys.readouterr().out
    extra = {"htc_fast.json": ""}
    found = torch.export.load(tmp_path / "seven.pt2", extra_files=extra).module()
    assert json.loads(extra["htc_fast.json"])["class_names"] == [f"class {number}" for number in range(1, 8)]
    labels = found(torch.randn(1, 3, 64, 96), torch.tensor([[64, 96]]))["labels"]
    assert 0 <= labels.max() < 7


def test_one_command_writes_a_file_for_each_size(tmp_path, capsys):
    weights = tmp_path / "tiny.safetensors"
    weights.write_bytes(weights_bytes(tiny("mask_rcnn_r50").eval()))
    sizes = {"image_size": (64, 96, 96, 64), "out": tmp_path / "of" / "two.onnx", "device": "cpu"}
    export(ExportRun(weights=weights, uint8_input=True, **sizes))
    said = capsys.readouterr().out
    assert said.count("of the detector's") == 2 and "MB" in said and "onnxruntime.InferenceSession" in said
    assert "images [1, 64, 96, 3]\n" in said and "images [1, 96, 64, 3]\n" in said
    files = sorted((tmp_path / "of").iterdir())
    assert [one.name for one in files] == ["two-64x96.onnx", "two-96x64.onnx"]
    assert [OnnxDetector(one).frame for one in files] == [(1, 64, 96), (1, 96, 64)]


@pytest.mark.parametrize("sizes", [(64, 96, 64, 96), (60, 90, 128, 128, 64, 96)])
def test_one_frame_is_written_once(sizes):
    with pytest.raises(UserError, match=r"--image-size 6\d 9\d and 64 96 are one frame, of sides that 32 divides"):
        ExportRun(weights="x", image_size=sizes)


def test_how_to_run_is_python_whatever_the_name():
    first, second, _ = how_to_run(Path('a "b".onnx')).splitlines()
    assert first == "import onnxruntime" and second.endswith(r'InferenceSession("a \"b\".onnx")')


def test_the_name_says_the_format():
    kinds = [ExportRun(weights="x", **given) for given in ({}, {"out": "a.onnx"}, {"format": "onnx"})]
    assert [(one.format, str(one.out)) for one in kinds] == [
        ("pt2", "model.pt2"),
        ("onnx", "a.onnx"),
        ("onnx", "model.onnx"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["program", "aot"])
def test_the_file_detects_what_the_detector_does(kind, tmp_path):
    model = tiny("htc_r50", class_names=("cat", "dog", "owl"), **TWO_STAGES).eval()
    weights, out = tmp_path / "tiny.safetensors", tmp_path / "new" / "tiny.pt2"
    weights.write_bytes(weights_bytes(model))
    options = ["--weights", weights, "--image-size", 64, 96, "--out", out, "--device", "cpu"]
    said = run("-m", "htc_fast.export", *options, *(["--aot"] if kind == "aot" else []))
    assert "images [1, 3, 64, 96]" in said and "import torch, htc_fast.ops" in said
    run("-c", PROGRAM, out, kind, tmp_path / "found.pt")
    found = torch.load(tmp_path / "found.pt")
    torch.manual_seed(5)
    want = vars(model.detect(torch.randn(1, 3, 64, 96), torch.tensor([[60, 90]])))
    assert found.keys() == want.keys() and want["count"].item() > 0
    for name, value in want.items():
        assert not found[name].requires_grad
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3)
    if kind == "aot":
        notes = json.loads(out.with_suffix(".json").read_text())
    else:
        extra = {"htc_fast.json": ""}
        torch.export.load(out, extra_files=extra)
        notes = json.loads(extra["htc_fast.json"])
    assert notes["class_names"] == ["cat", "dog", "owl"] and len(notes["mean"]) == 3
