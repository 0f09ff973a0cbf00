"""Other people's detectors on the same picture, where they can be imported; who is absent is said to be."""

import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from pycocotools import mask as coco_mask

from htc_fast.device import autocast
from htc_fast.profiling.detect import Run, Setting, measured, picture
from htc_fast.profiling.meters import CostMeter

TORCHVISION = {
    "torchvision, Mask R-CNN": "maskrcnn_resnet50_fpn",
    "torchvision, Mask R-CNN v2": "maskrcnn_resnet50_fpn_v2",
}
MMDETECTION = "mmdetection, HTC"


def profile_peers(setting: Setting, say: Callable[[str], object]) -> tuple[list[Run], dict[str, str]]:
    """Runs of the peers that are here, and why the others are not.

    returns  runs, all their time in "rest"; who -> reason
    """
    runs: list[Run] = []
    absent: dict[str, str] = {}
    if importlib.util.find_spec("torchvision") is None:
        absent |= dict.fromkeys(TORCHVISION, "torchvision is not installed")
    else:
        for who, function in TORCHVISION.items():
            say(who)
            runs += _torchvision(who, function, setting)
    missing = [name for name in ("mmdet", "mmcv") if importlib.util.find_spec(name) is None]
    if missing:
        absent[MMDETECTION] = f"{' and '.join(missing)} cannot be imported"
    else:
        try:
            say(MMDETECTION)
            runs += _mmdetection(setting)
        except Exception as error:  # whatever another project's version stumbles over
            absent[MMDETECTION] = f"it failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return runs, absent


def _torchvision(who: str, function: str, setting: Setting) -> list[Run]:
    import torchvision

    torch.manual_seed(0)
    short, long = setting.size
    options = {"weights": None, "weights_backbone": None, "num_classes": 81, "box_score_thresh": 0.0}
    made = getattr(torchvision.models.detection, function)(**options, min_size=short, max_size=long)
    made = made.eval().to(setting.device)
    pixels = torch.from_numpy(picture(setting.size)).permute(2, 0, 1).to(setting.device) / 255
    images = [pixels] * setting.batch_size

    @torch.no_grad()
    def run():
        # As far as ours: to run lengths.
        for one in made(images):
            pasted = (one["masks"][:, 0] >= 0.5).byte().permute(1, 2, 0).cpu().numpy()
            coco_mask.encode(np.asfortranarray(pasted))

    return _runs(who, run, setting)


def _mmdetection(setting: Setting) -> list[Run]:
    from mmdet.apis import DetInferencer

    made = DetInferencer("htc_r50_fpn_1x_coco", weights=None, device=str(setting.device), show_progress=False)
    images = [picture(setting.size)[:, :, ::-1]] * setting.batch_size
    return _runs(MMDETECTION, lambda: made(images, batch_size=setting.batch_size), setting)


def _runs(who: str, run: Callable[[], object], setting: Setting) -> list[Run]:
    with CostMeter() as meter:
        run()
    found = []
    for dtype in setting.dtypes:
        with autocast(setting.device, dtype == "bfloat16"):
            run()
            rounds = measured(run, setting.device, setting.rounds)
        found.append(Run(who, "peer", dtype, rounds, meter.needs, setting.batch_size))
    return found
