"""Truth and results drawn at random, with all that makes evaluations differ; pycocotools beside them."""

import contextlib
import copy
import io

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

HEIGHT, WIDTH = 110, 150


def rle_of(draw, box):
    """An ellipse in a box with a few pixels knocked out."""
    x, y, w, h = box
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    mask = ((columns - x - w / 2) / (w / 2)) ** 2 + ((rows - y - h / 2) / (h / 2)) ** 2 <= 1
    mask &= draw.random(mask.shape) > 0.02
    found = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [HEIGHT, WIDTH], "counts": found["counts"].decode()}


def box_of(draw):
    if draw.random() < 0.2:  # squares on the borders of the ranges of size
        side = [31, 32, 33, 95, 96, 97][draw.integers(6)]
        return [float(draw.integers(0, 10)), float(draw.integers(0, 10)), float(side), float(side)]
    x, y, w, h = draw.integers(0, 60), draw.integers(0, 40), draw.integers(3, 90), draw.integers(3, 70)
    return [float(one) for one in (x, y, w, h)]


def moved(draw, box):
    x, y, w, h = np.array(box) + draw.normal(0, 2, 4)
    return [round(float(one), 2) for one in (x, y, max(w, 1), max(h, 1))]


def dataset(seed, pictures=8, classes=4, truths=5, guesses=12, ids=int):
    """A truth of crowds, ignored ones, empty pictures and a class without truth; results out of order, with ties."""
    draw = np.random.default_rng(seed)
    names = [ids(3 * n + 1) for n in range(classes)]
    images = [{"id": ids(7 * n + 2), "height": HEIGHT, "width": WIDTH} for n in draw.permutation(pictures)]
    annotations, results = [], []
    for image in images:
        boxes = [box_of(draw) for _ in range(draw.integers(0, truths))]
        for box in boxes:
            rle = rle_of(draw, box)
            area = float(coco_mask.area(rle)) if draw.random() < 0.7 else box[2] * box[3]
            one = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": names[draw.integers(classes - 1)],
            }
            extra = {"ignore": 1} if draw.random() < 0.1 else {}
            crowd = int(draw.random() < 0.15)
            annotations.append({**one, "bbox": box, "segmentation": rle, "area": area, "iscrowd": crowd, **extra})
        for _ in range(draw.integers(0, guesses)):
            box = moved(draw, boxes[draw.integers(len(boxes))]) if boxes and draw.random() < 0.7 else box_of(draw)
            score = round(float(draw.random()), 1 if draw.random() < 0.5 else 5)
            one = {"image_id": image["id"], "category_id": names[draw.integers(classes)], "score": score}
            results.append({**one, "bbox": box, "segmentation": rle_of(draw, box)})
    categories = [{"id": name, "name": f"class {name}"} for name in draw.permutation(np.array(names, dtype=object))]
    order = draw.permutation(len(results))
    return {"images": images, "annotations": annotations, "categories": categories}, [results[n] for n in order]


def without(results, key):
    return [{name: value for name, value in one.items() if name != key} for one in results]


def coco_eval(truth, results, kind, limits=(1, 10, 100)):
    """pycocotools' own evaluation of copies."""
    with contextlib.redirect_stdout(io.StringIO()):
        told = COCO()
        told.dataset = copy.deepcopy(truth)
        told.createIndex()
        run = COCOeval(told, told.loadRes(copy.deepcopy(results)), kind)
        run.params.maxDets = list(limits)
        run.evaluate()
        run.accumulate()
        if len(limits) == 3 and limits[-1] == 100:
            run.summarize()
    return run
