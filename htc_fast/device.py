"""What a processor or a GPU can do, asked and not assumed."""

import ctypes
import functools
import os
import platform
import sys
from pathlib import Path

import torch

from htc_fast.errors import UserError, short

MOST_THREADS = 1024  # of which more end a process without a word where the system gives no more
CPUINFO = Path("/proc/cpuinfo")
# How glibc is told: mallopt's numbers of M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, and bytes.
KEPT = ((-3, 1 << 30), (-1, (1 << 31) - 1))
# Whoever sets one of these has decided by himself what malloc keeps.
MALLOC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")
# What libraries say when they want memory and get none; cuDNN and cuBLAS have their own words.
NO_MEMORY = ("out of memory", "allocate memory", "bad_alloc", "ALLOC_FAILED", "ALLOCATION_FAILED")

# Classes of processors, the best first, by the words that torch has for their instructions.
CLASSES = {
    "amx": {"amx_tile", "amx_bf16", "amx_int8"},
    "avx512-bf16": {"avx512_f", "avx512_vnni", "avx512_bf16"},
    "avx512-vnni": {"avx512_f", "avx512_vnni"},
    "avx512": {"avx512_f"},
    "avx2-vnni": {"avx2", "avx_vnni"},
    "avx2": {"avx2"},
    "neon-bf16": {"neon", "bf16"},
    "neon": {"neon"},
}
MULTIPLIES = {
    torch.bfloat16: {"avx512_bf16", "amx_bf16", "bf16"},
    torch.float16: {"avx512_fp16", "amx_fp16"},
    torch.int8: {"avx512_vnni", "avx_vnni", "amx_int8", "i8mm"},
}
# What users of torch and of oneDNN restrict them with -> value -> what of x86 it leaves.
X86 = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "avx_vnni", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")
RESTRICTED = {
    "ATEN_CPU_CAPABILITY": {"default": (), "avx2": ("avx2", "avx_vnni")},
    "ONEDNN_MAX_CPU_ISA": {
        "sse41": (),
        "avx": (),
        "avx2": X86[:1],
        "avx2_vnni": ("avx2", "avx_vnni"),
        "avx2_vnni_2": ("avx2", "avx_vnni"),
        "avx512_core": X86[:2],
        "avx512_core_vnni": X86[:3],
        "avx512_core_bf16": X86[:4],
        "avx512_core_fp16": X86[:6],
        "avx512_core_amx": X86,
        "avx10_1_512": X86[:6],
    },
}


def find_device(name: str | None) -> torch.device:
    """The device of that name; None: a GPU if there is one.

    raises  UserError if there is no such device here
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if not isinstance(name, (str, int, torch.device)):
            raise TypeError("no name")
        found = torch.device(name)
        if found.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError, OverflowError) as error:
        reason = str(error).strip().splitlines()[0] or type(error).__name__
        raise UserError(f"device {short(name)} cannot be used ({reason}): choose cpu, cuda or cuda:N.") from None
    return found


def supports(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the device multiplies matrices of that type itself, instead of imitating them slowly.

    dtype  float32, bfloat16, float16 or int8
    """
    if dtype == torch.float32:
        return True
    if device.type == "cuda":
        return dtype == torch.float16 or torch.cuda.get_device_capability(device)[0] >= 8
    return not MULTIPLIES[dtype].isdisjoint(instructions())


@functools.cache
def instructions() -> frozenset[str]:
    """Vector and matrix instructions of this processor that this process may use, by torch's words for them.

    ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA hide what torch's or oneDNN's own kernels are told not to use.
    """
    found = native_instructions()
    for variable, values in RESTRICTED.items():
        left = values.get(_said(variable))
        if left is not None:
            found -= {*X86, "amx_fp16"}.difference(left)
    return found


def _said(variable: str) -> str:
    """What the environment says, as the library that it is for reads it."""
    if variable.startswith("ATEN"):  # torch takes a word in capitals for none of its own
        return os.environ.get(variable, "")
    return (os.environ.get(variable) or os.environ.get(variable.replace("ONEDNN", "DNNL"), "")).lower()


@functools.cache
def native_instructions() -> frozenset[str]:
    """Those that it has, whatever this process is told to use."""
    return frozenset(name for name, there in torch.cpu.get_capabilities().items() if there is True)


def processor_class(found: frozenset[str] | None = None) -> str:
    """The processor's class by its instructions (None: those that may be used): a word of CLASSES, or "baseline"."""
    found = instructions() if found is None else found
    return next((name for name, needed in CLASSES.items() if needed <= found), "baseline")


@functools.cache
def is_intel(cpuinfo: Path = CPUINFO) -> bool:
    """Whether Intel made this processor: its library, MKL, is at its full rate there alone."""
    return "GenuineIntel" in (cpuinfo.read_text(errors="replace") if cpuinfo.exists() else platform.processor())


def autocast(device: torch.device, asked: bool) -> torch.autocast:
    """bf16 where it is asked for and the device computes in it: imitating it takes ten times as long as fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=asked and supports(torch.bfloat16, device))


@functools.cache
def keep_memory() -> bool:
    """Let this process keep the memory that it frees, up to 2 GB, for what it needs next; whether it could be told.

    glibc gives every large tensor back to the system at once, and takes the next in fresh pages, which the kernel has
    to clear. It stays as it is with another C library, and where the environment says
    what malloc keeps.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in MALLOC_VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return all([mallopt(parameter, value) == 1 for parameter, value in KEPT])


def out_of_memory(error: BaseException | None) -> bool:
    """Whether that is what went wrong, on any device; also where ending a capture failed because of it."""
    if error is None:
        return False
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in NO_MEMORY):
        return True
    return out_of_memory(error.__context__)
