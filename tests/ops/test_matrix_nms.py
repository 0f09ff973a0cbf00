"""matrix_nms, backend x named case: mmdetection's formula over pycocotools' IoU, of masks and of run lengths."""

import numpy as np
import pytest
import torch

from htc_fast import ops
from tests.ops.backends import CUDA, ON_CPU, cases, columns
from tests.ops.pair_cases import CASES, coco_iou, disc, draw, rles_of

OPERATOR = "matrix_nms"
NAN = float("nan")
KERNELS = pytest.mark.parametrize("kernel", ["gaussian", "linear"])


def formula(masks, scores, idxs, kernel, sigma) -> torch.Tensor:
    """SOLOv2's, score by score; what a better one that is gone itself would leave is not asked."""
    overlaps, out = coco_iou(rles_of(masks), rles_of(masks)), scores.double().clone()
    order = sorted((k for k in range(len(scores)) if scores[k] == scores[k]), key=lambda k: (-float(scores[k]), k))
    left = (lambda iou: np.exp(-sigma * iou**2)) if kernel == "gaussian" else (lambda iou: 1 - iou)

    def better(k):
        return [i for i in order[: order.index(k)] if idxs[i] == idxs[k]]

    for j in order:
        factors = [1.0]
        for i in better(j):
            own = left(max([float(overlaps[h, i]) for h in better(i)], default=0.0))
            factors += [left(float(overlaps[i, j])) / own] if own > 0 else []
        out[j] *= min(factors)
    return out


def discs(count: int, seed: int = 0, size: tuple[int, int] = (40, 50)) -> torch.Tensor:
    draws = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)).tolist()
    return torch.stack([disc(size, y * size[0], x * size[1], 5 + 12 * r) for y, x, r in draws])


def scored(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(count, generator=generator).mul(20).round() / 20
    scores[count // 2 : count // 2 + 1] = NAN
    return scores, torch.randint(2, (count,), generator=generator)


@KERNELS
@pytest.mark.parametrize("name, column", cases(OPERATOR, [one for one in CASES if one != "many"], ON_CPU))
def test_named(name, column, kernel):
    masks = draw(CASES[name].a, CASES[name].size, CASES[name].kind)
    scores, idxs = scored(len(masks))
    wanted = formula(masks, scores, idxs, kernel, 2.0)
    for given in (masks, rles_of(masks)):
        found = column.call(OPERATOR, given, scores, idxs, kernel=kernel)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-9, equal_nan=True)


@KERNELS
@pytest.mark.parametrize("column", columns("mask_iou", (*ON_CPU, CUDA)))
def test_discs(column, kernel):
    masks = discs(40)
    scores, idxs = scored(40)
    for sigma in (0.5, 2.0):
        found = column.call(OPERATOR, masks, scores.double(), idxs, kernel=kernel, sigma=sigma)
        wanted = formula(masks, scores.double(), idxs, kernel, sigma)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15, equal_nan=True)
        assert (found < scores).sum() > 20
        assert torch.equal(
            column.call(OPERATOR, rles_of(masks), scores.double(), idxs, kernel=kernel, sigma=sigma).nan_to_num(9),
            found.nan_to_num(9),
        )


@pytest.mark.parametrize("column", columns(OPERATOR, ON_CPU))
def test_by_hand(column):
    """Three alike: in the linear kernel the second is gone, and takes nothing from the third; the first does."""
    masks = torch.ones(4, 2, 3, dtype=torch.bool)
    scores, idxs = torch.tensor([0.5, 0.8, 0.5, 0.4]), torch.tensor([1, 1, 1, 2])
    found = column.call(OPERATOR, masks, scores, idxs, kernel="linear")
    assert torch.equal(found, torch.tensor([0.0, 0.8, 0.0, 0.4]))
    left = torch.tensor([np.exp(-2), 1, np.exp(-2), 1]) * scores
    torch.testing.assert_close(column.call(OPERATOR, rles_of(masks), scores, idxs), left.float())


def test_nan_decays_nobody():
    masks = torch.ones(3, 2, 3, dtype=torch.bool)
    found = ops.matrix_nms(masks, torch.tensor([NAN, 0.5, NAN]), [0, 0, 0], kernel="linear")
    assert found.isnan().tolist() == [True, False, True] and found[1] == 0.5


def test_types_and_numpy():
    masks = discs(20)
    scores, idxs = torch.rand(20, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 2
    wanted = ops.matrix_nms(masks, scores, idxs)
    found = ops.matrix_nms(masks.numpy(), scores.numpy(), idxs.numpy())
    assert isinstance(found, np.ndarray) and np.array_equal(found, wanted.numpy())
    torch.testing.assert_close(ops.matrix_nms(rles_of(masks), scores.tolist(), idxs.tolist()), wanted.double())
    for dtype in (torch.float16, torch.bfloat16):
        found = ops.matrix_nms(masks.mT, scores.to(dtype), idxs)
        assert found.dtype == dtype
        torch.testing.assert_close(
            found.float(), ops.matrix_nms(masks, scores.to(dtype).float(), idxs), rtol=1e-2, atol=0
        )
    assert not ops.matrix_nms(masks, scores.clone().requires_grad_(), idxs).requires_grad
    assert torch.equal(ops.matrix_nms(masks, scores, None), ops.matrix_nms(masks, scores, idxs * 0))


def test_compile():
    masks, scores, idxs = discs(8), torch.rand(8), torch.arange(8) % 2
    compiled = torch.compile(ops.matrix_nms, backend="eager", fullgraph=True)
    assert torch.equal(compiled(masks, scores, idxs), ops.matrix_nms(masks, scores, idxs))


MASKS = torch.zeros(2, 4, 5, dtype=torch.bool)
WRONG = [
    ((MASKS, torch.rand(3), [0, 0]), {}, ValueError, r"scores must be \[2\]"),
    ((MASKS, torch.rand(2), [0]), {}, ValueError, r"idxs must be \[2\]"),
    ((MASKS, torch.rand(2), [0, 0]), {"kernel": "cubic"}, ValueError, "kernel must be 'gaussian' or 'linear'"),
    ((MASKS, torch.rand(2), [0, 0]), {"sigma": 0}, ValueError, "sigma must be a positive number"),
    ((MASKS.float(), torch.rand(2), [0, 0]), {}, TypeError, "masks must be bool"),
]


@pytest.mark.parametrize("given, options, error, said", WRONG, ids=lambda one: one if isinstance(one, str) else "")
def test_errors(given, options, error, said):
    with pytest.raises(error, match=said):
        ops.matrix_nms(*given, **options)
