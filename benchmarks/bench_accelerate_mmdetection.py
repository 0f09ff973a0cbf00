"""mmdetection's HTC R-50, whole: with mmcv's own operators, with ours in their place, and accelerated.

mmcv's compiled extension stands aside unless HTC_FAST_MMCV_EXTENSION is the path of an _ext.so that loads here.
"""

import copy
import importlib.util
import os
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks import rivals
from htc_fast.integrations import mmcv, mmdetection

CONFIG = "htc/htc_r50_fpn_1x_coco.py"
OWN = "HTC_FAST_MMCV_EXTENSION"


class Compiled(ModuleType):
    """mmcv's own operators; what was not built is missing when it is called, not when mmcv is imported."""

    def __init__(self, path: str):
        super().__init__("mmcv._ext")
        self.__spec__ = ModuleSpec("mmcv._ext", None)
        loader = ExtensionFileLoader("_ext", path)
        self.built = importlib.util.module_from_spec(importlib.util.spec_from_loader("_ext", loader))
        loader.exec_module(self.built)

    def __getattr__(self, name: str):
        if name.startswith("__") or name == "built":
            raise AttributeError(name)
        return getattr(self.built, name, lambda *_, **__: pytest.fail(f"{name} was not built"))


def prepare() -> bool:
    """Put mmcv's own operators in place, if they are here, then ours before them; whether they are."""
    path = os.environ.get(OWN)
    if path and "mmcv._ext" not in sys.modules:
        sys.modules["mmcv._ext"] = Compiled(path)
    mmcv.install(force=bool(path))
    return bool(path)


def network(draw):
    """HTC with random weights that fill every place for a detection."""
    import mmdet
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules()
    config = Config.fromfile(str(Path(mmdet.__file__).parent / ".mim" / "configs" / CONFIG)).model
    config.backbone.init_cfg, config.test_cfg.rcnn.score_thr = None, 0.0
    if draw.tiny:
        config.test_cfg.rpn.max_per_img, config.test_cfg.rcnn.max_per_img = 30, 8
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    for one in model.roi_head.bbox_head:
        # Untrained heads say nearly the same of every box, and the order of equals is anybody's.
        torch.nn.init.normal_(one.fc_cls.weight, std=0.1)
    return model.eval().to(draw.device)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (800, 1333)])
def bench_predict(compare, draw, height, width):
    if importlib.util.find_spec("mmdet") is None:
        pytest.skip("mmdetection is not installed")
    compiled, size = prepare(), (64, 96) if draw.tiny else (height, width)
    from mmdet.structures import DetDataSample

    plain = network(draw)
    fast = mmdetection.accelerate(copy.deepcopy(plain))
    sample = DetDataSample(metainfo={"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)})
    pixels = (draw.normal(3, *size).abs() * 100).clamp(0, 255).byte().cpu()

    def detect(model):
        given = {"inputs": [pixels], "data_samples": [copy.deepcopy(sample)]}
        with torch.inference_mode():
            return model.test_step(given)[0].pred_instances.scores.float().cpu()

    def detect_compiled():
        mmcv.uninstall()
        try:
            return detect(plain)
        finally:
            mmcv.install(force=True)

    def check(mine, other, who):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4, msg=lambda text: f"{who}: {text}")

    calls = {
        "htc_fast": lambda: detect(fast),
        "mmdetection over our operators": lambda: detect(plain),
        "mmdetection over mmcv's own": detect_compiled if compiled else rivals.Absent(f"{OWN} is not set"),
    }
    compare(f"mmdetection's HTC R-50, {height}×{width}", calls, check, backend="cpp, oneDNN", pictures=1)
