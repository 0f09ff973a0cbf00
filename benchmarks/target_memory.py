"""Memory and seconds of loading a picture of many objects and training a step on it: bitmaps beside layers.

    python -m benchmarks.target_memory [--objects 20 2000] [--side 1024] [--out folder]

Results in the device's target_memory.json. Each row is a process of its own; the network is a tiny one,
so that targets are what there is to see. "before" are bitmaps, "after" layers; in both, some anchors are compared with
the objects at a time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import stored
from htc_fast import create_model
from htc_fast.commands.options import Parser
from htc_fast.criterion.losses import losses
from htc_fast.data import CocoDataset, make_sample_dataset, train_transform
from htc_fast.data.loader import Collate

FORMS = {"before": False, "after": True}
USUAL, STEPS = "sample", 12


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[20, 2000])
    parser.add_argument("--side", type=int, default=1024, help="pixels")
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        form, data = options.one
        print(json.dumps(usual_step() if data == USUAL else one_step(form, Path(data))))
        return
    device = torch.device("cpu")
    path, rows = stored.folder(device, options.out) / "target_memory.json", []
    with tempfile.TemporaryDirectory() as folder:
        about: list[tuple[dict, Path]] = []
        for count in options.objects:
            make_picture(Path(folder) / str(count), count, options.side)
            about.append(({"objects": count, "side": options.side}, Path(folder) / str(count)))
        both = child("both", USUAL)
        for form in reversed(FORMS):
            rows.append({"data": "the sample, two pictures a step", "form": form, **both[form]})
            for words, data in about:
                rows.append({**words, "form": form, **child(form, data)})
                stored.write(path, device, {"rows": rows})
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()))


def child(form: str, data: Path | str) -> dict:
    """A row, from a process of its own.

    raises  CalledProcessError where that fails
    """
    command = [sys.executable, "-m", "benchmarks.target_memory", "--one", form, str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def make_picture(root: Path, count: int, side: int, seed: int = 0) -> None:
    """A COCO data set of one picture with `count` blobs on a jittered grid, some of which touch or overlap."""
    random = np.random.default_rng(seed)
    cells = int(np.ceil(count**0.5))
    pitch, made = side / cells, []
    for number in range(count):
        centre = (np.array([number % cells, number // cells]) + random.uniform(0.3, 0.7, 2)) * pitch
        angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        radius = pitch * random.uniform(0.3, 0.5) * random.uniform(0.9, 1.1, 20)
        points = (centre[:, None] + radius * np.stack([np.cos(angle), np.sin(angle)])).clip(0, side).T
        low, high = points.min(axis=0), points.max(axis=0)
        box = [*low.tolist(), *(high - low).tolist()]
        polygon = [points.round(2).reshape(-1).tolist()]
        one = {"id": number + 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": polygon}
        made.append({**one, "bbox": box, "area": box[2] * box[3]})
    for folder in ("annotations", "train"):
        (root / folder).mkdir(parents=True)
    pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "train" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": side, "height": side}],
        "annotations": made,
        "categories": [{"id": 1, "name": "blob"}],
    }
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))


def tiny_model(dataset: CocoDataset):
    torch.manual_seed(0)
    classes = {"num_classes": len(dataset.classes), "semantic_classes": dataset.semantic_classes}
    sizes = {"channels": 16, "box_channels": 32, **classes}
    return create_model("htc_r50", backbone="test_resnet", **sizes).train()


def load(dataset: CocoDataset, indices: list[int]) -> tuple:
    torch.manual_seed(indices[0])
    images, sizes, targets, _ = Collate()([dataset[index] for index in indices])
    return images, sizes, targets


def one_step(form: str, root: Path) -> dict:
    """Peak memory (VmHWM less what was there before) and seconds of loading one picture and of a step on it."""
    dataset = CocoDataset(root, "train", semantic="derive", transform=train_transform(None), layered=FORMS[form])
    model = tiny_model(dataset)
    before, began = peak(), time.perf_counter()
    batch = load(dataset, [0])
    loaded, loading = peak(), time.perf_counter() - began
    sum(losses(model, *batch).values()).backward()
    found = {"MB of loading": loaded - before, "MB of loading and a step": peak() - before}
    seconds = time.perf_counter() - began - loading
    targets = batch[2].masks
    return found | {"masks": list(targets.shape), "s of loading": round(loading, 2), "s of a step": round(seconds, 2)}


def usual_step() -> dict[str, dict]:
    """Least seconds of loading two pictures of the sample and of a step on them, at 256 pixels, by turns."""
    transform, times = train_transform(256, 427), {form: [] for form in FORMS}
    sets = {
        form: CocoDataset(make_sample_dataset(), "train", transform=transform, layered=FORMS[form]) for form in FORMS
    }
    model = tiny_model(sets["after"])
    for _ in range(STEPS):
        for form, dataset in sets.items():
            began = time.perf_counter()
            batch = load(dataset, [0, 1])
            middle = time.perf_counter()
            sum(losses(model, *batch).values()).backward()
            times[form].append((middle - began, time.perf_counter() - middle))
    least = {form: [min(one) for one in zip(*some)] for form, some in times.items()}
    return {
        form: {"ms of loading": round(1e3 * loading, 1), "ms of a step": round(1e3 * learning, 1)}
        for form, (loading, learning) in least.items()
    }


def peak() -> int:
    """MB that this process has had at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


if __name__ == "__main__":
    main()
