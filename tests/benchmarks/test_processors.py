"""The benchmark of one processor used as processors of lower classes are."""

import argparse
import json
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import deploy, processor, processors
from benchmarks.tables.processors import processors_of
from htc_fast.device import native_instructions, processor_class, supports
from htc_fast.errors import UserError
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
        "rounds": 2,
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
    assert "2 rounds of them; each number is its fastest round's. Measured limits: avx2: 10 copy GB/s, 50 float" in text
    assert text.endswith("openvino 2026.4")


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
    with pytest.raises(UserError, match="this processor, neon, can be restricted to: native; got avx2"):
        processors.here(["avx2"])


def test_classes_that_are_not_measured_again_stay():
    def result(*classes, rounds=2):
        return {"rounds": rounds, "classes": [{"class": name, "when": when} for name, when in classes]}

    before = {**result(("avx2", 1), ("avx512", 1), ("amx", 1)), "machine": {"date": "yesterday"}}
    found = processors.with_others(result(("avx512", 2)), before)
    assert [(one["class"], one["when"]) for one in found["classes"]] == [("avx2", 1), ("avx512", 2), ("amx", 1)]
    assert "machine" not in found
    alone = result(("avx512", 2), rounds=3)
    assert processors.with_others(alone, before) == alone and processors.with_others(alone, {"rows": []}) == alone


def test_a_limit_is_a_sum_over_calls():
    need = Need(3e9, 2e9, [(1e9, 0.0), (2e9, 2e9)])
    top = Limits(1e9, {"float32": 1e9, "bfloat16": 4e9, "int8": 8e9})
    assert processors.limit_of({"FPN": need}, top, "float32") == {"FPN": 3000.0}
    assert processors.limit_of({"FPN": need}, top, "bfloat16") == {"FPN": 1250.0}
    assert processors.limit_of({"FPN": need}, top, "int8") == {"FPN": 625.0}


def test_rows_take_turns_and_each_number_is_its_fastest_round_s(monkeypatch):
    """Rounds outside, rows inside; limits before, between and after, and the highest counts."""
    copies, waits, turns = iter([1e9, 3e9, 2e9]), iter([4.0, 7.0, 3.0, 9.0, 2.0, 8.0]), []

    def ask(call, environment):
        turns.append(call.partition("(")[0])
        if turns[-1] == "about":
            rates = {"copy": next(copies), "float32": 1e9}
            return {"class": "avx2", "types": ["float32"], "limits": rates}
        step = {"case": "htc_r50", "mode": "train", "dtype": "float32", "rounds": [{"FPN": next(waits)}]}
        return {"rows": [("torchvision", "float32", [next(waits)])], "step": {**step, "needs": {"FPN": {}}}}

    def apart(case, runtime, dtype, options, last, environment):
        turns.append(runtime)
        assert last and environment == processors.ENVIRONMENTS["avx2"]
        return {"seconds": [next(waits)], "parts": {"FPN": 5.0 + len(turns)}}

    monkeypatch.setattr(processors, "ask", ask)
    monkeypatch.setattr(deploy, "apart", apart)
    monkeypatch.setattr(processors, "RIVALS", (("openvino", "float32"), ("onnxruntime", "float32")))
    monkeypatch.setattr(processors, "OURS", (("eager", "float32"), ("optimized", "bfloat16")))
    options = argparse.Namespace(rounds=2, tiny=True, threads=1)
    case = SimpleNamespace(size=(64, 96))
    found = processors.one_class("avx2", case, {"FPN": Need(6e9, 6e9, [(0.0, 6e9)])}, {"onnx": "no exporter"}, options)
    assert turns == ["about", "eager", "measured", "about"] + ["eager", "measured", "about"]
    assert found["limits"]["copy GB/s"] == 3.0 and found["limit ms"]["float32"] == {"FPN": 2000.0}
    rows = {row["runtime"]: row for row in found["rows"]}
    assert rows["eager"]["milliseconds"]["median"] == 4000 and rows["eager"]["parts"] == {"FPN": 7.0}
    assert rows["torchvision"]["milliseconds"]["median"] == 3000 and rows["openvino"]["failed"] == "no exporter"
    assert found["train"]["ms"] == 2000


@pytest.mark.skipif(not supports(torch.int8, torch.device("cpu")), reason="the processor multiplies no 8 bits")
def test_the_limit_in_8_bits_is_measured(monkeypatch):
    taken = []
    monkeypatch.setattr(processor.limits, "least", lambda call, device: taken.append(call()) or 0.5)
    assert processor.int8_product((4, 8)) == 2 * 9 * 256**2 * 4 * 8 / 0.5
    assert taken[0].shape == (1, 256, 4, 8) and taken[0].dtype == torch.uint8
    monkeypatch.setattr(processor.limits, "measure", lambda device: Limits(3.0, {"float32": 4.0, "bfloat16": 5.0}))
    found = processor.about(tiny=False, threads=torch.get_num_threads())
    assert found["limits"]["copy"] == 3.0 and found["limits"]["int8"] > 0 and "int8" in found["types"]


@pytest.mark.slow
def test_a_class_is_measured_in_an_environment_of_its_own(tmp_path, monkeypatch):
    pytest.importorskip("imgviz")
    asked = processors.here(["avx2", "native"])[:1]
    monkeypatch.setattr(processors, "OURS", (("optimized", "float32"),))
    monkeypatch.setattr(processors, "RIVALS", ())
    words = ["--tiny", "--threads", "1", "--rounds", "1", "--budget", "0", "--out", str(tmp_path), "--classes", *asked]
    monkeypatch.setattr(sys, "argv", ["processors", *words])
    assert processors.main() == 0
    result = json.loads((tmp_path / "processors.json").read_text())
    own = processor_class(native_instructions())
    assert [one["class"] for one in result["classes"]] == [own if asked == ["native"] else "avx2"]
    (one,) = result["classes"]
    (row,) = one["rows"]
    assert (row["runtime"], row["dtype"]) == ("optimized", "float32") and row["milliseconds"]["median"] > 0
    assert {"backbone", "FPN", "RPN head"} <= set(row["parts"])
    assert one["limit ms"]["float32"]["backbone"] > 0 and one["train"]["parts"]["backward"]["ms"] > 0
    assert "training step" in processors_of(result)


def test_what_compiles_takes_the_weights():
    assert deploy.file_of("compiled", "float32") == "safetensors" and deploy.file_of("openvino", "float32") == "onnx"
