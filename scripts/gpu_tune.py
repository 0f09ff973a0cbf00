"""Measure every tile of the 3x3 convolution as a mask head runs it: four in a row, in a CUDA graph, activations hot.

    python scripts/gpu_tune.py --out FOLDER [--processes 14] [--seconds 380] [--dry]

Candidates are compiled beforehand by many processes into Triton's cache (TRITON_CACHE_DIR). FOLDER/tune.json has a row
for each tile and grows as they are measured; FOLDER/tiles.json has the best of each problem, as
htc_fast/ops/triton/tiles.json wants them. --dry: two tiles of one tiny problem, on a CPU in Triton's interpreter.
"""

import argparse
import json
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

if "--dry" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"
import torch

from htc_fast.ops.triton import matrix, tiles, tma
from htc_fast.ops.triton.epilogue import ALL, RELU
from htc_fast.ops.triton.tiles import Tile

PROBLEMS = [
    (1, 14, 14),
    (10, 14, 14),
    (100, 14, 14),
    (800, 14, 14),
    (1, 100, 168),
    (8, 100, 168),
]  # maps, height, width
CHAIN, ROUNDS = 4, 20


class Problem:
    """Convolutions of 256 channels over maps [count, 256, height, width]."""

    def __init__(self, count: int, height: int, width: int, dtype: torch.dtype, device: str, channels: int = 256):
        torch.manual_seed(0)
        last = {"memory_format": torch.channels_last}
        self.x = torch.randn(count, channels, height, width).to(device, dtype).contiguous(**last)
        weights = torch.randn(CHAIN, channels, channels, 3, 3) * (9 * channels) ** -0.5
        self.weights = [one.to(device, dtype).contiguous(**last) for one in weights]
        self.bias = torch.zeros(channels, device=device, dtype=dtype)
        self.steps = 1, 9 * channels, channels
        self.tma = tiles.device_of(self.x).tma and tma.takes(self.x, self.weights[0], channels, False)
        self.name = tiles.problem_of(self.x, 9, channels, self.tma, False)

    def candidates(self) -> list[Tile]:
        return tiles.candidates(self.x, self.x.shape[1], tiles.device_of(self.x), self.tma)

    def run(self, tile: Tile) -> torch.Tensor:
        """The chain with this tile alone."""
        if tile.box is not None and not tma.trusted(self.x, tile, False, RELU, False, ALL):
            raise RuntimeError("its results differ from torch's")
        usual, matrix.tile_for, x = matrix.tile_for, lambda *_: tile, self.x
        try:
            for weight in self.weights:
                x = matrix.product(x, weight, x.shape[1], self.steps, 9, RELU, self.bias)
        finally:
            matrix.tile_for = usual
        return x

    def milliseconds(self, tile: Tile) -> float:
        """Of one convolution, the median of replayed chains."""
        self.run(tile)
        if self.x.device.type != "cuda":
            began = time.perf_counter()
            self.run(tile)
            return (time.perf_counter() - began) / CHAIN * 1e3
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(5):
                self.run(tile)
        graph.replay()
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(ROUNDS)]
        for start, end in events:
            start.record()
            graph.replay()
            end.record()
        torch.cuda.synchronize()
        return statistics.median(start.elapsed_time(end) for start, end in events) / (5 * CHAIN)


def problems(dry: bool) -> list[tuple]:
    """What `Problem` takes; bf16 first, which the detector runs in."""
    if dry:
        return [(1, 3, 5, torch.float16, "cpu", 64)]
    return [(*shape, dtype, "cuda") for dtype in (torch.bfloat16, torch.float16) for shape in PROBLEMS]


def compile_one(job: tuple) -> str | None:
    """Run one tile once, which puts it into Triton's cache; what went wrong, if anything did."""
    given, tile = job
    try:
        Problem(*given).run(tile)
    except Exception as error:  # a tile that this GPU does not take is no reason to stop
        return f"{tile}: {error}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=14)
    parser.add_argument("--seconds", type=float, default=380, help="no further problem is begun behind them")
    parser.add_argument("--dry", action="store_true", help="on a CPU, tiny")
    options = parser.parse_args()
    began, rows, best = time.monotonic(), [], {}
    options.out.mkdir(parents=True, exist_ok=True)
    # Kernels are compiled for types, tiles and channels, not for numbers of maps: one small problem stands for all.
    kinds = {given[3]: (1, *given[1:]) for given in reversed(problems(options.dry))}
    jobs = [(given, tile) for given in kinds.values() for tile in Problem(*given).candidates()]
    jobs = jobs[-2:] if options.dry else jobs
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        told = [one for one in pool.map(compile_one, jobs) if one is not None]
    print(f"{len(jobs)} kernels compiled in {time.monotonic() - began:.0f} s", *told, sep="\n", flush=True)
    for given in problems(options.dry):
        if time.monotonic() - began > options.seconds:
            print("out of time: the problems from here on were not measured", given[:4], flush=True)
            break
        problem = Problem(*given)
        device = tiles.device_of(problem.x).name
        found = {}
        for tile in problem.candidates()[-2:] if options.dry else problem.candidates():
            try:
                found[tile] = problem.milliseconds(tile)
            except (RuntimeError, torch.OutOfMemoryError) as error:
                print(f"{problem.name}: {tile} was left out: {error}", flush=True)
                continue
            rows.append({"device": device, "problem": problem.name, "tile": asdict(tile), "ms": found[tile]})
            (options.out / "tune.json").write_text(json.dumps(rows, indent=1) + "\n")
        if found:
            fastest = min(found, key=found.__getitem__)
            best.setdefault(device, {})[problem.name] = asdict(fastest)
            (options.out / "tiles.json").write_text(json.dumps(best, indent=1) + "\n")
            print(f"{problem.name}: {found[fastest]:.4f} ms with {fastest}", flush=True)


if __name__ == "__main__":
    main()
