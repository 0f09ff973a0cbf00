"""How often RoIAlign's CUDA kernel reads a pixel, counted from how csrc/cuda/roi_align.cu walks.

    python -m benchmarks.roi_reads

A read is a pixel's channels. "From L2" are the reads that a block's share of the first-level cache does not hold, in a
model of least recent use; "different" are a RoI's pixels when each is read once.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.inputs import SCALES, proposals

IMAGE = 800, 1344
SEMANTIC = 1  # the level whose size the semantic map has
GRID = 14  # the bins that it is first pooled to
GROUPS, IN_FLIGHT, HELPERS, WANTED = 14, 4, 8, 3072  # of the kernel: walks of a block; reads at once; blocks; walks
CACHE = 54 * 1024 // 512 / 7  # pixels of 256 channels in 16 bits, per group of a multiprocessor's 28
CASES = [(1000, 7, False, 4), (1000, 7, True, 4), (100, 14, False, 2), (100, 14, True, 2)]  # as `reads` takes them
Pixel = tuple[int, int, int]  # the map, and where on it
Lines = tuple[list[list[int]], list[list[int]]]  # the rows of pixels of every row of bins; columns of every column


@dataclass
class Reads:
    """Per RoI: reads, those from L2, different pixels, blocks that work; and the most reads of one walk."""

    all: float
    missed: float
    different: float
    blocks: float
    longest: int


def pixels(low: float, high: float, scale: float, size: int, grid: int, bins: int) -> list[list[int]]:
    """A box's pixels along one axis, bin by bin; a bin is some of the grid's."""
    start, length, found = low * scale - 0.5, (high - low) * scale / grid, []
    samples = max(math.ceil(length), 0)
    for one in range(bins):
        reached: set[int] = set()
        for part in range(one * grid // bins, -(-(one + 1) * grid // bins)):
            for sample in range(samples):
                at = max(start + (part + (sample + 0.5) / samples) * length, 0.0)
                reached |= {min(int(at), size - 1), min(int(at) + (at % 1 > 0), size - 1)}
        found.append(sorted(reached))
    return found


def maps(box: Sequence[float], semantic: bool) -> list[tuple[int, int]]:
    """(level, grid or 0) of the maps that a box is pooled from."""
    side = math.sqrt(max((box[2] - box[0]) * (box[3] - box[1]), 0)) / 56 + 1e-6
    level = min(max(int(math.log2(side)) if side >= 2 else 0, 0), len(SCALES) - 1)
    return [(level, 0)] + [(SEMANTIC, GRID)] * semantic


def lines(box: Sequence[float], out: int, semantic: bool) -> list[Lines]:
    found = []
    for level, grid in maps(box, semantic):
        height, width = (math.ceil(side * SCALES[level]) for side in IMAGE)
        axes = (box[1], box[3], SCALES[level], height), (box[0], box[2], SCALES[level], width)
        rows, columns = (pixels(*axis, grid or out, out) for axis in axes)
        found.append((rows, columns))
    return found


def pieces(box: Sequence[float], out: int, semantic: bool, fewest: int, most: int) -> int:
    """How many pieces each row of bins is cut into."""
    per_bin = 0.0
    for level, _ in maps(box, semantic):
        height, width = (side * SCALES[level] for side in IMAGE)
        tall = min((box[3] - box[1]) * SCALES[level] / out, height) + 2
        per_bin += tall * min((box[2] - box[0]) * SCALES[level], width) / out
    bins = max(int((64 if fewest > 1 else 256) / per_bin), 1)
    return min(max(-(-out // bins), fewest), most)


def walk(tables: list[Lines], row: int, begin: int, end: int) -> Iterator[list[Pixel]]:
    """The reads along bins begin .. end of a row of bins, as many as are asked for at once."""
    behind = [0] * len(tables)  # columns of a bin that the bin before it has read for it
    for one in range(begin, end):
        for number, (rows, columns) in enumerate(tables):
            for x in columns[one][behind[number] :]:
                for first in range(0, len(rows[row]), IN_FLIGHT):
                    yield [(number, y, x) for y in rows[row][first : first + IN_FLIGHT]]
            shared = columns[one + 1][:2] if one + 1 < end else []
            while shared and columns[one][-len(shared) :] != shared:
                shared = shared[:-1]
            # A column that was given to this bin by the one before cannot be given on.
            behind[number] = len(shared) if behind[number] + len(shared) <= len(columns[one]) else 0


def missed(walks: list[Iterator[list[Pixel]]], room: int) -> int:
    """Reads of walks side by side that a cache of `room` pixels does not hold."""
    cache: OrderedDict[Pixel, None] = OrderedDict()
    count = 0
    while walks:
        batches = [next(one, None) for one in walks]
        walks = [one for one, batch in zip(walks, batches) if batch is not None]
        for pixel in (pixel for batch in batches for pixel in batch or ()):
            count += pixel not in cache
            cache[pixel] = None
            cache.move_to_end(pixel)
            if len(cache) > room:
                cache.popitem(last=False)
    return count


def reads(count: int, out: int, semantic: bool, step: int) -> Reads:
    """Of every `step`th of `count` proposals pooled to out x out bins."""
    fewest = min(max(-(-WANTED // (count * out)), 1), out)
    parts = math.ceil(out * fewest / GROUPS)
    groups = math.ceil(out * fewest / parts)
    helpers = min(math.ceil(math.ceil(out * out / groups) / parts), HELPERS, count)
    most = min(max(helpers * parts * groups // out, fewest), out)
    boxes, found = proposals(count, image=IMAGE)[::step, 1:].tolist(), Reads(0, 0, 0, 0, 0)
    for box in boxes:
        tables = lines(box, out, semantic)
        for axes in tables:
            found.different += math.prod(len(set().union(*axis)) for axis in axes)
        per_row = pieces(box, out, semantic, fewest, most)
        tasks = [(n % out, n // out * out // per_row, (n // out + 1) * out // per_row) for n in range(out * per_row)]
        for first in range(0, len(tasks), groups):
            block = tasks[first : first + groups]
            lengths = [sum(map(len, walk(tables, *task))) for task in block]
            found.all, found.longest = found.all + sum(lengths), max(found.longest, *lengths)
            found.missed += missed([walk(tables, *task) for task in block], int(CACHE * groups))
            found.blocks += 1
    for name in ("all", "missed", "different", "blocks"):
        setattr(found, name, getattr(found, name) / len(boxes))
    return found


def main() -> None:
    for case in CASES:
        print(*case[:3], reads(*case))


if __name__ == "__main__":
    main()
