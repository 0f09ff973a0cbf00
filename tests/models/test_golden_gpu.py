"""mmdetection's recorded numbers on a GPU, in fp32 without TF32: as they are on a CPU."""

import pytest
import torch

from htc_fast import optimize
from tests import golden
from tests.models.test_golden_inference import SIZE, close, matched
from tests.ops.backends import convolutions_in, needs_gpu

pytestmark = needs_gpu


@pytest.fixture(scope="module")
def exact():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with convolutions_in("ieee"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory, exact):
    return golden.model(tmp_path_factory.mktemp("golden")).eval().cuda()


@torch.no_grad()
def test_feature_maps(model):
    images, expected = golden.images(model.config).cuda(), golden.arrays("expected")
    features = model.extract(images)
    semantic, logits = model.semantic(features)
    levels = {f"C{i + 2}": one for i, one in enumerate(model.backbone(images))}
    levels.update({f"P{i + 2}": one for i, one in enumerate(features)})
    levels.update({"semantic_feat": semantic, "semantic_logits": logits})
    for name, one in levels.items():
        close(one[0, ::16, :6, :6].cpu(), expected[f"{name}_patch"])
        close(one.double().norm().cpu(), expected[f"{name}_norm"])


@pytest.mark.parametrize("optimized", [False, True])
def test_detections(model, optimized):
    expected = golden.arrays("expected")
    detector = optimize(model, (256, 320), 1, torch.float32) if optimized else model
    found = detector.detect(golden.images(model.config).cuda(), SIZE.cuda())
    boxes, scores, masks = matched(type(found)(*(one.cpu() for one in vars(found).values())), expected)
    # As on a CPU: some boxes inherit the proposals' amplified rounding.
    assert (boxes < 1e-2).float().mean() >= 0.95 and boxes.max() < 5e-2
    assert (scores < 1e-4).float().mean() >= 0.85 and scores.max() < 1e-3
    assert (masks < 2e-3).float().mean() >= 0.95 and masks.max() < 5e-3
