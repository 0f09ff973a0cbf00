"""Boxes between two stages in ONNX beside ours."""

import pytest
import torch

from htc_fast import ops
from tests.inference.onnx.running import InOnnx
from tests.ops.detection_cases import STD, Case, Inputs

CASES = {
    "one delta": Case(stages=1),
    "by class": Case(stages=1, by_class=True),
    "one": Case(1, 1, 1, 1),
    "one class": Case(3, 7, 1, 1, by_class=True),
    "float16": Case(1, 33, 33, 1, by_class=True, dtype=torch.float16),
}


def refined(boxes, logits, deltas, image_sizes, labels=None):
    return ops.refine(boxes, logits, deltas, STD, image_sizes, labels)


def drawn(case: Case, seed: int):
    inputs = Inputs(Case(**{**vars(case), "seed": seed}))
    return inputs, (inputs.boxes, inputs.logits[0], inputs.deltas, inputs.image_sizes)


@pytest.mark.parametrize("name", CASES)
def test_named(name):
    program = InOnnx(refined, drawn(CASES[name], 0)[1])
    for seed in range(3):
        _, tensors = drawn(CASES[name], seed)
        (found,), (wanted,) = program(*tensors), program.wanted(*tensors)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("kind", [torch.int64, torch.int32])
def test_labels_that_are_known(kind):
    case = CASES["by class"]
    labels = lambda inputs: torch.randint(-1, case.classes + 2, (2, 20), generator=inputs.generator).to(kind)  # noqa: E731
    inputs, tensors = drawn(case, 0)
    program = InOnnx(refined, (*tensors, labels(inputs)))
    for seed in range(3):
        inputs, tensors = drawn(case, seed)
        given = (*tensors, labels(inputs))
        (found,), (wanted,) = program(*given), program.wanted(*given)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-4)
        assert (found == 0).all(dim=2).any()


@pytest.mark.parametrize("name", ["one delta", "by class"])
def test_equal_logits_extreme_deltas_and_boxes_that_are_none(name):
    _, (boxes, logits, deltas, sizes) = drawn(CASES[name], 0)
    program = InOnnx(refined, (boxes, logits, deltas, sizes))
    logits[:, :5] = 0.5  # the first class
    boxes[:, 1], deltas[:, 2], deltas[:, 3] = 7.0, 1e4, -1e4
    deltas[:, 5, 0::4], deltas[:, 5, 1::4], deltas[:, 5, 2:4] = 0.0, 0.0, -1e4
    boxes[:, 4] = torch.tensor([-500.0, -500, -400, -300])
    boxes[0, 6], deltas[0, 7], boxes[0, 8, 2] = torch.nan, torch.nan, torch.inf
    (found,), (wanted,) = program(boxes, logits, deltas, sizes), program.wanted(boxes, logits, deltas, sizes)
    assert torch.equal(found.isfinite(), wanted.isfinite())
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-4, equal_nan=True)
