"""What the mask branch costs before anything is measured: operations, bytes, tiles and waves, counted from the shapes.

    python scripts/matrix_costs.py           print the table
    python scripts/matrix_costs.py --update  write it into docs/matrix_kernels.md

The GPU's figures are its data sheet's; nothing here was timed.
"""

import argparse
import math
from pathlib import Path

import torch

from htc_fast.ops.triton.tiles import Device, by_waves, candidates

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "matrix_kernels.md"
H200 = Device("NVIDIA H200", 132, 232448, tma=True)
FLOPS, BYTES = 989e12, 4.8e12  # bf16 products and memory, per second
CHANNELS = 256
BEGIN, END = "<!-- costs -->", "<!-- /costs -->"
HEAD = ["launch", "maps", "GFLOP", "MB", "tile", "copied as", "tiles", "waves", "of the GPU used", "limit, µs",
        "H200, µs"]  # fmt: skip


def row(name: str, shape: tuple[int, int, int], taps: int, outputs: int = CHANNELS, extra: bool = False) -> list[str]:
    rows, x = math.prod(shape), torch.empty(0, dtype=torch.bfloat16, device="meta")
    tile = by_waves(shape, outputs, candidates(x, outputs, H200, taps == 9, extra), H200)
    tiles = tile.tiles(*shape, outputs)
    operations = 2 * rows * CHANNELS * taps * outputs
    moved = 2 * (rows * (CHANNELS + outputs * (1 + extra)) + CHANNELS * taps * outputs)
    full = rows * outputs / (math.ceil(tiles / H200.processors) * H200.processors * tile.rows * tile.outputs)
    limit = max(operations / FLOPS, moved / BYTES) * 1e6
    box = "–" if tile.box is None else "×".join(map(str, tile.box))
    cells = [name, "×".join(map(str, shape)), f"{operations / 1e9:.1f}", f"{moved / 1e6:.1f}"]
    cells += [f"{tile.rows}×{tile.outputs}", box, str(tiles), f"{tiles / H200.processors:.2f}", f"{full:.0%}"]
    return [*cells, f"{limit:.1f}", "not measured"]


def table() -> str:
    found = [row("3×3 convolution", (count, 14, 14), 9) for count in (1, 10, 100, 128, 512, 1000)]
    found += [row("3×3 convolution", shape, 9) for shape in ((100, 7, 7), (100, 28, 28), (2, 100, 168))]
    found += [row("information flow", (count, 14, 14), 1, extra=True) for count in (100, 512)]
    lines = [HEAD, ["---"] + ["---:"] * (len(HEAD) - 1), *found]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def document() -> str:
    """The document with the table as it is now."""
    before, rest = DOCUMENT.read_text().split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write docs/matrix_kernels.md")
    if parser.parse_args().update:
        DOCUMENT.write_text(document())
    else:
        print(table())
