"""soft_nms, backend x named case, then by hand, ties, types and errors."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from htc_fast import ops
from tests.ops import nms_cases
from tests.ops.backends import CPP, CUDA, EMULATED, NATIVE, ON_CPU, REFERENCE, cases, columns, emulated_only
from tests.simt import emulator

BACKENDS = columns("soft_nms", ON_CPU)
METHODS = ["linear", "gaussian"]
# boxes, classes, wanted
CASES = {
    "none": (0, 1, 5),
    "nothing_wanted": (20, 2, 0),
    "one": (1, 1, 3),
    "one_class": (150, 1, 150),
    "classes": (400, 7, 400),
    "more_than_threads": (700, 1, 60),
    "many_classes": (600, 300, 600),
    "early_end": (300, 3, 11),
    "detections": (5000, 80, 300),
}
WATCHED = emulated_only(
    CASES,
    asan="none nothing_wanted one one_class more_than_threads many_classes early_end",
    race="one_class more_than_threads early_end",
)


def unless(name: str, column) -> str | None:
    if column == EMULATED and (name not in WATCHED or name == "detections"):
        return "finds nothing in the emulator that others do not"
    return "5000 boxes take the reference a minute" if column == REFERENCE and name == "detections" else None


def check(column, boxes, scores, idxs, method: str, most: int, least: float = 1e-3) -> None:
    options = {"method": method, "min_score": least, "max_output": most}
    found, decayed = column.call("soft_nms", boxes, scores, idxs, **options)
    wanted, wanted_scores = CPP.call("soft_nms", boxes, scores, idxs, **options)
    assert torch.equal(found, wanted) and torch.equal(decayed, wanted_scores)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name, column", cases("soft_nms", CASES, NATIVE, unless))
def test_named(name, column, method):
    count, classes, most = CASES[name]
    boxes, scores, idxs = (one[0] for one in nms_cases.draw(1, count, classes, spread=150))
    check(column, boxes, scores * 0.9 + torch.linspace(0, 0.05, count), idxs, method, most)


@pytest.mark.parametrize("column", columns("soft_nms", (EMULATED, CUDA)))
def test_what_is_not_finite_never_stays(column):
    boxes, scores, idxs = (one[0] for one in nms_cases.draw(1, 60, 2, 1))
    boxes[3, 1], boxes[9, 2], scores[5], scores[7] = torch.nan, torch.inf, torch.nan, torch.inf
    check(column, boxes, scores, idxs, "linear", 60)


@pytest.mark.slow
@pytest.mark.parametrize("column", columns("soft_nms", (EMULATED,)))
@settings(max_examples=emulator.examples(60), deadline=None, derandomize=True,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(count=st.integers(0, 200), classes=st.integers(1, 9), most=st.integers(0, 200), method=st.sampled_from(METHODS),
       least=st.sampled_from([1e-3, 0.2, -1.0]), seed=st.integers(0, 9999))  # fmt: skip
def test_drawn(column, count, classes, most, method, least, seed):
    emulator.set_seed(seed)
    boxes, scores, idxs = (one[0] for one in nms_cases.draw(1, count, classes, seed, spread=100))
    # No ties: rounding would decide between them.
    check(column, boxes, scores + torch.linspace(0, 0.005, count), idxs, method, most, least)


def draw(count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * 100
    size = torch.rand(count, 2, generator=generator) * 60 + 1
    scores = torch.rand(count, generator=generator)
    idxs = torch.randint(-1, classes - 1, (count,), generator=generator)
    return torch.cat([centre - size / 2, centre + size / 2], dim=1), scores, idxs


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "count, classes, most", [(1, 1, None), (37, 1, None), (300, 5, None), (300, 3, 20), (200, 200, None)]
)
def test_matches_reference(method, count, classes, most):
    boxes, scores, idxs = draw(count, classes)
    with ops.use_backend("reference"):
        indices, decayed = ops.soft_nms(boxes, scores, idxs, method=method, max_output=most)
    got_indices, got_scores = ops.soft_nms(boxes, scores, idxs, method=method, max_output=most)
    assert got_indices.tolist() == indices.tolist()
    assert torch.equal(got_scores, decayed)
    assert (got_scores[:-1] >= got_scores[1:]).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_boxes_by_hand(backend):
    # IoU = 50 / 150 = 1/3.
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10]])
    scores, idxs = torch.tensor([0.9, 0.6]), torch.tensor([4, 4])
    with ops.use_backend(backend.backend):
        indices, linear = ops.soft_nms(boxes, scores, idxs)
        _, gaussian = ops.soft_nms(boxes, scores, idxs, method="gaussian")
        _, apart = ops.soft_nms(boxes, scores, torch.tensor([4, 5]))
    assert indices.tolist() == [0, 1]
    torch.testing.assert_close(linear, torch.tensor([0.9, 0.6 * 2 / 3]))
    torch.testing.assert_close(gaussian, torch.tensor([0.9, 0.6]) * torch.tensor([1.0, (-1 / 9 / 0.5)]).where(
        torch.tensor([True, False]), torch.exp(torch.tensor(-1 / 9 / 0.5))))  # fmt: skip
    torch.testing.assert_close(apart, scores)


@pytest.mark.parametrize("backend", BACKENDS)
def test_broken_and_empty(backend):
    boxes, scores, idxs = draw(40, 2)
    boxes[3, 0], boxes[7, 3], scores[9], scores[11] = torch.nan, torch.inf, torch.nan, 0.0001
    with ops.use_backend(backend.backend):
        indices, _ = ops.soft_nms(boxes, scores, idxs)
        none, _ = ops.soft_nms(boxes[:0], scores[:0], idxs[:0])
        zero, _ = ops.soft_nms(boxes, scores, idxs, max_output=0)
    assert not {3, 7, 9, 11} & set(indices.tolist())
    assert len(indices) > 5 and len(none) == 0 and len(zero) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_lower_index(backend):
    boxes = torch.tensor([[0.0, 0, 4, 4], [50, 50, 54, 54], [20, 20, 24, 24]])
    with ops.use_backend(backend.backend):
        indices, _ = ops.soft_nms(boxes, torch.full((3,), 0.5), torch.tensor([2, 1, 0]))
    assert indices.tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_computed_in_float32(dtype):
    boxes, scores, idxs = draw(60, 2)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    wanted = ops.soft_nms(boxes.float(), scores.float(), idxs)
    got = ops.soft_nms(boxes, scores, idxs)
    assert got[0].tolist() == wanted[0].tolist() and got[1].dtype == torch.float32


def test_opcheck_and_compile():
    boxes, scores, idxs = draw(50, 3)
    torch.library.opcheck(torch.ops.htc_fast.soft_nms.default, (boxes, scores, idxs, False, 0.3, 0.5, 1e-3, 50))
    compiled = torch.compile(lambda b, s, i: ops.soft_nms(b, s, i)[1], backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(boxes, scores, idxs), ops.soft_nms(boxes, scores, idxs)[1])


def test_errors():
    boxes, scores, idxs = draw(5, 2)
    with pytest.raises(ValueError, match=r"boxes must be \[K, 4\]"):
        ops.soft_nms(boxes[:, :3], scores, idxs)
    with pytest.raises(ValueError, match="scores must be"):
        ops.soft_nms(boxes, scores[:4], idxs)
    with pytest.raises(ValueError, match="method"):
        ops.soft_nms(boxes, scores, idxs, method="cubic")
    with pytest.raises(ValueError, match="sigma"):
        ops.soft_nms(boxes, scores, idxs, method="gaussian", sigma=0)
    with pytest.raises(TypeError, match="idxs must be integers"):
        ops.soft_nms(boxes, scores, idxs.float())
