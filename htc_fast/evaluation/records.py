"""Truth and predictions in the form that pycocotools evaluates."""

import contextlib
import io
from collections.abc import Iterable, Sequence

from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from htc_fast.data.coco import CocoDataset
from htc_fast.data.instances import Instances, as_bytes
from htc_fast.data.masks import to_rle


def truth_of(dataset: CocoDataset, indices: Sequence[int]) -> COCO:
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


def guesses_of(truth: COCO, found: dict[int, Instances], task: str, box_areas: bool) -> COCO:
    """Predictions beside `truth`; masks with the areas of their boxes where `box_areas` says so."""
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


def _coco(images: list[dict], annotations: list[dict], classes: int) -> COCO:
    made = COCO()
    categories = [{"id": label} for label in range(classes)]
    made.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        made.createIndex()
    return made
