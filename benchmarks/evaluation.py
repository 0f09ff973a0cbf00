"""COCO evaluation of two files, beside pycocotools, faster-coco-eval and hotcoco: seconds, memory, the same figures.

    python -m benchmarks.evaluation [--pictures 5000] [--repeats 3] [--threads 2] [--packages htc_fast hotcoco ...]
                                   [--out FOLDER]

Results in the device's evaluation.json. Each row is a process of its own that reads both files, evaluates and sums up;
the least seconds of its repeats count, of pycocotools' one. A package that is not installed is left out.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import stored
from htc_fast import ops
from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.errors import UserError, check_count, choose
from htc_fast.evaluation import evaluate_coco

HEIGHT, WIDTH, CLASSES, DETECTIONS, TRUTHS = 480, 640, 80, 100, 7.4
KINDS = {"bbox": "boxes.json", "segm": "masks.json"}


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--packages", nargs="+", default=list(PACKAGES))
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(*options.one)))
        return 0
    for name in ("pictures", "repeats", "threads"):
        check_count(f"--{name}", getattr(options, name))
    packages = [choose(one, PACKAGES, "package") for one in options.packages]
    device = torch.device("cpu")
    path, rows = stored.folder(device, options.out) / "evaluation.json", []
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), options.pictures)
        for kind in KINDS:
            rows += compared(kind, folder, packages, options.repeats, options.threads)
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items() if key != "stats"))
    about = {"pictures": options.pictures, "detections": DETECTIONS, "classes": CLASSES, "threads": options.threads}
    stored.write(path, device, {**about, "rows": rows})
    return 0


def compared(kind: str, folder: str, packages: list[str], repeats: int, threads: int) -> list[dict[str, Any]]:
    """Rows of one kind; "equal" says whether a package has the first one's twelve figures, every bit of them."""
    rows: list[dict[str, Any]] = []
    for package in packages:
        if importlib.util.find_spec(PACKAGES[package][0]) is None:
            continue
        runs = [apart(package, kind, folder, threads) for _ in range(1 if package == "pycocotools" else repeats)]
        best = min(runs, key=lambda run: run["seconds"])
        rows.append({"package": package, "kind": kind, **best, "equal": best["stats"] == (rows or [best])[0]["stats"]})
    return rows


def apart(package: str, kind: str, folder: str, threads: int) -> dict[str, Any]:
    """One run in a process of its own.

    raises  UserError if it fails
    """
    command = [sys.executable, "-m", "benchmarks.evaluation", "--one", package, kind, folder]
    names = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **dict.fromkeys(names, str(threads))}
    )
    if done.returncode:
        raise UserError(f"{package} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def measured(package: str, kind: str, folder: str) -> dict[str, Any]:
    """Seconds, MB that the run adds to what the imports hold, and the twelve figures."""
    truth, results = (str(Path(folder) / name) for name in ("truth.json", KINDS[kind]))
    run = PACKAGES[package][1]()

    def peak() -> float:  # getrusage would begin with what the parent holds
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    before, began = peak(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        stats = run(truth, results, kind)
    seconds = time.perf_counter() - began
    return {"seconds": round(seconds, 2), "MB": round(peak() - before), "stats": [float(one) for one in stats[:12]]}


def ours() -> Callable:
    return lambda truth, results, kind: list(evaluate_coco(truth, results, kinds=kind).metrics.values())


def like_pycocotools(coco: Any, evaluator: Any, load: str = "loadRes") -> Callable:
    """A package with pycocotools' two classes."""

    def run(truth: str, results: str, kind: str) -> Any:
        told = coco(truth)
        one = evaluator(told, getattr(told, load)(results), kind)
        one.evaluate()
        one.accumulate()
        one.summarize()
        return one.stats

    return run


def pycocotools() -> Callable:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return like_pycocotools(COCO, COCOeval)


def faster_coco_eval() -> Callable:
    from faster_coco_eval import COCO, COCOeval_faster

    return like_pycocotools(COCO, COCOeval_faster)


def hotcoco() -> Callable:
    from hotcoco import COCO, COCOeval

    return like_pycocotools(COCO, COCOeval, "load_res")


PACKAGES: dict[str, tuple[str, Callable]] = {
    "htc_fast": ("htc_fast", ours),
    "hotcoco": ("hotcoco", hotcoco),
    "faster-coco-eval": ("faster_coco_eval", faster_coco_eval),
    "pycocotools": ("pycocotools", pycocotools),
}


def make_files(folder: Path, pictures: int) -> None:
    """truth.json, boxes.json and masks.json: half of the detections lie near an object, the others anywhere."""
    draw, shapes = np.random.default_rng(0), blobs()
    annotations: list[dict] = []
    results: list[dict] = []
    share = 1 / np.arange(1, CLASSES + 1)  # few classes have most objects
    for image in range(1, pictures + 1):
        count = int(draw.poisson(TRUTHS))
        boxes, labels = (
            boxes_of(draw, count + DETECTIONS),
            draw.choice(CLASSES, count + DETECTIONS, p=share / share.sum()),
        )
        looks, near = draw.integers(0, len(shapes), count + DETECTIONS), np.arange(count, count + DETECTIONS)
        near = near[draw.random(DETECTIONS) < 0.5] if count else near[:0]
        like = draw.integers(0, max(count, 1), len(near))
        sides = np.tile(boxes[like, 2:] - boxes[like, :2], 2)
        boxes[near] = (boxes[like] + sides * draw.normal(0, 0.08, sides.shape)).clip(0, [WIDTH, HEIGHT] * 2)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels[near], looks[near] = labels[like], looks[like]
        scores = 0.5 * draw.beta(1, 4, len(boxes))
        scores[near] += 0.5 * draw.beta(2, 2, len(near))
        rles = ops.encode_masks(shapes[looks], torch.from_numpy(boxes).float(), (HEIGHT, WIDTH))
        for n, rle in enumerate(rles):
            x1, y1, x2, y2 = boxes[n].tolist()
            place = {"bbox": [round(one, 2) for one in (x1, y1, x2 - x1, y2 - y1)]}
            mask = {"segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}}  # type: ignore[union-attr]
            both = {"image_id": image, "category_id": int(labels[n]) + 1, **place, **mask}
            if n < count:
                more = {"id": len(annotations) + 1, "area": 0.6 * (x2 - x1) * (y2 - y1)}
                annotations.append({**both, **more, "iscrowd": int(draw.random() < 0.01)})
            else:
                results.append({**both, "score": round(float(scores[n]), 4)})
    images = [{"id": image, "height": HEIGHT, "width": WIDTH} for image in range(1, pictures + 1)]
    categories = [{"id": n + 1, "name": f"class {n + 1}"} for n in range(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "truth.json").write_text(json.dumps(content))
    for name, left_out in (("boxes", "segmentation"), ("masks", "bbox")):
        kept = [{key: value for key, value in one.items() if key != left_out} for one in results]
        (folder / f"{name}.json").write_text(json.dumps(kept))


def boxes_of(draw: np.random.Generator, count: int) -> np.ndarray:
    """[count, 4] x1, y1, x2, y2 of all sizes, anywhere in the picture."""
    sides = np.exp(draw.normal(4.2, 0.9, (count, 1)) + draw.normal(0, 0.3, (count, 2))).clip(4, [WIDTH - 2, HEIGHT - 2])
    corners = draw.random((count, 2)) * ([WIDTH, HEIGHT] - sides)
    return np.concatenate([corners, corners + sides], axis=1)


def blobs(count: int = 64) -> torch.Tensor:
    """[count, 28, 28] probabilities: round things with dents."""
    draw = np.random.default_rng(1)
    rows, columns = np.mgrid[:28, :28] - 13.5
    angles, distances = np.arctan2(rows, columns), np.hypot(rows, columns)
    made = []
    for _ in range(count):
        waves = sum(draw.normal(0, 1.2) * np.cos(k * angles + draw.uniform(0, 6.28)) for k in range(1, 6))
        made.append(1 / (1 + np.exp(1.5 * (distances - 10 - waves))))
    return torch.from_numpy(np.array(made)).float()


if __name__ == "__main__":
    entry.run(main)
