"""soft_nms against its reference, on named cases and drawn ones."""

import pytest
import torch

from htc_fast import ops

BACKENDS = ["cpp", "reference"]


def draw(count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * 100
    size = torch.rand(count, 2, generator=generator) * 60 + 1
    scores = torch.rand(count, generator=generator)
    idxs = torch.randint(-1, classes - 1, (count,), generator=generator)
    return torch.cat([centre - size / 2, centre + size / 2], dim=1), scores, idxs


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize(
    "count, classes, most", [(1, 1, None), (37, 1, None), (300, 5, None), (300, 3, 20), (200, 200, None)]
)
def test_matches_reference(method, count, classes, most):
    boxes, scores, idxs = draw(count, classes)
    with ops.use_backend("reference"):
        indices, decayed = ops.soft_nms(boxes, scores, idxs, method=method, max_output=most)
    got_indices, got_scores = ops.soft_nms(boxes, scores, idxs, method=method, max_output=most)
    assert got_indices.tolist() == indices.tolist()
    torch.testing.assert_close(got_scores, decayed, rtol=1e-5, atol=0)
    assert (got_scores[:-1] >= got_scores[1:]).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_boxes_by_hand(backend):
    # IoU = 50 / 150 = 1/3.
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10]])
    scores, idxs = torch.tensor([0.9, 0.6]), torch.tensor([4, 4])
    with ops.use_backend(backend):
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
    with ops.use_backend(backend):
        indices, _ = ops.soft_nms(boxes, scores, idxs)
        none, _ = ops.soft_nms(boxes[:0], scores[:0], idxs[:0])
        zero, _ = ops.soft_nms(boxes, scores, idxs, max_output=0)
    assert not {3, 7, 9, 11} & set(indices.tolist())
    assert len(indices) > 5 and len(none) == 0 and len(zero) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_lower_index(backend):
    boxes = torch.tensor([[0.0, 0, 4, 4], [50, 50, 54, 54], [20, 20, 24, 24]])
    with ops.use_backend(backend):
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
    with pytest.raises(TypeError, match="idxs integers"):
        ops.soft_nms(boxes, scores, idxs.float())
