"""A few Triton kernels compiled for sm_90 without a GPU, within the budget of the Triton that is installed.

scripts/aot_triton.py does them all.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]
COMPARE = """
import json, sys
sys.path.insert(0, "scripts")
from aot_triton import COMPILER, compare
kernel = {"registers": 40, "spills": 0, "shared": 512, "load128": 1, "store128": 0, "red128": 0, "tensor": 0, "bulk": 0}
table = lambda **change: {"kernel": {"sm_90": {**kernel, **change}}}
budgets = {"3.6": table(registers=80), "3.10": table(registers=20)}
print(json.dumps([
    compare(table(), budgets, "3.6"),  # its own
    compare(table(), budgets, "3.10"),
    compare(table(), budgets, "3.99"),  # without one: registers are its own business,
    compare(table(spills=1, load128=0), budgets, "3.99"),  # spills and lost instructions are not
    compare({"kernel": {"sm_120": {**kernel, "shared": 120_000}}}, {"3.6": {"kernel": {"sm_120": kernel}}}, "3.99"),
    compare({"new": table()["kernel"]}, budgets, "3.6"),
    [one for spills in (2, 3) for one in compare(table(spills=spills), {"3.6": table(spills=2)}, "3.6")],
]))
"""


def test_each_version_has_a_budget_of_its_own():
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPARE], cwd=ROOT, env=environment, capture_output=True, text=True)
    own, tighter, unknown, worse, memory, new, spilled = json.loads(done.stdout)
    assert own == unknown == [] and len(tighter) == 1 and "registers 40, the budget is 20" in tighter[0]
    assert len(worse) == 2 and "1 spill instructions" in worse[0] and "lost its load128" in worse[1]
    assert len(memory) == 1 and "120000 bytes of shared memory, of 101376" in memory[0]
    assert len(new) == 1 and "no budget" in new[0]
    assert len(spilled) == 1 and "3 spill instructions, the budget is 2" in spilled[0]


@pytest.mark.slow
def test_kernels_are_within_budget():
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [
        sys.executable,
        "scripts/aot_triton.py",
        "--arch",
        "90",
        "--only",
        "7, semantic",
        "gather<bf16, 7>",
        "walk",
    ]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and "5 kernels within budget" in result.stdout, result.stdout + result.stderr


def test_kernels_assign_one_tuple_at_a_time():
    """Triton 3.6, of torch 2.11, fails on `(a, b), c = …` with a TypeError; the newer ones take it."""
    files = sorted((ROOT / "htc_fast" / "ops" / "triton").glob("*.py"))
    nested = [
        f"{path.name}:{node.lineno}"
        for path in files
        for function in ast.parse(path.read_text()).body
        if isinstance(function, ast.FunctionDef) and any("jit" in ast.unparse(one) for one in function.decorator_list)
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple)
        if any(isinstance(one, ast.Tuple) for one in node.targets[0].elts)
    ]
    assert len(files) > 10 and not nested
