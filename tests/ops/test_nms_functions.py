"""nms, batched_nms and batched_nms_padded on the CPU: beside torchvision, broken boxes, ties, types, and errors."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from htc_fast import ops
from tests.ops.backends import ON_CPU, columns

BACKENDS = columns("batched_nms", ON_CPU)


def draw(count: int, classes: int = 1, seed: int = 0, spread: float = 100.0):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * spread
    size = torch.rand(count, 2, generator=generator) * 40 + 1
    # Few distinct scores, so that ties happen.
    scores = torch.randint(0, max(2, count // 2), (count,), generator=generator) / count
    idxs = torch.randint(0, classes, (count,), generator=generator)
    return torch.cat([centre - size / 2, centre + size / 2], dim=1), scores, idxs


@pytest.mark.parametrize("count, classes", [(1, 1), (17, 1), (300, 1), (300, 7), (1500, 80), (6000, 1), (6000, 2)])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_equals_torchvision(count, classes, threshold):
    boxes, scores, idxs = draw(count, classes, spread=300)
    want = []
    for label in idxs.unique():
        own = (idxs == label).nonzero()[:, 0]
        want += own[torchvision.ops.nms(boxes[own], scores[own], threshold)].tolist()
    got = ops.batched_nms(boxes, scores, idxs, threshold)
    assert sorted(got.tolist()) == sorted(want)
    assert (scores[got][:-1] >= scores[got][1:]).all()
    if classes == 1:
        assert ops.nms(boxes, scores, threshold).tolist() == got.tolist()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 90),
    st.integers(1, 5),
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    st.integers(0, 100),
)
def test_drawn_cases_equal_reference(count, classes, seed, threshold, most):
    boxes, scores, idxs = draw(count, classes, seed)
    boxes = boxes.round()  # exact overlaps, degenerate boxes
    with ops.use_backend("reference"):
        want = ops.batched_nms(boxes, scores, idxs, threshold)
        padded, count_wanted = ops.batched_nms_padded(boxes[None], scores[None], idxs[None], threshold, most, 0.2)
    assert ops.batched_nms(boxes, scores, idxs, threshold).tolist() == want.tolist()
    got, counts = ops.batched_nms_padded(boxes[None], scores[None], idxs[None], threshold, most, 0.2)
    assert got.tolist() == padded.tolist() and counts.tolist() == count_wanted.tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_padded_batches(backend):
    parts = [draw(120, 4, seed) for seed in range(3)]
    boxes, scores, idxs = (torch.stack(one) for one in zip(*parts, strict=True))
    with ops.use_backend(backend.backend):
        indices, counts = ops.batched_nms_padded(boxes, scores, idxs, 0.5, 30)
        more, all_counts = ops.batched_nms_padded(boxes, scores, idxs, 0.5, 150)
    for n, (box, score, label) in enumerate(parts):
        want = ops.batched_nms(box, score, label, 0.5)
        assert indices[n].tolist() == want[:30].tolist() and counts[n] == 30
        assert more[n].tolist() == want.tolist() + [-1] * (150 - len(want)) and all_counts[n] == len(want)
    assert counts.dtype == torch.int32 and indices.dtype == torch.int64


@pytest.mark.parametrize("backend", BACKENDS)
def test_broken_boxes_are_never_kept_and_suppress_nothing(backend):
    boxes, scores, idxs = draw(50)
    boxes[0], scores[0] = torch.tensor([0.0, 0, 100, 100]), 2.0
    for row, (column, value) in enumerate([(0, torch.nan), (1, torch.inf), (2, -torch.inf), (3, torch.nan)]):
        boxes[row, column] = value
    scores[4] = torch.nan
    with ops.use_backend(backend.backend):
        kept = ops.nms(boxes, scores, 0.5)
        rest = ops.nms(boxes[5:], scores[5:], 0.5)
        padded, _ = ops.batched_nms_padded(boxes[None], scores[None], idxs[None], 0.5, 50)
    assert (kept - 5).tolist() == rest.tolist() and len(rest) > 5
    assert padded[0, : len(kept)].tolist() == kept.tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty(backend):
    boxes, scores, idxs = draw(0)
    with ops.use_backend(backend.backend):
        assert ops.nms(boxes, scores, 0.5).shape == (0,)
        indices, counts = ops.batched_nms_padded(boxes[None], scores[None], idxs[None], 0.5, 4)
        none, none_counts = ops.batched_nms_padded(boxes[None][:0], scores[None][:0], idxs[None][:0], 0.5, 4)
    assert indices.tolist() == [[-1] * 4] and counts.tolist() == [0]
    assert none.shape == (0, 4) and none_counts.shape == (0,)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_lower_index(backend):
    box = torch.tensor([[0.0, 0, 10, 10]]).repeat(4, 1)
    with ops.use_backend(backend.backend):
        assert ops.nms(box, torch.full((4,), 0.5), 0.5).tolist() == [0]
        assert ops.nms(box, torch.tensor([0.0, -0.0, 0.0, 0.0]), 1.0).tolist() == [0, 1, 2, 3]
        assert ops.batched_nms(box, torch.ones(4), torch.tensor([7, -3, 7, 10**15]), 0.5).tolist() == [0, 1, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_classes_stay_apart_in_any_dtype(dtype):
    boxes, scores, _ = draw(80)
    boxes, scores = (boxes * 10).to(dtype), scores.to(dtype)
    twice = torch.cat([boxes, boxes]), torch.cat([scores, scores]), torch.arange(2).repeat_interleave(80)
    one, both = ops.nms(boxes, scores, 0.5), ops.batched_nms(*twice, 0.5)
    assert sorted(both.tolist()) == sorted(one.tolist() + (one + 80).tolist())


def test_non_contiguous_and_far_apart_classes():
    boxes, scores, idxs = draw(200, 9)
    want = ops.batched_nms(boxes, scores, idxs, 0.5)
    strided = torch.stack([boxes, boxes], dim=2)[:, :, 0]
    assert ops.batched_nms(strided, scores, idxs * 10**12, 0.5).tolist() == want.tolist()
    assert ops.batched_nms(boxes, scores, idxs.to(torch.int32), 0.5).tolist() == want.tolist()


def test_one_million_boxes():
    boxes, scores, idxs = draw(1_000_000, 1203, spread=3000)
    kept = ops.batched_nms(boxes, scores, idxs, 0.5)
    indices, counts = ops.batched_nms_padded(boxes[None], scores[None], idxs[None], 0.5, 100)
    assert len(kept) > 100_000 and indices[0].tolist() == kept[:100].tolist() and counts.tolist() == [100]


def test_opcheck_compile_and_export():
    boxes, scores, idxs = draw(60, 3)
    torch.library.opcheck(torch.ops.htc_fast.batched_nms.default, (boxes, scores, idxs, 0.5))
    padded = boxes[None], scores[None], idxs[None]
    torch.library.opcheck(torch.ops.htc_fast.batched_nms_padded.default, (*padded, 0.5, 20, -torch.inf))
    compiled = torch.compile(lambda *inputs: ops.batched_nms(*inputs, 0.5) + 1, backend="eager", fullgraph=True)
    assert (compiled(boxes, scores, idxs) - 1).tolist() == ops.batched_nms(boxes, scores, idxs, 0.5).tolist()

    class Padded(torch.nn.Module):
        def forward(self, boxes, scores, idxs):
            return ops.batched_nms_padded(boxes, scores, idxs, 0.5, 20)

    program = torch.export.export(Padded(), padded)
    assert torch.equal(program.module()(*padded)[0], ops.batched_nms_padded(*padded, 0.5, 20)[0])


def test_autocast_changes_nothing():
    boxes, scores, idxs = draw(100, 3)
    with torch.autocast("cpu", torch.bfloat16):
        got = ops.batched_nms(boxes, scores, idxs, 0.5)
    assert got.tolist() == ops.batched_nms(boxes, scores, idxs, 0.5).tolist()


def test_errors():
    boxes, scores, idxs = draw(6)
    with pytest.raises(ValueError, match=r"boxes must be \[K, 4\]"):
        ops.nms(boxes[:, :3], scores, 0.5)
    with pytest.raises(ValueError, match=r"boxes must be \[N, B, 4\]"):
        ops.batched_nms_padded(boxes, scores, idxs, 0.5, 3)
    with pytest.raises(ValueError, match="scores must be"):
        ops.batched_nms(boxes, scores[:4], idxs, 0.5)
    with pytest.raises(TypeError, match=r"idxs must be .* got None"):
        ops.batched_nms_padded(boxes[None], scores[None], None, 0.5, 3)
    with pytest.raises(TypeError, match="idxs must be integers"):
        ops.batched_nms_padded(boxes[None], scores[None], idxs[None].float(), 0.5, 3)
    with pytest.raises(TypeError, match="floating point"):
        ops.nms(boxes.int(), scores, 0.5)
    with pytest.raises(ValueError, match="max_output"):
        ops.batched_nms_padded(boxes[None], scores[None], idxs[None], 0.5, -1)
