"""Ahead of time: every CUDA kernel compiles for all architectures and stays within tests/budget.json."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("aot_check", ROOT / "scripts" / "aot_check.py")
aot_check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(aot_check)

SMALL = {"registers": 40, "spills": 0, "stack": 0, "shared": 0, "load128": 1, "store128": 0, "red128": 0, "tensor": 0}


def table(**change) -> dict:
    return {"kernel": {f"sm_{a}": {**SMALL, **change} for a in aot_check.ARCHITECTURES}}


@pytest.mark.parametrize(
    "change, said",
    [
        ({}, None),
        ({"spills": 8}, "spills 8"),
        ({"registers": 41}, "registers 41"),
        ({"load128": 0}, "lost its load128"),
        ({"shared": 4}, "shared 4"),
    ],
)
def test_what_breaks_a_budget(change, said):
    wrong = aot_check.compare(table(**change), table())
    assert len(wrong) == (3 if said else 0) and all(said in line for line in wrong)


def test_unknown_and_vanished_kernels_are_told():
    wrong = aot_check.compare({"new": table()["kernel"]}, {"old": table()["kernel"]})
    assert any("old" in line for line in wrong) and any("new has no budget" in line for line in wrong)


@pytest.mark.slow
@pytest.mark.skipif(aot_check.find_nvcc() is None, reason="needs nvcc")
def test_kernels_stay_within_budget():
    found = aot_check.measure()
    budget = json.loads(aot_check.BUDGET.read_text())
    assert aot_check.compare(found, budget, machine_code=aot_check.find_cuobjdump() is not None) == []
