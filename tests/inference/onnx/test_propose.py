"""Proposals in ONNX beside ours."""

import pytest
import torch

from htc_fast import ops
from tests.inference.onnx.running import InOnnx
from tests.ops.propose_cases import CASES, Case, Inputs

QUICK = ("pyramid", "fewer than wanted", "float16")
LEFT_OUT = ("nobody", "nothing wanted", "no candidates", "an empty level", "nothing at all")  # of a detector's graph
TYPES = (torch.float32, torch.float16)
NAMES = [name for name, case in CASES.items() if name not in LEFT_OUT and case.dtype in TYPES]


def proposals(inputs: Inputs):
    """The operator as a function of maps and sizes, and these."""
    levels = len(inputs.objectness)

    def function(*tensors):
        maps = tensors[:levels], tensors[levels : 2 * levels]
        return ops.propose(*maps, inputs.strides, tensors[-1], inputs.anchors, **inputs.options())

    return function, (*inputs.objectness, *inputs.deltas, inputs.image_sizes)


@pytest.mark.parametrize("name", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in NAMES])
def test_named(name):
    case = CASES[name]
    program = InOnnx(*proposals(Inputs(case)))
    for seed in range(3):
        _, tensors = proposals(Inputs(case, seed))
        boxes, scores, valid = program(*tensors)
        wanted_boxes, wanted_scores, wanted_valid = program.wanted(*tensors)
        assert torch.equal(valid, wanted_valid)
        torch.testing.assert_close(boxes, wanted_boxes, rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(scores, wanted_scores, rtol=1e-5, atol=1e-7)


def test_what_is_not_finite_proposes_nothing():
    inputs = Inputs(Case(((24, 32), (12, 16)), 50, 80, images=2))
    program = InOnnx(*proposals(inputs))
    for number, strange in enumerate((torch.nan, torch.inf, -torch.inf)):
        inputs.objectness[0][0, :, 3 * number : 3 * number + 3] = strange
        inputs.deltas[0][1, 4 * number : 4 * number + 4, 2:20] = strange
        inputs.deltas[1][:, number, :4, 5] = strange
    inputs.deltas[1][:, 3, :4, 6] = torch.inf  # growth alone, which would be cut off
    _, tensors = proposals(inputs)
    boxes, scores, valid = program(*tensors)
    wanted_boxes, wanted_scores, wanted_valid = program.wanted(*tensors)
    assert torch.equal(valid, wanted_valid) and boxes.isfinite().all() and valid.any()
    torch.testing.assert_close(boxes, wanted_boxes, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(scores, wanted_scores, rtol=1e-5, atol=1e-7)


def test_nothing_at_all_is_proposed():
    inputs = Inputs(Case(((8, 9), (4, 5)), 50, 80))
    program = InOnnx(*proposals(inputs))
    for one in inputs.deltas:
        one.fill_(torch.nan)
    boxes, scores, valid = program(*proposals(inputs)[1])
    assert not valid.any() and boxes.eq(0).all() and scores.eq(0).all()


def test_small_boxes_are_left_out_where_they_are():
    inputs = Inputs(Case(((16, 12), (8, 6)), 60, 40))
    anchors, sizes, levels = inputs.anchors, inputs.image_sizes, len(inputs.objectness)

    def function(*maps):
        options = {"min_size": 14.0, "iou_threshold": 0.3, "delta_std": (0.5, 1.0, 0.2, 0.7)}
        given = maps[:levels], maps[levels : 2 * levels]
        return ops.propose(*given, [(4.0, 5.0), (8.0, 10.0)], maps[-1], anchors, limit=40, **options)

    program = InOnnx(function, (*inputs.objectness, *inputs.deltas, sizes))
    given = (*inputs.objectness, *inputs.deltas, sizes // 2)
    boxes, _, valid = program(*given)
    wanted_boxes, _, wanted_valid = program.wanted(*given)
    assert torch.equal(valid, wanted_valid) and 0 < valid.sum() < 40
    torch.testing.assert_close(boxes, wanted_boxes, rtol=1e-6, atol=1e-4)
