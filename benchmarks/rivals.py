"""Who else can do what an operator does. Whoever is not here is `Absent` with the reason, never a time of zero."""

import functools
import importlib.util
import shutil
from collections.abc import Callable

import torch
from torch import Tensor

from htc_fast import ops
from htc_fast.ops.reference import exact


class Absent(str):
    """Why a rival does not run."""


def needs(*packages: str) -> Callable:
    """Decorates what makes a rival: without the packages, or where it stumbles, it makes an Absent."""

    def decorate(make: Callable) -> Callable:
        @functools.wraps(make)
        def made(*arguments, **options):
            missing = [name for name in packages if importlib.util.find_spec(name) is None]
            if missing:
                return Absent(f"{' and '.join(missing)} not installed")
            try:
                return make(*arguments, **options)
            except Exception as error:  # whatever another project's version stumbles over
                return Absent(f"failed: {first_line(error)}")

        return made

    return decorate


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


def plain(call: Callable | Absent) -> Callable | Absent:
    """The same call through the definition in plain PyTorch, with torch's own exponentials: ours are many passes."""
    if isinstance(call, Absent):
        return call

    def run():
        kept = exact.exponential, exact.softmax
        exact.exponential, exact.softmax = torch.exp, _softmax
        try:
            with ops.use_backend("reference"):
                return call()
        finally:
            exact.exponential, exact.softmax = kept

    return run


def _softmax(x: Tensor) -> Tensor:
    return x.softmax(dim=-1)


def compiled(call: Callable, draw, dtype: torch.dtype = torch.float32) -> Callable | Absent:
    """A call of PyTorch's own layers through torch.compile; a quarter of a minute, so not in every session."""
    if draw.tiny:
        return Absent("left out with --tiny")
    if dtype != torch.float32 and not (draw.full or draw.quick):
        return Absent("in bfloat16 only with --full")
    if draw.device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return Absent("torch.compile needs a C++ compiler")
    torch._dynamo.reset()
    return torch.compile(call, dynamic=False)


def widened(features: list[Tensor]) -> list[Tensor]:
    """In float32, as autocast gives it to these operators: 16-bit boxes would be off by pixels."""
    return [one.float() for one in features]


# RoIAlign -----------------------------------------------------------------------------------------------------------


def grid_sample(feature: Tensor, rois: Tensor, size: int, scale: float) -> Tensor:
    """RoIAlign of one image with two samples per bin and axis, as PyTorch has it: sample a grid, average."""
    count, (height, width) = 2 * size, feature.shape[2:]
    boxes = rois[:, 1:] * scale - 0.5
    at = (torch.arange(count, device=rois.device) + 0.5) / count
    x = boxes[:, 0, None] + (boxes[:, 2] - boxes[:, 0])[:, None] * at
    y = boxes[:, 1, None] + (boxes[:, 3] - boxes[:, 1])[:, None] * at
    grid_x = (x / (width - 1) * 2 - 1)[:, None, :].expand(-1, count, -1)
    grid_y = (y / (height - 1) * 2 - 1)[:, :, None].expand(-1, -1, count)
    grid = torch.stack([grid_x, grid_y], dim=3).reshape(1, -1, count, 2).to(feature.dtype)
    sampled = torch.nn.functional.grid_sample(feature, grid, padding_mode="border", align_corners=True)
    return torch.nn.functional.avg_pool2d(sampled[0].unflatten(1, (len(rois), count)).transpose(0, 1), 2)


@needs("torchvision")
def torchvision_pyramid(features: list[Tensor], rois: Tensor, size: int, image: tuple[int, int]) -> Callable:
    """Its own level rule, no half-pixel shift; rois in the order of their images."""
    from torchvision.ops import MultiScaleRoIAlign

    pool = MultiScaleRoIAlign([str(level) for level in range(len(features))], size, 0)
    boxes = [rois[rois[:, 0] == number, 1:] for number in range(len(features[0]))]
    return lambda: pool({str(level): one for level, one in enumerate(widened(features))}, boxes, [image] * len(boxes))


@needs("detectron2")
def detectron2_pyramid(features: list[Tensor], rois: Tensor, size: int, scales: tuple[float, ...]) -> Callable:
    """rois in the order of their images."""
    from detectron2.modeling.poolers import ROIPooler
    from detectron2.structures import Boxes

    pool = ROIPooler(size, scales, 0, "ROIAlignV2")
    boxes = [Boxes(rois[rois[:, 0] == number, 1:]) for number in range(len(features[0]))]
    return lambda: pool(widened(features), boxes)


@needs("mmcv")
def mmcv_pyramid(features: list[Tensor], rois: Tensor, size: int, scales: tuple[float, ...]) -> Callable:
    """Level by level and put together again, as mmdetection's SingleRoIExtractor does."""
    from mmcv.ops import RoIAlign

    pools = [RoIAlign((size, size), scale, 0) for scale in scales]
    return lambda: by_level(widened(features), rois, size, pools)


@needs("torchvision")
def torchvision_half(features: list[Tensor], rois: Tensor, size: int, scales: tuple[float, ...]) -> Callable:
    """Level by level in float16, boxes too, as it takes them: half the bytes, corners of up to a pixel's rounding."""
    from torchvision.ops import roi_align

    maps, boxes = [one.half() for one in features], rois.half()
    pools = [lambda map, some, scale=scale: roi_align(map, some.half(), size, scale, 0) for scale in scales]
    return lambda: by_level(maps, boxes.float(), size, pools)


def by_level(maps: list[Tensor], rois: Tensor, size: int, pools: list[Callable]) -> Tensor:
    """Each RoI pooled from the level of its size."""
    side = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
    level = (side / 56 + 1e-6).log2().floor().clamp(0, len(maps) - 1)
    out = maps[0].new_zeros(len(rois), maps[0].shape[1], size, size)
    for number, pool in enumerate(pools):
        chosen = (level == number).nonzero()[:, 0]
        out[chosen] = pool(maps[number], rois[chosen])
    return out


@needs("mmcv")
def mmcv_level(feature: Tensor, rois: Tensor, size: int, scale: float, ratio: int) -> Callable:
    from mmcv.ops import roi_align

    return lambda: roi_align(feature, rois, size, scale, ratio, "avg", True)


@needs("detectron2")
def detectron2_level(feature: Tensor, rois: Tensor, size: int, scale: float, ratio: int) -> Callable:
    from detectron2.layers import ROIAlign

    pool = ROIAlign(size, scale, ratio, aligned=True)
    return lambda: pool(feature, rois)


@needs("mmcv")
def mmcv_pr_roi_pool(feature: Tensor, rois: Tensor, size: int, scale: float) -> Callable:
    """On a GPU alone."""
    from mmcv.ops import PrRoIPool

    pool = PrRoIPool(size, scale)
    return lambda: pool(feature.contiguous(), rois)


# Boxes and masks ----------------------------------------------------------------------------------------------------


@needs("mmcv")
def mmcv_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, kind: str = "nms", **options) -> Callable:
    """nms or soft_nms, by class."""
    from mmcv.ops import batched_nms

    return lambda: batched_nms(boxes, scores, idxs, {"type": kind, **options})[1]


@needs("detectron2")
def detectron2_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, threshold: float) -> Callable:
    from detectron2.layers import batched_nms

    return lambda: batched_nms(boxes, scores, idxs, threshold)


@needs("torchvision")
def torchvision_paste(masks: Tensor, boxes: Tensor, image: tuple[int, int]) -> Callable:
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    return lambda: paste_masks_in_image(masks[:, None], boxes, image)[:, 0] >= 0.5


@needs("detectron2")
def detectron2_paste(masks: Tensor, boxes: Tensor, image: tuple[int, int]) -> Callable:
    from detectron2.layers.mask_ops import paste_masks_in_image

    return lambda: paste_masks_in_image(masks, boxes, image, threshold=0.5)


@needs("mmdet", "mmcv")
def mmdetection_paste(masks: Tensor, boxes: Tensor, image: tuple[int, int]) -> Callable:
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    return lambda: _do_paste_mask(masks[:, None], boxes, *image, skip_empty=False)[0] >= 0.5


def interpolated(maps: Tensor, image: tuple[int, int], threshold: float = 0.0) -> Tensor:
    """[K, H, W] bool: what every recipe for maps of logits does with torch."""
    return torch.nn.functional.interpolate(maps[None], image, mode="bilinear", align_corners=False)[0] > threshold


@needs("ultralytics")
def ultralytics_masks(coefficients: Tensor, prototypes: Tensor, boxes: Tensor, image: tuple[int, int]) -> Callable:
    from ultralytics.utils.ops import process_mask

    return lambda: process_mask(prototypes, coefficients, boxes, image, upsample=True)


# Polygons and run lengths -------------------------------------------------------------------------------------------


@needs("pycocotools")
def pycocotools_polygons(objects: list, image: tuple[int, int]) -> Callable:
    """One object after the other, as its users have it."""
    from pycocotools import mask

    return lambda: [mask.merge(mask.frPyObjects(one, *image)) for one in objects]


@needs("pycocotools")
def polygons_within_boxes(objects: list, boxes: Tensor, size: int, index: Tensor) -> Callable:
    """What detectron2's PolygonMasks.crop_and_resize does, for each box: copied, moved, scaled, encoded, decoded."""
    import numpy as np
    from pycocotools import mask

    arrays = [[np.asarray(one, dtype=np.float64) for one in polygons] for polygons in objects]

    def one(polygons: list, box) -> Tensor:
        moved = [polygon.copy() for polygon in polygons]
        for polygon in moved:
            for axis in (0, 1):
                polygon[axis::2] -= box[axis]
                polygon[axis::2] *= size / max(box[axis + 2] - box[axis], 0.1)
        bitmap = mask.decode(mask.merge(mask.frPyObjects(moved, size, size)))
        return torch.from_numpy(bitmap.astype(bool))

    return lambda: torch.stack([one(arrays[k], box) for k, box in zip(index.tolist(), boxes.numpy())])


@needs("cv2", "pycocotools")
def opencv_contours(rles: list) -> Callable:
    """Each mask decoded; contours with holes, corners alone."""
    import cv2
    from pycocotools import mask

    def one(rle: dict) -> list:
        return cv2.findContours(mask.decode(rle), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[0]

    return lambda: [one(rle) for rle in rles]


@needs("pycocotools", "torchvision")
def pycocotools_training_masks(
    polygons: list, labels, image: tuple[int, int], size: tuple[int, int], background: int
) -> Callable:
    """A map for each object [G, H, W] and the map of classes, as detectors' loaders make them, resized."""
    import numpy as np
    from pycocotools import mask as coco_mask
    from torchvision.transforms.v2 import functional as F
    from torchvision.tv_tensors import Mask

    def run():
        rles = [coco_mask.merge(coco_mask.frPyObjects(one, *image)) for one in polygons]
        bitmaps = np.stack([coco_mask.decode(one) for one in rles])
        classes = np.full(image, background, dtype=np.uint8)
        for k in np.argsort([-int(coco_mask.area(one)) for one in rles], kind="stable"):
            classes[bitmaps[k] > 0] = labels[k]
        both = (F.resize(Mask(torch.from_numpy(one)), list(size)) for one in (bitmaps, classes))
        return tuple(one.as_subclass(Tensor) for one in both)

    return run
