"""Compile csrc/cuda against the emulator: one shared library per variant, cached by the content of its sources.

plain  -O1
race   kernels instrumented for the race check (race.h)
asan   AddressSanitizer and UBSan; the process that loads it needs libasan preloaded

The adapters between torch and the kernels take longest to compile and are the same for all three.
"""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
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
# What a variant adds to the kernels, and to the emulator under them.
VARIANTS = {
    "plain": ([], []),
    "race": (["-DSIMT_RACE", "-fsanitize=thread"], ["-DSIMT_RACE"]),
    "asan": (SANITIZERS, SANITIZERS),
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


@contextlib.contextmanager
def _making(target: Path):
    """Where to make a file that is not there yet, or None: of several processes that want it, one makes it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(target.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        partial = target.with_stem(f"{target.stem}-partial")
        yield None if target.exists() else partial
        if partial.exists():
            partial.replace(target)


def _compile(source: Path, flags: list[str]) -> Path:
    command = [COMPILER, *COMMON, *flags, "-x", "c++", "-c", str(source)]
    name = hashlib.sha256(source.read_bytes() + _headers_hash() + " ".join(command).encode()).hexdigest()[:20]
    target = CACHE / f"{source.stem}-{name}.o"
    with _making(target) as partial:
        if partial:
            result = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True)
            if result.returncode:
                raise RuntimeError(f"{source.name} does not compile in the emulator:\n{result.stderr[:4000]}")
    return target


def _library(stem: str, build: str, kernels: list[Path], adapters: list[Path]) -> Path:
    for_kernels, for_emulator = VARIANTS[build]
    compile_flags, link_flags = torch_flags() if adapters else ([], [])
    jobs = [(path, for_kernels) for path in kernels]
    jobs += [(HERE / name, for_emulator) for name in ("simt.cpp", "race.cpp", "count.cpp")]
    jobs += [(path, compile_flags) for path in adapters]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda job: _compile(*job), jobs))
    flags = [*(SANITIZERS if build == "asan" else []), *link_flags]
    name = hashlib.sha256("".join(map(str, objects)).encode() + " ".join(flags).encode()).hexdigest()[:20]
    target = CACHE / f"lib{stem}_{build}-{name}.so"
    with _making(target) as partial:
        if partial:
            command = [COMPILER, "-shared", "-Wl,-Bsymbolic", *map(str, objects), *flags, "-o", str(partial)]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                raise RuntimeError(f"the emulator does not link:\n{result.stderr[:4000]}")
    return target


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
    return _library("self_test", variant, [HERE / "self_test.cpp"], [])


def variant() -> str:
    """Which build of the kernels this process tests: HTC_SIMT_VARIANT, set by test_variants.py."""
    return os.environ.get("HTC_SIMT_VARIANT", "plain")


def examples(plain: int) -> int:
    """How many cases are drawn: a third under the sanitizers, a few with the race check, which is the slowest."""
    return {"asan": plain // 3, "race": 4}.get(variant(), plain)


@functools.cache
def _kernel_library() -> Path:
    import torch

    kernels, adapters = sorted((ROOT / "csrc" / "cuda").glob("*.cu")), sorted(HERE.glob("adapter*.cpp"))
    path = _library("htc_simt", variant(), kernels, adapters)
    torch.ops.load_library(str(path))
    if variant() != "plain":  # what is watched runs shuffled
        ctypes.CDLL(str(path)).simt_set_seed(ctypes.c_uint64(7))
    return path


def why_not() -> str | None:
    """Why nothing can be emulated here."""
    return None if shutil.which(COMPILER) else f"the emulator needs a C++20 compiler: {COMPILER} is not here"


def kernels():
    """torch.ops.htc_simt: every kernel of csrc/cuda as an operator on CPU tensors (adapter*.cpp)."""
    import torch

    _kernel_library()
    return torch.ops.htc_simt


@contextlib.contextmanager
def counting() -> Iterator[Callable[[], list[str]]]:
    """Inside, kernels and memsets are written down and not run; what is given tells their names so far."""
    library = ctypes.CDLL(str(_kernel_library()))
    library.simt_launches.restype = ctypes.c_char_p
    library.simt_count(ctypes.c_bool(True))
    try:
        yield lambda: library.simt_launches().decode().split()
    finally:
        library.simt_count(ctypes.c_bool(False))


def set_seed(seed: int) -> None:
    """0: threads and blocks in order; any other: shuffled."""
    ctypes.CDLL(str(_kernel_library())).simt_set_seed(ctypes.c_uint64(seed))


if __name__ == "__main__":
    for wanted in sys.argv[1:] or VARIANTS:
        print(self_test_library(wanted))
