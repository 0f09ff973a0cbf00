"""How cost grows: time over RoIs, boxes, proposals, detections, masks, image size, batch and channels, as curves.

    python -m benchmarks.sweep           about a minute on two idle cores; sweep.json beside the other results
    python -m benchmarks.sweep --quick   smallest sizes, once each, into runs/sweep: to see that it runs

The exponent k of time ~ size^k is fitted over the larger half of the sizes, where no fixed cost is left. Weights and
pictures are random: time does not depend on them.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import htc_fast
from benchmarks import stored, timer
from benchmarks.curves import draw
from htc_fast import ops
from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.device import find_device
from tests.inputs import SCALES, candidates, maps, proposals, soft_masks

SIZES = {
    "RoIs": (64, 125, 250, 500, 1000, 2000, 4000),
    "boxes": (1000, 4000, 16_000, 64_000, 256_000),
    "boxes, all kept": (1000, 2000, 4000, 8000, 16_000, 32_000),
    "proposals": (64, 125, 250, 500, 1000, 2000),
    "detections": (6, 12, 25, 50, 100),
    "masks": (10, 32, 100, 316, 1000),
    "pixels of a side": (128, 256, 384, 512, 768),
    "images": (1, 2, 4, 8),
    "channels": (32, 64, 128, 256, 512),
}
WHAT = {
    "RoIs": "multi_level_roi_align, 7×7, 256 channels",
    "boxes": "batched_nms_padded, the best 100, 80 classes",
    "boxes, all kept": "batched_nms, 80 classes",
    "proposals": "box stage 1 of htc_r50",
    "detections": "mask_branch of htc_r50, three heads",
    "masks": "encode_masks at 480×640",
    "pixels of a side": "backbone and FPN of htc_r50, a square picture",
    "images": "backbone and FPN of htc_r50, 256×256 each",
    "channels": "conv3x3_relu, 100 RoIs of 14×14",
}


def calls(device: torch.device) -> dict[str, Callable[[int], Callable]]:
    """Name of a sweep -> (size -> what is timed)."""
    torch.manual_seed(0)
    model = htc_fast.create_model("htc_r50").eval().to(device)
    levels = [one.to(device) for one in maps()]
    heads = [head.weights() for head in model.mask_heads]

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)

    def rois(count):
        boxes = proposals(count).to(device)
        return lambda: ops.multi_level_roi_align(levels, boxes, 7, SCALES)

    def padded(count):
        boxes, scores, idxs = (one[None].to(device) for one in candidates(count, 80))
        return lambda: ops.batched_nms_padded(boxes, scores, idxs, 0.5, 100)

    def kept(count):
        boxes, scores, idxs = (one.to(device) for one in candidates(count, 80))
        return lambda: ops.batched_nms(boxes, scores, idxs, 0.5)

    def stage(count):
        boxes = proposals(count).to(device)[None, :, 1:]
        return lambda: model.box_stage(0, levels, levels[1], boxes)

    def branch(count):
        x, labels = drawn(count, 256, 14, 14), torch.arange(count, device=device) % 80
        return lambda: ops.mask_branch(x, labels, heads)

    def encode(count):
        masks, boxes = (one.to(device) for one in soft_masks(count, (480, 640)))
        return lambda: ops.encode_masks(masks, boxes, (480, 640))

    def extract(images, side):
        batch = drawn(images, 3, side, side)
        return lambda: model.extract(batch)

    def convolution(channels):
        x, weight = drawn(100, channels, 14, 14), drawn(channels, channels, 3, 3)
        bias = torch.zeros(channels, device=device)
        return lambda: ops.conv3x3_relu(x, weight, bias)

    def image(side):
        return extract(1, side)

    def batch(images):
        return extract(images, 256)

    made = (rois, padded, kept, stage, branch, encode, image, batch, convolution)
    return dict(zip(SIZES, made, strict=True))


@torch.no_grad()
def sweep(device: torch.device, quick: bool) -> Iterator[dict]:
    """One curve after the other: name, what, sizes, milliseconds (median), exponent."""
    for name, make in calls(device).items():
        sizes = SIZES[name][:2] if quick else SIZES[name]
        times = []
        for size in sizes:
            call = make(size)
            call()
            times.append(statistics.median(timer.sample(call, device, 0.0 if quick else 1.0)) * 1e3)
        curve = {"over": name, "what": WHAT[name], "sizes": list(sizes)}
        yield curve | {"milliseconds": [round(t, 4) for t in times], "exponent": round(exponent(sizes, times), 2)}


def exponent(sizes: tuple[int, ...], times: list[float]) -> float:
    """k of time ~ size^k, by least squares over the larger half."""
    half = max(2, (len(sizes) + 1) // 2)
    x = [math.log(size) for size in sizes[-half:]]
    y = [math.log(one) for one in times[-half:]]
    return statistics.linear_regression(x, y).slope


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smallest sizes, once each")
    parser.add_argument("--out", type=Path, help="folder for sweep.json and sweep.png")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    options = parser.parse_args()
    device = find_device(options.device)
    folder = stored.folder(device, options.out or (Path("runs/sweep") if options.quick else None))
    print("a few seconds" if options.quick else "about a minute on two idle cores", flush=True)
    curves = []
    for curve in sweep(device, options.quick):
        curves.append(curve)
        ends = f"{curve['milliseconds'][0]:.3g} to {curve['milliseconds'][-1]:.3g} ms"
        sizes = f"over {curve['sizes'][0]} to {curve['sizes'][-1]} {curve['over']}"
        print(f"{curve['what']}: {sizes}, {ends}, time ~ size^{curve['exponent']:g}", flush=True)
    path = folder / "sweep.json"
    result = stored.write(path, device, {"curves": curves})
    print(f"{path} and {draw(result, folder / 'sweep.png')}")


if __name__ == "__main__":
    entry.run(main)
