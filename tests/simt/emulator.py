"""Compile csrc/cuda against the emulator: one shared library per variant, cached by the content of its sources.

plain  -O1
race   kernels instrumented for the race check (race.h)
asan   AddressSanitizer and UBSan; the process that loads it needs libasan preloaded
"""

import ctypes
import functools
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = Path(os.environ.get("HTC_SIMT_CACHE", ROOT / "build" / "simt"))
COMPILER = os.environ.get("CXX", "g++")
COMMON = [
    "-std=c++20",
    "-fPIC",
    "-g1",
    "-O1",
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-unused-parameter",
    f"-I{HERE}",
    f"-I{ROOT / 'csrc'}",
]
SANITIZERS = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
# What a variant adds to every file, and to kernels alone.
VARIANTS = {
    "plain": ([], []),
    "race": (["-DSIMT_RACE"], ["-fsanitize=thread"]),
    "asan": (SANITIZERS, []),
}


def torch_flags() -> tuple[list[str], list[str]]:
    """Compile and link flags of the stable ABI."""
    import torch

    folder = Path(torch.__file__).parent
    version = "-DTORCH_TARGET_VERSION=0x020B000000000000"
    return (
        [version, f"-isystem{folder / 'include'}"],
        [f"-L{folder / 'lib'}", f"-Wl,-rpath,{folder / 'lib'}", "-ltorch_cpu", "-lc10"],
    )


@functools.cache
def _headers_hash() -> bytes:
    digest = hashlib.sha256()
    files = [p for folder in (ROOT / "csrc", HERE) for p in folder.rglob("*.*h")]
    for path in sorted(files):
        digest.update(path.name.encode() + path.read_bytes())
    digest.update(subprocess.run([COMPILER, "--version"], capture_output=True, check=True).stdout)
    return digest.digest()


def _compile(source: Path, flags: list[str]) -> Path:
    command = [COMPILER, *COMMON, *flags, "-x", "c++", "-c", str(source)]
    name = hashlib.sha256(source.read_bytes() + _headers_hash() + " ".join(command).encode()).hexdigest()[:20]
    target = CACHE / f"{source.stem}-{name}.o"
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}.o")
        result = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{source.name} does not compile in the emulator:\n{result.stderr[:4000]}")
        partial.replace(target)
    return target


def _link(objects: list[Path], flags: list[str], stem: str) -> Path:
    name = hashlib.sha256("".join(map(str, objects)).encode() + " ".join(flags).encode()).hexdigest()[:20]
    target = CACHE / f"lib{stem}-{name}.so"
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}.so")
        command = [COMPILER, "-shared", "-Wl,-Bsymbolic", *map(str, objects), *flags, "-o", str(partial)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"the emulator does not link:\n{result.stderr[:4000]}")
        partial.replace(target)
    return target


def _library(stem: str, build: str, kernels: list[Path], plain: list[Path], extra: list[str], link: list[str]) -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    every, kernels_only = VARIANTS[build]
    jobs = [(path, [*every, *extra, *kernels_only]) for path in kernels]
    jobs += [(path, [*every, *extra]) for path in plain]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda job: _compile(*job), jobs))
    return _link(objects, [*(SANITIZERS if build == "asan" else []), *link], f"{stem}_{build}")


def environment() -> dict[str, str]:
    """For a process of its own: single-threaded, since several of them share the machine."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def sanitizer_environment() -> dict[str, str]:
    """The environment of a Python that may load the asan variant."""
    paths = [
        subprocess.run(
            [COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    options = "detect_leaks=0:abort_on_error=0:use_sigaltstack=0:detect_stack_use_after_return=0"
    return {
        **environment(),
        "LD_PRELOAD": ":".join(paths),
        "ASAN_OPTIONS": options,
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def self_test_library(variant: str) -> Path:
    """The emulator with the kernels that test the emulator itself."""
    return _library("self_test", variant, [HERE / "self_test.cpp"], [HERE / "simt.cpp", HERE / "race.cpp"], [], [])


def variant() -> str:
    """Which build of the kernels this process tests: HTC_SIMT_VARIANT, set by test_variants.py."""
    return os.environ.get("HTC_SIMT_VARIANT", "plain")


def examples(plain: int) -> int:
    """How many cases are drawn: a third under the sanitizers, a few with the race check, which is the slowest."""
    return {"asan": plain // 3, "race": 4}.get(variant(), plain)


@functools.cache
def _kernel_library() -> Path:
    import torch

    compile_flags, link_flags = torch_flags()
    path = _library(
        "htc_simt",
        variant(),
        sorted((ROOT / "csrc" / "cuda").glob("*.cu")),
        [HERE / "simt.cpp", HERE / "race.cpp", *sorted(HERE.glob("adapter*.cpp"))],
        compile_flags,
        link_flags,
    )
    torch.ops.load_library(str(path))
    return path


def kernels():
    """torch.ops.htc_simt: every kernel of csrc/cuda as an operator on CPU tensors (adapter*.cpp)."""
    import torch

    _kernel_library()
    return torch.ops.htc_simt


def set_seed(seed: int) -> None:
    """0: threads and blocks in order; any other: shuffled."""
    ctypes.CDLL(str(_kernel_library())).simt_set_seed(ctypes.c_uint64(seed))


if __name__ == "__main__":
    for wanted in sys.argv[1:] or VARIANTS:
        print(self_test_library(wanted))
