"""`python -m htc_fast.info`: versions, devices, what was built, which backend each operator uses, what to do next.

Works without the native library too: that is when it is needed most.
"""

import json
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from types import SimpleNamespace
from typing import Annotated, Any

import torch
from tabulate import tabulate

import htc_fast
from htc_fast import ops
from htc_fast.commands import entry
from htc_fast.commands.options import parse
from htc_fast.device import native_instructions, processor_class
from htc_fast.errors import UserError
from htc_fast.ops import _backend, _fastest, _native
from htc_fast.ops._backend import triton_installed
from htc_fast.profiling.limits import cpuinfo, version

PACKAGES = ("torchvision", "timm", "triton", "numpy", "pycocotools", "safetensors")
DRIVER = Path("/dev/nvidiactl")


def versions() -> dict[str, str | None]:
    """Of this package, Python and what it stands on; None where a package is missing."""
    own = {"htc_fast": htc_fast.__version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    return own | {name: version(name) for name in PACKAGES}


def cpu() -> str:
    """Its name, architecture and class, and the threads that operators use."""
    about = f"{cpuinfo('model name') or 'CPU'} ({platform.machine()}, class {processor_class()}"
    native = processor_class(native_instructions())
    told = "" if processor_class() == native else f" of {native}, as the environment asks"
    return f"{about}{told}), {torch.get_num_threads()} threads"


def measured() -> dict[str, str]:
    """What `optimize` takes on this processor because it measures faster."""
    found, own = _fastest.fastest(), "MKL" if torch.backends.mkl.is_available() else "torch"
    dtype = str(found.dtype).removeprefix("torch.")
    return {"dtype": dtype, "float32_products": "oneDNN" if found.onednn else own}


def gpus() -> list[dict]:
    """One row per CUDA device; built says how this build's kernels reach it: "sm_90", "PTX" or None."""
    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        it = torch.cuda.get_device_properties(index)
        memory = round(it.total_memory / 2**30, 1)
        built = reach(it.major, it.minor, architectures())
        found.append(
            {"name": it.name, "architecture": f"sm_{it.major}{it.minor}", "memory_gib": memory, "built": built}
        )
    return found


def architectures() -> list[str]:
    """What CUDA kernels were compiled for, as CMake says it: 90-real (machine code), 90-virtual (PTX), 90 (both)."""
    return list(_native.build.cuda_architectures) if _native.build is not None else []


def reach(major: int, minor: int, built: list[str]) -> str | None:
    """Machine code serves its own generation from its minor number on; PTX is compiled at load for anything newer."""
    best = None
    for one in built:
        name, _, kind = one.partition("-")
        digits = name.rstrip("af")
        has = int(digits[:-1]), int(digits[-1])
        if kind != "virtual" and has[0] == major and has[1] <= minor and (name == digits or has[1] == minor):
            return f"sm_{name}"
        if kind != "real" and name == digits and has <= (major, minor):
            best = "PTX"
    return best


def native_library() -> dict:
    """What the native library holds, or why there is none."""
    if not _native.loaded():
        return {"loaded": False, "problem": _native.problem()}
    build = _native.build
    return {
        "loaded": True,
        "compiler": build.compiler if build else None,
        "instruction_set": build.instruction_set if build else None,
        "instruction_sets": list(build.instruction_sets) if build else None,
        "cuda": (build.cuda or None) if build else None,
        "cuda_architectures": architectures(),
        "cuda_operators": sorted(name.removeprefix("htc_fast::") for name in _native.cuda_operators),
    }


def backend_of(operator: str, device: str) -> str | None:
    """The backend that an operator would use on a device; None if it has none there."""
    # There need not be such a device here.
    tensor: Any = SimpleNamespace(device=torch.device(device))
    try:
        return _backend.backend_for(operator, tensor)
    except (RuntimeError, ImportError, UserError):
        return None


def operators() -> dict[str, dict]:
    """For each operator the backend it would use per device, and all that are written."""
    names = sorted(name for name in ops.__all__ if name in _backend.available)
    return {
        name: {
            "cpu": backend_of(name, "cpu"),
            "cuda": backend_of(name, "cuda"),
            "implemented": sorted(_backend.available.get(name, {"reference"})),
        }
        for name in names
    }


def advice() -> list[str]:
    """One sentence for each thing that is missing and how to get it."""
    out, problem = [], _native.problem()
    if problem is not None:
        out.append(problem)
    elif _native.build is None:
        out.append(
            f"htc_fast._build was built for another Python than {sys.version_info[0]}.{sys.version_info[1]}: "
            f"{_native.HOW_TO_BUILD}."
        )
    missing = [name for name, version in versions().items() if version is None and name != "triton"]
    if missing:
        out.append(f"missing packages: pip install {' '.join(missing)}")
    if DRIVER.exists() and not torch.cuda.is_available():
        hint = "install a CUDA build of torch." if torch.version.cuda is None else "is the driver too old for it?"
        out.append(f"an NVIDIA driver is here, but this torch sees no GPU: {hint}")
    for row in gpus():
        if _native.has_cuda() and row["built"] is None:
            digits = row["architecture"].removeprefix("sm_")
            out.append(
                f"{row['name']} is {row['architecture']}, which the CUDA kernels were not compiled for: rebuild "
                f"with TORCH_CUDA_ARCH_LIST={digits[:-1]}.{digits[-1]}."
            )
    if gpus() and not _native.has_cuda():
        if triton_installed():
            now, then = "use Triton kernels", "for CUDA C++ install nvcc"
        else:
            now, then = "have no kernels", "pip install triton, or install nvcc"
        out.append(f"CUDA tensors {now}: {then} and rebuild with `pip install -e .`.")
    forced = os.environ.get("HTC_FAST_BACKEND")
    if forced and forced not in _backend.BACKENDS:
        out.append(f"HTC_FAST_BACKEND={forced} names no backend: unset it, or give {' or '.join(_backend.BACKENDS)}.")
    elif forced:
        out.append(f"HTC_FAST_BACKEND={forced} forces that backend for every operator: unset it to choose by device.")
    for name in ("HTC_FAST_RANGES", "HTC_FAST_AUTOTUNE"):
        if os.environ.get(name, "") not in ("", "0", "1"):
            out.append(f"{name}={os.environ[name]} has no effect: 1 turns it on, 0 or nothing off.")
    return out


def everything() -> dict:
    """All that this module knows, ready for JSON."""
    return {
        "versions": versions(),
        "cpu": cpu(),
        "processor_class": processor_class(),
        "measured": measured(),
        "gpus": gpus(),
        "torch_cuda": torch.version.cuda,
        "native": native_library(),
        "operators": operators(),
        "advice": advice(),
    }


def text(found: dict) -> str:
    """All of it for reading.

    found  as of `everything`
    """
    taken = "optimize() takes {dtype}, in float32 {float32_products}'s products".format_map(found["measured"])
    devices = [["cpu", found["cpu"]], ["", f"measured: {taken}"]]
    for index, row in enumerate(found["gpus"]):
        how = f"built kernels: {row['built'] or 'none for it'}"
        devices.append([f"cuda:{index}", f"{row['name']}, {row['architecture']}, {row['memory_gib']} GiB, {how}"])
    if not found["gpus"]:
        cuda = found["torch_cuda"]
        devices.append(["cuda", f"none found (torch is built {f'for CUDA {cuda}' if cuda else 'without CUDA'})"])
    operators = [
        [name, row["cpu"] or "none", row["cuda"] or "none", ", ".join(row["implemented"])]
        for name, row in found["operators"].items()
    ]
    todo = [f"* {line}" for line in found["advice"]] or ["nothing: all is in place for the devices found"]
    blocks = {
        "Devices": _table(devices),
        "Native library": _table(_native_rows(found["native"])),
        "Operators": _table([["", "cpu", "cuda", "implemented"], *operators]),
        "To do": "\n".join(todo),
    }
    versions = "  ".join(f"{name} {version or 'missing'}" for name, version in found["versions"].items())
    return "\n\n".join([versions, *(f"{title}\n{indent(block, '  ')}" for title, block in blocks.items())])


def _table(rows: list[list[str]]) -> str:
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _native_rows(found: dict) -> list[list[str]]:
    if not found["loaded"]:
        return [["none"]]
    sets = found["instruction_sets"]
    cpu = f"{found['instruction_set']} in use, of {', '.join(sets)}; {found['compiler']}" if sets else "unknown build"
    if not found["cuda"]:
        return [["cpu", cpu], ["cuda", "not built"]]
    names = [entry.replace("-real", "").replace("-virtual", "+PTX") for entry in found["cuda_architectures"]]
    some = ", ".join(found["cuda_operators"])
    return [["cpu", cpu], ["cuda", f"nvcc {found['cuda']} for sm_{', '.join(names)}: {some}"]]


@dataclass(frozen=True)
class Info:
    """How the report is given."""

    json: Annotated[bool, "the same as JSON"] = False


def main() -> int:
    """Print the report."""
    asked = parse(Info, "info", "What is installed, built and used.")
    found = everything()
    print(json.dumps(found, indent=2) if asked.json else text(found))
    return 0


if __name__ == "__main__":
    entry.run(main)
