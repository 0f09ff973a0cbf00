"""Every kind of network that has a name is optimized to itself, and predicts in 16 bits."""

import warnings
from dataclasses import replace

import pytest
import torch

from htc_fast.inference import optimize
from htc_fast.models import zoo
from tests.inference.test_optimize import assert_equal, detector, images
from tests.models.test_zoo import SIZES

# One name for all that differ in backbone, loss and sizes of training alone.
SAME = {"backbone": "", "name": "", "semantic_loss_weight": 1.0, "train_sizes": None, "drop_path": 0.0}
KINDS = list({replace(config, **SAME): name for name, config in reversed(zoo.MODELS.items())}.values())


def test_the_kinds_are_told_apart():
    assert len(KINDS) == 27 and {"htc_r50", "htc_r50_aspp", "htc_r50_dcn", "htc_winner", "panet_r50"} <= set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_float32_equals_the_detector(name):
    model = detector(name)
    fast = optimize(model, (64, 96), batch_size=2, dtype=torch.float32)
    assert_equal(fast.detect(images(), SIZES), model.detect(images(), SIZES))


@pytest.mark.parametrize("name", KINDS)
def test_sixteen_bits_find_much_the_same(name):
    model = detector(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a processor without bf16 says so
        fast = optimize(model, (64, 96), batch_size=2)
    found, want = fast.detect(images(), SIZES), model.detect(images(), SIZES)
    assert torch.equal(found.count, want.count) and found.masks.isfinite().all()
    torch.testing.assert_close(found.scores, want.scores, rtol=0.05, atol=0.02)
