"""How large the matrix kernels' tiles are: from a table per device, else by counting waves.

A GPU runs one tile per multiprocessor at a time, so 154 tiles on 132 multiprocessors take as long as 264. Candidates
are therefore compared by waves times the cost of a tile. HTC_FAST_AUTOTUNE=1 measures them instead, keeps what it finds
in the user's cache and says how to add it to the table.
"""

import functools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import triton
from torch import Tensor

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

    def shared(self, size: int) -> int:
        """Bytes of shared memory that the steps in flight take, for elements of `size` bytes."""
        return (self.rows + self.outputs) * self.depth * size * self.stages


# Larger tiles load less per product: the last number is the cost per element of the result beside the largest's.
CANDIDATES = (
    (Tile(128, 256), 1.0),
    (Tile(256, 128), 1.0),
    (Tile(128, 128), 1.1),
    (Tile(64, 256, warps=4), 1.15),
    (Tile(64, 128, warps=4), 1.3),
    (Tile(64, 64, warps=4), 1.6),
    (Tile(32, 64, warps=4), 2.4),
    (Tile(16, 64, warps=4), 4.0),
)


@dataclass(frozen=True)
class Device:
    """What tile sizes depend on."""

    name: str
    processors: int
    shared: int


@functools.cache
def _gpu(index: int | None) -> Device:
    found = torch.cuda.get_device_properties(index)
    return Device(found.name, found.multi_processor_count, found.shared_memory_per_block_optin)


# Ahead of time: the smallest supported data-centre GPU. In the interpreter one program runs at a time.
AHEAD, INTERPRETER = Device("none", 108, 166912), Device("none", 1, 166912)


def device_of(x: Tensor) -> Device:
    """Where a kernel on x runs."""
    if x.device.type == "cuda":
        return _gpu(x.device.index)
    return AHEAD if x.device.type == "meta" else INTERPRETER


@functools.cache
def table() -> dict[str, dict[str, dict]]:
    """device -> problem -> tile, as measured; the user's own findings first."""
    found = json.loads(TABLE.read_text())
    if cache().exists():
        for device, rows in json.loads(cache().read_text()).items():
            found.setdefault(device, {}).update(rows)
    return found


def cache() -> Path:
    """Where HTC_FAST_AUTOTUNE=1 keeps what it measured."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "htc_fast" / "tiles.json"


def precision(dtype: torch.dtype) -> str:
    """How float32 is multiplied: on tensor cores only where torch allows it for convolutions."""
    return "tf32" if dtype != torch.float32 or torch.backends.cudnn.allow_tf32 else "ieee"


def fits(tile: Tile, size: int, device: Device) -> Tile | None:
    """The tile with as many steps in flight as shared memory holds; None if not even two."""
    for stages in range(tile.stages, 1, -1):
        made = Tile(tile.rows, tile.outputs, tile.depth, tile.warps, stages)
        if made.shared(size) <= device.shared:
            return made
    return None


def candidates(size: int, outputs: int, device: Device) -> list[tuple[Tile, float]]:
    """Tiles that fit, and what one element of each costs. size: bytes of an element."""
    widest = max(64, triton.next_power_of_2(outputs))
    found = []
    for tile, cost in CANDIDATES:
        narrow = size == 4  # float32 tiles are half as deep: the same bytes
        made = Tile(tile.rows, tile.outputs, 32 if narrow else 64, tile.warps, tile.stages)
        if tile.outputs <= widest and (made := fits(made, size, device)) is not None:
            found.append((made, cost))
    return found


def by_waves(rows: int, outputs: int, found: list[tuple[Tile, float]], device: Device) -> Tile:
    """The candidate with the least waves times cost of a tile."""

    def cost(entry: tuple[Tile, float]) -> float:
        tile, each = entry
        tiles = triton.cdiv(rows, tile.rows) * triton.cdiv(outputs, tile.outputs)
        return triton.cdiv(tiles, device.processors) * tile.rows * tile.outputs * each

    return min(found, key=cost)[0]


def tile_for(kernel: str, x: Tensor, rows: int, depth: int, outputs: int, run: Callable, extra: bool) -> Tile:
    """The tile for a product of rows x depth by depth x outputs; `run(tile)` does it, for measuring.

    extra  whether a second map comes in at the end: then the result may take only half of the registers
    """
    device = device_of(x)
    # Row counts in powers of two: nobody measures every number of boxes.
    problem = f"{kernel} {TYPES[x.dtype]} {triton.next_power_of_2(max(rows, 1))}x{depth}x{outputs}" + " extra" * extra
    known = table().get(device.name, {}).get(problem)
    if known is not None:
        return Tile(**known)
    found = candidates(x.element_size(), outputs, device)
    if extra:
        found = [(tile, cost) for tile, cost in found if tile.rows * tile.outputs <= 2048 * tile.warps]
    if os.environ.get("HTC_FAST_AUTOTUNE") == "1" and x.device.type == "cuda":
        return _search(problem, device, found, run)
    return by_waves(rows, outputs, found, device)


def gradient_tile(x: Tensor, outputs: int, channels: int) -> Tile:
    """The tile for a weight gradient [outputs, channels]: rows are split, so there are always enough programs."""
    device = device_of(x)
    sides = (max(16, min(128, triton.next_power_of_2(side))) for side in (outputs, channels))
    tile = fits(Tile(*sides, depth=32 if x.element_size() == 4 else 64), x.element_size(), device)
    return tile if tile is not None else Tile(64, 64, 32, 4, 2)


def _search(problem: str, device: Device, found: list[tuple[Tile, float]], run: Callable) -> Tile:
    """Measure the candidates, keep the fastest in the user's cache and say so."""
    times = {tile: triton.testing.do_bench(functools.partial(run, tile), warmup=5, rep=20) for tile, _ in found}
    best = min(times, key=times.get)
    table().setdefault(device.name, {})[problem] = asdict(best)
    file = cache()
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(file.read_text()) if file.exists() else {}
    kept.setdefault(device.name, {})[problem] = asdict(best)
    file.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"htc_fast: {problem} on {device.name}: {best} in {times[best]:.4f} ms, kept in {file}; to give it to all, "
          f"copy that file's {device.name!r} into htc_fast/ops/triton/tiles.json.", file=sys.stderr)  # fmt: skip
    return best


def chain_tile(x: Tensor, rows: int, outputs: int, depth: int = 128) -> Tile:
    """The tile for a product whose result stays in registers for a second one. depth: bytes per row and step."""
    device = device_of(x)
    size = x.element_size()
    outputs = max(64, min(outputs, triton.next_power_of_2(x.shape[1])))
    for stages in (3, 2):
        made = fits(Tile(rows, outputs, depth // size, 8, stages), size, device)
        if made is not None:
            return made
    return Tile(32, 64, 16, 4, 2)
