"""Non-maximum suppression in ONNX, hard and soft, beside ours."""

import time

import pytest
import torch

from htc_fast import ops
from htc_fast.errors import UserError
from htc_fast.inference.onnx.file import reason
from tests.inference.onnx.running import InOnnx
from tests.ops import nms_cases

METHODS = ("linear", "gaussian")
# images, boxes, classes, wanted
CASES = {
    "classes": (2, 90, 7, 40),
    "one class": (1, 60, 1, 60),
    "more than there are": (2, 12, 3, 20),
    "one": (1, 1, 1, 3),
}


def known(scores, groups: int):
    """Groups that a graph knows: one stretch of boxes after the other, the first one's number below zero."""
    each = -(-scores.shape[1] // groups)
    parts = [
        torch.full_like(scores[:, at : at + each], 3 * number - 1, dtype=torch.int64)
        for number, at in enumerate(range(0, scores.shape[1], each))
    ]
    return torch.cat(parts, dim=1)


def hard(groups: int, most: int, iou: float = 0.5, least: float = 0.1):
    return lambda boxes, scores: ops.batched_nms_padded(boxes, scores, known(scores, groups), iou, most, least)


def soft(method: str, most: int, **options):
    return lambda boxes, scores, idxs: ops.soft_nms_padded(
        boxes, scores, idxs, method=method, max_output=most, **options
    )


def softly(most: int, **options):
    """Both methods, one after the other."""
    return lambda *given: [one for method in METHODS for one in soft(method, most, **options)(*given)]


def each_method(program: InOnnx, tensors):
    """The three results of each method, and those that are wanted."""
    found, wanted = program(*tensors), program.wanted(*tensors)
    return [(found[at : at + 3], wanted[at : at + 3]) for at in (0, 3)]


def drawn(name: str, seed: int, broken: bool = False):
    images, count, classes, _ = CASES[name]
    boxes, scores, idxs = nms_cases.draw(images, count, classes, seed)
    if broken:
        nms_cases.break_some(boxes, scores)
    return boxes, scores, idxs


@pytest.mark.parametrize("name", ["classes", "more than there are"])
def test_hard(name):
    program = InOnnx(hard(CASES[name][2], CASES[name][3]), drawn(name, 0)[:2])
    for seed in range(3):
        boxes, scores, _ = drawn(name, seed)
        found, wanted = program(boxes, scores), program.wanted(boxes, scores)
        assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("least", [-torch.inf, 0.0])
def test_hard_of_broken_boxes(least):
    program = InOnnx(hard(7, 90, least=least), drawn("classes", 0)[:2])
    for seed in range(3):
        boxes, scores, _ = drawn("classes", seed, broken=True)
        found, wanted = program(boxes, scores), program.wanted(boxes, scores)
        assert torch.equal(found[0], wanted[0]) and found[1].min() > 20


def test_groups_that_depend_on_the_input_are_refused():
    refused = lambda *given: ops.batched_nms_padded(*given, 0.5, 40)  # noqa: E731
    with pytest.raises(Exception, match="translating") as raised:
        InOnnx(refused, drawn("classes", 0))
    assert "groups (idxs) that do not depend on the pictures" in str(reason(raised.value))


def test_coordinates_of_few_bits_are_not_moved():
    boxes, scores, _ = drawn("classes", 0)
    program = InOnnx(hard(3, 50), (boxes, scores))
    boxes = boxes + 2.0**18
    found, wanted = program(boxes, scores), program.wanted(boxes, scores)
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


def test_an_iou_that_is_its_threshold_keeps_both():
    # IoU 0.1 and 0.7 to the last bit: float32's 0.1 is above 0.1, its 0.7 below 0.7.
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 1], [0, 0, 10, 7]]])
    scores = torch.tensor([[0.9, 0.8, 0.7]])
    each = lambda *given: [hard(1, 3, iou)(*given)[0] for iou in (0.1, 0.7, 0.125, 0.0, 1.0)]  # noqa: E731
    program = InOnnx(each, (boxes, scores))
    kept = [places[0].tolist() for places in program(boxes, scores)]
    assert kept == [places[0].tolist() for places in program.wanted(boxes, scores)]
    assert kept[0] == [0, -1, -1] and kept[1] == [0, 1, 2] and kept[4] == [0, 1, 2]


def test_a_threshold_that_onnx_does_not_take():
    with pytest.raises(Exception, match="translating") as raised:
        InOnnx(hard(7, 5, -0.1), drawn("classes", 0)[:2])
    assert isinstance(reason(raised.value), UserError)
    assert "takes an IoU of 0 to 1, got -0.1" in str(reason(raised.value))


@pytest.mark.parametrize("name", CASES)
def test_soft(name):
    program = InOnnx(softly(most=CASES[name][3]), drawn(name, 0))
    assert program.kinds.count("Loop") == len(METHODS)
    for seed in range(3):
        tensors = drawn(name, seed)
        for found, wanted in each_method(program, tensors):
            assert torch.equal(found[0], wanted[0]) and torch.equal(found[2], wanted[2])
            torch.testing.assert_close(found[1], wanted[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("least", [0.0, 0.05])
def test_soft_of_broken_boxes(least):
    program = InOnnx(softly(most=90, min_score=least), drawn("classes", 0))
    for seed in range(3):
        tensors = drawn("classes", seed, broken=True)
        for found, wanted in each_method(program, tensors):
            assert torch.equal(found[0], wanted[0]) and torch.equal(found[2], wanted[2])
            torch.testing.assert_close(found[1], wanted[1], rtol=1e-5, atol=1e-7)


def test_soft_takes_equal_scores_in_their_order():
    boxes = torch.tensor([[[0.0, 0, 9, 9], [50, 50, 60, 60], [0, 0, 9, 9], [50, 50, 60, 60]]])
    scores, idxs = torch.full((1, 4), 0.5), torch.tensor([[1, 1, 1, 2]])
    program = InOnnx(soft("linear", 4), (boxes, scores, idxs))
    places, values, count = program(boxes, scores, idxs)
    assert places.tolist() == [[0, 1, 3, -1]] and values.tolist() == [[0.5, 0.5, 0.5, 0]] and count.tolist() == [3]


def test_soft_is_quick():
    boxes, scores, idxs = nms_cases.draw(1, 80_000, 80, spread=1000)
    program = InOnnx(soft("linear", 100, min_score=0.05), (boxes, scores, idxs))
    began = time.perf_counter()
    places, _, count = program(boxes, scores, idxs)
    assert time.perf_counter() - began < 5  # 0.1 s on a quiet core
    assert torch.equal(places, program.wanted(boxes, scores, idxs)[0]) and count.item() == 100
