"""Whole detectors on one 800×1333 picture: ours, and torchvision's Mask R-CNN. Weights do not matter and are random."""

import pytest
import torch
import torchvision

import htc_fast
from htc_fast.processor import supports
from htc_fast.profiling.paper import counted


def picture():
    rng = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, 800, 1344, generator=rng), torch.tensor([[800, 1333]])


@pytest.mark.parametrize("name", ["htc_r50", "cascade_mask_r50", "mask_rcnn_r50"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def bench_detect(compare, name, dtype):
    if not supports(getattr(torch, dtype), torch.device("cpu")):
        pytest.skip(f"this processor does not compute in {dtype}")
    torch.manual_seed(0)
    model = htc_fast.create_model(name).eval()
    images, sizes = picture()

    def run():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            return model.detect(images, sizes)

    assert run().count.item() == 100  # random weights: every place is filled, so the work is the most there is
    work = sum(need.flop for need in counted(name).values()) / 1e9
    compare("model", name, {"htc_fast": run}, gflop=work, dtype=dtype, rounds=5, backend="cpp, oneDNN")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def bench_optimised(compare, dtype):
    if not supports(getattr(torch, dtype), torch.device("cpu")):
        pytest.skip(f"this processor does not compute in {dtype}")
    torch.manual_seed(0)
    model = htc_fast.optimize(htc_fast.create_model("htc_r50").eval(), dtype=getattr(torch, dtype))
    images, sizes = picture()
    work = sum(need.flop for need in counted("htc_r50").values()) / 1e9
    run = lambda: model.detect(images, sizes)  # noqa: E731
    compare("model", "htc_r50, optimised", {"htc_fast": run}, gflop=work, dtype=dtype, rounds=5, backend="cpp, oneDNN")


def bench_torchvision(compare):
    torch.manual_seed(0)
    made = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=81,
                                                              box_score_thresh=0.0).eval()  # fmt: skip
    images, _ = picture()

    def run():
        with torch.no_grad():
            return made([images[0, :, :, :1333]])

    compare("model", "torchvision maskrcnn_resnet50_fpn", {"torchvision": run}, rounds=5)
