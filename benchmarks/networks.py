"""Other libraries' detectors, with random weights as ours; those that are not here are `Absent`."""

import copy
import functools

import numpy as np
import torch

from benchmarks import detectors
from benchmarks.rivals import needs
from htc_fast.device import autocast
from htc_fast.integrations.torchvision import accelerate

V1, V2 = "maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"


@needs("torchvision")
def torchvision_mask_rcnn(draw, dtype: torch.dtype):
    """Counts of its detections; resizing is its own and does nothing here."""
    inputs, sizes = detectors.picture(draw)
    height, width = sizes[0].tolist()
    model = _torchvision(draw, V1, (height, width))

    @torch.no_grad()
    def call():
        with autocast(draw.device, dtype == torch.bfloat16):
            return [len(one["masks"]) for one in model([inputs[0, :, :height, :width]])]

    return call


@needs("torchvision")
def torchvision_predict(draw, version: str, dtype: torch.dtype, pixels: np.ndarray, batch: int, count: int):
    """Counts of what pycocotools encodes: pixels in the host's memory to run lengths there."""
    from pycocotools import mask as coco_mask

    model = _torchvision(draw, version, pixels.shape[:2])
    picture = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    picture = picture.pin_memory() if draw.device.type == "cuda" else picture

    @torch.no_grad()
    def call():
        counts = []
        for _ in range(count // batch):
            with autocast(draw.device, dtype == torch.bfloat16):
                found = model([picture.to(draw.device, non_blocking=True) for _ in range(batch)])
            for one in found:
                masks = (one["masks"][:, 0] > 0.5).byte().permute(1, 2, 0).cpu().numpy()
                counts.append(len(coco_mask.encode(np.asfortranarray(masks))))
        return counts

    return call


def torchvision_before_and_after(draw, version: str, size: tuple[int, int]):
    """Two calls with one model's weights: as it comes, and accelerated; each returns its detections."""
    before = _torchvision(draw, version, size)
    after = accelerate(copy.deepcopy(before))
    pixels = draw.normal(3, *size).sigmoid()

    @torch.inference_mode()
    def run(model):
        return model([pixels])

    return functools.partial(run, before), functools.partial(run, after)


def _torchvision(draw, version: str, size: tuple[int, int]):
    from torchvision.models import detection

    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "num_classes": 81, "box_score_thresh": 0.0}
    model = getattr(detection, version)(**options, min_size=min(size), max_size=max(size)).eval().to(draw.device)
    model.roi_heads.detections_per_img = detectors.TINY["detections"] if draw.tiny else 100
    return model


@needs("mmdet", "mmcv")
def mmdetection(draw, config: str):
    """Its network of the same name."""
    from mmdet.apis import DetInferencer

    made = DetInferencer(config, weights=None, device=str(draw.device), show_progress=False)
    pixels = torch.zeros(800, 1333, 3, dtype=torch.uint8).numpy()

    def call():
        return [len(one["scores"]) for one in made([pixels], return_datasamples=False)["predictions"]]

    return call


@needs("detectron2")
def detectron2(draw, config: str):
    """A network of its zoo."""
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    settings = model_zoo.get_config(config)
    settings.MODEL.DEVICE, settings.MODEL.ROI_HEADS.SCORE_THRESH_TEST = str(draw.device), 0.0
    model = build_model(settings).eval()
    pixels = {"image": torch.zeros(3, 800, 1333), "height": 800, "width": 1333}

    @torch.no_grad()
    def call():
        return [len(one["instances"]) for one in model([pixels])]

    return call
