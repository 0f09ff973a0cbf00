"""Compile every CUDA kernel for sm_80, sm_90, sm_100 and sm_120; hold registers, spills and shared memory to a budget.

    python scripts/aot_check.py             print the table, compare it with tests/budget.json
    python scripts/aot_check.py --update    write what was found as the new budget (registers rounded up to the 8 in
                                            which a GPU hands them out)

A spill always fails. 128-bit loads and stores, vector reductions and tensor-core instructions are counted in the
machine code where cuobjdump is at hand (CUDA's, or the one in Triton's wheel).
"""

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUDGET = ROOT / "tests" / "budget.json"
CACHE = ROOT / "build" / "aot"
ARCHITECTURES = ("80", "90", "100", "120")
FLAGS = ["-std=c++20", "-O3", "--fmad=false", "--expt-relaxed-constexpr", "-DNDEBUG"]
INSTRUCTIONS = {
    "load128": r"\bLDG(?:STS)?\.E\S*\.128",
    "store128": r"\bSTG\.E\.128",
    "red128": r"\bRED\S*\.128|\bREDG?\S*F32x4",
    "tensor": r"\b(HGMMA|HMMA|UTCHMMA|UTCMMA)\b",
    "bulk": r"\bUTMALDG\b",
}


@dataclass
class Kernel:
    """What one kernel needs on one architecture. shared: bytes, without what is asked for at launch."""

    registers: int
    spills: int
    stack: int
    shared: int
    load128: int = 0
    store128: int = 0
    red128: int = 0
    tensor: int = 0
    bulk: int = 0


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")


def find_cuobjdump() -> str | None:
    found = shutil.which("cuobjdump")
    spec = importlib.util.find_spec("triton")
    if found is None and spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        found = str(bundled) if bundled.exists() else None
    return found


def readable(symbol: str) -> str:
    """_ZN3htc4cuda...roi_align_gatherINS0_4bf16ELi8EEEv... -> roi_align_gather<bf16, 8>"""
    name = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout.strip()
    name = re.sub(r"\((?:int|bool)\)|htc::cuda::(?:_GLOBAL__N_\w+::|\(anonymous namespace\)::)?", "", name)
    return re.sub(r"^void ", "", name).split("(")[0]


def parse_ptxas(log: str) -> dict[str, Kernel]:
    """The -Xptxas -v report, by symbol."""
    kernels = {}
    for block in log.split("Compiling entry function '")[1:]:
        stack, stores, loads = map(
            int,
            re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", block).groups(),
        )
        shared = re.search(r"(\d+) bytes smem", block)
        registers = int(re.search(r"Used (\d+) registers", block).group(1))
        kernels[block.split("'")[0]] = Kernel(registers, stores + loads, stack, int(shared.group(1)) if shared else 0)
    return kernels


def count_instructions(kernels: dict[str, Kernel], machine_code: str) -> None:
    for block in re.split(r"\n\s*Function : ", machine_code)[1:]:
        kernel = kernels.get(block.split("\n", 1)[0].strip())
        if kernel is not None:
            for name, pattern in INSTRUCTIONS.items():
                setattr(kernel, name, len(re.findall(pattern, block)))


def compile_source(nvcc: str, cuobjdump: str | None, source: Path, architecture: str) -> dict[str, dict]:
    """The kernels of one file for one architecture, from the cache where nothing changed."""
    command = [
        nvcc,
        *FLAGS,
        f"-I{ROOT / 'csrc'}",
        "-gencode",
        f"arch=compute_{architecture},code=sm_{architecture}",
        "-Xptxas",
        "-v",
        "-cubin",
        str(source),
    ]
    headers = sorted([*(ROOT / "csrc").rglob("*.h"), *(ROOT / "csrc").rglob("*.cuh")])
    digest = hashlib.sha256(" ".join(command).encode() + str(cuobjdump).encode() + Path(__file__).read_bytes())
    for path in [source, *headers]:
        digest.update(path.read_bytes())
    target = CACHE / f"{source.stem}-{architecture}-{digest.hexdigest()[:16]}"
    if not target.with_suffix(".json").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        result = subprocess.run([*command, "-o", str(target.with_suffix(".cubin"))], capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{source.name} does not compile for sm_{architecture}:\n{result.stderr[:4000]}")
        kernels = parse_ptxas(result.stderr)
        if cuobjdump:
            dump = subprocess.run(
                [cuobjdump, "-sass", str(target.with_suffix(".cubin"))], capture_output=True, text=True
            )
            count_instructions(kernels, dump.stdout)
        named = {readable(symbol): asdict(kernel) for symbol, kernel in kernels.items()}
        target.with_suffix(".json").write_text(json.dumps(named))
    return json.loads(target.with_suffix(".json").read_text())


def measure(architectures: tuple[str, ...] = ARCHITECTURES) -> dict[str, dict[str, dict]]:
    """kernel -> architecture -> what it needs"""
    nvcc, cuobjdump = find_nvcc(), find_cuobjdump()
    if nvcc is None:
        raise SystemExit("no nvcc: set CUDACXX or CUDA_HOME, or put it on PATH")
    jobs = [(s, a) for s in sorted((ROOT / "csrc" / "cuda").glob("*.cu")) for a in architectures]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda job: compile_source(nvcc, cuobjdump, *job), jobs))
    table: dict[str, dict[str, dict]] = {}
    for (_, architecture), kernels in zip(jobs, results):
        for name, kernel in kernels.items():
            table.setdefault(name, {})[f"sm_{architecture}"] = kernel
    return dict(sorted(table.items()))


def compare(
    table: dict, budget: dict, architectures: tuple[str, ...] = ARCHITECTURES, machine_code: bool = True
) -> list[str]:
    """What breaks the budget, one sentence each."""
    wrong = [f"{name} is in the budget and no longer in csrc/cuda" for name in budget if name not in table]
    for name, found in table.items():
        if name not in budget:
            wrong.append(f"{name} has no budget: run scripts/aot_check.py --update and look at the change")
            continue
        for architecture in (f"sm_{a}" for a in architectures):
            kernel, limit = found[architecture], budget[name].get(architecture)
            if limit is None:
                wrong.append(f"{name} has no budget on {architecture}: run scripts/aot_check.py --update")
                continue
            if kernel["spills"]:
                wrong.append(f"{name} spills {kernel['spills']} bytes on {architecture}")
            for what in ("registers", "stack", "shared"):
                if kernel[what] > limit[what]:
                    wrong.append(f"{name} on {architecture}: {what} {kernel[what]}, the budget is {limit[what]}")
            for what in INSTRUCTIONS if machine_code else ():
                if limit.get(what) and not kernel[what]:
                    wrong.append(f"{name} on {architecture} has lost its {what} instructions")
    return wrong


def print_table(table: dict) -> None:
    columns = [*Kernel.__dataclass_fields__]
    print(f"{'kernel':42} {'':7}" + "".join(f"{c:>10}" for c in columns))
    for name, found in table.items():
        for architecture, kernel in found.items():
            print(f"{name:42} {architecture:7}" + "".join(f"{kernel[c]:>10}" for c in columns))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write tests/budget.json")
    arguments = parser.parse_args()
    table = measure()
    print_table(table)
    if arguments.update:
        budget = {
            name: {a: {**kernel, "registers": -(-kernel["registers"] // 8) * 8} for a, kernel in found.items()}
            for name, found in table.items()
        }
        lines = [
            f"  {json.dumps(n)}: {{\n"
            + ",\n".join(f"    {json.dumps(a)}: {json.dumps(k)}" for a, k in f.items())
            + "\n  }"
            for n, f in budget.items()
        ]
        BUDGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    wrong = compare(table, json.loads(BUDGET.read_text()), machine_code=find_cuobjdump() is not None)
    print("\n".join(wrong) if wrong else f"{len(table)} kernels within budget")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
