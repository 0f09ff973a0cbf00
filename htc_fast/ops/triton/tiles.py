"""How large the matrix kernels' tiles are: from a table per device, else by counting waves.

A GPU runs one tile per multiprocessor at a time, so 154 tiles on 132 multiprocessors take as long as 264. Candidates
are therefore compared by waves times the cost of a tile, which is counted. HTC_FAST_AUTOTUNE=1 measures them instead,
keeps what it finds in the user's cache and says how to add it to the table.
"""

import functools
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from htc_fast.ops.triton.launch import cdiv, next_power_of_two

OLD_COMPILER = triton.__version__.startswith("3.6")  # torch 2.11's, which takes more registers
TABLE = Path(__file__).with_name("tiles.json")
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Tile:
    """rows x outputs of the result per program, depth channels per step, in flight: stages steps."""

    rows: int
    outputs: int
    depth: int = 64
    warps: int = 8
    stages: int = 3
    box: tuple[int, int, int] | None = None  # rows as maps x lines x columns that are copied in bulk; None: gathered

    def tiles(self, count: int, height: int, width: int, outputs: int) -> int:
        """How many of them maps [count, outputs, height, width] make."""
        if self.box is None:
            boxes = cdiv(count * height * width, self.rows)
        else:
            boxes = math.prod(cdiv(*pair) for pair in zip((count, height, width), self.box))
        return boxes * cdiv(outputs, self.outputs)

    def shared(self, size: int) -> int:
        """Bytes of shared memory that the steps in flight take, for elements of `size` bytes."""
        return (self.rows + self.outputs) * self.depth * size * self.stages

    def options(self, channels: int, dtype: torch.dtype) -> dict[str, int | bool | str]:
        """What a kernel is launched with whose steps go through `channels` of this type."""
        return {
            "EVEN": channels % self.depth == 0,
            "PRECISION": precision(dtype),
            "ROWS": self.rows,
            "OUTPUTS": self.outputs,
            "DEPTH": self.depth,
            "num_warps": self.warps,
            "num_stages": self.stages,
            "enable_fp_fusion": True,
        }


GATHERED = (
    *(Tile(128, 256), Tile(256, 128), Tile(128, 128)),
    *(Tile(rows, outputs, warps=4) for rows, outputs in ((64, 256), (64, 128), (64, 64), (32, 64), (16, 64))),
)
COPIED = (Tile(256, 128), Tile(128, 256), Tile(128, 128), Tile(64, 128, warps=4))
# Two lines of 16 columns hold 14 x 14 with an eighth of waste, whole maps fill 8 x 16, and 7 x 7 fills most of 8 x 8.
BOXES = {
    256: ((8, 2, 16), (1, 16, 16), (4, 8, 8)),
    128: ((4, 2, 16), (1, 8, 16), (2, 8, 8)),
    64: ((2, 2, 16), (1, 4, 16), (1, 8, 8)),
}


def cost(tile: Tile) -> float:
    """Cycles of a multiprocessor per 2048 products, which its tensor cores do in one, were nothing overlapped.

    Loads come at 39 bytes per cycle from the L2 cache (5120 for 132 multiprocessors). A step's instructions, four per
    cycle, are those counted in the machine code for sm_90: scripts/aot_triton.py.
    """
    loads = 2048 * 2 / 39 * (1 / tile.rows + 1 / tile.outputs)
    cycles = tile.rows * tile.outputs * tile.depth / 2048
    return max(1.0, loads) + (160 if tile.box is None else 110) * tile.warps / 4 / cycles


@dataclass(frozen=True)
class Device:
    """What tile sizes depend on."""

    name: str
    processors: int
    shared: int
    tma: bool = False  # whether it copies tiles by itself (bulk copies)
    warpgroups: bool = False  # whether it multiplies what lies in shared memory (sm_90, sm_100)
    resident: bool = True  # whether weights that stay there leave enough registers (not on sm_100, with Triton so far)

    @property
    def cramped(self) -> bool:
        """Whether its shared memory is small (sm_86, 89, 120): operands then lie in registers; large tiles spill."""
        return self.shared < 163 * 1024


@functools.cache
def _gpu(index: int | None) -> Device:
    found: Any = torch.cuda.get_device_properties(index)
    shared, major = found.shared_memory_per_block_optin, found.major
    return Device(found.name, found.multi_processor_count, shared, major >= 9, major in (9, 10), major != 10)


# Ahead of time: the smallest supported data-centre GPU. In the interpreter one program runs at a time.
AHEAD, INTERPRETER = Device("none", 108, 163 * 1024), Device("none", 1, 163 * 1024)


def device_of(x: Tensor) -> Device:
    """Where a kernel on x runs."""
    return _gpu(x.device.index) if x.is_cuda else AHEAD if x.is_meta else INTERPRETER


@functools.cache
def table() -> dict[str, dict[str, dict]]:
    """device -> problem -> tile, as measured; the user's own findings first."""
    found = json.loads(TABLE.read_text())
    for device, rows in _cached().items():
        found.setdefault(device, {}).update(rows)
    return found


def _cached() -> dict[str, dict[str, dict]]:
    """What this user's searches found; nothing, with a word, where the file cannot be read."""
    try:
        return json.loads(cache().read_text()) if cache().exists() else {}
    except (OSError, ValueError) as error:
        print(f"htc_fast: {cache()} is left aside, remove it to search again: {error}", file=sys.stderr)
        return {}


def cache() -> Path:
    """Where HTC_FAST_AUTOTUNE=1 keeps what it measured."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "htc_fast" / "tiles.json"


def precision(dtype: torch.dtype) -> str:
    """How float32 is multiplied: on tensor cores only where torch allows it for convolutions."""
    # Not cudnn.allow_tf32: that one raises where the flag of convolutions was set by itself.
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return "tf32" if dtype != torch.float32 or convolutions.fp32_precision == "tf32" else "ieee"


@functools.lru_cache(4096)
def fits(tile: Tile, size: int, device: Device) -> Tile | None:
    """The tile with as many steps in flight as shared memory holds; None if not even two."""
    for stages in range(tile.stages, 1, -1):
        made = replace(tile, stages=stages)
        if made.shared(size) + 1024 <= device.shared:
            return made
    return None


def candidates(x: Tensor, outputs: int, device: Device, tma: bool = False, extra: bool = False) -> list[Tile]:
    """Tiles that fit. extra: whether more than the sum needs registers; then the result takes half of them."""
    size, widest = x.element_size(), max(64, next_power_of_two(outputs))
    offered = [replace(tile, box=box) for tile in COPIED if tma for box in BOXES[tile.rows]] + list(GATHERED)
    exact, found = precision(x.dtype) == "ieee", []
    less = max(extra + exact, device.cramped)
    for tile in offered:
        # float32 steps are half as deep: the same bytes. Without tensor cores products take more registers.
        depth = 16 if exact and tile.warps == 4 else 128 // size
        made = fits(replace(tile, depth=depth), size, device)
        if made and tile.outputs <= widest and tile.rows * tile.outputs <= 4096 * tile.warps >> less:
            found.append(made)
    return found


def by_waves(shape: tuple[int, int, int], outputs: int, found: list[Tile], device: Device) -> Tile:
    """The candidate with the least waves times cost of a tile, for maps of `shape` (count, height, width)."""

    def total(tile: Tile) -> float:
        waves = cdiv(tile.tiles(*shape, outputs), device.processors)
        return waves * tile.rows * tile.outputs * cost(tile)

    return min(found, key=total)


def problem_of(x: Tensor, taps: int, outputs: int, tma: bool, extra: bool) -> str:
    """What a table of tiles calls `tile_for`'s arguments: exactly these maps, for 65 and 128 fill different waves."""
    count, channels, height, width = x.shape
    shape = f"{count} of {channels}x{height}x{width}"
    return f"{TYPES[x.dtype]} {shape} by {taps} to {outputs}" + " extra" * extra + " tma" * tma


def known_tile(x: Tensor, problem: str) -> dict | None:
    """What the tables have for this device."""
    return table().get(device_of(x).name, {}).get(problem)


def beats_cudnn(x: Tensor, outputs: int, tma: bool) -> bool:
    """Whether a tile for this 3x3 convolution was measured here and was faster than cuDNN; or is to be, now."""
    known = known_tile(x, problem_of(x, 9, outputs, tma, False))
    return searching(x) if known is None else known.get("beats cuDNN", False)


def tile_for(
    x: Tensor, taps: int, outputs: int, run: Callable, tma: bool, extra: bool, rival: Callable | None = None
) -> Tile:
    """The tile for a convolution of x [K, C, H, W] by 1 or 9 taps; `run(tile)` does it, for measuring.

    tma    whether bulk copies can take x and the weight
    extra  whether a second map comes in at the end, or the kernel needs as many registers for something else
    rival  cuDNN's call, to be measured beside them
    """
    device, problem = device_of(x), problem_of(x, taps, outputs, tma, extra)
    known = known_tile(x, problem)
    if known is not None:
        fields = {name: value for name, value in known.items() if name != "beats cuDNN"}
        return Tile(**{**fields, "box": tuple(known["box"]) if known.get("box") else None})
    if searching(x):
        return _search(problem, device, candidates(x, outputs, device, tma, extra), run, rival)
    shape = x.shape[0], x.shape[2], x.shape[3]
    return _usual(x.dtype, precision(x.dtype), shape, outputs, device, tma, extra)


@functools.lru_cache(4096)
def _usual(
    dtype: torch.dtype,
    precision: str,
    shape: tuple[int, int, int],
    outputs: int,
    device: Device,
    tma: bool,
    extra: bool,
) -> Tile:
    """By counting, once for each: a call from Python must not take longer than its kernel.

    precision  that is in force, as it changes the candidates
    """
    found = candidates(torch.empty(0, dtype=dtype), outputs, device, tma, extra)
    return by_waves(shape, outputs, found, device)


def searching(x: Tensor) -> bool:
    """Whether tiles are to be measured, here and now: a capture cannot be timed."""
    wanted = x.is_cuda and os.environ.get("HTC_FAST_AUTOTUNE") == "1"
    return wanted and not torch.cuda.is_current_stream_capturing()


def gradient_tile(x: Tensor, outputs: int, channels: int, exact: bool) -> Tile:
    """The tile for a weight gradient [outputs, channels]: rows are split, so there are always enough programs."""
    device = device_of(x)
    most = (64, 64) if exact else (128, 128)  # products without tensor cores take more registers
    rows, columns = (max(16, min(*pair)) for pair in zip(most, map(triton.next_power_of_2, (outputs, channels))))
    depth = 16 if exact else 128 // x.element_size()
    tile = fits(Tile(rows, columns, depth), x.element_size(), device)
    return tile if tile is not None else Tile(64, 64, 32, 4, 2)


def _time(run: Callable) -> float:
    """Milliseconds; infinity for a tile that this device or compiler does not take."""
    try:
        return triton.testing.do_bench(run, warmup=5, rep=20)
    except (RuntimeError, triton.runtime.errors.TritonError) as error:
        print(f"htc_fast: a candidate was left out: {error}", file=sys.stderr)
        return math.inf


def _search(problem: str, device: Device, found: list[Tile], run: Callable, rival: Callable | None) -> Tile:
    """Measure the candidates, keep the fastest in the user's cache and say so."""
    times = {tile: _time(functools.partial(run, tile)) for tile in found}
    best = min(found, key=lambda tile: times[tile])
    row = asdict(best) | ({} if rival is None else {"beats cuDNN": times[best] < 0.97 * _time(rival)})
    table().setdefault(device.name, {})[problem] = row
    file, kept = cache(), _cached()
    file.parent.mkdir(parents=True, exist_ok=True)
    kept.setdefault(device.name, {})[problem] = row
    whole = file.with_suffix(f".{os.getpid()}")  # put in place at once: other processes read it
    whole.write_text(json.dumps(kept, indent=1) + "\n")
    whole.replace(file)
    said = f"htc_fast: {problem} on {device.name}: {best} in {times[best]:.4f} ms, kept in {file}"
    share = f"to give it to all, copy that file's {device.name!r} into htc_fast/ops/triton/tiles.json."
    print(f"{said}; {share}", file=sys.stderr)
    return best


def chain_tile(x: Tensor, rows: int, outputs: int, depth: int = 128) -> Tile:
    """The tile for a product whose result stays in registers for a second one. depth: bytes per row and step."""
    device = device_of(x)
    size = x.element_size()
    if precision(x.dtype) == "ieee":  # products without tensor cores take more registers
        depth, rows = 16 * size, rows // 2 if OLD_COMPILER else rows
    rows = min(rows, 64) if device.cramped else rows
    outputs = max(min(64, outputs), min(outputs, next_power_of_two(x.shape[1])))
    for stages in (3, 2):
        made = fits(Tile(rows, outputs, depth // size, 8, stages), size, device)
        if made is not None:
            return made
    return Tile(32, 64, 16, 4, 2)
