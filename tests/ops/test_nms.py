"""nms, batched_nms and batched_nms_padded, backend x named case: the boxes that the reference keeps, in its order."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from htc_fast import ops
from tests.ops.backends import ALL, CPP, CUDA, EMULATED, INTERPRETED, REFERENCE, TRITON, cases, columns, emulated_only
from tests.ops.nms_cases import break_some, draw
from tests.simt import emulator

OPERATOR = "batched_nms_padded"
BUT_REFERENCE = (CPP, EMULATED, CUDA, INTERPRETED, TRITON)
# images, boxes, classes, wanted
CASES = {
    "one": (1, 1, 1, 3),
    "none": (2, 0, 1, 3),
    "nobody": (0, 10, 2, 7),
    "63": (2, 63, 1, 100),
    "chunk": (2, 64, 1, 64),
    "chunk_few_wanted": (3, 64, 3, 10),
    "chunk_and_one": (1, 65, 3, 100),
    "chunk_and_one_many_classes": (2, 65, 80, 100),
    "several_chunks": (2, 300, 1, 300),
    "several_chunks_few_wanted": (2, 300, 1, 10),
    "several_chunks_few_more_wanted": (2, 300, 1, 33),
    "classes": (2, 200, 5, 60),
    "330": (1, 330, 3, 330),
    "many_classes": (1, 400, 50, 400),
    "520": (1, 520, 2, 1000),
    "early_exit": (1, 500, 2, 7),
    "two_batches": (1, 2300, 1, 2300),
    "wide": (1, 900, 300, 900),
    "many_wanted": (3, 700, 4, 500),
    "1000": (5, 1000, 1, 1000),
    "3000": (1, 3000, 80, 100),
    "2049": (2, 2049, 5, 2000),
    "early_exit_of_many": (1, 600, 1, 130),
    "early_exit_of_more": (1, 2100, 2, 150),
    "three_blocks_of_keys": (1, 4200, 5, 4200),
}
INTERPRETED_MOST = 520  # boxes
WATCHED = emulated_only(
    CASES,
    asan="none one 63 chunk chunk_and_one several_chunks classes early_exit two_batches wide early_exit_of_more",
    race="one chunk_and_one several_chunks classes early_exit many_classes two_batches wide many_wanted "
    "early_exit_of_many",
)
pytestmark = pytest.mark.filterwarnings("ignore:invalid value")  # of Triton's interpreter


def unless(name: str, column) -> str | None:
    count = CASES[name][1]
    if column == EMULATED and name not in WATCHED:
        return "finds nothing under this check that others do not"
    if column == INTERPRETED and count > INTERPRETED_MOST:
        return "Triton's interpreter would take a minute"
    return (
        "no expectation but its own: C++ is what it is compared with" if column == REFERENCE and count > 520 else None
    )


def check(column, boxes, scores, idxs, iou: float, most: int, least: float = -torch.inf) -> None:
    found, counts = column.call(OPERATOR, boxes, scores, idxs, iou, most, least)
    alike = torch.zeros_like(scores, dtype=torch.int64) if idxs is None else idxs
    # The reference is slow: what it says of few boxes (as C++ does), C++ says of many.
    wanted, wanted_counts = (REFERENCE if boxes.shape[1] <= 300 and column != REFERENCE else CPP).call(
        OPERATOR, boxes, scores, alike, iou, most, least
    )
    assert counts.tolist() == wanted_counts.tolist() and counts.dtype == torch.int32
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("most", [2, 200])
@pytest.mark.parametrize("column", columns(OPERATOR))
def test_an_overlap_of_one_tenth_is_above_0_1(column, most):
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 1]]]).expand(1, 2, 4).repeat(1, 100, 1)
    scores, idxs = torch.linspace(1, 0.5, 200)[None], torch.arange(100).repeat_interleave(2)[None]
    found, counts = column.call(OPERATOR, boxes, scores, idxs, 0.1, most, 0.0)
    # In float32 as in double: the IoU is 0.10000000149.
    assert counts.tolist() == [min(most, 100)] and (found[0, : min(most, 100)] % 2 == 0).all()


@pytest.fixture(params=["one chunk", "many chunks"])
def chunks(request, monkeypatch):
    """Triton's kernels in one go, and four tiles of 64 boxes at a time."""
    nms, nms_matrix = (pytest.importorskip(f"htc_fast.ops.triton.{name}") for name in ("nms", "nms_matrix"))
    if request.param == "many chunks":
        monkeypatch.setattr(nms_matrix, "MATRIX_BYTES", 1)
    monkeypatch.setattr(nms, "WALKED", 20)


@pytest.mark.parametrize("name, column", cases(OPERATOR, CASES, ALL, unless))
def test_named(name, column):
    images, count, classes, most = CASES[name]
    boxes, scores, idxs = draw(images, count, classes, spread=400 if count > 900 else 60)
    check(column, boxes, scores, idxs, 0.5, most)
    if count <= INTERPRETED_MOST:
        boxes, scores, idxs = draw(images, count, classes, seed=1)
        check(column, boxes.round(), scores, idxs, 0.5, min(most, 100), 0.1)  # IoUs hit the threshold exactly


SMALL = [name for name, (_, count, _, _) in CASES.items() if count <= INTERPRETED_MOST]


@pytest.mark.slow
@pytest.mark.parametrize("name, column", cases(OPERATOR, SMALL, (INTERPRETED, TRITON)))
def test_in_chunks(chunks, name, column):
    images, count, classes, _ = CASES[name]
    boxes, scores, idxs = draw(images, count, classes)
    for most in (10, 33, 1000):
        check(column, boxes.round(), scores, idxs, 0.5, most, 0.1)


@pytest.mark.parametrize("column", columns(OPERATOR, BUT_REFERENCE))
@pytest.mark.parametrize("iou", [0.0, -0.5, 0.5, 1.0, 0.7])
def test_thresholds(iou, column):
    boxes, scores, idxs = draw(1, 120, 2, 2)
    boxes[0, 5] = boxes[0, 6]
    check(column, boxes, scores, idxs, iou, 120, 0.2)


@pytest.mark.parametrize("column", columns(OPERATOR, (INTERPRETED, TRITON)))
@pytest.mark.parametrize("iou", [-0.1, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("most", [20, 300])
def test_thresholds_in_chunks(chunks, iou, most, column):
    check(column, *draw(1, 300, 2, seed=1), iou, most)


# The CUDA kernels' ways where many are wanted: places are counted, or (in the emulator from 701 boxes on) sorted.
BOTH_WAYS = pytest.mark.parametrize("count", [200, 720])


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED, CUDA)))
@pytest.mark.parametrize("iou", [0.0, -0.5, 1.0])
@BOTH_WAYS
def test_thresholds_where_many_are_wanted(count, iou, column):
    boxes, scores, idxs = draw(1, count, 2, 2)
    boxes[0, 5], boxes[0, 7] = boxes[0, 6], boxes[0, 7].flip(0)
    check(column, boxes, scores, idxs, iou, count, 0.2)


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED, CUDA)))
@BOTH_WAYS
def test_strange_boxes_and_scores_where_many_are_wanted(count, column):
    boxes, scores, idxs = draw(2, count, 2, 3)
    break_some(boxes, scores)
    idxs[:, ::7], idxs[:, 1::7] = torch.iinfo(torch.int64).max, torch.iinfo(torch.int64).min
    for most in (130, count + 9):
        check(column, boxes, scores, idxs, 0.5, most)
    scores[1] = -torch.inf
    check(column, boxes, scores, idxs, 0.5, count, -1.0)


@pytest.mark.parametrize("column", columns(OPERATOR, BUT_REFERENCE))
def test_strange_boxes_and_scores(column):
    boxes, scores, idxs = draw(2, 100, 2, 3)
    break_some(boxes, scores)
    for most in (0, 20, 100):
        check(column, boxes, scores, idxs, 0.5, most)
    scores[:] = -torch.inf
    found, counts = column.call(OPERATOR, boxes, scores, idxs, 0.5, 5, 0.0)
    assert counts.tolist() == [0, 0] and (found == -1).all()


@pytest.mark.parametrize("column", columns(OPERATOR, (INTERPRETED, TRITON)))
@pytest.mark.parametrize("most", [0, 20, 300])
def test_strange_boxes_and_scores_in_chunks(chunks, most, column):
    boxes, scores, idxs = draw(2, 300, 2)
    break_some(boxes, scores)
    scores[0, 100:] = 0
    check(column, boxes, scores, idxs, 0.5, most, 0.0)


@pytest.mark.parametrize("column", columns(OPERATOR, (INTERPRETED, TRITON)))
def test_all_the_same_box(chunks, column):
    boxes = torch.tensor([0.0, 0, 8, 8]).repeat(1, 300, 1)
    scores, idxs = torch.full((1, 300), 0.5), torch.arange(300)[None] // 150
    kept, counts = column.call(OPERATOR, boxes, scores, idxs, 0.5, 100, 0.0)
    assert counts.tolist() == [2] and kept[0, :2].tolist() == [0, 150]


@pytest.mark.parametrize("column", columns(OPERATOR, (INTERPRETED, TRITON)))
def test_chain_needs_every_round(chunks, column):
    # Each box overlaps only its neighbours: every second one stays, and each decision waits for the one before.
    left = torch.arange(130.0) * 4
    boxes = torch.stack([left, left * 0, left + 10, left * 0 + 10], dim=1)[None]
    scores = torch.linspace(1, 0.5, 130)[None]
    kept, _ = column.call(OPERATOR, boxes, scores, torch.zeros_like(scores, dtype=torch.int64), 0.4, 130, 0.0)
    assert kept[0, :65].tolist() == list(range(0, 130, 2))


@pytest.mark.slow
@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
def test_without_classes(column):
    boxes, scores, _ = draw(2, 150, 1, 1)
    check(column, boxes, scores, None, 0.3, 50)


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, EMULATED, CUDA)))
def test_equal_scores_of_more_than_a_batch(column):
    """One score for all: the bound must be found among the indices."""
    boxes, scores, idxs = draw(1, 2500, 1, 4, spread=2000)
    check(column, boxes, torch.full_like(scores, 0.25), idxs, 0.5, 40)


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
@pytest.mark.parametrize("count, most", [(260, 100), (260, 260), (2200, 2200)])
def test_order_of_threads_does_not_matter(count, most, column):
    problem, results = draw(2, count, 4, 5), []
    for seed in (0, 1, 2):
        emulator.set_seed(seed)
        results.append(column.call(OPERATOR, *problem, 0.5, most, 0.1)[0])
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
@settings(max_examples=emulator.examples(90), deadline=None, derandomize=True,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(
    count=st.integers(0, 400) | st.integers(690, 760), images=st.integers(1, 3), classes=st.integers(1, 9),
    most=st.integers(0, 800), iou=st.floats(0, 1), seed=st.integers(0, 999))  # fmt: skip
def test_drawn(column, count, images, classes, most, iou, seed):
    emulator.set_seed(seed % 4)
    check(column, *draw(images, count, classes, seed), iou, most, 0.3)


@pytest.mark.parametrize("column", columns("batched_nms", (CUDA, INTERPRETED, TRITON)))
@pytest.mark.parametrize("count", [0, 1, 300])
def test_ragged_functions(count, column):
    boxes, scores, idxs = (one[0] for one in draw(1, count, 4))
    for name, arguments in (("nms", (boxes, scores, 0.5)), ("batched_nms", (boxes, scores, idxs, 0.5))):
        found = column.call(name, *arguments)
        assert torch.equal(found, REFERENCE.call(name, *arguments)) and found.dtype == torch.int64


@pytest.mark.parametrize("column", columns("batched_nms", (CUDA, INTERPRETED, TRITON)))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_dtypes_and_strides(dtype, column):
    boxes, scores, idxs = (one[0] for one in draw(1, 120, 2))
    arguments = boxes.to(dtype).t().contiguous().t(), scores.to(dtype), idxs.int(), 0.5
    assert torch.equal(column.call("batched_nms", *arguments), REFERENCE.call("batched_nms", *arguments))


@pytest.mark.parametrize("column", columns(OPERATOR, (INTERPRETED, TRITON)))
def test_opcheck_compile_export(column):
    boxes, scores, idxs = column.give(draw(2, 70, 2))
    torch.compiler.reset()  # else the graph of the column before, which no guard tells from this one's
    namespace = torch.ops.htc_fast_triton
    torch.library.opcheck(namespace.batched_nms_padded.default, (boxes, scores, idxs, 0.5, 30, 0.1))
    torch.library.opcheck(namespace.batched_nms.default, (boxes[0], scores[0], idxs[0], 0.5))

    class Keep(torch.nn.Module):
        def forward(self, boxes, scores, idxs):
            return ops.batched_nms_padded(boxes, scores, idxs, 0.5, 30, 0.1)

    with ops.use_backend("triton"):
        want = Keep()(boxes, scores, idxs)
        compiled = torch.compile(Keep(), backend="aot_eager", fullgraph=True)(boxes, scores, idxs)
        exported = torch.export.export(Keep(), (boxes, scores, idxs)).module()(boxes, scores, idxs)
    for got in (compiled, exported):
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
