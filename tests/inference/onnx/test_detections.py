"""A cascade's end in ONNX beside ours."""

from dataclasses import replace

import pytest
import torch

from htc_fast import ops
from tests.inference.onnx.running import InOnnx
from tests.ops.detection_cases import Case, Inputs
from tests.ops.test_detections import CASES

QUICK = ("plain", "by_class", "nothing_above", "half")
LEFT_OUT = ("no_rows", "no_images", "nothing_wanted", "strided", "strided_half")
TYPES = (torch.float32, torch.float16)
NAMES = [name for name, case in CASES.items() if name not in LEFT_OUT and case.dtype in TYPES]


def detected(inputs: Inputs):
    def function(deltas, boxes, valid, image_sizes, *logits):
        return ops.detections(logits, deltas, boxes, valid, image_sizes, **inputs.options)

    return function, (inputs.deltas, inputs.boxes, inputs.valid, inputs.image_sizes, *inputs.logits)


def same(found, wanted):
    """Boxes and scores nearly, labels and count."""
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-5, atol=1e-6)
    return torch.equal(found[2], wanted[2]) and torch.equal(found[3], wanted[3])


@pytest.mark.parametrize("name", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in NAMES])
def test_named(name):
    case = CASES[name]
    program = InOnnx(*detected(Inputs(case)))
    for seed in range(case.seed, case.seed + 3):
        _, tensors = detected(Inputs(replace(case, seed=seed)))
        found, wanted = program(*tensors), program.wanted(*tensors)
        assert same(found, wanted)
        assert (found[3].sum() == 0) == (name == "nothing_above")


def test_without_valid():
    inputs = Inputs(Case(images=1))
    function = lambda deltas, boxes, sizes, *logits: ops.detections(  # noqa: E731
        logits, deltas, boxes, None, sizes, **inputs.options
    )
    tensors = inputs.deltas, inputs.boxes, inputs.image_sizes, *inputs.logits
    program = InOnnx(function, tensors)
    assert same(program(*tensors), program.wanted(*tensors))


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize("by_class", [False, True])
def test_what_is_not_finite_is_no_detection(average, by_class):
    inputs = Inputs(Case(average=average, by_class=by_class, limit=90, threshold=0.01))
    program = InOnnx(*detected(inputs))
    logits, boxes, deltas = inputs.logits[1], inputs.boxes, inputs.deltas
    logits[0, 1, 2], logits[0, 2, 0], logits[1, 3, 1] = torch.nan, torch.inf, -torch.inf
    boxes[0, 4, 1], boxes[1, 5, 3] = torch.nan, torch.inf
    deltas[0, 6, 1], deltas[0, 7, 2], deltas[1, 8, 0] = torch.nan, torch.inf, -torch.inf
    boxes[1, 14:16] = torch.tensor([[3.0, 3, 3, 3], [200.0, 200, 300, 300]])
    _, tensors = detected(inputs)
    found = program(*tensors)
    assert same(found, program.wanted(*tensors))
    assert found[0].isfinite().all() and found[1].isfinite().all() and found[3].min() > 0


def test_equal_scores_come_by_row_then_by_class():
    inputs = Inputs(Case(1, 30, 4, 1, threshold=0.1, limit=120, spread=2000))
    program = InOnnx(*detected(inputs))
    inputs.logits[0].fill_(0.0)
    inputs.deltas.fill_(0.0)
    inputs.image_sizes.fill_(3000)
    inputs.valid.fill_(True)
    inputs.boxes = inputs.boxes + 40
    _, tensors = detected(inputs)
    found, wanted = program(*tensors), program.wanted(*tensors)
    assert same(found, wanted) and found[2][0, :8].tolist() == [0, 1, 2, 3] * 2
