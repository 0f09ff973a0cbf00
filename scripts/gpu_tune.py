"""Measure tiles of the matrix kernels as the detector runs them, in a CUDA graph, beside cuDNN: convolutions of 256
channels four in a row, activations hot; a mask head's flow; the pyramid's laterals.

    python scripts/gpu_tune.py --out FOLDER [--processes 14] [--seconds 380] [--dry]

Tiles are compiled beforehand by many processes into Triton's cache (TRITON_CACHE_DIR). FOLDER/tune.json has a row for
each tile and for cuDNN, and grows as they are measured; FOLDER/tiles.json has the best tile of each problem, as
htc_fast/ops/triton/tiles.json wants them. --dry: two tiles of one tiny problem, on a CPU in Triton's interpreter.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

if "--dry" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"
import torch
import triton

from htc_fast import ops
from htc_fast.ops.triton import matrix, tiles, tma
from htc_fast.ops.triton.epilogue import FLOW, NEAREST, RELU
from htc_fast.ops.triton.tiles import BOXES, Tile

COUNT, ROUNDS = 4, 15
SURELY = 0.97  # of cuDNN's time: what is less is no accident
LAST = {"memory_format": torch.channels_last}


@dataclass(frozen=True)
class Problem:
    """`count` maps [channels, height, width] to `outputs` by 9 taps, or by 1 with a flow's or a lateral's epilogue."""

    count: int
    height: int
    width: int
    channels: int = 256
    epilogue: int = RELU
    dtype: torch.dtype = torch.bfloat16
    device: str = "cuda"
    outputs: int = 256

    @property
    def taps(self) -> int:
        return 9 if self.epilogue == RELU else 1

    def tensors(self) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor, torch.Tensor | None]:
        """x, four weights, bias and what comes in at the end."""
        torch.manual_seed(0)
        side, like = 3 if self.taps == 9 else 1, {"device": self.device, "dtype": self.dtype}
        x = torch.randn(self.count, self.channels, self.height, self.width).to(**like).contiguous(**LAST)
        weights = torch.randn(COUNT, self.outputs, self.channels, side, side) * (self.taps * self.channels) ** -0.5
        extra = None
        if self.taps == 1:
            size = [-(-one // (2 if self.epilogue == NEAREST else 1)) for one in (self.height, self.width)]
            extra = torch.randn(self.count, self.outputs, *size).to(**like).contiguous(**LAST)
        return x, [one.to(**like).contiguous(**LAST) for one in weights], torch.zeros(self.outputs, **like), extra

    def name(self, x: torch.Tensor) -> str:
        return tiles.problem_of(x, self.taps, self.outputs, self.copied(x), self.taps == 1)

    def copied(self, x: torch.Tensor) -> bool:
        return self.taps == 9 and tiles.device_of(x).tma and self.channels % (128 // x.element_size()) == 0


PROBLEMS = [
    *(Problem(count, 14, 14) for count in (100, 800)),
    *(Problem(count, height, width) for height, width in ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21))
      for count in (1, 8)),
    *(Problem(count, 14, 14, epilogue=FLOW) for count in (100, 800)),
    *(Problem(count, height, width, channels, NEAREST) for height, width, channels in (
        (200, 336, 256), (100, 168, 512), (50, 84, 1024)) for count in (1, 8)),
    *(Problem(count, height, width, channels, outputs=channels) for height, width, channels in (
        (200, 336, 64), (100, 168, 128), (25, 42, 512)) for count in (1, 8)),
    *(Problem(count, 14, 14) for count in (1, 10, 128, 512)),
]  # fmt: skip


SHAPES = ((128, 256, 8), (256, 128, 8), (128, 128, 8), (128, 128, 4), (64, 256, 4), (64, 256, 8), (64, 128, 4),
          (128, 64, 4), (64, 64, 4), (32, 64, 4))  # fmt: skip
FLIGHT = ((64, 4), (64, 3), (64, 2), (128, 2))  # depth, stages


def offered(problem: Problem, x: torch.Tensor) -> list[Tile]:
    """More tiles than `tiles.candidates` has: of every shape, with fewer and more steps in flight."""
    device, size, found = tiles.device_of(x), x.element_size(), []
    for rows, outputs, warps in SHAPES:
        for depth, stages in FLIGHT:
            made = Tile(rows, outputs, depth, warps, stages)
            if made.shared(size) + 1024 > device.shared or problem.channels % depth or outputs > problem.outputs:
                continue
            if stages > 2 or rows * outputs == 128 * 128:
                found.append(made)
            if problem.copied(x) and rows in BOXES and depth == 64 and stages > 2:
                found += [replace(made, box=box) for box in BOXES[rows] if (box[0] == 1) == (problem.height > 14)]
    return found


def calls(problem: Problem) -> tuple[torch.Tensor, Callable[[Tile], None], Callable[[], None]]:
    """x, four products with a tile, and the same by cuDNN or cuBLAS without what comes in at the end."""
    x, weights, bias, extra = problem.tensors()
    steps = (1, 9 * problem.channels, problem.channels) if problem.taps == 9 else (1, problem.channels, 0)

    def ours(tile: Tile) -> None:
        if tile.box is not None and not tma.trusted(x, tile, False, RELU, False, 0):
            raise RuntimeError("its results differ from torch's")
        usual, matrix.tile_for, out = (matrix.tile_for, matrix.plan_for), lambda *_: tile, x
        matrix.plan_for = lambda *_: None  # what keeps its weights has no tile to be chosen
        try:
            for weight in weights:
                given = out if problem.channels == problem.outputs and problem.taps == 9 else x
                out = matrix.product(given, weight, problem.outputs, steps, problem.taps, problem.epilogue, bias, extra)
        finally:
            matrix.tile_for, matrix.plan_for = usual

    def theirs() -> None:
        out = x
        for weight in weights:
            if problem.taps == 9:
                out = torch.cudnn_convolution_relu(out, weight, bias, [1, 1], [1, 1], [1, 1], 1)
            else:
                torch._addmm_activation(bias, x.permute(0, 2, 3, 1).flatten(0, 2), weight.flatten(1).t())

    return x, ours, theirs


def milliseconds(call: Callable[[], None], device: str) -> float:
    """Of one of the four, the median of replays."""
    call()
    if device != "cuda":
        began = time.perf_counter()
        call()
        return (time.perf_counter() - began) / COUNT * 1e3
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
        call()
    graph.replay()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(ROUNDS)]
    for start, end in events:
        start.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) / (2 * COUNT)


def compile_one(job: tuple[Problem, Tile]) -> str | None:
    """Run one tile once, which puts it into Triton's cache; what went wrong, if anything did."""
    problem, tile = job
    try:
        with ops.use_backend("triton"):
            calls(problem)[1](tile)
    except Exception as error:  # a tile that this GPU does not take is no reason to stop
        return f"{tile}: {str(error).splitlines()[0] if str(error) else error!r}"
    return None


def measured(problem: Problem, dry: bool) -> Iterator[tuple[str, str, Tile | None, float]]:
    """Device, problem, tile (None: cuDNN's or cuBLAS's) and milliseconds."""
    x, ours, theirs = calls(problem)
    about = tiles.device_of(x).name, problem.name(x)
    if problem.device == "cuda":
        yield *about, None, milliseconds(theirs, problem.device)
    for tile in offered(problem, x)[-2:] if dry else offered(problem, x):
        try:
            yield *about, tile, milliseconds(partial(ours, tile), problem.device)
        except (RuntimeError, torch.OutOfMemoryError, triton.runtime.errors.TritonError) as error:
            print(f"{about[1]}: {tile} was left out: {error}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=14)
    parser.add_argument("--seconds", type=float, default=380, help="no further problem is begun behind them")
    parser.add_argument("--dry", action="store_true", help="on a CPU, tiny")
    options = parser.parse_args()
    with ops.use_backend("triton"):  # which hands nothing to cuDNN
        tune(options)


def tune(options: argparse.Namespace) -> None:
    began, rows, best = time.monotonic(), [], {}
    options.out.mkdir(parents=True, exist_ok=True)
    problems = [Problem(1, 3, 5, 64, dtype=torch.float16, device="cpu", outputs=64)] if options.dry else PROBLEMS
    # Kernels are compiled for types, tiles and channels, not for numbers of maps: one small problem stands for all.
    kinds = {(one.epilogue, one.channels, one.height > 14): replace(one, count=1) for one in problems}.values()
    jobs = [(one, tile) for one in kinds for tile in offered(one, one.tensors()[0])]
    jobs = jobs[-2:] if options.dry else jobs
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        told = [one for one in pool.map(compile_one, jobs) if one is not None]
    print(f"{len(jobs)} kernels compiled in {time.monotonic() - began:.0f} s", *told, sep="\n", flush=True)
    for problem in problems:
        if time.monotonic() - began > options.seconds:
            print("out of time: the problems from here on were not measured", problem, flush=True)
            break
        found, rival = {}, None
        for device, name, tile, taken in measured(problem, options.dry):
            rows.append({"device": device, "problem": name, "tile": tile and asdict(tile), "ms": taken})
            if tile is None:
                rival = taken
            else:
                found[tile] = taken
        (options.out / "tune.json").write_text(json.dumps(rows, indent=1) + "\n")
        if found:
            fastest = min(found, key=found.__getitem__)
            best.setdefault(device, {})[name] = asdict(fastest)
            if rival is not None and problem.taps == 9:
                best[device][name]["beats cuDNN"] = found[fastest] < SURELY * rival
            (options.out / "tiles.json").write_text(json.dumps(best, indent=1) + "\n")
            beside = "" if rival is None else f", cuDNN or cuBLAS {rival:.4f}"
            print(f"{name}: {found[fastest]:.4f} ms with {fastest}{beside}", flush=True)


if __name__ == "__main__":
    main()
