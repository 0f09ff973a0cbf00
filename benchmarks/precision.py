"""What bf16 and fp16 cost a trained detector: AP in each, and how many of fp32's detections come out again.

    python -m benchmarks.precision --weights runs/sample/model.safetensors [--data DIR]     default: the sample pictures

Results in benchmarks/results/<device>/precision.json. A processor without a type computes it in software: slowly, with
the same rounding.
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torchvision.ops import box_iou

import htc_fast
from benchmarks import stored
from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.data import CocoDataset
from htc_fast.data.instances import Instances
from htc_fast.data.sample import make_sample_dataset
from htc_fast.device import supports
from htc_fast.evaluation import coco
from htc_fast.inference import Optimized

SCORE, IOU = 0.3, 0.9
KEYS = ("box_AP", "box_AP50", "mask_AP", "mask_AP50")


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    parser.add_argument("--note", help="one sentence about the weights, kept beside the results")
    parser.add_argument("--out", type=Path, help="folder for the results")
    options = parser.parse_args()
    model = htc_fast.load(options.weights, device=options.device)
    device = next(model.parameters()).device
    path = stored.folder(device, options.out) / "precision.json"
    dataset = CocoDataset(options.data or make_sample_dataset(), options.split)
    names = {"model": model.config.name, "backbone": model.config.backbone}
    limits = {"score": SCORE, "iou": IOU, "note": options.note}
    rows = list(compared(model, dataset, device))
    stored.write(path, device, {"pictures": len(dataset), **names, **limits, "rows": rows})


def compared(model, dataset, device: torch.device) -> Iterator[dict]:
    """One row for each type that the network is computed in, the first as it is."""
    exact, size = None, tuple(model.config.image_size or (800, 1333))
    for name, network in [("fp32, as it is", model), *optimized(model, size)]:
        began = time.perf_counter()
        found = coco.collect(network, dataset)
        seconds = time.perf_counter() - began
        exact = exact or found
        metrics = coco.score(dataset, found).metrics
        row = {"computed in": name, **{key: round(metrics[key], 4) for key in KEYS}, **matched(exact, found)}
        dtype = getattr(network, "dtype", torch.float32)
        # Seconds mean something only where the processor has the type.
        row["seconds per picture"] = round(seconds / len(found), 3) if supports(dtype, device) else None
        print(row, flush=True)
        yield row


def optimized(model, size: tuple[int, int]) -> Iterator[tuple[str, Optimized]]:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield f"{str(dtype)[6:]}, optimized", Optimized(model, size, 1, dtype)


def matched(exact: dict[int, Instances], found: dict[int, Instances]) -> dict[str, float]:
    """The share of fp32's detections of at least SCORE that have one of their class with an IoU of at least IOU."""
    kept = total = 0
    apart = 0.0
    for index, wanted in exact.items():
        wanted, other = wanted[wanted.scores >= SCORE], found[index]
        if not len(wanted):
            continue
        total += len(wanted)
        same = wanted.labels[:, None] == other.labels[None]
        overlap = box_iou(wanted.boxes, other.boxes) * same
        best, which = overlap.max(dim=1)
        kept += int((best >= IOU).sum())
        near = (wanted.scores - other.scores[which]).abs()[best >= IOU]
        apart = max(apart, float(near.max()) if len(near) else 0.0)
    return {"matched": round(kept / max(total, 1), 4), "of": total, "scores apart": round(apart, 4)}


if __name__ == "__main__":
    entry.run(main)
