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
    assert len(wrong) == (len(aot_check.ARCHITECTURES) if said else 0) and all(said in line for line in wrong)


def test_unknown_and_vanished_kernels_are_told():
    wrong = aot_check.compare({"new": table()["kernel"]}, {"old": table()["kernel"]})
    assert any("old" in line for line in wrong) and any("new has no budget" in line for line in wrong)


def test_an_architecture_without_a_budget_is_told():
    budget = {"kernel": {"sm_80": SMALL}}
    wrong = aot_check.compare(table(), budget)
    assert len(wrong) == len(aot_check.ARCHITECTURES) - 1 and "no budget on sm_90" in wrong[0]


def test_triton_kernels_have_a_budget_for_the_oldest_torch_s_compiler_and_the_newest():
    budgets = json.loads((ROOT / "tests" / "budget_triton.json").read_text())
    newest = max(budgets, key=lambda name: [int(part) for part in name.split(".")])
    assert "3.6" in budgets and newest != "3.6"  # torch 2.11's Triton, and the one it was last looked at with
    assert budgets["3.6"].keys() == budgets[newest].keys() and len(budgets[newest]) > 100
    everywhere = {f"sm_{one}" for one in aot_check.ARCHITECTURES}
    resident = "predict_class_resident_kernel", "product_resident_kernel", "merge_boxes_kernel"
    missing = {"tma_kernel": {"sm_80"}, **{name: {"sm_80", "sm_100", "sm_120"} for name in resident}}
    for compiler, kernels in budgets.items():
        # 3.6 spills registers, up to 126 instructions of a kernel, on other architectures, and of none on this one.
        strict = {"sm_90"} if compiler == "3.6" else everywhere
        for name, found in kernels.items():
            assert found.keys() == everywhere - missing.get(name.split("<")[0], set()), name
            assert not any(found[architecture]["spills"] for architecture in strict & found.keys()), name
            assert all(kernel["spills"] < 128 for kernel in found.values()), name


@pytest.mark.slow
@pytest.mark.skipif(aot_check.find_nvcc() is None, reason="needs nvcc")
def test_kernels_stay_within_budget():
    found = aot_check.measure()
    budget = json.loads(aot_check.BUDGET.read_text())
    assert aot_check.compare(found, budget, machine_code=aot_check.find_cuobjdump() is not None) == []
