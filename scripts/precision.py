"""What bf16 and fp16 cost a trained detector: AP in each, and how many of fp32's detections come out again.

python scripts/precision.py --weights runs/sample/model.safetensors [--data DIR]     default data: the sample pictures

Results in benchmarks/results/<device>/precision.json. A processor without a type computes it in software: slowly, with
the same rounding.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import torch
from torchvision.ops import box_iou

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.conftest import RESULTS, device_name, machine
from htc_fast.data import CocoDataset
from htc_fast.data.instances import Instances
from htc_fast.data.sample import make_sample_dataset
from htc_fast.detector import load
from htc_fast.device import supports
from htc_fast.evaluation import coco
from htc_fast.inference import Optimized

SCORE, IOU = 0.3, 0.9
KEYS = ("box_AP", "box_AP50", "mask_AP", "mask_AP50")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--weights", type=Path, required=True)
    options.add_argument("--data", type=Path)
    options.add_argument("--split", default="val")
    options.add_argument("--device")
    options.add_argument("--note", help="one sentence about the weights, kept beside the results")
    options = options.parse_args()
    model = load(options.weights, device=options.device)
    dataset = CocoDataset(options.data or make_sample_dataset(), options.split)
    device = next(model.parameters()).device
    side = model.config.image_size or (800, 1333)
    rows, exact = [], None
    for name, network in [("fp32, as it is", model), *optimized(model, tuple(side))]:
        began = time.perf_counter()
        found = coco.collect(network, dataset)
        seconds = time.perf_counter() - began
        exact = exact or found
        metrics = coco.score(dataset, found).metrics
        row = {"computed in": name, **{key: round(metrics[key], 4) for key in KEYS}, **matched(exact, found)}
        dtype = getattr(network, "dtype", torch.float32)
        # Seconds mean something only where the processor has the type.
        row["seconds per picture"] = round(seconds / len(found), 3) if supports(dtype, device) else None
        rows.append(row)
        print(row, flush=True)
    names = {"model": model.config.name, "backbone": model.config.backbone}
    limits = {"score": SCORE, "iou": IOU, "note": options.note}
    result = {"machine": machine(), "pictures": len(dataset), **names, **limits, "rows": rows}
    path = RESULTS / device_name() / "precision.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def optimized(model, size: tuple[int, int]):
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
    main()
