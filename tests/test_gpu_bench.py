"""The GPU's benchmarks, rehearsed on the CPU: what they store becomes the README's tables."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_ops
from benchmarks.gpu_timing import Table
from htc_fast.profiling import limits

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("bench_tables", ROOT / "scripts" / "bench_tables.py")
bench_tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench_tables)


def raises(table, setting):
    raise RuntimeError("a benchmark that breaks")


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_what_is_stored_becomes_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "device_name", lambda *_: "nvidia-h200")
    monkeypatch.setattr(gpu_ops, "SUITES", (raises, gpu_ops.bench_pr_roi_pool, gpu_ops.bench_masks))
    table = Table()
    gpu_ops.run_all(table, gpu_ops.Setting(dry=True), tmp_path)
    assert table.failed == 1  # and the rest was measured
    monkeypatch.setattr(bench_tables, "RESULTS", tmp_path)
    text = bench_tables.operators(("masks",))
    assert "| paste, 2 masks at 160×224 |" in text and "nvidia-h200" in text and "On a GPU: not measured" not in text
    assert "| backward to the boxes, 20 RoIs to 7×7, bfloat16 |" in bench_tables.operators(("pr_roi_pool",))


def test_ratios_compare_like_with_like(tmp_path, monkeypatch):
    times = {"torchvision": {"call": 300.0, "spread": 1.0, "device": None}, "htc_fast, atomic": {"error": "broken"},
             "htc_fast": {"call": 30.0, "spread": 1.0, "device": 10.0},
             "htc_fast, Triton": {"call": 50.0, "spread": 1.0, "device": 20.0}}  # fmt: skip
    row = {"case": "some", "dtype": "float32", "limit": 5.0, "times": times}
    about = {"machine": {"device": "nvidia-h200", "date": "today"}, "limits": {}, "unit": "microseconds"}
    (tmp_path / "nvidia-h200").mkdir()
    (tmp_path / "nvidia-h200" / "nms.json").write_text(json.dumps({**about, "rows": [row]}))
    monkeypatch.setattr(bench_tables, "RESULTS", tmp_path)
    line = next(line for line in bench_tables.operators(("nms",)).splitlines() if "some" in line)
    assert line == ("| some | 10.0 | 50% | htc_fast, atomic: failed; htc_fast, Triton: 20.0; torchvision: 300.0* "
                    "| –; 2.0×; 10.0×* |")  # fmt: skip
