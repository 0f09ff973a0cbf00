"""What is counted before anything is measured: tiles and waves of the mask branch, and launches of the whole detector.

The GPU's figures are its data sheet's; nothing here was timed.
"""

import functools
import json
import math
from pathlib import Path

import torch

from benchmarks.roi_reads import CASES, reads
from benchmarks.tables.markdown import table
from htc_fast.ops._backend import triton_installed

FLOPS, BYTES = 989e12, 4.8e12  # of an H200: bf16 products and memory, per second
CHANNELS = 256
LAUNCHES = Path(__file__).resolve().parents[2] / "tests" / "budget_launches.json"
SUMMED = "launches", "megabytes"
HEAD = ["launch", "maps", "GFLOP", "MB", "tile", "copied as", "tiles", "waves", "of the GPU used", "limit, µs"]


def counted(suites: tuple[str, ...] = ()) -> str | None:
    """One row per launch; None where Triton is not installed, whose tiles are counted."""
    if not triton_installed():
        return None
    found = [row("3×3 convolution", (count, 14, 14), 9) for count in (1, 10, 100, 128, 512, 1000)]
    found += [row("3×3 convolution", shape, 9) for shape in ((100, 7, 7), (100, 28, 28), (2, 100, 168))]
    return table(HEAD, found + [row("information flow", (count, 14, 14), 1, extra=True) for count in (100, 512)])


def row(name: str, shape: tuple[int, int, int], taps: int, outputs: int = CHANNELS, extra: bool = False) -> list[str]:
    from htc_fast.ops.triton.tiles import Device, by_waves, candidates

    gpu = Device("NVIDIA H200", 132, 232448, True)
    rows, x = math.prod(shape), torch.empty(0, dtype=torch.bfloat16, device="meta")
    tile = by_waves(shape, outputs, candidates(x, outputs, gpu, taps == 9, extra), gpu)
    tiles = tile.tiles(*shape, outputs)
    operations = 2 * rows * CHANNELS * taps * outputs
    moved = 2 * (rows * (CHANNELS + outputs * (1 + extra)) + CHANNELS * taps * outputs)
    full = rows * outputs / (math.ceil(tiles / gpu.processors) * gpu.processors * tile.rows * tile.outputs)
    limit = max(operations / FLOPS, moved / BYTES) * 1e6
    box = "–" if tile.box is None else "×".join(map(str, tile.box))
    cells = [name, "×".join(map(str, shape)), f"{operations / 1e9:.1f}", f"{moved / 1e6:.1f}"]
    cells += [f"{tile.rows}×{tile.outputs}", box, str(tiles), f"{tiles / gpu.processors:.2f}", f"{full:.0%}"]
    return [*cells, f"{limit:.1f}"]


@functools.cache
def roi_reads(suites: tuple[str, ...] = ()) -> str:
    """What RoIAlign's kernel reads per RoI, and what that is for all, with and without the semantic map."""
    found = []
    for count, out, semantic, step in CASES:
        one = reads(count, out, semantic, step)
        name = f"{count} to {out}×{out}" + ", semantic map too" * semantic
        cells = [f"{part:.0f} ({part * count * 512 / 1e9:.2f} GB)" for part in (one.all, one.missed, one.different)]
        found.append([name, *cells, f"{one.missed / one.different:.2f}", f"{one.blocks:.1f}", str(one.longest)])
    return table(["per RoI", "reads", "from L2", "different", "from L2 : different", "blocks", "longest walk"], found)


def launches(suites: tuple[str, ...] = ()) -> str:
    """What one picture launches on a GPU, part by part, as scripts/launch_check.py counted it."""
    stored = json.loads(LAUNCHES.read_text())
    before, now = stored["before"], stored["now"]

    def cell(parts: dict[str, dict], name: str, key: str) -> str:
        return f"{parts[name][key]:.0f}" if name in parts else "–"

    found = []
    for name in now | before:
        cells = [cell(parts, name, key) for key in SUMMED for parts in (before, now)]
        found.append([name, *cells, cell(now, name, "least_megabytes")])
    sums = [f"{sum(one[key] for one in parts.values()):.0f}" for key in SUMMED for parts in (before, now)]
    least = f"{sum(one['least_megabytes'] for one in now.values()):.0f}"
    return table(
        ["part", "launches before", "now", "MB before", "now", "layer by layer"], [*found, ["all", *sums, least]]
    )
