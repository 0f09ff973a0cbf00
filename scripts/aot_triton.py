"""Compile every Triton kernel, as it is really launched, for sm_80, sm_90, sm_100 and sm_120; hold it to a budget.

    python scripts/aot_triton.py                      print the table, compare it with tests/budget_triton.json
    python scripts/aot_triton.py --update             write what was found as the new budget
    python scripts/aot_triton.py --arch 90 --only nms  part of it

Needs Triton, no GPU: the launchers run on tensors without data and what they launch is recorded. A spill fails, unless
the budget has it: Triton 3.6 has some, on other architectures than sm_90, and on sm_100 the kernel that keeps weights
in shared memory. The budget has a part for every version of Triton that it was written with; a version without one is
held to the newest part's instructions and spills.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict

os.environ.pop("TRITON_INTERPRET", None)
import torch
import triton
from aot_cases import cases, record, runs_on, shared_of
from aot_check import ARCHITECTURES, INSTRUCTIONS, ROOT, Kernel, find_cuobjdump, print_table
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

BUDGET = ROOT / "tests" / "budget_triton.json"
POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
}
COMPILER = ".".join(triton.__version__.split(".")[:2])


def source_of(kernel, arguments: tuple, options: dict) -> tuple[ASTSource, dict]:
    """What Triton's launcher makes of these arguments: types, alignments, ones turned into constants."""
    bound = dict(zip(kernel.arg_names, arguments))
    constants = {(kernel.arg_names.index(name),): value for name, value in options.items() if name in kernel.arg_names}
    attributes: dict[tuple, list] = {}
    general = {(i,) for i, parameter in enumerate(kernel.params) if parameter.do_not_specialize}

    def describe(value, path: tuple):
        if isinstance(value, tuple):
            return tuple(describe(one, (*path, i)) for i, one in enumerate(value))
        special = path not in general
        if isinstance(value, TensorDescriptor):
            return f"tensordesc<{POINTERS[value.base.dtype][1:]}{list(value.block_shape)}>"
        if isinstance(value, Tensor) or (special and isinstance(value, int) and value % 16 == 0):
            attributes[path] = [["tt.divisibility", 16]]
        if isinstance(value, Tensor):
            return POINTERS[value.dtype]
        if isinstance(value, float):
            return "fp32"
        if value == 1 and special:
            constants[path] = 1
            return "constexpr"
        return "i32" if -(2**31) <= value < 2**31 else "i64"

    signature = {
        name: describe(bound[name], (i,)) if name in bound else "constexpr" for i, name in enumerate(kernel.arg_names)
    }
    rest = {name: value for name, value in options.items() if name not in kernel.arg_names}
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes), rest


def compile_case(name: str, architecture: str) -> dict:
    record(architecture)
    source, options = source_of(*cases()[name])
    compiled = triton.compile(
        source, target=GPUTarget("cuda", int(architecture), 32), options={"enable_fp_fusion": False, **options}
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([find_cuobjdump(), flag, file.name], capture_output=True, text=True).stdout
            for flag in ("-res-usage", "-sass")
        )
    kernel = Kernel(
        registers=int(re.search(r"REG:(\d+)", usage).group(1)),
        spills=len(re.findall(r"\b(?:STL|LDL)\b", code)),
        stack=int(re.search(r"STACK:(\d+)", usage).group(1)),
        shared=compiled.metadata.shared,
        **{what: len(re.findall(pattern, code)) for what, pattern in INSTRUCTIONS.items()},
    )
    return asdict(kernel)


def measure(architectures: tuple[str, ...], only: list[str]) -> dict[str, dict[str, dict]]:
    """kernel -> architecture -> what it needs"""
    record(architectures[0])
    jobs = [
        (name, a) for name in cases() if any(part in name for part in only) for a in architectures if runs_on(name, a)
    ]
    table: dict[str, dict[str, dict]] = {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for (name, architecture), needs in zip(jobs, pool.map(compile_case, *zip(*jobs))):
            table.setdefault(name, {})[f"sm_{architecture}"] = needs
    return table


def compare(table: dict, budgets: dict, compiler: str = COMPILER) -> list[str]:
    """What breaks the budget, one sentence each. Registers are held for the Triton they were measured with."""
    wrong, same_compiler = [], compiler in budgets
    budget = budgets[compiler if same_compiler else max(budgets, key=version)]
    for name, found in table.items():
        for architecture, kernel in found.items():
            limit = budget.get(name, {}).get(architecture)
            if limit is None:
                wrong.append(f"{name} on {architecture} has no budget: run scripts/aot_triton.py --update")
                continue
            spills, allowed = kernel["spills"], limit["spills"]  # whatever the compiler
            if spills > allowed:
                wrong.append(f"{name} on {architecture} has {spills} spill instructions, the budget is {allowed}")
            most = shared_of(name, architecture[3:])
            if kernel["shared"] > most:
                wrong.append(f"{name} on {architecture} needs {kernel['shared']} bytes of shared memory, of {most}")
            for what in ("registers", "shared"):
                if kernel[what] > limit[what] * 1.125 and same_compiler:
                    wrong.append(f"{name} on {architecture}: {what} {kernel[what]}, the budget is {limit[what]}")
            wrong += [
                f"{name} on {architecture} has lost its {what} instructions"
                for what in INSTRUCTIONS
                if limit.get(what) and not kernel[what]
            ]
    return wrong


def version(name: str) -> tuple[int, ...]:
    return tuple(map(int, name.split(".")))


def written(budgets: dict) -> str:
    """As JSON, a line for each kernel on an architecture."""
    text = json.dumps({one: dict(sorted(budgets[one].items())) for one in sorted(budgets, key=version)}, indent=1)
    return re.sub(r"{\s+(\"registers\"[^}]*?)\s+}", lambda found: "{" + " ".join(found[1].split()) + "}", text) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write tests/budget_triton.json")
    parser.add_argument("--arch", nargs="+", default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of kernels' names")
    arguments = parser.parse_args()
    budgets = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    table = measure(tuple(arguments.arch), arguments.only)
    print_table(table)
    if arguments.update:
        whole = arguments.only == [""] and set(arguments.arch) == set(ARCHITECTURES)
        budget = budgets[COMPILER] = {} if whole else budgets.get(COMPILER, {})
        for name, found in table.items():
            budget.setdefault(name, {}).update(found)
        BUDGET.write_text(written(budgets))
    wrong = compare(table, budgets)
    print("\n".join(wrong) if wrong else f"{len(table)} kernels within budget (Triton {COMPILER})")
    return 1 if wrong else 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # an interpreter that ends with Triton loaded was seen to crash, its verdict printed
