"""detections, backend x named case: each beside the definition, bit by bit."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from htc_fast import ops
from tests.ops import backends
from tests.ops.backends import (
    ALL,
    CPP,
    CUDA,
    EMULATED,
    INTERPRETED,
    NO_GPU,
    REFERENCE,
    cases,
    columns,
    emulated_only,
    run_without_waiting,
)
from tests.ops.detection_cases import STD, Case, Inputs
from tests.simt import emulator

OPERATOR = "detections"
CASES = {
    "plain": Case(),
    "probabilities": Case(average="probabilities"),
    "by_class": Case(by_class=True),
    "one": Case(1, 1, 1, 1, threshold=0.0),
    "one_class": Case(classes=1, rows=70, threshold=0.3),
    "one_stage": Case(stages=1, classes=31),
    "eight_stages": Case(stages=8, average="probabilities", classes=32, rows=9, threshold=0.02),
    "no_rows": Case(rows=0),
    "no_images": Case(images=0),
    "nothing_wanted": Case(limit=0),
    "nothing_above": Case(threshold=1.0),
    "everything_above": Case(threshold=0.0, limit=150, seed=1),
    "below_zero": Case(threshold=-1.0, limit=300),
    "three_images": Case(images=3, rows=33, classes=4, by_class=True, average="probabilities", limit=7),
    "coco": Case(1, 60, 80, threshold=0.01, limit=100),
    "lvis": Case(1, 9, 1203, by_class=True, average="probabilities", threshold=0.002, limit=300),
    "two_batches": Case(1, 90, 40, 2, threshold=0.0, limit=2500, spread=300),
    "half": Case(dtype=torch.float16, by_class=True),
    "bfloat16": Case(dtype=torch.bfloat16, average="probabilities"),
    "double": Case(dtype=torch.float64),
    "strided": Case(by_class=True, strided=True),
    "strided_half": Case(dtype=torch.float16, strided=True, rows=35),
}
INTERPRETED_MOST = 520  # candidates of an image
WATCHED = emulated_only(
    CASES,
    asan="one no_rows no_images nothing_wanted everything_above eight_stages three_images lvis strided_half bfloat16",
    race="plain by_class eight_stages everything_above two_batches",
)
pytestmark = pytest.mark.filterwarnings("ignore:invalid value")  # of Triton's interpreter


def unless(name: str, column) -> str | None:
    case = CASES[name]
    if column == EMULATED and (name not in WATCHED or name == "double"):
        return "finds nothing in the emulator that others do not"
    if column == INTERPRETED and (case.rows * case.classes > INTERPRETED_MOST or case.dtype == torch.bfloat16):
        return "Triton's interpreter would take a minute, or gets bfloat16 wrong"
    return "no expectation but its own" if column == REFERENCE else None


def check(column, arguments: tuple, options: dict) -> tuple:
    """All find what the definition finds."""
    found = column.call(OPERATOR, *arguments, **options)
    for mine, wanted in zip(found, REFERENCE.call(OPERATOR, *arguments, **options), strict=True):
        assert backends.alike(column, mine, wanted) and mine.dtype == wanted.dtype
    assert found[2].dtype == torch.int64 and found[3].dtype == torch.int32
    return found


@pytest.mark.parametrize("name, column", cases(OPERATOR, CASES, ALL, unless))
def test_named(name, column):
    inputs = Inputs(CASES[name])
    _, _, labels, count = check(column, inputs.arguments, inputs.options)
    assert torch.equal((labels >= 0).sum(dim=1), count)
    if name in ("plain", "lvis", "two_batches"):
        assert count.min() > 3


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, EMULATED, CUDA, INTERPRETED)))
def test_strange_numbers(column):
    inputs = Inputs(Case(rows=24, by_class=True))
    for row, value in enumerate((torch.nan, torch.inf, -torch.inf)):
        inputs.logits[1][:, row, 2] = value
        inputs.logits[0][:, row + 4] = value
        inputs.deltas[:, row + 8, 5] = value
        inputs.boxes[:, row + 14, 1] = value
    inputs.logits[2][:, 20, -1] = torch.nan
    inputs.valid[:] = True
    for average in ("logits", "probabilities"):
        options = {**inputs.options, "score_average": average, "score_threshold": 0.0, "limit": 200}
        boxes, scores, _, count = check(column, inputs.arguments, options)
        assert boxes.isfinite().all() and scores.isfinite().all() and count.min() > 20


@pytest.mark.parametrize("column", columns(OPERATOR, (REFERENCE, CPP, EMULATED, CUDA, INTERPRETED)))
def test_by_hand(column):
    logits = torch.tensor([[[5.0, 0, 0], [0, 4, 0], [0, 0, 9], [5, 0, 0], [5, 0, 0]]])
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]]])
    deltas = torch.zeros(1, 5, 4)
    deltas[0, 4, 0] = 10  # by its whole width, times std
    options = {"std": STD, "score_average": "logits", "score_threshold": 0.5, "iou_threshold": 0.5, "limit": 4}
    found = column.call(OPERATOR, [logits], deltas, boxes, None, torch.tensor([[8, 36]]), **options)
    # Row 3 overlaps row 0, row 2 is background; rows 0 and 4 have the same score, and come before row 1.
    assert found[2].tolist() == [[0, 0, 1, -1]] and found[3].tolist() == [3]
    assert found[0].tolist() == [[[0, 0, 10, 8], [30, 0, 36, 8], [0, 0, 10, 8], [0, 0, 0, 0]]]
    wanted = torch.tensor([[5.0, 0, 0], [0, 4, 0]]).softmax(1).amax(1)
    torch.testing.assert_close(found[1][0], torch.stack([wanted[0], wanted[0], wanted[1], wanted[0] * 0]))


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, EMULATED, CUDA)))
def test_equal_scores_of_more_than_is_remembered(column):
    """One score for all: the best are the first rows, class by class."""
    rows, classes, limit = 1500, 3, 40
    left = torch.arange(float(rows)) * 4
    boxes = torch.stack([left, left * 0, left + 3, left * 0 + 3], dim=1)[None]
    logits, deltas = [torch.zeros(1, rows, classes + 1)] * 2, torch.zeros(1, rows, 4)
    options = {"std": STD, "score_average": "logits", "score_threshold": 0.1, "iou_threshold": 0.5, "limit": limit}
    found = column.call(OPERATOR, logits, deltas, boxes, None, torch.tensor([[100, 10_000]]), **options)
    assert found[2][0].tolist() == [0, 1, 2] * 13 + [0] and (found[1] == 0.25).all()
    assert found[0][0, :, 0].tolist() == [4.0 * (i // 3) for i in range(limit)]


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, EMULATED, CUDA)))
def test_what_is_best_may_be_one_and_the_same(column):
    """More boxes on one spot than are remembered at first: what is beside it is found all the same."""
    rows = 2600
    boxes = torch.tensor([0.0, 0, 10, 10]).repeat(1, rows, 1)
    boxes[0, -2:] += torch.tensor([[20.0], [40.0]])
    logits = torch.stack([torch.linspace(4, 3, rows), torch.zeros(rows)], dim=1)[None]
    options = {"std": STD, "score_average": "logits", "score_threshold": 0.5, "iou_threshold": 0.5, "limit": 4}
    found = column.call(OPERATOR, [logits], torch.zeros(1, rows, 4), boxes, None, torch.tensor([[99, 99]]), **options)
    assert found[3].tolist() == [3] and found[0][0, :, 0].tolist() == [0, 20, 40, 0]


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED, CUDA)))
def test_a_sample_that_misleads(column):
    """Those that are sampled are the worst: far more are better than fit into a batch."""
    rows, stride, step = 1400, 4, 6  # of rows of scores; as csrc/cuda/detection_batch.cuh samples them
    inputs = Inputs(Case(1, rows, 3, 1, threshold=0.001, limit=40, spread=1000))
    inputs.logits[0].copy_(torch.tensor([4.0, 4, 4, 0]) + inputs.logits[0] / 100)
    i = torch.arange(rows * stride // step)
    sampled = i * step + (i * 2654435769 % 2**32 >> 12) % step
    inputs.logits[0].view(-1)[sampled[sampled % stride < 3]] -= 4
    inputs.valid[:] = True
    found = check(column, inputs.arguments, {**inputs.options, "limit": 300})
    assert found[3].item() == 300 and found[2].unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, EMULATED, CUDA)))
def test_without_validity_all_count(column):
    inputs = Inputs(Case())
    logits, deltas, boxes, valid, sizes = inputs.arguments
    every = column.call(OPERATOR, logits, deltas, boxes, torch.ones_like(valid), sizes, **inputs.options)
    found = column.call(OPERATOR, logits, deltas, boxes, None, sizes, **inputs.options)
    none = column.call(OPERATOR, logits, deltas, boxes, torch.zeros_like(valid), sizes, **inputs.options)
    assert all(torch.equal(a, b) for a, b in zip(found, every)) and none[3].tolist() == [0, 0]


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
def test_order_of_threads_does_not_matter(column):
    inputs, results = Inputs(Case(rows=60, threshold=0.0, limit=100)), []
    for seed in (0, 1, 2):
        emulator.set_seed(seed)
        results.append(column.call(OPERATOR, *inputs.arguments, **inputs.options))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
@settings(max_examples=emulator.examples(60), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    images=st.integers(1, 3), rows=st.integers(0, 60), classes=st.integers(1, 40), stages=st.integers(1, 4),
    by_class=st.booleans(), average=st.sampled_from(["logits", "probabilities"]), limit=st.integers(0, 200),
    threshold=st.sampled_from([-1.0, 0.0, 0.01, 0.05, 0.5]), strided=st.booleans(), seed=st.integers(0, 9))  # fmt: skip
def test_drawn(column, seed, **case):
    emulator.set_seed(seed % 4)
    inputs = Inputs(Case(**case, seed=seed))
    check(column, inputs.arguments, inputs.options)


@pytest.mark.parametrize("threshold", [0.001, 0.05, 0.3])
def test_rows_that_are_left_out_are_those_without_a_chance(threshold):
    """C++ makes no softmax where the largest logits say that nothing exceeds the threshold: the same comes out."""
    for seed in range(5):
        inputs = Inputs(replace(CASES["coco"], seed=seed, threshold=threshold))
        for one in inputs.logits:
            one[..., -1] += 6
        check(CPP, inputs.arguments, inputs.options)


@pytest.mark.parametrize("namespace", ["htc_fast", pytest.param("htc_fast_triton", marks=pytest.mark.skipif(
    bool(INTERPRETED.why_not(OPERATOR)), reason=str(INTERPRETED.why_not(OPERATOR))))])  # fmt: skip
def test_opcheck(namespace):
    inputs = Inputs(Case(rows=12))
    options = list(STD), True, 0.1, 0.5, 20
    operator = getattr(torch.ops, namespace).detections.default
    result = torch.library.opcheck(operator, (*inputs.arguments, *options))
    assert set(result.values()) == {"SUCCESS"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)
def test_captured_without_waiting():
    inputs = Inputs(Case(by_class=True))
    logits, deltas, boxes, valid, sizes = CUDA.give(inputs.arguments)

    def both():
        moved = ops.refine(boxes, logits[0], deltas, STD, sizes)
        return ops.detections(logits, deltas, moved, valid, sizes, **inputs.options)

    want = both()
    run_without_waiting(both)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = both()
    graph.replay()
    assert all(torch.equal(one, wanted) for one, wanted in zip(found, want, strict=True))


def test_compile():
    inputs = Inputs(Case(rows=12))
    call = lambda *given: ops.detections(*given, **inputs.options)  # noqa: E731
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)(*inputs.arguments)
    assert all(torch.equal(mine, wanted) for mine, wanted in zip(compiled, call(*inputs.arguments), strict=True))


def test_errors():
    inputs = Inputs(Case())
    logits, deltas, boxes, valid, sizes = inputs.arguments

    def found(logits=logits, deltas=deltas, valid=valid, sizes=sizes, **options):
        return ops.detections(logits, deltas, boxes, valid, sizes, **{**inputs.options, **options})

    with pytest.raises(ValueError, match="1 to 8 stages"):
        found(logits=[])
    with pytest.raises(ValueError, match=r"logits\[1\] must be \[N, R, classes \+ 1\]"):
        found(logits=[logits[0], logits[1][:, :3]])
    with pytest.raises(ValueError, match="4 or 4 \\* 5 columns"):
        found(deltas=deltas.repeat(1, 1, 2))
    with pytest.raises(ValueError, match="valid must be bool"):
        found(valid=valid.float())
    with pytest.raises(ValueError, match="valid must be on cpu like boxes, got meta"):
        found(valid=valid.to("meta"))
    with pytest.raises(TypeError, match="image_sizes must be integers"):
        found(sizes=sizes.float())
    with pytest.raises(ValueError, match="score_average"):
        found(score_average="scores")
    with pytest.raises(ValueError, match="limit"):
        found(limit=-1)
