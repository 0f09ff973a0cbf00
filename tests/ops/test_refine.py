"""refine, backend x named case: each beside the definition, bit by bit."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from htc_fast import ops
from tests.ops import backends
from tests.ops.backends import ALL, CPP, CUDA, EMULATED, INTERPRETED, REFERENCE, cases, columns, emulated_only
from tests.ops.detection_cases import STD, Case, Inputs
from tests.simt import emulator

CASES = {
    "plain": Case(stages=1),
    "by_class": Case(stages=1, by_class=True),
    "one": Case(1, 1, 1, 1),
    "one_class": Case(3, 7, 1, 1, by_class=True),
    "no_rows": Case(rows=0, stages=1, by_class=True),
    "no_images": Case(images=0, stages=1),
    "lvis": Case(1, 9, 1203, 1, by_class=True),
    "half": Case(1, 33, 33, 1, by_class=True, dtype=torch.float16),
    "bfloat16": Case(1, 33, 31, 1, by_class=True, dtype=torch.bfloat16),
    "double": Case(stages=1, by_class=True, dtype=torch.float64),
    "strided": Case(2, 9, 40, 1, by_class=True, strided=True),
    "strided_half": Case(2, 9, 40, 1, by_class=True, strided=True, dtype=torch.float16),
}
WATCHED = emulated_only(
    CASES, asan="one one_class no_rows no_images lvis half bfloat16 strided_half", race="plain by_class"
)


def unless(name: str, column) -> str | None:
    if column == EMULATED and (name not in WATCHED or name == "double"):
        return "finds nothing in the emulator that others do not"
    return "no expectation but its own" if column == REFERENCE else None


def arguments(inputs: Inputs) -> tuple:
    return inputs.boxes, inputs.logits[0], inputs.deltas, STD, inputs.image_sizes


def check(column, *given) -> torch.Tensor:
    found = column.call("refine", *given)
    assert found.dtype == torch.float32
    assert backends.alike(column, found.nan_to_num(7.0), REFERENCE.call("refine", *given).nan_to_num(7.0))
    return found


@pytest.mark.parametrize("name, column", cases("refine", CASES, ALL, unless))
def test_named(name, column):
    case = CASES[name]
    inputs = Inputs(case)
    check(column, *arguments(inputs))
    labels = torch.randint(-1, case.classes + 1, (case.images, case.rows), generator=inputs.generator)
    check(column, *arguments(inputs), labels)


NATIVE = columns("refine", (REFERENCE, CPP, EMULATED, CUDA, INTERPRETED))


@pytest.mark.parametrize("column", NATIVE)
def test_equal_classes_and_broken_numbers(column):
    nan, inf = torch.nan, torch.inf
    logits = torch.tensor([[0.0, 2, 2], [-0.0, 0, -1], [nan, 9, 0], [3, nan, nan], [inf, inf, 0], [-inf, -inf, -inf],
                           [9, -inf, 9], [1, 2, nan]])  # fmt: skip
    logits = torch.cat([logits, torch.full((8, 1), 99.0)], dim=1)[None]  # the background counts for nothing
    deltas = torch.zeros(1, 8, 3, 4)
    deltas[..., 0] = torch.arange(3.0) * 10  # each class by its number of widths
    boxes = torch.tensor([10.0, 10, 20, 20]).repeat(1, 8, 1)
    found = column.call("refine", boxes, logits, deltas.flatten(2), STD, torch.tensor([[100, 100]]))
    assert ((found[0, :, 0] - 10) / 10).tolist() == [1, 0, 0, 1, 0, 0, 0, 2]


@pytest.mark.parametrize("column", NATIVE)
def test_clipping_by_hand(column):
    """Sides change by 62.5 at most, boxes end at their image, NaN stays NaN in its axis."""
    boxes = torch.tensor([[[10.0, 10, 20, 20], [-5, -5, 200, 300], [10, 10, 20, 20], [30, 30, 30, 30]]])
    deltas = torch.tensor([[[0.0, 0, 50, -50], [0, 0, 0, 0], [torch.nan, 0, 0, 0], [1, 1, 1, 1]]])
    found = column.call("refine", boxes, torch.zeros(1, 4, 2), deltas, STD, torch.tensor([[70, 90]]))
    assert found[0, 0, 0] == 0 and found[0, 0, 2] == 90
    torch.testing.assert_close(found[0, 0, 3] - found[0, 0, 1], torch.tensor(10 / 62.5), rtol=1e-4, atol=0)
    assert found[0, 1].tolist() == [0, 0, 90, 70] and found[0, 3].tolist() == [30, 30, 30, 30]
    assert found[0, 2].isnan().tolist() == [True, False, True, False] and found[0, 2, 1::2].tolist() == [10, 20]


@pytest.mark.parametrize("column", columns("refine", (EMULATED,)))
@settings(max_examples=emulator.examples(60), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    images=st.integers(1, 3), rows=st.integers(0, 40), classes=st.integers(1, 70), by_class=st.booleans(),
    strided=st.booleans(), dtype=st.sampled_from([torch.float32, torch.float16]), seed=st.integers(0, 9))  # fmt: skip
def test_drawn(column, seed, **case):
    emulator.set_seed(seed % 4)
    check(column, *arguments(Inputs(Case(**case, stages=1, seed=seed))))


def test_known_classes_are_not_looked_for():
    inputs = Inputs(CASES["by_class"])
    best = inputs.logits[0][..., :-1].argmax(dim=2)
    given = arguments(inputs)
    assert torch.equal(ops.refine(*given), ops.refine(*given, best))
    other = torch.where(torch.arange(best.shape[1]) % 2 == 0, (best + 1) % 5, -1)
    found = ops.refine(*given, other)
    moved = (found != ops.refine(*given)).any(dim=2)
    assert moved[:, ::2].float().mean() > 0.8 and not moved[:, 1::2].any()


def test_opcheck_and_compile():
    given = arguments(Inputs(replace(CASES["by_class"], rows=6)))
    torch.library.opcheck(torch.ops.htc_fast.refine.default, (*given[:3], list(STD), given[4], None))
    compiled = torch.compile(lambda *given: ops.refine(*given), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*given), ops.refine(*given))


def test_errors():
    boxes, logits, deltas, std, sizes = arguments(Inputs(CASES["by_class"]))
    with pytest.raises(ValueError, match=r"boxes must be \[N, R, 4\]"):
        ops.refine(boxes[..., :3], logits, deltas, std, sizes)
    with pytest.raises(ValueError, match=r"logits must be \[N, R, classes \+ 1\]"):
        ops.refine(boxes, logits[..., :1], deltas, std, sizes)
    with pytest.raises(ValueError, match="deltas must be"):
        ops.refine(boxes, logits, deltas[:, :4], std, sizes)
    with pytest.raises(ValueError, match="std must be 4 numbers"):
        ops.refine(boxes, logits, deltas, std[:3], sizes)
    with pytest.raises(TypeError, match="labels must be integers"):
        ops.refine(boxes, logits, deltas, std, sizes, boxes[..., 0])
    with pytest.raises(ValueError, match="labels must be on cpu like boxes, got meta"):
        ops.refine(boxes, logits, deltas, std, sizes, boxes[..., 0].long().to("meta"))
    with pytest.raises(TypeError, match="floating point"):
        ops.refine(boxes.long(), logits, deltas, std, sizes)
