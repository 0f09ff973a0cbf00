"""Box and mask AP as pycocotools gives them, from predictions over a CocoDataset."""

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch.distributed as dist
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from htc_fast.data.coco import CocoDataset
from htc_fast.data.instances import Instances, as_bytes
from htc_fast.data.masks import to_rle
from htc_fast.errors import UserError
from htc_fast.inference.predict import stream
from htc_fast.models.structures import DetectorLike

NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
RECALLS = ("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large")


@dataclass
class Scores:
    """What an evaluation gives; -1 where nothing was there to be found, as pycocotools says it.

    metrics    box_AP, box_AP50, box_AP75, box_AP_small, ..., mask_AR_large, each 0 to 1
    per_class  class name -> {"box_AP", "box_AP50", "mask_AP", "mask_AP50"}
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]


def evaluate(
    model: DetectorLike,
    dataset: CocoDataset,
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 1,
    workers: int = 0,
    limit: int | None = None,
    box_areas: bool = False,
    progress: bool = True,
) -> dict[str, float]:
    """AP of a model over a data set, by this process alone.

    size       (short side, long side) the network sees; None: that of the model's training, else 800, 1333
    limit      only the first pictures
    box_areas  small, medium and large masks by the area of their boxes, as in the paper's tables
    returns    box_AP, box_AP50, ..., mask_AP, mask_AP50, ..., 0 to 1
    """
    found = collect(model, dataset, size=size, batch_size=batch_size, workers=workers, limit=limit, progress=progress)
    return score(dataset, found, box_areas=box_areas).metrics


def collect(
    model: DetectorLike,
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
) -> dict[int, Instances]:
    """Predictions by sample index; with several processes, this one's share of them.

    raises  UserError if a picture cannot be read
    """
    if len(dataset.classes) != model.config.num_classes:
        raise UserError(
            f"the model has {model.config.num_classes} classes, {dataset.path} has {len(dataset.classes)}: "
            "they must be the same ones; choose other weights or another annotation file."
        )
    names = list(model.config.class_names)
    if names != list(dataset.classes) and set(names) == set(dataset.classes):
        raise UserError(
            f"{dataset.path} has the model's classes in another order: build the data set with "
            "classes=list(model.config.class_names)."
        )
    count = len(dataset) if limit is None else min(limit, len(dataset))
    # Upright and lying pictures apart: a batch is padded to its largest.
    groups = dataset.groups
    order = sorted(range(rank, count, world), key=lambda index: groups[index]) if batch_size > 1 else None
    order = list(range(rank, count, world)) if order is None else order
    results = stream(
        model,
        count,
        dataset.image,
        size=size,
        batch_size=batch_size,
        score_threshold=score_threshold,
        class_names=dataset.classes,
        workers=workers,
        order=order,
    )
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


def gather(found: dict[int, Instances]) -> dict[int, Instances]:
    """All processes' predictions, in every process; without torch.distributed, the same ones."""
    if not (dist.is_available() and dist.is_initialized()):
        return found
    parts: list = [None] * dist.get_world_size()
    dist.all_gather_object(parts, found)
    return {index: instances for part in parts for index, instances in part.items()}


def score(dataset: CocoDataset, found: dict[int, Instances], *, box_areas: bool = False) -> Scores:
    """AP of predictions, over the pictures they were made for.

    found      sample index -> Instances
    box_areas  see `evaluate`
    raises     UserError if the data set has no annotations
    """
    if not dataset.annotations.labelled:
        raise UserError(f"{dataset.path} has no annotations: AP needs the truth, so only predictions can be written.")
    truth = _truth(dataset, sorted(found))
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {name: {} for name in dataset.classes}
    for kind, task in (("box", "bbox"), ("mask", "segm")):
        guesses = _guesses(truth, found, task, box_areas)
        with contextlib.redirect_stdout(io.StringIO()):
            run = COCOeval(truth, guesses, task)
            run.evaluate()
            run.accumulate()
            run.summarize()
        metrics.update({f"{kind}_{name}": float(value) for name, value in zip(NAMES + RECALLS, run.stats)})
        # [IoU thresholds, recalls, classes, areas, detection limits]: all areas, the largest limit.
        precision = run.eval["precision"][:, :, :, 0, -1]
        for label, name in enumerate(dataset.classes):
            per_class[name][f"{kind}_AP"] = _mean(precision[:, :, label])
            per_class[name][f"{kind}_AP50"] = _mean(precision[0, :, label])
    return Scores(metrics, per_class)


def results(dataset: CocoDataset, found: dict[int, Instances]) -> tuple[list[dict], list[dict]]:
    """Box results and mask results in COCO's format, with the file's own image and category ids.

    Apart, because pycocotools takes a mask's size from its box where a result holds both.
    """
    boxes, masks = [], []
    for index in sorted(found):
        for item in found[index].to_coco(dataset.picture(index).id, dataset.category_ids):
            masks.append({key: value for key, value in item.items() if key != "bbox"})
            boxes.append({key: value for key, value in item.items() if key != "segmentation"})
    return boxes, masks


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def _coco(images: list[dict], annotations: list[dict], classes: int) -> COCO:
    made = COCO()
    categories = [{"id": label} for label in range(classes)]
    made.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        made.createIndex()
    return made


def _truth(dataset: CocoDataset, indices: Sequence[int]) -> COCO:
    """The ground truth as pycocotools wants it: crowds kept, ids from 1 (it takes 0 for "no match")."""
    images: list[dict] = []
    annotations: list[dict] = []
    for index in indices:
        picture = dataset.picture(index)
        images.append({"id": index, "height": picture.height, "width": picture.width})
        for item in picture.annotations:
            rle = to_rle(item.segmentation, picture.height, picture.width)
            x1, y1, x2, y2 = item.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": item.label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "segmentation": rle,
                    "area": float(coco_mask.area(rle)) if item.area is None else item.area,
                    "iscrowd": int(item.crowd),
                }
            )
    return _coco(images, annotations, len(dataset.classes))


def _guesses(truth: COCO, found: dict[int, Instances], task: str, box_areas: bool) -> COCO:
    annotations: list[dict] = []
    for index, instances in found.items():
        boxes: Iterable = instances.boxes.double().tolist()
        areas = instances.areas.tolist()
        for n, (x1, y1, x2, y2) in enumerate(boxes):
            by_box = task == "bbox" or box_areas
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": int(instances.labels[n]),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "segmentation": as_bytes(instances.rle[n]),
                    "score": float(instances.scores[n]),
                    "area": (x2 - x1) * (y2 - y1) if by_box else areas[n],
                    "iscrowd": 0,
                }
            )
    return _coco(truth.dataset["images"], annotations, len(truth.dataset["categories"]))
