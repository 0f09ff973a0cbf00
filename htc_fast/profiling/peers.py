"""Other people's detectors on the same picture, where they can be imported; who is absent is said to be."""

import importlib.util
from collections.abc import Callable, Iterator

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision.models import detection

from htc_fast.device import autocast
from htc_fast.profiling.detect import Run, Setting, measured, picture
from htc_fast.profiling.meters import CostMeter

TORCHVISION = {
    "torchvision, Mask R-CNN": "maskrcnn_resnet50_fpn",
    "torchvision, Mask R-CNN v2": "maskrcnn_resnet50_fpn_v2",
}
MMDETECTION = "mmdetection, HTC"


def profile_peers(setting: Setting, say: Callable[[str], object], absent: dict[str, str]) -> Iterator[Run]:
    """Runs of the peers that are here, all their time in "rest".

    absent  gets who is not here -> why
    """
    for who, function in TORCHVISION.items():
        say(who)
        yield from _torchvision(who, function, setting)
    missing = [name for name in ("mmdet", "mmcv") if importlib.util.find_spec(name) is None]
    if missing:
        absent[MMDETECTION] = f"{' and '.join(missing)} cannot be imported"
        return
    say(MMDETECTION)
    try:
        yield from _mmdetection(setting)
    except Exception as error:  # whatever another project's version stumbles over
        absent[MMDETECTION] = f"it failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


def _torchvision(who: str, function: str, setting: Setting) -> Iterator[Run]:
    torch.manual_seed(0)
    short, long = setting.size
    options = {"weights": None, "weights_backbone": None, "num_classes": 81, "box_score_thresh": 0.0}
    made = getattr(detection, function)(**options, min_size=short, max_size=long)
    made = made.eval().to(setting.device)
    pixels = torch.from_numpy(picture(setting.size)).permute(2, 0, 1).to(setting.device) / 255
    images = [pixels] * setting.batch_size

    @torch.no_grad()
    def run() -> None:
        # As far as ours: to run lengths.
        for one in made(images):
            pasted = (one["masks"][:, 0] >= 0.5).byte().permute(1, 2, 0).cpu().numpy()
            coco_mask.encode(np.asfortranarray(pasted))

    yield from _runs(who, run, setting)


def _mmdetection(setting: Setting) -> Iterator[Run]:
    from mmdet.apis import DetInferencer

    made = DetInferencer("htc_r50_fpn_1x_coco", weights=None, device=str(setting.device), show_progress=False)
    images = [picture(setting.size)[:, :, ::-1]] * setting.batch_size
    yield from _runs(MMDETECTION, lambda: made(images, batch_size=setting.batch_size), setting)


def _runs(who: str, run: Callable[[], object], setting: Setting) -> Iterator[Run]:
    with CostMeter() as meter:
        run()
    for dtype in setting.dtypes:
        with autocast(setting.device, dtype == "bfloat16"):
            run()
            rounds = measured(run, setting.device, setting.rounds)
        yield Run(who, "peer", dtype, rounds, meter.needs, setting.batch_size)
