"""What the mask branch costs before anything is measured: operations, bytes, tiles and waves, counted from the shapes.

    python scripts/matrix_costs.py           print the table
    python scripts/matrix_costs.py --update  write it into docs/matrix_kernels.md

The GPU's figures are its data sheet's; nothing here was timed.
"""

import argparse
import math
from pathlib import Path

from htc_fast.ops.triton.tiles import Device, by_waves, candidates

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "matrix_kernels.md"
H200 = Device("NVIDIA H200", 132, 232448)
FLOPS, BYTES = 989e12, 4.8e12  # bf16 products and memory, per second
CHANNELS, PIXELS = 256, 14 * 14
BEGIN, END = "<!-- costs -->", "<!-- /costs -->"


def row(name: str, count: int, taps: int, outputs: int = CHANNELS, extra: bool = False) -> list[str]:
    rows = count * PIXELS
    found = candidates(2, outputs, H200)
    found = [one for one in found if not extra or one[0].rows * one[0].outputs <= 2048 * one[0].warps]
    tile = by_waves(rows, outputs, found, H200)
    tiles = math.ceil(rows / tile.rows) * math.ceil(outputs / tile.outputs)
    operations = 2 * rows * CHANNELS * taps * outputs
    moved = 2 * (rows * (CHANNELS + outputs * (1 + extra)) + CHANNELS * taps * outputs)
    full = rows * outputs / (math.ceil(tiles / H200.processors) * H200.processors * tile.rows * tile.outputs)
    limit = max(operations / FLOPS, moved / BYTES) * 1e6
    cells = [name, count, f"{operations / 1e9:.1f}", f"{moved / 1e6:.1f}", f"{tile.rows}×{tile.outputs}", tiles]
    return [
        str(one) for one in [*cells, f"{tiles / H200.processors:.2f}", f"{full:.0%}", f"{limit:.1f}", "not measured"]
    ]


def table() -> str:
    head = ["launch", "RoIs", "GFLOP", "MB", "tile", "tiles", "waves", "of the GPU used", "limit, µs", "H200, µs"]
    found = [row("3×3 convolution", count, 9) for count in (1, 10, 100, 128, 512, 1000)]
    found += [row("information flow", count, 1, extra=True) for count in (100, 512)]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *found]
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
