"""pr_roi_pool's place in torch: opcheck, compiled, exported, under autocast; what it refuses."""

import pytest
import torch

from htc_fast import ops
from tests.ops.pr_roi_pool_cases import SCALES, draw_numbered, pyramid


def test_opcheck():
    leaves = [one.requires_grad_() for one in pyramid(1, 8)]
    options = list(SCALES), False, 56.0
    for rois in (draw_numbered(5, 1).requires_grad_(), draw_numbered(5, 1)[None, :, 1:]):
        torch.library.opcheck(torch.ops.htc_fast.pr_roi_pool.default, (leaves, rois, 7, 5, *options))
    features, rois, grad = pyramid(1, 8), draw_numbered(5, 1), torch.randn(5, 8, 7, 7)
    sizes = [1, *(side for one in features for side in one.shape[2:])]
    torch.library.opcheck(torch.ops.htc_fast.pr_roi_pool_backward.default, (grad, rois, sizes, *options))
    torch.library.opcheck(torch.ops.htc_fast.pr_roi_pool_boxes.default, (grad, features, rois, *options))


def test_compile_export_and_autocast():
    features, rois = [one.requires_grad_() for one in pyramid(1, 8)], draw_numbered(5, 1).requires_grad_()

    def pool(features, rois):
        return ops.pr_roi_pool(features, rois, 7, SCALES) * 2

    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    wanted = pool(features, rois)
    torch.testing.assert_close(compiled(features, rois), wanted)
    got = torch.autograd.grad(compiled(features, rois).square().sum(), [*features, rois])
    again = torch.autograd.grad(wanted.square().sum(), [*features, rois])
    for one, other in zip(got, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * max(1.0, other.abs().max().item()))

    class Pool(torch.nn.Module):
        def forward(self, features, rois):
            return pool(features, rois)

    plain, fixed = [one.detach() for one in features], rois.detach()
    program = torch.export.export(Pool(), (plain, fixed))
    torch.testing.assert_close(program.module()(plain, fixed), pool(plain, fixed))
    half = [one.bfloat16() for one in plain]
    with torch.autocast("cpu", torch.bfloat16):
        out = ops.pr_roi_pool(half, fixed, 7, SCALES)
    assert out.dtype == torch.bfloat16 and torch.equal(out, ops.pr_roi_pool(half, fixed, 7, SCALES))


def test_errors_before_any_work():
    features, rois = pyramid(2, 8), draw_numbered(4)
    with pytest.raises(ValueError, match=r"rois must be \[K, 5\]"):
        ops.pr_roi_pool(features, rois[:, :4], 7, SCALES)
    with pytest.raises(ValueError, match="one spatial scale per level, got 2 for 3"):
        ops.pr_roi_pool(features, rois, 7, SCALES[:2])
    with pytest.raises(ValueError, match="1 to 8 feature levels"):
        ops.pr_roi_pool([], rois, 7, [])
    with pytest.raises(TypeError, match=r"level 1 must be torch\.float32"):
        ops.pr_roi_pool([features[0], features[1].double(), features[2]], rois, 7, SCALES)
    with pytest.raises(TypeError, match="feature maps must be"):
        ops.pr_roi_pool([torch.zeros(1, 1, 4, 4, dtype=torch.int32)], rois, 7, [1.0])
    with pytest.raises(TypeError, match="rois must be floating point"):
        ops.pr_roi_pool(features, rois.long(), 7, SCALES)
    with pytest.raises(ValueError, match="output_size"):
        ops.pr_roi_pool(features, rois, 0, SCALES)
    for backend in ("cpp", "reference"):
        for number in (-1.0, 2.0, torch.inf):
            bad = rois.clone()
            bad[2, 0] = number
            with ops.use_backend(backend), pytest.raises(RuntimeError, match=r"pr_roi_pool: rois.*image"):
                ops.pr_roi_pool(features, bad, 7, SCALES)
    with ops.use_backend("triton"), pytest.raises(RuntimeError, match="no 'triton' backend"):
        ops.pr_roi_pool(features, rois, 7, SCALES)
