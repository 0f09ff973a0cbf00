"""mmdetection's own models without mmcv's extension: they predict, they train, and accelerated they do the same."""

# ruff: noqa: E402 - mmdetection must not be imported before its operators are there

import importlib.util
import json
import math
import pickle
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("mmdet") is None:
    pytest.skip("mmdetection is not installed: scripts/integrations_check.sh runs these", allow_module_level=True)

from htc_fast.integrations import mmcv

mmcv.install()

from htc_fast.integrations import mmdetection
from tests.integrations import mmdetection_cases as cases

# Of the same functions over mmcv's own C++ operators (onedl-mmcv 2.3.6's sources, torch 2.14.1): every step's sum, and
# the first step's parts.
RECORDED = json.loads((Path(__file__).parent.parent / "fixtures" / "mmdetection_losses.json").read_text())
NAMES = list(cases.FILES)


def same(found, expected) -> None:
    """Detections equal up to rounding."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one.labels.tolist() == other.labels.tolist()
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.bboxes, other.bboxes, rtol=1e-4, atol=1e-2)
        if "masks" in other:
            assert one.masks.shape == other.masks.shape and one.masks.dtype == other.masks.dtype
            assert int((one.masks != other.masks).sum()) <= 1e-4 * one.masks.numel()


@pytest.fixture(scope="module")
def data():
    return cases.pictures()


@pytest.mark.parametrize("name", NAMES)
def test_predicts_and_accelerated_predicts_the_same(name, data):
    model = cases.build(name)
    before = cases.predict(model, data)
    assert all(len(one.scores) == 20 and one.scores.isfinite().all() for one in before)
    assert all((one.bboxes[:, 2:] >= one.bboxes[:, :2]).all() for one in before)
    if name != "retinanet":
        shapes = [tuple(sample.ori_shape) for sample in data["data_samples"]]
        assert [tuple(one.masks.shape[1:]) for one in before] == shapes and any(one.masks.any() for one in before)
    kinds = [type(one) for one in model.modules()]
    assert mmdetection.accelerate(model) is model and mmdetection.accelerate(model) is model
    assert sum(type(one).__name__.startswith("Fast") for one in model.modules()) > 20
    same(cases.predict(model, data), before)
    same(cases.predict(pickle.loads(pickle.dumps(model)), data), before)
    assert mmdetection.restore(model) is model and [type(one) for one in model.modules()] == kinds
    assert torch.equal(cases.predict(model, data)[0].scores, before[0].scores)


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_ten_steps_of_training_lose_what_mmdetection_loses(name, accelerated, data):
    model = cases.build(name)
    if accelerated:
        mmdetection.accelerate(model)
    found = cases.train(model, data)
    assert all(math.isfinite(value) for step in found for value in step.values())
    assert found[-1]["loss"] < 0.95 * found[0]["loss"]
    recorded = RECORDED[name]
    for key, value in recorded["first"].items():
        assert found[0][key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
    # Rounding grows from step to step: a sampled box may turn from foreground to background (SCNet: 2 % after nine).
    for number, (step, value) in enumerate(zip(found, recorded["loss"])):
        assert step["loss"] == pytest.approx(value, rel=1e-4 if number < 3 else 0.1), number
