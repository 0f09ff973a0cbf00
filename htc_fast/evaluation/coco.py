"""Box and mask AP as pycocotools gives them, from predictions over a CocoDataset.

Classes are matched by name: the predictions' labels count, and the data set is brought to them.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import torch.distributed as dist
from tqdm import tqdm

from htc_fast.data.classes import names_for, shared_labels
from htc_fast.data.coco import CocoDataset
from htc_fast.data.instances import Instances
from htc_fast.errors import MOST_DETECTIONS, UserError, check_count, say_once, shown
from htc_fast.evaluation.evaluate_coco import Scores
from htc_fast.evaluation.objects import curves
from htc_fast.evaluation.records import found_of, truth_of
from htc_fast.evaluation.summary import MAX_DETECTIONS
from htc_fast.inference.predict import changed, stream, stream_tiles
from htc_fast.inference.tiles import Tiling
from htc_fast.models.structures import Predictor


def evaluate(
    model: Predictor,
    dataset: CocoDataset,
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 1,
    workers: int = 0,
    limit: int | None = None,
    box_areas: bool = False,
    max_detections: int = MAX_DETECTIONS,
    tile: int | None = None,
    overlap: float = Tiling.overlap,
    progress: bool = True,
) -> dict[str, float]:
    """AP of a model over a data set, by this process alone.

    size            (short side, long side) the network sees; None: that of the model's training, else 800, 1333
    limit           only the first pictures
    box_areas       small, medium and large masks by the area of their boxes, as in the paper's tables
    max_detections  that count in a picture and class; for more than 100, the model gives as many in a picture, too
    tile, overlap   as for `predict`
    returns         box_AP, box_AP50, ..., mask_AP, mask_AP50, ..., 0 to 1
    raises          UserError for data or options that cannot be used
    """
    check_count("max_detections", max_detections, most=MOST_DETECTIONS)
    _check_kinds(model, dataset)
    with changed(model, detections=detections_for(model, max_detections)):
        found = collect(
            model,
            dataset,
            size=size,
            batch_size=batch_size,
            workers=workers,
            limit=limit,
            progress=progress,
            tiling=None if tile is None else Tiling(tile, overlap),
        )
    return score(dataset, found, box_areas=box_areas, max_detections=max_detections).metrics


def collect(
    model: Predictor,
    dataset: CocoDataset,
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 1,
    workers: int = 0,
    limit: int | None = None,
    score_threshold: float = 0.0,
    progress: bool = True,
    rank: int = 0,
    world: int = 1,
    tiling: Tiling | None = None,
) -> dict[int, Instances]:
    """Predictions by sample index, with the model's labels; with several processes, this one's share of them.

    tiling  look at the pictures in tiles; None: as the data set has it
    raises  UserError if a picture cannot be read, or model and data have no class in common
    """
    _check_kinds(model, dataset)
    batch_size = check_count("batch_size", batch_size)
    names = names_for(model.config, dataset.annotations, dataset.path.name)
    shared_labels(dataset.annotations, names, dataset.path.name)
    count = len(dataset) if limit is None else min(check_count("limit", limit), len(dataset))
    if tiling is None and dataset.tile is not None:
        tiling = Tiling(dataset.tile)
    if tiling is None:
        _say_crowded(dataset, model.config.detections)
    # Upright and lying pictures apart: a batch is padded to its largest.
    groups = dataset.groups
    order = sorted(range(rank, count, world), key=lambda index: groups[index]) if batch_size > 1 else None
    order = list(range(rank, count, world)) if order is None else order
    options: dict[str, Any] = {
        "size": size,
        "batch_size": batch_size,
        "score_threshold": score_threshold,
        "class_names": names,
        "workers": workers,
    }
    if tiling is None:
        results = stream(model, count, dataset.image, order=order, **options)
    else:
        bars = progress and rank == 0
        results = stream_tiles(model, order, dataset.windows, tiling, progress=bars, **options)
    found = {}
    with tqdm(
        total=len(order), desc="evaluating", unit="img", leave=False, disable=None if progress and rank == 0 else True
    ) as bar:
        for index, instances in results:
            if isinstance(instances, UserError):
                raise instances
            found[index] = instances
            bar.update()
    return found


def detections_for(model: Predictor, max_detections: int) -> int:
    """Detections that a model is to give in a picture: its own number, or as many as count where that is raised."""
    own = model.config.detections
    if max_detections <= max(own, MAX_DETECTIONS):
        return own
    say_once(f"{max_detections} detections count (--max-dets): the model gives as many objects in a picture, too.")
    return max_detections


def gather(found: dict[int, Instances]) -> dict[int, Instances]:
    """All processes' predictions, in every process; without torch.distributed, the same ones."""
    if not (dist.is_available() and dist.is_initialized()):
        return found
    parts: list = [None] * dist.get_world_size()
    dist.all_gather_object(parts, found)
    return {index: instances for part in parts for index, instances in part.items()}


def score(
    dataset: CocoDataset,
    found: dict[int, Instances],
    *,
    box_areas: bool = False,
    max_detections: int = MAX_DETECTIONS,
) -> Scores:
    """AP of predictions, over the pictures they were made for.

    found           sample index -> Instances; their class names, where they have any, are matched with the data set's
    box_areas       see `evaluate`;  max_detections: that count in a picture and class
    raises          UserError if the data set has no annotations, or none of the predictions' classes
    """
    limit = check_count("max_detections", max_detections, most=MOST_DETECTIONS)
    dataset = in_classes_of(dataset, found)
    if not dataset.annotations.labelled:
        raise UserError(f"{dataset.path} has no annotations: AP needs the truth, so only predictions can be written.")
    order = sorted(found)
    truth, guesses = truth_of(dataset, order), found_of(found, order)
    _say_cut(dataset, limit)
    scores = Scores({}, {name: {} for name in dataset.classes})
    for kind in ("bbox", "segm"):
        by_box = kind == "bbox" or box_areas
        boxes = guesses.placed("bbox")[0]
        given = replace(guesses, areas=boxes[:, 2] * boxes[:, 3]) if by_box else guesses
        limits = [1, min(10, limit), limit]
        scores.add(kind, curves(kind, truth, given, len(order), len(dataset.classes), limits), dataset.classes)
    return scores


def results(dataset: CocoDataset, found: dict[int, Instances]) -> tuple[list[dict], list[dict]]:
    """Box results and mask results in COCO's format, with the file's own image and category ids.

    What is of a class that the file lacks has no id and is left out. Boxes and masks are apart, because pycocotools
    takes a mask's size from its box where a result holds both.
    """
    dataset = in_classes_of(dataset, found)
    boxes, masks = [], []
    for index in sorted(found):
        for item in found[index].to_coco(dataset.picture(index).id, dataset.category_ids):
            masks.append({key: value for key, value in item.items() if key != "bbox"})
            boxes.append({key: value for key, value in item.items() if key != "segmentation"})
    return boxes, masks


def in_classes_of(dataset: CocoDataset, found: dict[int, Instances]) -> CocoDataset:
    """The data set with the labels that predictions have; itself where these name no classes.

    raises  UserError if the two have no class in common, or the predictions are no one model's
    """
    lists = {tuple(one.class_names) for one in found.values() if len(one.class_names)}
    if len(lists) > 1:
        raise UserError("the predictions have different class names: evaluate one model's at a time.")
    names = list(next(iter(lists), dataset.classes))
    largest = max((int(one.labels.max()) for one in found.values() if len(one)), default=-1)
    if largest >= len(names):
        raise UserError(f"a prediction has label {largest}, but there are {len(names)} classes: they belong apart.")
    return dataset.relabelled(names)


def _check_kinds(model: Predictor, dataset: CocoDataset) -> None:
    """raises  UserError for what is no detector or no data set"""
    if not isinstance(dataset, CocoDataset):
        raise UserError(f'dataset must be a CocoDataset, such as CocoDataset("coco", "val"), got {shown(dataset)}.')
    if not hasattr(model, "config") or not (hasattr(model, "detect") or hasattr(model, "look")):
        raise UserError(f"model must be a detector, as htc_fast.load gives it, got {shown(model)}.")


def _say_crowded(dataset: CocoDataset, limit: int) -> None:
    """Say once that pictures of the data set, asked for or not, hold more objects than the model gives."""
    held = [number for number in (dataset.annotations.trainable[i] for i in dataset.keep) if number > limit]
    if held:
        say_once(
            f"{dataset.path.name}: {_pictures(len(held), max(held), 'objects')}, of which the model finds at most "
            f"{limit}: --detections (in Python its config's detections) raises that, an ONNX file's at its export."
        )


def _say_cut(dataset: CocoDataset, limit: int) -> None:
    """Say once that pictures of the data set, predicted or not, hold more objects of a class than count."""
    crowded = [index for index, kept in enumerate(dataset.keep) if dataset.annotations.trainable[kept] > limit]
    sizes = [Counter(one.label for one in dataset.picture(i).annotations if one.trainable) for i in crowded]
    held = [most for most in (max(labels.values()) for labels in sizes) if most > limit]
    if held:
        protocol = ", as in COCO's protocol" if limit == MAX_DETECTIONS else ""
        say_once(
            f"{dataset.path.name}: {_pictures(len(held), max(held), 'objects of a class')}, but only the best {limit} "
            f"detections count{protocol}: --max-dets (in Python max_detections=) lets more count."
        )


def _pictures(count: int, most: int, what: str) -> str:
    return f"1 picture holds {most} {what}" if count == 1 else f"{count} pictures hold up to {most} {what}"
