"""Small COCO data sets in a temporary folder."""

import json

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 90, "name": "owl"}]


def rectangle(x, y, w, h):
    """A rectangle's polygon: as COCO rasterises it, exactly its w x h pixels."""
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def instance(image_id, category_id, x, y, w, h, **more):
    """One annotation with a rectangular mask."""
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, y, w, h],
        "area": w * h,
        "iscrowd": 0,
        "segmentation": rectangle(x, y, w, h),
        **more,
    }


def image(image_id, width=64, height=48, name=None):
    return {"id": image_id, "file_name": name or f"{image_id:012d}.png", "width": width, "height": height}


def two_pictures():
    """A lying and an upright picture, three instances."""
    return {
        "images": [image(10), image(11, 40, 72)],
        "annotations": [
            instance(10, 3, 8, 4, 20, 16),
            instance(10, 90, 30, 10, 24, 30),
            instance(11, 7, 5, 40, 16, 24),
        ],
        "categories": CATEGORIES,
    }


def write(root, content=None, split="val", pictures=True, folder=None):
    """Write annotations and noise pictures; returns the root."""
    content = two_pictures() if content is None else content
    numbered = [{"id": number, **item} for number, item in enumerate(content.get("annotations", []), start=1)]
    if "annotations" in content:
        content = {**content, "annotations": numbered}
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    folder = root / (folder or f"{split}2017")
    folder.mkdir(parents=True, exist_ok=True)
    if pictures:
        for item in content["images"]:
            random = np.random.default_rng(item["id"])
            pixels = random.integers(0, 256, (item["height"], item["width"], 3), dtype=np.uint8)
            (folder / item["file_name"]).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / item["file_name"])
    return root
