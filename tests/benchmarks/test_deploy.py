"""The benchmark of what a detector can be deployed as."""

import json
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch

from benchmarks import deploy, runtimes
from benchmarks.tables.deploy import deploy_of
from htc_fast.inference.onnx import compare

ORT = pytest.importorskip("onnxruntime")
OPTIONS = Namespace(threads=1, budget=0.0, rounds=1)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    pytest.importorskip("imgviz")
    return deploy.Case((64, 96), tmp_path_factory.mktemp("files"), tiny=True)


@pytest.mark.slow
def test_every_runtime_is_compared_and_timed(tmp_path, monkeypatch, capsys):
    names = ["eager", "optimized", "pt2", "onnxruntime", "openvino"]
    words = ["--tiny", "--rounds", "1", "--budget", "0", "--threads", "1", "--out", str(tmp_path), "--runtimes", *names]
    monkeypatch.setattr(sys, "argv", ["deploy", *words])
    assert deploy.main() == 0 and "onnxruntime int8 64x96" in capsys.readouterr().out
    result = json.loads((tmp_path / "deploy.json").read_text())
    rows = {(row["runtime"], row["dtype"]): row for row in result["rows"]}
    assert not [row["failed"] for row in result["rows"] if "failed" in row]
    assert all(row["milliseconds"]["median"] > 0 and row["MB on disk"] > 0.1 for row in result["rows"])
    exact = [row for (_, dtype), row in rows.items() if dtype == "float32"]
    assert len(exact) == len(names) and all(row["twins"] == row["of"] == 8 for row in exact)
    # No PyTorch in a runtime's process.
    assert rows["onnxruntime", "float32"]["peak MB"] < rows["eager", "float32"]["peak MB"] / 2
    wanted = {"backbone", "FPN", "RPN head", "box stage 1", "mask stage 3"}
    assert all(wanted <= set(rows[name, "float32"]["parts"]) for name in ("optimized", "onnxruntime", "openvino"))
    text = deploy_of(result)
    assert "64×96, 1 threads" in text and "| ONNX Runtime, int8" in text and "Faster than `optimize()`" in text


def test_what_is_wrong_is_not_timed(case, monkeypatch, capsys):
    assert case.prepare(["safetensors"]) == {}
    wrong = compare.Comparison(1, 8, 0, 0, 0.0, 0.0, 0.0, compare.FULL)
    monkeypatch.setattr(deploy, "agreement", lambda case, dtype: wrong)
    run = deploy.apart(case, "eager", "float32", OPTIONS, last=False)
    assert run["failed"].startswith("not what the model finds: none of the detector's 8 detections")


def test_a_file_that_cannot_be_run_leaves_its_reason(case, capsys):
    case.path("onnx").write_bytes(b"no model")
    run = deploy.apart(case, "onnxruntime", "float32", OPTIONS, last=False)
    case.path("onnx").unlink()
    assert list(run) == ["failed"] and "failed" in run["failed"]
    row = deploy.summed(case, "onnxruntime", "float32", [run])
    shown = {"machine": {"device": "amd", "date": "2026-01-01"}, "threads": 2, "packages": {}, "rows": [row]}
    assert "| ONNX Runtime, fp32 | failed" in deploy_of(shown) and f"fp32: {run['failed']}" in deploy_of(shown)


def test_a_file_that_cannot_be_made_leaves_its_reason(case, monkeypatch, capsys):
    def breaks(*words, **more):
        raise ValueError("no such operator\nand a trace")

    monkeypatch.setattr(deploy, "export_onnx", breaks)
    assert case.prepare(["onnx"]) == {"onnx": "ValueError: no such operator"} and not case.path("onnx").exists()


def test_the_classifiers_speak_as_trained_ones(case):
    scores, logits = case.want.scores, {}
    for number, head in enumerate(case.model.box_heads):
        head.classes.register_forward_hook(lambda _, __, out, number=number: logits.update({number: out}))
    with torch.no_grad():
        case.model.detect(*case.inputs)
    assert scores.max() - scores.min() > 0.1
    for one in logits.values():
        flat = one.flatten(0, -2)
        assert flat[:, :-1].mean().abs() < 0.5 and 2 < flat[:, :-1].std() < 8 and flat[:, -1].mean() > 6


def test_nodes_go_with_their_part():
    where = {"relu_5": "FPN", "backbone/Conv": "backbone", "out": "semantic"}
    taken = [("copy", 1.0), ("backbone/Conv", 2.0), ("reorder", 3.0), ("relu_5_nchwc", 4.0), ("FPN/Conv 7", 5.0)]
    assert runtimes.by_part(taken, where) == {"input": 1.0, "backbone": 5.0, "FPN": 9.0}


def test_calls_of_all_rounds_count(case):
    case.path("safetensors").write_bytes(b"x" * 2_000_000)
    runs = [
        {"seconds": [1.0, 3.0], "seconds to load": 1.0, "peak MB": 10.4, "twins": 8, "of": 8},
        {"seconds": [2.0], "seconds to load": 3.0, "peak MB": 20.4, "twins": 7, "of": 8, "parts": {"FPN": 1.234}},
    ]
    row = deploy.summed(case, "eager", "float32", runs)
    case.path("safetensors").unlink()
    assert row["milliseconds"] == {"median": 2000.0, "spread": 1000.0} and row["seconds to load"] == 2.0
    assert (row["peak MB"], row["twins"], row["MB on disk"], row["parts"]) == (20, 7, 2.0, {"FPN": 1.23})


def test_a_faster_part_elsewhere_is_said():
    def row(runtime: str, dtype: str, **parts: float) -> dict:
        about = {"size": [480, 640], "runtime": runtime, "dtype": dtype, "twins": 98, "of": 100, "MB on disk": 321.0}
        times = {"milliseconds": {"median": 10.0, "spread": 1.0}, "seconds to load": 1.25, "peak MB": 900}
        return {**about, **times, "parts": {name.replace("_", " "): value for name, value in parts.items()}}

    ours = row("optimized", "float32", backbone=100.0, FPN=20.0, box_stage_1=30.0, box_stage_2=30.0, detections=2.0)
    theirs = row("openvino", "float32", backbone=80.0, FPN=19.0, box_stage_1=10.0, box_stage_2=90.0, input=1.0)
    half = row("openvino", "bfloat16", backbone=1.0)
    shown = {"machine": {"device": "amd", "date": "2026-01-01"}, "threads": 2, "packages": {"openvino": "2026.4"}}
    text = deploy_of({**shown, "rows": [ours, theirs, half]})
    assert (
        "Faster than `optimize()` in the same type, by more than 10%, of parts that take it more than 1 ms: "
        "OpenVINO, fp32 at 480×640: backbone 80 (ours 100)." in text
    )
    words = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert words[words.index("480×640, ms") + 2 :] == ["backbone", "FPN", "box stages", "detections", "rest"]
    assert "98 of 100" in text and text.endswith("openvino 2026.4")


def test_arrays_keep_their_fields():
    found = {name: torch.zeros(1, 2) for name in runtimes.FIELDS}
    arrays = runtimes.as_arrays(found)
    assert set(arrays) == set(runtimes.FIELDS) and all(isinstance(one, np.ndarray) for one in arrays.values())
