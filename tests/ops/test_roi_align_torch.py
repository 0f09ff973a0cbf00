"""RoIAlign's place in torch: opcheck, compiled, exported, under autocast, twice differentiated; what it refuses."""

from dataclasses import replace

import pytest
import torch
from torch.autograd import forward_ad

from htc_fast import ops
from tests.ops.backends import CPP, INTERPRETED, TRITON, columns
from tests.ops.roi_cases import SCALES, SMALL, Inputs, draw_numbered, pyramid

OPERATOR = "multi_level_roi_align"
ON_TRITON = columns(OPERATOR, (INTERPRETED, TRITON))


def test_opcheck_compile_export_and_autocast_in_cpp():
    features, semantic = pyramid(1, 8)
    rois = draw_numbered(5, 1)
    arguments = (7, 7, list(SCALES), 0, True, 56.0, semantic, 1 / 8, 14)
    leaves = [one.requires_grad_() for one in features]
    torch.library.opcheck(torch.ops.htc_fast.multi_level_roi_align.default, (leaves, rois, *arguments))

    def pool(features, rois):
        return ops.multi_level_roi_align(features, rois, 7, SCALES, semantic=semantic) * 2

    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(leaves, rois), pool(leaves, rois))
    got = torch.autograd.grad(compiled(leaves, rois).sum(), leaves)
    for one, other in zip(got, torch.autograd.grad(pool(leaves, rois).sum(), leaves), strict=True):
        torch.testing.assert_close(one, other)

    class Pool(torch.nn.Module):
        def forward(self, features, rois):
            return pool(features, rois)

    plain = [one.detach() for one in features]
    program = torch.export.export(Pool(), (plain, rois))
    torch.testing.assert_close(program.module()(plain, rois), pool(plain, rois))
    half = [one.bfloat16() for one in plain]
    with torch.autocast("cpu", torch.bfloat16):
        out = ops.multi_level_roi_align(half, rois, 7, SCALES)
    assert out.dtype == torch.bfloat16 and torch.equal(out, ops.multi_level_roi_align(half, rois, 7, SCALES))


def test_errors_before_any_work():
    features, semantic = pyramid(2, 8)
    rois = draw_numbered(4)
    with pytest.raises(ValueError, match=r"rois must be \[K, 5\]"):
        ops.multi_level_roi_align(features, rois[:, :4], 7, SCALES)
    with pytest.raises(ValueError, match="one spatial scale per level, got 3 for 4"):
        ops.multi_level_roi_align(features, rois, 7, SCALES[:3])
    with pytest.raises(ValueError, match="1 to 8 feature levels"):
        ops.multi_level_roi_align([], rois, 7, [])
    with pytest.raises(ValueError, match="semantic must be"):
        ops.multi_level_roi_align(features, rois, 7, SCALES, semantic=semantic[:, :3])
    with pytest.raises(TypeError, match=r"semantic must be torch\.float32"):
        ops.multi_level_roi_align(features, rois, 7, SCALES, semantic=semantic.double())
    with pytest.raises(TypeError, match="feature maps must be"):
        ops.roi_align(torch.zeros(1, 1, 4, 4, dtype=torch.int32), rois, 7)
    with pytest.raises(ValueError, match="output_size"):
        ops.multi_level_roi_align(features, rois, 0, SCALES)
    with pytest.raises(ValueError, match="one tensor per image"):
        ops.roi_align(features[0], [rois[:, 1:]] * 3, 7)
    with pytest.raises(ValueError, match="semantic_grid must be an integer from 1"):
        ops.multi_level_roi_align(features, rois, 7, SCALES, semantic=semantic, semantic_grid=0)
    with pytest.raises(TypeError, match="features must be a list or a tuple, got dict"):
        ops.multi_level_roi_align({"P2": features[0]}, rois, 7, SCALES[:1])
    for backend in ("cpp", "reference"):
        for number in (-1.0, 2.0, torch.inf):
            bad = rois.clone()
            bad[2, 0] = number
            with ops.use_backend(backend), pytest.raises(RuntimeError, match=r"^roi_align: .*image"):
                ops.multi_level_roi_align(features, bad, 7, SCALES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("column", ON_TRITON)
def test_opcheck_compile_export_in_triton(column):
    inputs = Inputs(SMALL["small_pair"])
    leaves, rois = column.give([one.detach() for one in inputs.maps]), inputs.rois.to(column.device)
    leaves = [one.requires_grad_() for one in leaves]
    torch.compiler.reset()  # else the graph of the column before, which no guard tells from this one's
    operator = torch.ops.htc_fast_triton.multi_level_roi_align.default
    torch.library.opcheck(operator, (leaves, rois, 2, 2, inputs.scales, 0, True, 56.0, None, 0.125, 14))

    class Pool(torch.nn.Module):
        def forward(self, fine, coarse, rois):
            return ops.multi_level_roi_align([fine, coarse], rois, (2, 2), inputs.scales)

    with ops.use_backend("triton"):
        want = Pool()(*leaves, rois)
        got = torch.compile(Pool(), backend="aot_eager", fullgraph=True)(*leaves, rois)
        torch.testing.assert_close(got, want)
        for one, other in zip(*(torch.autograd.grad(x.square().sum(), leaves) for x in (got, want))):
            torch.testing.assert_close(one, other)
        exported = torch.export.export(Pool(), (*(one.detach() for one in leaves), rois))
    torch.testing.assert_close(exported.module()(*leaves, rois), want)


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, INTERPRETED, TRITON)))
def test_second_derivative(column):
    inputs, found = Inputs(replace(SMALL["small_pair"], levels=((9, 9),))), {}
    for backend in (column.backend, "reference"):
        leaves = column.give([one.detach() for one in inputs.maps])
        leaves = [one.requires_grad_() for one in leaves]
        with ops.use_backend(backend):
            out = ops.multi_level_roi_align(leaves, inputs.rois.to(column.device), (2, 2), inputs.scales)
        slopes = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        found[backend] = torch.autograd.grad(sum(one.square().sum() for one in slopes), leaves)
    for one, other in zip(*found.values()):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("column", ON_TRITON)
def test_triton_has_no_float64(column):
    with pytest.raises(TypeError, match="float64"):
        column.call(OPERATOR, [torch.zeros(1, 4, 9, 9).double()], draw_numbered(1, 1), (2, 3), [0.25])


@pytest.mark.parametrize("pool", ["roi_align", "pr_roi_pool"])
def test_a_tangent_is_refused_and_not_dropped(pool):
    calls = {
        "roi_align": lambda maps, rois: ops.roi_align(maps, rois, 3),
        "pr_roi_pool": lambda maps, rois: ops.pr_roi_pool([maps], rois, 3, [1.0]),
    }
    rois, maps = torch.tensor([[0, 1.0, 1.0, 7.0, 6.0]]), torch.rand(1, 2, 9, 9)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(maps, torch.ones_like(maps))
        with pytest.raises(RuntimeError, match="no forward-mode derivative in its kernels: use backward"):
            calls[pool](dual, rois)
        with ops.use_backend("reference"):
            tangent = forward_ad.unpack_dual(calls[pool](dual, rois)).tangent
        assert torch.allclose(tangent, torch.ones_like(tangent))
        assert calls[pool](maps, rois).shape == tangent.shape
