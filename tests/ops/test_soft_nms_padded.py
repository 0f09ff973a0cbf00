"""soft_nms_padded, backend x named case: the very boxes and scores of the reference, ties by index, then its edges."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from htc_fast import ops
from tests.ops.backends import CPP, CUDA, EMULATED, NATIVE, REFERENCE, cases, columns, emulated_only
from tests.ops.nms_cases import break_some, draw
from tests.simt import emulator

OPERATOR = "soft_nms_padded"
BUT_REFERENCE = (CPP, EMULATED, CUDA)
METHODS = ["linear", "gaussian"]
# images, boxes, classes, wanted
CASES = {
    "nobody": (0, 10, 2, 7),
    "none": (2, 0, 1, 3),
    "nothing_wanted": (2, 20, 2, 0),
    "one": (1, 1, 1, 3),
    "more_wanted_than_boxes": (3, 33, 2, 50),
    "a_warp_s": (2, 256, 1, 256),
    "a_block_s": (1, 257, 1, 40),
    "a_warp_s_and_a_block_s": (2, 400, 3, 100),
    "more_than_threads": (2, 700, 1, 20),
    "more_than_registers": (1, 5300, 1, 3),
    "many_classes": (2, 300, 200, 300),
    "early_end": (3, 300, 3, 11),
}
WATCHED = emulated_only(
    CASES,
    asan="nobody none nothing_wanted one more_wanted_than_boxes a_warp_s a_block_s more_than_registers early_end",
    race="more_wanted_than_boxes a_block_s more_than_registers many_classes",
)


def unless(name: str, column) -> str | None:
    if column == EMULATED and name not in WATCHED:
        return "finds nothing under this check that others do not"
    return None


def check(column, boxes, scores, idxs, method: str, most: int, least: float = 1e-3) -> None:
    options = {"method": method, "min_score": least, "max_output": most}
    found, decayed, counts = column.call(OPERATOR, boxes, scores, idxs, **options)
    other = CPP if column != CPP and boxes.shape[1] > 300 else REFERENCE  # which is slow
    wanted, wanted_decayed, wanted_counts = other.call(OPERATOR, boxes, scores, idxs, **options)
    assert counts.tolist() == wanted_counts.tolist() == (found >= 0).sum(dim=1).tolist()
    assert counts.dtype == torch.int32 and decayed.dtype == torch.float32
    assert torch.equal(found, wanted) and torch.equal(decayed, wanted_decayed)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name, column", cases(OPERATOR, CASES, NATIVE, unless))
def test_named(name, column, method):
    images, count, classes, most = CASES[name]
    check(column, *draw(images, count, classes, spread=150), method, most)


@pytest.mark.parametrize("column", columns(OPERATOR, BUT_REFERENCE))
@pytest.mark.parametrize("least", [0.0, 0.3, 1.0])
def test_least_score(least, column):
    boxes, scores, idxs = draw(2, 120, 2)
    check(column, boxes, scores, idxs, "linear", 120, least)
    assert column.call(OPERATOR, boxes, scores, idxs, min_score=1.1, max_output=5)[2].tolist() == [0, 0]


@pytest.mark.parametrize("column", columns(OPERATOR, NATIVE))
def test_strange_boxes_and_scores(column):
    boxes, scores, idxs = draw(2, 100, 2, 3)
    break_some(boxes, scores)
    scores[:, 30] = -0.5
    check(column, boxes, scores, idxs, "linear", 100)
    found, decayed, counts = column.call(OPERATOR, boxes, scores, idxs, min_score=-1.0, max_output=100)
    # NaN and infinite boxes, NaN and infinite scores, and a negative one, which would rise.
    assert not set(found.flatten().tolist()) & {10, 11, 20, 21, 30} and counts.min() > 80
    assert (decayed >= 0).all()


@pytest.mark.parametrize("column", columns(OPERATOR, NATIVE))
def test_padding(column):
    boxes, scores, idxs = draw(2, 5, 1)
    found, decayed, counts = column.call(OPERATOR, boxes, scores, idxs, max_output=9)
    for n in range(2):
        assert (found[n, counts[n] :] == -1).all() and (decayed[n, counts[n] :] == 0).all()
    assert counts.min() > 0


@pytest.mark.parametrize("column", columns(OPERATOR, NATIVE))
def test_classes_that_differ_in_their_upper_half(column):
    """All of one remainder and of one lower half: none may decay another."""
    boxes = torch.tensor([0.0, 0, 8, 8]).repeat(1, 4, 1)
    idxs = torch.tensor([[5, 5 + (1 << 40), 5 - (1 << 63), 5]])
    found, decayed, counts = column.call(OPERATOR, boxes, torch.tensor([[0.5, 0.4, 0.3, 0.2]]), idxs, max_output=4)
    assert found.tolist() == [[0, 1, 2, -1]] and counts.tolist() == [3]
    torch.testing.assert_close(decayed, torch.tensor([[0.5, 0.4, 0.3, 0.0]]))


@pytest.mark.parametrize("column", columns(OPERATOR, NATIVE))
def test_large_groups_of_mixed_classes(column):
    boxes, scores, idxs = draw(1, 300, 3, 2)
    check(column, boxes, scores, idxs * (1 << 20), "linear", 50)


@pytest.mark.parametrize("column", columns(OPERATOR, NATIVE))
def test_ties_go_to_the_lower_index(column):
    boxes = torch.arange(0, 3600, 12.0).view(1, 300, 1) + torch.tensor([0.0, 0, 4, 4])
    idxs = 3 - torch.arange(300)[None] // 100
    found, decayed, _ = column.call(OPERATOR, boxes, torch.full((1, 300), 0.5), idxs, max_output=250)
    assert found[0].tolist() == list(range(250)) and (decayed == 0.5).all()


@pytest.mark.parametrize("column", columns(OPERATOR, NATIVE))
@pytest.mark.parametrize("method", METHODS)
def test_one_image_is_soft_nms(method, column):
    boxes, scores, idxs = draw(1, 150, 3, 4)
    found, decayed, counts = column.call(OPERATOR, boxes, scores, idxs, method=method, max_output=200)
    indices, kept = column.call("soft_nms", boxes[0], scores[0], idxs[0], method=method)
    assert counts.tolist() == [len(indices)] and torch.equal(found[0, : len(indices)], indices)
    assert torch.equal(decayed[0, : len(indices)], kept)


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
def test_order_of_threads_does_not_matter(column):
    problem, results = draw(2, 300, 2, 5), []
    for seed in (0, 1, 2):
        emulator.set_seed(seed)
        results.append(column.call(OPERATOR, *problem, max_output=60))
    for other in results[1:]:
        assert torch.equal(results[0][0], other[0]) and torch.equal(results[0][1], other[1])


@pytest.mark.slow
@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, EMULATED)))
@settings(max_examples=emulator.examples(60), deadline=None, derandomize=True,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(count=st.integers(0, 300), images=st.integers(0, 3), classes=st.integers(1, 9), most=st.integers(0, 350),
       method=st.sampled_from(METHODS), least=st.sampled_from([1e-3, 0.2, -1.0]), seed=st.integers(0, 999))  # fmt: skip
def test_drawn(column, count, images, classes, most, method, least, seed):
    emulator.set_seed(seed % 4)
    boxes, scores, idxs = draw(images, count, classes, seed, spread=100)
    if column == CPP and method == "gaussian":  # no ties: rounding would decide between them
        scores = scores + torch.linspace(0, 0.005, count)
    check(column, boxes, scores, idxs, method, most, least)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_and_strides(dtype):
    boxes, scores, idxs = draw(2, 60, 2)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    wanted = ops.soft_nms_padded(boxes.float(), scores.float(), idxs, max_output=40)
    strided = boxes.transpose(0, 2).contiguous().transpose(0, 2), scores.t().contiguous().t(), idxs.int().repeat(1, 2)
    for problem in ((boxes, scores, idxs), (*strided[:2], strided[2][:, :60])):
        found = ops.soft_nms_padded(*problem, max_output=40)
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


class Keep(torch.nn.Module):
    def forward(self, boxes, scores, idxs):
        return ops.soft_nms_padded(boxes, scores, idxs, method="gaussian", max_output=30)


def test_opcheck_compile_export():
    problem = draw(2, 50, 3)
    torch.library.opcheck(torch.ops.htc_fast.soft_nms_padded.default, (*problem, False, 0.3, 0.5, 1e-3, 30))
    wanted = Keep()(*problem)
    compiled = torch.compile(Keep(), backend="eager", fullgraph=True)(*problem)
    exported = torch.export.export(Keep(), problem).module()(*problem)
    for found in (compiled, exported):
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_the_reference_has_fixed_shapes():
    """Exported as it is: no shape depends on a value."""
    problem = draw(2, 12, 3)
    with ops.use_backend("reference"):
        wanted = Keep()(*problem)
        exported = torch.export.export(Keep(), problem).module()(*problem)
    assert all(torch.equal(one, other) for one, other in zip(exported, wanted, strict=True))


def test_no_gradient_and_none_asked_for():
    boxes, scores, idxs = draw(1, 20, 2)
    found, decayed, _ = ops.soft_nms_padded(boxes.requires_grad_(), scores.requires_grad_(), idxs, max_output=5)
    assert not decayed.requires_grad and found.shape == (1, 5)


@pytest.mark.parametrize("change, error, said", [
    (lambda b, s, i: ((b[0], s, i), {}), ValueError, r"boxes must be \[N, B, 4\]"),
    (lambda b, s, i: ((b, s[:, :4], i), {}), ValueError, r"scores must be \[2, 5\] like boxes"),
    (lambda b, s, i: ((b, s, i.float()), {}), TypeError, "idxs must be integers"),
    (lambda b, s, i: ((b, s, i), {"method": "cubic"}), ValueError, "method"),
    (lambda b, s, i: ((b, s, i), {"sigma": 0}), ValueError, "sigma must be positive"),
    (lambda b, s, i: ((b, s, i), {"max_output": -1}), ValueError, "max_output must not be negative"),
])  # fmt: skip
def test_errors(change, error, said):
    given, options = change(*draw(2, 5, 2))
    with pytest.raises(error, match=said):
        ops.soft_nms_padded(*given, **{"max_output": 3, **options})
