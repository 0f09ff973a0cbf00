"""Whole post-processing, from a network's output to run lengths: each package's own and pycocotools, beside ours."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import rivals
from benchmarks.bench_encode_logits import maps
from benchmarks.bench_encode_masks import runs
from benchmarks.cases import plural, select
from htc_fast.data.instances import as_bytes
from htc_fast.integrations import rfdetr as our_rfdetr
from htc_fast.integrations import transformers as our_transformers
from htc_fast.integrations import ultralytics as our_ultralytics

# name, objects, image. RF-DETR's 300 queries are 3.6 GB of bool masks for the rival, and half a minute.
USUAL = [("mask2former", 100, (1080, 1920)), ("rfdetr", 30, (3000, 4000)), ("yolo", 100, (1080, 1920))]
REST = [("rfdetr", 100, (3000, 4000)), ("rfdetr", 300, (3000, 4000))]
WORDS = {"mask2former": "Mask2Former", "rfdetr": "RF-DETR", "yolo": "YOLO-seg, retina_masks"}


def outputs(name: str, count: int, image: tuple[int, int]):
    """What the network gives: every query or row holds an object."""
    rng = torch.Generator().manual_seed(0)
    if name == "mask2former":
        sure = torch.full((1, count, 81), -9.0)
        sure[0, torch.arange(count), torch.randint(0, 80, (count,), generator=rng)] = 9 + torch.rand(count)
        return SimpleNamespace(class_queries_logits=sure, masks_queries_logits=maps(count, 96)[None])
    if name == "rfdetr":
        boxes, logits = torch.rand(1, count, 4, generator=rng), torch.randn(1, count, 91, generator=rng) - 9
        logits[0, :, 0] += 12
        return {"pred_logits": logits, "pred_boxes": boxes, "pred_masks": maps(count, 108)[None]}
    corner = torch.rand(count, 2, generator=rng) * 400 + 20
    rows = [corner, corner + torch.rand(count, 2, generator=rng) * 200 + 10, torch.rand(count, 1, generator=rng)]
    rows += [torch.zeros(count, 1), torch.randn(count, 32, generator=rng)]
    return torch.cat(rows, dim=1), maps(32, 160)


def ours(name: str, given, image: tuple[int, int]):
    if name == "mask2former":
        return lambda: our_transformers.mask2former_instances(given, [image])[0].rle
    if name == "rfdetr":
        count = len(given["pred_boxes"][0])
        return lambda: our_rfdetr.instances(given, [image], num_select=count)[0].rle
    rows, prototypes = given
    return lambda: our_ultralytics.instances(rows, prototypes, (640, 640), image, empty=True).rle


@rivals.needs("transformers")
def mask2former(given, image):
    from transformers.models.mask2former.image_processing_mask2former import Mask2FormerImageProcessor

    process = Mask2FormerImageProcessor().post_process_instance_segmentation
    options = {"target_sizes": [image], "return_binary_maps": True}
    return lambda: runs(process(given, **options)[0]["segmentation"])


@rivals.needs("rfdetr")
def rfdetr(given, image):
    from rfdetr.models.postprocess import PostProcess

    process = PostProcess(num_select=len(given["pred_boxes"][0]))
    return lambda: runs(process(given, torch.tensor([image]))[0]["masks"][:, 0])


@rivals.needs("ultralytics")
def yolo(given, image):
    from ultralytics.utils import ops as theirs

    rows, prototypes = given

    def call():
        boxes = theirs.scale_boxes((640, 640), rows[:, :4].clone(), image)
        return runs(theirs.process_mask_native(prototypes, rows[:, 6:], boxes, image))

    return call


THEIRS = {"mask2former": (mask2former, "transformers"), "rfdetr": (rfdetr, "rfdetr"), "yolo": (yolo, "ultralytics")}


def alike(ours, other, who):
    """As many, and nearly the same area in all; pixel for pixel they are compared in tests/integrations."""
    mine, theirs = (sum(int(area(one)) for one in some) for some in (ours, other))
    assert len(ours) == len(other) and abs(mine - theirs) <= 0.01 * theirs + 10, f"{who}: {theirs}, ours {mine}"


def area(rle: dict) -> int:
    from pycocotools import mask as coco_mask

    return int(coco_mask.area(as_bytes(rle)))


@pytest.mark.parametrize(("name", "count", "image"), select(USUAL, USUAL[:1], REST))
def bench_pipeline(compare, draw, name, count, image):
    count, image = draw.count(count), draw.size(image)
    given, (make, package) = outputs(name, count, image), THEIRS[name]
    calls = {"htc_fast": ours(name, given, image), f"{package}, pycocotools": make(given, image)}
    words = f"{WORDS[name]}: {plural(count, 'mask')} at {image[0]}×{image[1]}"
    compare(words, calls, alike, backend="cpp")
