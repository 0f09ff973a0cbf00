"""Writes the exports beside this file with the packages whose formats they are; they are committed as it left them.

    python3 -m venv exports && . exports/bin/activate
    pip install pycocotools datumaro==1.13.12 label-studio-converter==0.0.59 ultralytics==8.4.190 supervision==0.31.2
    pip install labelme==6.3.1 cellpose==4.2.1.1
    PYTHONPATH=. python tests/data/folders/exports/make.py

cvat and voc come from Datumaro, which CVAT exports with; label_studio… from its own converter; yolo from ultralytics'
convert_coco; yolo_supervision from supervision; labelme from its writer; cellpose from its io.
"""

import base64
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.folders import scene

HERE = Path(__file__).resolve().parent
SPLITS = {"a": "train", "b": "train", "c": "train", "d": "val", "e": "val"}


def fresh(name):
    shutil.rmtree(HERE / name, ignore_errors=True)
    (HERE / name).mkdir()
    return HERE / name


def save(path, name):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.pixels(name)).save(path, optimize=True)


def coco(names, prefix=""):
    images, annotations = [], []
    for number, name in enumerate(names, start=1):
        images.append({"id": number, "file_name": f"{prefix}{name}.png", "width": scene.WIDTH, "height": scene.HEIGHT})
        for label, polygon in scene.OBJECTS[name]:
            xs, ys = polygon[0::2], polygon[1::2]
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": 1 + scene.CLASSES.index(label)}
            box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
            about |= {"segmentation": [polygon], "bbox": box, "area": int(scene.bitmap(polygon).sum()), "iscrowd": 0}
            annotations.append(about)
    categories = [{"id": place, "name": name} for place, name in enumerate(scene.CLASSES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def with_datumaro():
    from datumaro.components.annotation import Mask, Polygon
    from datumaro.components.dataset import Dataset
    from datumaro.components.dataset_base import DatasetItem
    from datumaro.components.media import Image as Picture

    def polygon_of(place, label, polygon):
        return Polygon(list(map(float, polygon)), label=scene.CLASSES.index(label), id=place, group=place)

    def mask_of(place, label, polygon):
        return Mask(scene.bitmap(polygon), label=scene.CLASSES.index(label), id=place, group=place, z_order=place)

    def dataset(names, subset, make):
        items = []
        for name in names:
            objects = [make(place, *one) for place, one in enumerate(scene.OBJECTS[name], start=1)]
            media = Picture.from_numpy(scene.pixels(name)[..., ::-1], ext=".png")
            items.append(DatasetItem(id=name, subset=subset(name), media=media, annotations=objects))
        return Dataset.from_iterable(items, categories=scene.CLASSES)

    dataset("abcde", lambda name: "default", polygon_of).export(str(fresh("cvat")), "coco_instances", save_media=True)
    dataset("abcde", SPLITS.get, mask_of).export(str(fresh("voc")), "voc_instance_segmentation", save_media=True)
    shutil.rmtree(HERE / "voc" / "ImageSets" / "Main", ignore_errors=True)


def with_label_studio():
    from label_studio_converter import Converter

    config = (
        '<View><Image name="image" value="$image"/><PolygonLabels name="label" toName="image">'
        '<Label value="cat"/><Label value="dog"/></PolygonLabels></View>'
    )
    tasks = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate("abcde", start=1):
            save(Path(folder) / "1" / f"{number}aaaaaaa-{name}.png", name)
            results = []
            for place, (label, polygon) in enumerate(scene.OBJECTS[name]):
                points = [[100 * x / scene.WIDTH, 100 * y / scene.HEIGHT] for x, y in zip(polygon[::2], polygon[1::2])]
                value = {"points": points, "closed": True, "polygonlabels": [label]}
                about = {"id": f"r{number}{place}", "type": "polygonlabels", "from_name": "label", "to_name": "image"}
                sizes = {"original_width": scene.WIDTH, "original_height": scene.HEIGHT, "image_rotation": 0}
                results.append({**about, **sizes, "value": value})
            image = f"/data/upload/1/{number}aaaaaaa-{name}.png"
            tasks.append({"id": number, "data": {"image": image}, "annotations": [{"id": number, "result": results}]})
        source = Path(folder) / "tasks.json"
        source.write_text(json.dumps(tasks))
        ways = [("label_studio", "convert_to_coco", folder), ("label_studio_yolo", "convert_to_yolo", folder)]
        # Where the server's files are out of reach, the JSON file is all there is.
        for name, way, uploads in [*ways, ("label_studio_alone", "convert_to_coco", f"{folder}/none")]:
            target = fresh(name)
            converter = Converter(config, str(target), upload_dir=uploads, download_resources=True)
            getattr(converter, way)(str(source), str(target), is_dir=False)


def with_ultralytics():
    from ultralytics.data.converter import convert_coco

    target = fresh("yolo")
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "val"):
            names = [name for name, one in SPLITS.items() if one == split]
            (Path(folder) / "in").mkdir(exist_ok=True)
            (Path(folder) / "in" / f"instances_{split}.json").write_text(json.dumps(coco(names)))
            for name in names:
                save(target / "images" / split / f"{name}.png", name)
        convert_coco(f"{folder}/in", save_dir=f"{folder}/out", use_segments=True, cls91to80=False)
        shutil.copytree(Path(folder) / "out" / "labels", target / "labels")
    (target / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\ntest: # optional\nnames:\n  0: cat\n  1: dog\n"
    )


def with_supervision():
    import supervision

    target = fresh("yolo_supervision")
    with tempfile.TemporaryDirectory() as folder:
        for name in "abcde":
            save(Path(folder) / f"{name}.png", name)
        (Path(folder) / "all.json").write_text(json.dumps(coco("abcde")))
        data = supervision.DetectionDataset.from_coco(folder, f"{folder}/all.json", force_masks=True)
        places = {
            "images_directory_path": "images",
            "annotations_directory_path": "labels",
            "data_yaml_path": "data.yaml",
        }
        data.as_yolo(**{key: str(target / value) for key, value in places.items()})


def with_labelme():
    from labelme._label_file import LabelFile

    target = fresh("labelme")
    for name, objects in scene.OBJECTS.items():
        folder = target / ("more" if name == "e" else ".")
        save(folder / f"{name}.png", name)
        shapes = [shape(label, polygon) for label, polygon in objects]
        if name == "a":  # the cat as two halves, the dog as a bitmap
            halves = [4, 4, 14, 4, 14, 20, 4, 20], [14, 4, 24, 4, 24, 20, 14, 20]
            shapes = [shape("cat", half, group_id=1) for half in halves] + [bitmap_shape(*objects[1])]
        if name == "b":
            shapes = [{**shape("dog", [8, 12, 40, 36]), "shape_type": "rectangle"}]
        if name == "d":
            shapes = [{**shape("cat", [32, 24, 32, 12]), "shape_type": "circle"}]
            shapes.append({**shape("dog", [1, 1, 9, 9]), "shape_type": "line"})
        path, size = str(folder / f"{name}.json"), (scene.HEIGHT, scene.WIDTH)
        LabelFile().save(path, shapes, f"{name}.png", *size)


def shape(label, polygon, group_id=None):
    points = [[float(x), float(y)] for x, y in zip(polygon[::2], polygon[1::2])]
    about = {"label": label, "points": points, "group_id": group_id, "description": ""}
    return {**about, "shape_type": "polygon", "flags": {}, "mask": None}


def bitmap_shape(label, polygon):
    mask, (left, right), (top, bottom) = (
        scene.bitmap(polygon),
        *((min(p), max(p)) for p in (polygon[::2], polygon[1::2])),
    )
    with io.BytesIO() as file:
        Image.fromarray(mask[top:bottom, left:right].astype(bool)).save(file, "PNG")
        text = base64.b64encode(file.getvalue()).decode()
    return {**shape(label, [left, top, right - 1, bottom - 1]), "shape_type": "mask", "mask": text}


def with_cellpose():
    from cellpose import io as cellpose_io

    target = fresh("cellpose")
    names = [name for name in "abce"]
    for name in names:
        save(target / f"{name}.png", name)
    masks = [sum(place * bitmap for place, (_, bitmap) in enumerate(scene.truth()[name], 1)) for name in names]
    paths = [str(target / f"{name}.png") for name in names]
    many = [np.where(one == 1, 300, one).astype(np.uint16) for one in masks]
    nothing = [np.zeros((3, scene.HEIGHT, scene.WIDTH), np.float32)] * len(names)
    cellpose_io.save_masks([scene.pixels(name) for name in names[:2]], many[:2], nothing[:2], paths[:2], png=True)
    cellpose_io.save_masks(
        [scene.pixels(name) for name in names[2:]], many[2:], nothing[2:], paths[2:], png=False, tif=True
    )


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["datumaro", "label_studio", "ultralytics", "supervision", "labelme", "cellpose"]
    for one in wanted:
        globals()[f"with_{one}"]()
