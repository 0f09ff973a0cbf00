"""mmdetection's own HTC where mmcv has no compiled extension; --small: a small picture and few proposals."""

import argparse
import time
from pathlib import Path

import numpy as np

from htc_fast.data.scenes import Composer
from htc_fast.integrations import mmcv

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--small", action="store_true")
SMALL = options.parse_args().small


def seconds(model, picture: np.ndarray) -> tuple[float, object]:
    """The second of two runs."""
    for _ in range(2):
        began = time.perf_counter()
        found = mmdet.apis.inference_detector(model, picture).pred_instances
    return time.perf_counter() - began, found


mmcv.install()  # before mmdetection is imported for the first time
import mmdet.apis  # noqa: E402

from htc_fast.integrations.mmdetection import accelerate  # noqa: E402

proposals, objects = (50, 10) if SMALL else (1000, 100)
changes = {"model.test_cfg.rpn.max_per_img": proposals, "model.test_cfg.rcnn.max_per_img": objects}
changes |= {"model.test_cfg.rcnn.score_thr": 0.0}  # the weights are made up, and sure of nothing
changes |= {"model.backbone.init_cfg": None, "test_pipeline.1.scale": (160, 128) if SMALL else (1333, 800)}
config = Path(mmdet.__file__).parent / ".mim/configs/htc/htc_r50_fpn_1x_coco.py"
model = mmdet.apis.init_detector(str(config), None, device="cpu", cfg_options=changes)  # None: a checkpoint's path
picture = Composer().compose(np.random.default_rng(0), held_out=True).pixels[..., ::-1]
before, wanted = seconds(model, picture)
after, found = seconds(accelerate(model), picture)
assert np.allclose(found.scores, wanted.scores, atol=1e-4), "the results differ"
print(f"{len(found.scores)} objects of mmdetection's HTC in {before:.2f} s, the same accelerated in {after:.2f} s")
