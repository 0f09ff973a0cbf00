"""`python -m htc_fast.evaluate`: box and mask AP of a weights file on a COCO-format data set."""

import argparse
from pathlib import Path

from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.commands.output import write_json
from htc_fast.data import CocoDataset
from htc_fast.data.pictures import image_size
from htc_fast.detector import load
from htc_fast.device import autocast, find_device
from htc_fast.errors import UserError
from htc_fast.evaluation import coco
from htc_fast.inference.optimize import optimized
from htc_fast.training import distributed


def parser() -> argparse.ArgumentParser:
    """All options."""
    made = Parser(prog="python -m htc_fast.evaluate", description="Box and mask AP, as pycocotools gives them.")
    add = made.add_argument
    add("--weights", type=Path, required=True, help="checkpoint: ours, mmdetection's, torchvision's or detectron2's")
    add("--model", help="name of the network, where the file does not say it: see htc_fast.list_models()")
    add("--data", type=Path, metavar="ROOT", help="COCO-format folder: annotations/, val2017/")
    add("--split", default="val", help="which part of it (default: val)")
    add("--annotations", type=Path, help="annotation file, instead of the one in ROOT")
    add("--images", type=Path, help="folder of its pictures")
    add("--image-size", type=int, nargs="+", metavar="PX", help="short side and, optionally, longest long side")
    add("--batch-size", type=int, default=1)
    add("--workers", type=int, default=0, help="threads that read pictures (default: 1 on a CPU, up to 8 on a GPU)")
    add("--limit", type=int, metavar="N", help="only the first N pictures")
    add("--score", type=float, help="leave out what is scored lower (default: the model's, 0.001)")
    add("--stage", choices=("1", "2", "3", "all"), help="one stage alone instead of the ensemble; all: each, then that")
    add("--box-areas", action="store_true", help="small, medium, large masks by their boxes' area, as in the paper")
    add("--optimize", action="store_true", help="fold and fuse the network first; on a GPU, one graph per size")
    add("--amp", action="store_true", help="compute in bf16 where that is safe and the device can")
    add("--device", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    add("--out", type=Path, metavar="DIR", help="write metrics.json, results.bbox.json and results.segm.json there")
    return made


def main() -> int:
    """Evaluate, print tables, write results."""
    options = parser().parse_args()
    if options.batch_size < 1 or (options.limit is not None and options.limit < 1):
        raise UserError("--batch-size and --limit take a number of at least 1.")
    paths = {"annotations": options.annotations, "images": options.images}
    dataset = CocoDataset(options.data, options.split, **paths, semantic="none", keep_empty=True)
    if options.device is not None:
        find_device(options.device)
    world = distributed.start(options.device)
    try:
        model = load(options.weights, name=options.model, num_classes=len(dataset.classes), device=str(world.device))
        names = list(model.config.class_names)
        if names and names != dataset.classes and set(names) <= set(dataset.classes):
            # The file numbers or orders the classes in another way than the training data did.
            dataset = CocoDataset(options.data, options.split, **paths, semantic="none", keep_empty=True, classes=names)
        stages = [options.stage] if options.stage != "all" else [*map(str, range(1, count_stages(model) + 1)), None]
        report = {}
        for stage in stages:
            found = coco.gather(run(model, dataset, stage, options, world))
            if world.is_main:
                report[f"stage {stage}" if stage else "ensemble"] = conclude(dataset, found, stage, options)
        if world.is_main and options.out:
            write_json(options.out / "metrics.json", report)
    finally:
        distributed.stop()
    return 0


def count_stages(model) -> int:
    """Stages of the model's cascade."""
    return len(model.config.stages.match_iou)


def run(model, dataset: CocoDataset, stage: str | None, options: argparse.Namespace, world) -> dict:
    """This process's share of the predictions."""
    size = image_size(options.image_size)
    if options.optimize:
        model = optimized(model, size, options.batch_size, options.amp)
    low = autocast(world.device, options.amp)
    with coco.at_stage(model, int(stage) if stage else None), low:
        return coco.collect(
            model,
            dataset,
            size=size,
            batch_size=options.batch_size,
            workers=options.workers,
            limit=options.limit,
            score_threshold=options.score or 0.0,
            rank=world.rank,
            world=world.size,
        )


def conclude(dataset: CocoDataset, found: dict, stage: str | None, options: argparse.Namespace) -> dict | None:
    """Write one evaluation's results, print its tables and return its numbers."""
    if options.out:
        suffix = f".stage{stage}" if stage else ""
        for kind, content in zip(("bbox", "segm"), coco.results(dataset, found)):
            write_json(options.out / f"results{suffix}.{kind}.json", content)
    if not dataset.annotations.labelled:
        print(f"{dataset.path.name} has no annotations, so there is no AP: {len(found)} pictures predicted.")
        return None
    scores = coco.score(dataset, found, box_areas=options.box_areas)
    print(f"\n{f'stage {stage}' if stage else 'ensemble'}, {len(found)} pictures")
    print(table(scores))
    return {"metrics": scores.metrics, "per_class": scores.per_class, "pictures": len(found)}


def table(scores: coco.Scores) -> str:
    """AP of boxes and masks, then by class, in percent; a dash where there was nothing to find."""
    lines = [" " * 6 + "".join(f"{name.replace('AP_', 'AP '):>11}" for name in coco.NAMES)]
    for kind in ("box", "mask"):
        lines.append(f"{kind:6}" + "".join(f"{_percent(scores.metrics[f'{kind}_{name}']):>11}" for name in coco.NAMES))
    width = max(len(name) for name in scores.per_class) + 2
    columns = ("box_AP", "box_AP50", "mask_AP", "mask_AP50")
    lines += ["", f"{'class':{width}}" + "".join(f"{name.replace('_', ' '):>11}" for name in columns)]
    for name, values in scores.per_class.items():
        lines.append(f"{name:{width}}" + "".join(f"{_percent(values[column]):>11}" for column in columns))
    return "\n".join(lines)


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"


if __name__ == "__main__":
    entry.run(main)
