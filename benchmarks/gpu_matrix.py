"""Time the matrix operators on a GPU beside cuDNN, called as eager layers and from a CUDA graph; JSON in --out.

Like gpu_ops.py; the limit is the longer of the bytes at the copy rate and the products at the rate of a large bf16
matrix product, both measured in the same run.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.gpu_ops import Table, events
from htc_fast import ops
from htc_fast.ops import MaskHeadWeights

CHANNELS, CLASSES, SIZE = 256, 80, 14
CONVOLUTION = 2 * 9 * CHANNELS**2 * SIZE**2  # FLOP per RoI
PREDICT = 2 * 4 * CHANNELS**2 * SIZE**2


def product_rate() -> float:
    """FLOP per microsecond of a large bf16 matrix product."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192**3 / statistics.median(events(lambda: a @ a, 20))


def draw(*shape: int, scale: float = 1.0, dtype=torch.bfloat16) -> torch.Tensor:
    made = (torch.randn(shape, device="cuda") * scale).to(dtype)
    return made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made


def head(flow: bool) -> MaskHeadWeights:
    def layer(*shape: int, outputs: int = CHANNELS):
        return draw(*shape, scale=0.02), draw(outputs)

    return MaskHeadWeights(
        tuple(layer(CHANNELS, CHANNELS, 3, 3) for _ in range(4)),
        layer(CHANNELS, CHANNELS, 2, 2),
        layer(CLASSES, CHANNELS, 1, 1, outputs=CLASSES),
        layer(CHANNELS, CHANNELS, 1, 1) if flow else None,
    )


class Limits(Table):
    """Rows with the time that bytes or products must take."""

    def __init__(self) -> None:
        super().__init__()
        self.products = product_rate()

    def compare(self, case: str, ours: Callable, rival: Callable, moved: float, work: float, tolerance=3e-2) -> None:
        """One row for each backend; a wrong result is reported and not timed."""
        limit = max(moved, work / self.products * self.rate)
        with ops.use_backend("triton"):
            found = ours()
        wanted = rival()
        error = ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()
        if not error < tolerance:
            self.rows.append({"case": case, "who": "triton", "error": f"wrong by {error:.3g}"})
            print(self.rows[-1], flush=True)
        else:
            with ops.use_backend("triton"):
                self.add(case, "triton", ours, limit)
        self.add(case, "cudnn through torch", rival, limit)


def bench_convolutions(table: Limits, count: int) -> None:
    x, layers = draw(count, CHANNELS, SIZE, SIZE), head(False).convolutions

    def ours(x=x):
        for weight, bias in layers:
            x = ops.conv3x3_relu(x, weight, bias)
        return x

    def layers_of_torch(x=x):
        for weight, bias in layers:
            x = F.conv2d(x, weight, bias, padding=1).relu_()
        return x

    def cudnn(x=x):
        for weight, bias in layers:
            x = torch.cudnn_convolution_relu(x, weight, bias, (1, 1), (1, 1), (1, 1), 1)
        return x

    case, moved, work = f"four convolutions, {count} RoIs", 2 * x.nbytes, 4 * count * CONVOLUTION
    with torch.no_grad():
        table.compare(case, ours, layers_of_torch, moved, work)
        table.add(case, "cudnn, bias and ReLU fused", cudnn, max(moved, work / table.products * table.rate))
        for box in (True, False):
            bench_tiles(table, f"{case}, {'copied in bulk' if box else 'gathered'}", ours, box, moved, work)


def bench_tiles(table: Limits, case: str, call: Callable, box: bool, moved: float, work: float) -> None:
    """The same with the best tile by count of one kind alone: which of the two kernels is the faster one."""
    from htc_fast.ops.triton import matrix, tiles

    def choose(x, taps, outputs, run, tma, extra):
        found = tiles.candidates(x, outputs, tiles.device_of(x), tma, extra)
        kind = [tile for tile in found if (tile.box is not None) == box] or found
        return tiles.by_waves((x.shape[0], *x.shape[2:]), outputs, kind, tiles.device_of(x))

    usual, matrix.tile_for = matrix.tile_for, choose
    try:
        with ops.use_backend("triton"):
            table.add(case, "triton", call, max(moved, work / table.products * table.rate))
    finally:
        matrix.tile_for = usual


def bench_predict(table: Limits, count: int) -> None:
    x, one = draw(count, CHANNELS, SIZE, SIZE), head(False)
    labels, rows = torch.randint(CLASSES, (count,), device="cuda"), torch.arange(count, device="cuda")
    up, logits = one.upsample, one.logits

    def cudnn():
        return F.conv2d(F.conv_transpose2d(x, *up, stride=2).relu_(), *logits)[rows, labels]

    with torch.no_grad():
        case = f"mask_predict of one class, {count} RoIs"
        table.compare(case, lambda: ops.mask_predict(x, *up, *logits, labels), cudnn, x.nbytes, count * PREDICT)


def bench_branch(table: Limits, count: int) -> None:
    x, heads = draw(count, CHANNELS, SIZE, SIZE), [head(t > 0) for t in range(3)]
    labels = torch.randint(CLASSES, (count,), device="cuda")

    def cudnn():
        with ops.use_backend("cuda"):
            return ops.mask_branch(x, labels, heads)

    flow = 2 * 2 * CHANNELS**2 * SIZE**2
    work = count * (12 * CONVOLUTION + 3 * PREDICT + flow)
    table.compare(f"mask branch of three stages, {count} detections", lambda: ops.mask_branch(x, labels, heads), cudnn,
                  x.nbytes, work)  # fmt: skip


def bench_merge(table: Limits) -> None:
    levels = [draw(1, CHANNELS, h, w) for h, w in ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21))]
    weights, biases = [draw(CHANNELS, CHANNELS, 1, 1, scale=0.05) for _ in levels], [draw(CHANNELS) for _ in levels]

    def cudnn():
        with ops.use_backend("cuda"):
            return ops.semantic_merge(levels, weights, biases)

    work = 5 * 2 * CHANNELS**2 * levels[1].shape[2] * levels[1].shape[3]
    with torch.no_grad():
        moved = sum(one.nbytes for one in levels) + levels[1].nbytes
        table.compare("semantic_merge of an 800x1344 image", lambda: ops.semantic_merge(levels, weights, biases), cudnn,
                      moved, work)  # fmt: skip


def bench_training(table: Limits, count: int) -> None:
    """Forward and backward of a head from float32 weights under bf16 autocast, as in a training step."""
    x, one = draw(count, CHANNELS, SIZE, SIZE).requires_grad_(), head(True)
    layers = [tuple(part.float().requires_grad_() for part in layer)
              for layer in (*one.convolutions, one.upsample, one.logits)]  # fmt: skip
    leaves = [x, *(part for layer in layers for part in layer)]

    def step(backend: str):
        with ops.use_backend(backend), torch.autocast("cuda", torch.bfloat16):
            y = x
            for weight, bias in layers[:-2]:
                y = ops.conv3x3_relu(y, weight, bias)
            out = ops.mask_predict(y, *layers[-2], *layers[-1])
            loss = out.float().square().mean()
        return torch.autograd.grad(loss, leaves)[0]

    work = 3 * count * (4 * CONVOLUTION + PREDICT * (1 + CLASSES / CHANNELS))
    table.compare(f"mask head forward and backward, {count} RoIs", lambda: step("triton"), lambda: step("cuda"),
                  4 * x.nbytes, work, 6e-2)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    table = Limits()
    for count in (1, 10, 100, 512):
        bench_convolutions(table, count)
    for count in (100, 512):
        bench_predict(table, count)
    for count in (10, 100, 800):
        bench_branch(table, count)
    bench_merge(table)
    for count in (128, 384):
        bench_training(table, count)
    report = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "copy_gb_per_s": round(table.rate / 1e3),
        "bf16_tflop_per_s": round(table.products / 1e6),
        "unit": "microseconds",
        "rows": table.rows,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
