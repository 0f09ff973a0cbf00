"""Images per second of whole detectors on a GPU, pixels in host memory to run lengths on the host; JSON in --out.

HTC R-50 at 800 x 1333 as it is and optimized, batch 1 and 8, beside torchvision's Mask R-CNN v1 and v2 with paste and
pycocotools' encoding. Weights are random (the work does not depend on them: 1000 proposals, 100 detections).
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision.models import detection

import htc_fast
from htc_fast.inference.predict import stream
from htc_fast.profiling.limits import machine

PICTURE = (800, 1333)
SPEC_LIMIT = 711  # images/s: the arithmetic of HTC R-50 at an H200's bf16 rate


def ours(model, batch_size: int, count: int, autocast: torch.dtype | None) -> dict:
    draw = np.random.default_rng(0)
    pictures = [draw.integers(0, 256, (*PICTURE, 3), dtype=np.uint8) for _ in range(4)]

    def run(count: int) -> int:
        options = {"size": PICTURE, "batch_size": batch_size}
        with torch.autocast("cuda", autocast or torch.bfloat16, enabled=autocast is not None):
            return sum(len(found) for _, found in stream(model, count, lambda i: pictures[i % 4], **options))

    return timed(run, batch_size, count)


def torchvision(name: str, batch_size: int, count: int) -> dict:
    model = getattr(detection, name)(weights=None, weights_backbone=None, box_score_thresh=0.001).eval().cuda()
    picture = torch.rand(3, *PICTURE).pin_memory()

    @torch.no_grad()
    def run(count: int) -> int:
        instances = 0
        for _ in range(count // batch_size):
            with torch.autocast("cuda", torch.bfloat16):
                found = model([picture.cuda(non_blocking=True) for _ in range(batch_size)])
            for one in found:
                masks = (one["masks"][:, 0] > 0.5).byte().permute(1, 2, 0).cpu().numpy()
                instances += len(coco_mask.encode(np.asfortranarray(masks)))
        return instances

    return timed(run, batch_size, count)


def timed(run, batch_size: int, count: int) -> dict:
    """Images per second: the median of three runs of `count` images, after one of a quarter."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run(max(count // 4, 2 * batch_size))
    rates = []
    for _ in range(3):
        torch.cuda.synchronize()
        began = time.perf_counter()
        instances = run(count)
        rates.append(count / (time.perf_counter() - began))
    return {"images/s": round(statistics.median(rates), 1), "instances per image": round(instances / count, 1),
            "peak MB": round(torch.cuda.max_memory_allocated() / 1e6)}  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--model", default="htc_r50")
    options = options.parse_args()
    torch.manual_seed(0)
    model = htc_fast.create_model(options.model).eval().cuda()
    model = model.to(memory_format=torch.channels_last)
    rows = {}

    def row(name: str, make, *arguments) -> None:
        try:
            rows[name] = make(*arguments)
        except torch.OutOfMemoryError as error:
            rows[name] = {"failed": str(error).splitlines()[0]}
        print(f"{name:48s} {rows[name]}", flush=True)

    for batch_size, count in ((1, 64), (8, 128)):
        row(f"{options.model}, eager bf16, batch {batch_size}", ours, model, batch_size, count, torch.bfloat16)
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            fast = htc_fast.optimize(model, (800, 1344), batch_size, dtype)
            name = f"{options.model}, optimized {str(dtype)[6:]}, batch {batch_size}"
            row(name, ours, fast, batch_size, 2 * count, None)
            del fast
    # The same once more with cuDNN choosing its algorithms by measurement, for everyone.
    torch.backends.cudnn.benchmark = True
    row(f"{options.model}, optimized bfloat16, batch 1, cudnn.benchmark", ours,
        htc_fast.optimize(model, (800, 1344), 1, torch.bfloat16), 1, 64, None)  # fmt: skip
    for name in ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"):
        for batch_size in (1, 8):
            row(f"torchvision {name}, bf16, batch {batch_size}", torchvision, name, batch_size, 32)
    result = {"machine": machine(), "device": torch.cuda.get_device_name(), "torch": torch.__version__,
              "limit images/s": SPEC_LIMIT}  # fmt: skip
    options.out.write_text(json.dumps({**result, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
