"""What this device can do, measured and not read from a data sheet: a copy, and a product of matrices."""

import datetime
import importlib.metadata
import platform
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from htc_fast.device import native_instructions, processor_class, supports

PACKAGES = ("htc_fast", "torch", "torchvision", "triton", "pycocotools", "numpy")
LEAST, PERIOD = 9, 0.5  # calls of a copy or product, and seconds of them
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Limits:
    """Bytes and operations per second.

    bandwidth  of a copy, read and written
    products   dtype -> multiply-adds, each counted as two, of a matrix product
    """

    bandwidth: float
    products: dict[str, float]

    def seconds(self, flop: float, moved: float, dtype: str) -> float:
        """The roofline: what these operations and bytes take at least."""
        return max(flop / self.products[dtype], moved / self.bandwidth)

    def best(self, other: "Limits") -> "Limits":
        """The higher of both: on a machine that is shared, a limit is what was reached once."""
        products = {dtype: max(rate, other.products[dtype]) for dtype, rate in self.products.items()}
        return Limits(max(self.bandwidth, other.bandwidth), products)

    def as_dict(self) -> dict[str, float]:
        """For JSON: "copy GB/s" and "float32 GFLOP/s"."""
        rates = {f"{dtype} GFLOP/s": round(rate / 1e9, 1) for dtype, rate in self.products.items()}
        return {"copy GB/s": round(self.bandwidth / 1e9, 1), **rates}


# As in the data sheet; the paper's machine cannot be measured here.
TITAN_XP = Limits(547e9, {"float32": 12.15e12})


def measure(device: torch.device, dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)) -> Limits:
    """The best of several copies and products, this minute.

    dtypes  those the device lacks are left out
    """
    cuda = device.type == "cuda"
    source = torch.ones(1 << (28 if cuda else 26), device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / least(lambda: target.copy_(source), device)
    products = {str(dtype)[6:]: _product(device, dtype) for dtype in dtypes if supports(dtype, device)}
    return Limits(bandwidth, products)


def _product(device: torch.device, dtype: torch.dtype) -> float:
    """The faster of a matrix product and the same product as a convolution: libraries differ in which they do well."""
    side = 8192 if device.type == "cuda" else 2048
    matrix = torch.randn(side, side, device=device).to(dtype)
    layout = {"memory_format": torch.channels_last}
    # On a GPU a single picture is done before the clock has settled.
    count = 16 if device.type == "cuda" else 1
    images = torch.randn(count, 256, 100, 168, device=device).to(dtype).contiguous(**layout)
    weight = torch.randn(256, 256, 3, 3, device=device).to(dtype).contiguous(**layout)
    with torch.no_grad():
        flop = 2 * 9 * 256**2 * 100 * 168 * count
        product = 2 * side**3 / least(lambda: matrix @ matrix, device)
        convolution = flop / least(lambda: torch.conv2d(images, weight, padding=1), device)
    return max(product, convolution)


def least(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of several calls, of many where they are short: a shared machine is seldom at its best."""
    found: list[float] = []
    while len(found) < LEAST or sum(found) < PERIOD:
        found.append(seconds(call, device))
    return min(found)


def seconds(call: Callable[[], object], device: torch.device | None = None) -> float:
    """How long one call takes, until the device has done it."""
    cuda = device is not None and device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    call()
    if cuda:
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def device_name(device: torch.device | None = None) -> str:
    """As the hardware calls itself; a CPU with its family, vector instructions and cores.

    device   None: a GPU if there is one
    returns  "nvidia-h200", "amd-epyc-family-26-avx512-2-cores": clouds call processors of very different speed alike;
             "-as-avx2" behind it where this process is told to use no more
    """
    if device.type == "cuda" if device is not None else torch.cuda.is_available():
        name = torch.cuda.get_device_name(device)
    else:
        family = cpuinfo("cpu family")
        name = cpuinfo("model name") or platform.processor() or platform.machine()
        name += f" family {family}" if family else ""
        name += f" {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()} cores"
        if processor_class() != processor_class(native_instructions()):
            name += f" as {processor_class()}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def cpuinfo(word: str) -> str | None:
    """What Linux says of the processor, such as its "model name"; None where it does not say."""
    about = CPUINFO.read_text(errors="replace") if CPUINFO.exists() else ""
    found = re.search(rf"{word}\s*: (.*)", about)
    return found[1] if found else None


def machine(device: torch.device | None = None) -> dict[str, str]:
    """Device (None: a GPU if there is one), date and versions, for results."""
    about = {"device": device_name(device), "date": str(datetime.date.today()), "python": platform.python_version()}
    if device.type == "cuda" if device is not None else torch.cuda.is_available():
        about |= {"driver": driver(), "cuda": str(torch.version.cuda)}
    return about | {name: found for name in PACKAGES if (found := version(name))}


def driver() -> str:
    """Of the GPU, as its own tool says."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        said = []
    return said[0] if said else "unknown"


def version(package: str) -> str | None:
    """Of an installed package; None where it is not, as a copied tree is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
