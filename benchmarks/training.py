"""Images per second of the paper's training recipe, a step as the loop takes it, beside torchvision's Mask R-CNN.

    python -m benchmarks.training [--models htc_r50] [--batch 2 8] [--modes eager graphs] [--different 4]
                                  [--trace FOLDER] [--no-store] [--tiny --device cpu]

800×1333 in bf16 where the device has it: pictures on the host to updated weights, the next step started before this one
has ended. The pictures are the sample's, prepared beforehand, so that no process that loads them is measured. Rows are
stored in `training_speed.json`, each as soon as it is known. --tiny: a toy, nothing stored.
"""

import argparse
import functools
import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks import stored
from benchmarks.detectors import TINY
from benchmarks.kernels import milliseconds
from htc_fast.commands import entry
from htc_fast.data.sample import make_sample_dataset
from htc_fast.device import autocast, find_device, supports
from htc_fast.errors import MOST_PICTURES, check_count
from htc_fast.training import Trainer, TrainingRun
from htc_fast.training.distributed import World
from htc_fast.training.loop import Loop
from htc_fast.training.optimizer import make_optimizer, set_rate

SUITE = "training_speed"
RIVAL = "torchvision, Mask R-CNN"
MODES = "eager", "graphs", "compiled", "compiled, graphs"


def prepared(name: str, mode: str, batch: int, device: torch.device, folder: Path, tiny: bool) -> Loop:
    """A loop by the paper's recipe that changes no weight."""
    run = TrainingRun(
        model=name,
        data=make_sample_dataset(),
        pretrained=False,
        workers=0,
        threads=torch.get_num_threads(),
        image_size=(96, 160) if tiny else (800, 1333),
        batch_size=batch,
        amp=supports(torch.bfloat16, device) and not tiny,
        compile="compiled" in mode,
        graphs="graphs" in mode,
        set={key: value for key, value in TINY.items() if tiny and "classes" not in key},
        out=folder,
    )
    loop = Trainer(run, World(device=device)).loop
    loop.model.train()
    set_rate(loop.optimizer, 0.0)
    return loop


def pictures(loop: Loop, device: torch.device, count: int) -> list:
    """The first batches, on the host."""
    found = list(itertools.islice(loop.batches.stream(), count))
    if device.type == "cuda":
        found = [(images.pin_memory(), sizes, targets.pin_memory(), names) for images, sizes, targets, names in found]
    return found


def rival(batches: list, device: torch.device, amp: bool, tiny: bool) -> Callable[[], object]:
    """A step of torchvision's Mask R-CNN on the same pictures and boxes, with the same optimizer."""
    from torchvision.models import detection

    few = {f"rpn_{when}_nms_top_n_train": 20 for when in ("pre", "post")} | {"box_batch_size_per_image": 8}
    size = {"min_size": 96, "max_size": 160, **few} if tiny else {}
    model = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=81, **size)
    model = model.train().to(device).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, "sgd", 0.0, 1e-4)
    inputs = []
    for images, sizes, targets, _ in batches:
        pictures, wanted = [], []
        for number, (height, width) in enumerate(sizes.tolist()):
            real = targets.labels[number] >= 0
            # One bitmap for each object, out of the layers that they share.
            maps, numbers = targets.masks[number, :, :height, :width], targets.numbers[number][real]
            masks = (maps[targets.layers[number][real]] == numbers[:, None, None]).byte().to(device)
            pictures.append(images[number, :, :height, :width].sigmoid().to(device))
            boxes, labels = targets.boxes[number][real].to(device), targets.labels[number][real].to(device) + 1
            wanted.append({"boxes": boxes, "labels": labels, "masks": masks})
        inputs.append((pictures, wanted))
    turns = itertools.cycle(inputs)

    def step() -> None:
        with autocast(device, amp):
            terms = model(*next(turns))
        sum(terms.values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measured(name: str, batch: int, options: argparse.Namespace, device: torch.device) -> Iterator[dict]:
    """Rows of one model and size of batch, in every mode, and of the rival."""
    given: list = []
    rounds = 1 if options.tiny else 20
    about = {"batch": batch, "dtype": "float32" if options.tiny or device.type == "cpu" else "bfloat16"}
    for mode in options.modes:
        with tempfile.TemporaryDirectory() as folder:
            loop = prepared(name, mode, batch, device, Path(folder), options.tiny)
            given, amp = given or pictures(loop, device, 1 if options.tiny else options.different), loop.recipe.amp
            about["shapes"] = sorted({f"{one[0].shape[2]}×{one[0].shape[3]}" for one in given})
            step, began = functools.partial(loop.update, itertools.cycle(given)), time.perf_counter()
            step()
            first = {"first step s": round(time.perf_counter() - began, 1)}
            yield about | {"case": name, "mode": mode} | first | speed(step, batch, device, rounds)
            if options.trace is not None:
                options.trace.mkdir(parents=True, exist_ok=True)
                record(step, options.trace / f"training_{name}_{batch}_{mode}")
            del loop, step
            gc.collect()
    if "eager" not in options.modes:
        return
    theirs = rival(given, device, amp, options.tiny)
    yield about | {"case": RIVAL, "mode": "eager"} | speed(theirs, batch, device, rounds)


def speed(step: Callable[[], object], batch: int, device: torch.device, rounds: int) -> dict:
    """Of steps one after the other, waited for at the end; the median of three times."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    found = [milliseconds(step, device, rounds, warm=rounds > 1)["ms in a row"] for _ in range(3 if rounds > 1 else 1)]
    took = statistics.median(found)
    row = {
        "ms": round(took, 2),
        "images/s": round(batch * 1e3 / took, 2),
        "spread ms": round(max(found) - min(found), 2),
    }
    if device.type == "cuda":
        row["peak MB"] = torch.cuda.max_memory_allocated(device) // 2**20
    return row


def record(step: Callable[[], object], path: Path) -> None:
    """Where the time of a step goes, as a table by kernel and by operator."""
    with torch.profiler.profile() as profile:
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    for key in ("self_device_time_total", "self_cpu_time_total"):
        table = profile.key_averages().table(sort_by=key, row_limit=60, max_name_column_width=90)
        path.with_name(f"{path.name}.{key}.txt").write_text(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["htc_r50"])
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--different", type=int, default=4, help="batches that take turns, each of a shape of its own")
    parser.add_argument("--modes", nargs="+", choices=MODES, help="by default all that the device has")
    parser.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")
    parser.add_argument("--trace", type=Path, help="folder for tables of one step")
    parser.add_argument("--no-store", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a toy: to see that it runs")
    options = parser.parse_args()
    check_count("--different", options.different)
    for batch in options.batch:
        check_count("--batch", batch, most=MOST_PICTURES)
    device, rows = find_device(options.device), []
    options.modes = options.modes or [mode for mode in MODES if device.type == "cuda" or mode == "eager"]
    for name in options.models:
        for batch in options.batch[:1] if options.tiny else options.batch:
            for row in measured(name, batch, options, device):
                rows.append(row)
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
                if not (options.no_store or options.tiny):
                    path = stored.folder(device) / f"{SUITE}.json"
                    stored.add(path, device, rows, ("case", "batch", "mode"))
    return 0


if __name__ == "__main__":
    entry.run(main)
