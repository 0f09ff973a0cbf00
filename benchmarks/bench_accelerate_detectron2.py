"""detectron2's Mask R-CNN R-50 FPN, whole: as it is, and with `accelerate`."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

from htc_fast.integrations import detectron2 as ours

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
# How far outputs of fresh heads are spread, which else are the same everywhere: places in the order of nothing.
SPREAD = {"objectness_logits": 2.0, "anchor_deltas": 0.3, "cls_score": 2.0, "bbox_pred": 0.5, "predictor": 2.0}


def network(draw, inputs: list[dict]):
    """Random weights that fill every place for a detection."""
    import detectron2
    from detectron2 import config, modeling

    torch.manual_seed(0)
    settings = config.get_cfg()
    settings.merge_from_file(str(Path(detectron2.__file__).parent / "model_zoo" / "configs" / CONFIG))
    settings.MODEL.DEVICE, settings.MODEL.ROI_HEADS.SCORE_THRESH_TEST = str(draw.device), 0.02
    if draw.tiny:
        settings.MODEL.RPN.POST_NMS_TOPK_TEST, settings.TEST.DETECTIONS_PER_IMAGE = 30, 8
    model = modeling.build_model(settings).eval()

    def spread(name):
        def hook(layer, given, output):
            layer.weight.mul_(SPREAD[name] / output.std())
            handles.pop(layer).remove()  # once: it sees every level
            return layer.forward(*given)

        return hook

    names = [(name.rsplit(".", 1)[-1], one) for name, one in model.named_modules()]
    handles = {one: one.register_forward_hook(spread(name)) for name, one in names if name in SPREAD}
    with torch.no_grad():
        model(inputs)
    return model


@pytest.mark.parametrize(("height", "width"), [(480, 640), (800, 1333)])
def bench_predict(compare, draw, height, width):
    if importlib.util.find_spec("detectron2") is None:
        pytest.skip("detectron2 is not installed")
    size = (64, 96) if draw.tiny else (height, width)
    pixels = draw.normal(3, *size).abs() * 60
    inputs = [{"image": pixels.float(), "height": size[0], "width": size[1]}]
    plain = network(draw, inputs)
    fast = ours.accelerate(copy.deepcopy(plain))

    def detect(model):
        with torch.no_grad():
            found = model(inputs)[0]["instances"]
        return found.scores, found.pred_masks.sum(dim=(1, 2)).float()

    def check(mine, other, who):
        for own, theirs in zip(mine, other):
            torch.testing.assert_close(own, theirs, rtol=1e-2, atol=1e-3, msg=lambda text: f"{who}: {text}")

    calls = {"htc_fast": lambda: detect(fast), "detectron2": lambda: detect(plain)}
    compare(f"detectron2's Mask R-CNN R-50, {height}×{width}", calls, check, backend="cpp, oneDNN", pictures=1)
