"""The benchmark of one processor used as processors of lower classes are."""

import json
import sys

import pytest

from benchmarks import deploy, processors
from benchmarks.tables.processors import processors_of
from htc_fast.device import native_instructions, processor_class
from htc_fast.profiling.limits import Limits
from htc_fast.profiling.meters import Need


def stored(name="avx2", **more):
    def row(runtime, dtype, median, **parts):
        times = {"milliseconds": {"median": median, "spread": 1.0}}
        return {"runtime": runtime, "dtype": dtype, **times, "parts": parts}

    part = {"ms": 40.0, "gflop": 1.0, "mb": 1.0, "limit_ms": 20.0, "share": 0.5}
    idle = {"ms": 0.0, "gflop": 0.0, "mb": 0.0, "limit_ms": 0.0, "share": None}
    step = {"dtype": "float32", "ms": 50.0, "share": 0.4, "images_per_second": 20.0}
    rows = [
        row("eager", "float32", 200.0, backbone=150.0, FPN=50.0),
        row("optimized", "float32", 100.0, backbone=80.0, FPN=20.0),
        row("openvino", "float32", 90.0, backbone=60.0, FPN=30.0),
        row("compiled", "float32", 95.0, backbone=70.0, FPN=25.0),
        {**row("torchvision, Mask R-CNN", "float32", 120.0)},
        {"runtime": "openvino", "dtype": "bfloat16", "failed": "no such type"},
    ]
    one = {
        "class": name,
        "limits": {"copy GB/s": 10.0, "float32 GFLOP/s": 50.0},
        "limit ms": {"float32": {"backbone": 40.0, "FPN": 10.0}},
        "rows": rows,
        "train": {**step, "parts": {"backbone": part, "backward": part, "data": idle}},
    }
    about = {
        "machine": {"device": "amd", "date": "2026-01-01"},
        "size": [800, 1333],
        "packages": {"openvino": "2026.4"},
    }
    return {**about, "classes": [{**one, **more}]}


def test_each_part_stands_beside_its_limit_and_its_best_rival():
    text = processors_of(stored())
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert ["backbone", "150", "80", "60 (OpenVINO)", "40", "50%"] in lines
    assert ["FPN", "50", "20", "25 (torch.compile)", "10", "50%"] in lines
    assert ["whole", "200", "100", "90 (OpenVINO)", "50", "50%"] in lines
    assert ["backbone", "40 (50%)"] in lines and ["data", "–"] in lines and ["images/s", "20"] in lines
    assert "OpenVINO, bf16 as avx2: no such type" in text
    assert "avx2: 10 copy GB/s, 50 float32 GFLOP/s" in text and text.endswith("openvino 2026.4")


def test_a_class_without_our_row_has_no_table_of_that_type():
    result = stored(rows=[{"runtime": "optimized", "dtype": "float32", "failed": "no memory"}])
    text = processors_of(result)
    assert "best rival" not in text and "`optimize()`, fp32 as avx2: no memory" in text


def test_only_lower_classes_are_taken_on(monkeypatch):
    amx = {"avx2", "avx_vnni", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"}
    monkeypatch.setattr(processors, "native_instructions", lambda: frozenset(amx))
    assert processors.here([*processors.USUAL]) == ["avx2", "avx512", "avx512-bf16", "native"]
    monkeypatch.setattr(processors, "native_instructions", lambda: frozenset({"avx2", "avx512_f"}))
    assert processors.here([*processors.USUAL]) == ["avx2", "native"]
    monkeypatch.setattr(processors, "native_instructions", lambda: frozenset({"neon"}))
    assert processors.here([*processors.USUAL]) == ["native"]


def test_a_limit_is_a_sum_over_calls():
    need = Need(3e9, 2e9, [(1e9, 0.0), (2e9, 2e9)])
    top = Limits(1e9, {"float32": 1e9, "bfloat16": 4e9})
    assert processors.limit_of({"FPN": need}, top, "float32") == {"FPN": 3000.0}
    assert processors.limit_of({"FPN": need}, top, "bfloat16") == {"FPN": 1250.0}


@pytest.mark.slow
def test_a_class_is_measured_in_an_environment_of_its_own(tmp_path, monkeypatch):
    for package in ("imgviz", "onnxruntime"):
        pytest.importorskip(package)
    lower = processors.here(["avx2"])
    monkeypatch.setattr(processors, "RIVALS", (("onnxruntime", "float32"),))
    words = ["--tiny", "--threads", "1", "--budget", "0", "--out", str(tmp_path), "--classes", *lower, "native"]
    monkeypatch.setattr(sys, "argv", ["processors", *words])
    assert processors.main() == 0
    result = json.loads((tmp_path / "processors.json").read_text())
    assert [one["class"] for one in result["classes"]] == [*lower, processor_class(native_instructions())]
    for one in result["classes"]:
        found = {(row["runtime"], row["dtype"]): row for row in one["rows"]}
        assert ("onnxruntime", "float32") in found or not one["native"]
        assert not [row for row in one["rows"] if "failed" in row]
        assert {"backbone", "FPN", "RPN head"} <= set(found["optimized", "float32"]["parts"])
        assert one["limit ms"]["float32"]["backbone"] > 0 and one["train"]["parts"]["backward"]["ms"] > 0
    assert "training step" in processors_of(result)


def test_what_compiles_takes_the_weights():
    assert deploy.file_of("compiled", "float32") == "safetensors" and deploy.file_of("openvino", "float32") == "onnx"
