"""roi_align and multi_level_roi_align on the CPU: options, channel counts, types and strides, beside torchvision."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from htc_fast import ops
from tests.ops.backends import ON_CPU, columns
from tests.ops.roi_cases import SCALES, draw_numbered, pyramid

BACKENDS = columns("multi_level_roi_align", ON_CPU)


def both(function):
    """The result of C++ and of the reference."""
    got = function()
    with ops.use_backend("reference"):
        return got, function()


@pytest.mark.parametrize("sampling_ratio", [0, 2, 3])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_multi_level_matches_reference(sampling_ratio, aligned, fused):
    features, semantic = pyramid()
    options = {"sampling_ratio": sampling_ratio, "aligned": aligned, "semantic": semantic if fused else None}
    got, want = both(lambda: ops.multi_level_roi_align(features, draw_numbered(), (7, 7), SCALES, **options))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [1, 3, 16, 64, 250, 256, 300])
@pytest.mark.parametrize("channels_last", [True, False])
def test_channel_counts_and_layouts(channels, channels_last):
    features, semantic = pyramid(1, channels, channels_last=channels_last)
    rois = draw_numbered(12, 1)
    got, want = both(lambda: ops.multi_level_roi_align(features, rois, (5, 3), SCALES, semantic=semantic))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampling_ratio", [-1, 0, 1, 2])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_roi_align_equals_torchvision(sampling_ratio, aligned, scale):
    image = torch.randn(2, 5, 40, 60)
    rois = draw_numbered(60)
    want = torchvision.ops.roi_align(image, rois, (7, 4), scale, sampling_ratio, aligned)
    got = ops.roi_align(image, rois, (7, 4), scale, sampling_ratio, aligned)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    boxes = [rois[rois[:, 0] == n, 1:] for n in range(2)]
    want = torchvision.ops.roi_align(image, boxes, 6, scale, sampling_ratio, aligned)
    torch.testing.assert_close(
        ops.roi_align(image, boxes, 6, scale, sampling_ratio, aligned), want, rtol=1e-4, atol=1e-5
    )


def test_multi_level_equals_torchvision_level_by_level():
    features, _ = pyramid(1)
    boxes = draw_numbered(80, 1)[:, 1:].clamp(min=0)
    pooler = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    want = pooler({str(i): one for i, one in enumerate(features)}, [boxes], [(96, 160)])
    got = ops.multi_level_roi_align(features, boxes[None], 7, SCALES, sampling_ratio=2, aligned=False)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 20),
    st.integers(0, 4),
    st.booleans(),
    st.booleans(),
    st.integers(0, 10_000),
)
def test_drawn_cases(size, channels, sampling_ratio, aligned, fused, seed):
    features, semantic = pyramid(2, channels, 64, 64, seed=seed, channels_last=seed % 2 == 0)
    rois = draw_numbered(6, 2, 64, 64, seed)
    if seed % 3 == 0:
        rois = rois.round()
    options = {"sampling_ratio": sampling_ratio, "aligned": aligned, "semantic": semantic if fused else None}
    grid = 14 if seed % 2 else 6
    got, want = both(
        lambda: ops.multi_level_roi_align(features, rois, size, SCALES, semantic_grid=grid, **options)
    )  # fmt: skip
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float64, 1e-6)])
def test_other_dtypes(dtype, tolerance):
    features, semantic = pyramid(dtype=dtype, channels=40)
    got, want = both(lambda: ops.multi_level_roi_align(features, draw_numbered(), 7, SCALES, semantic=semantic))
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want.double(), rtol=tolerance, atol=tolerance)
    exact, wide = [one.double() for one in features], semantic.double()
    truth = ops.multi_level_roi_align(exact, draw_numbered(), 7, SCALES, semantic=wide)
    torch.testing.assert_close(got.double(), truth, rtol=tolerance, atol=tolerance)


def gradients(features, semantic, rois, weight, **options):
    leaves = [one.detach().clone().requires_grad_() for one in [*features, semantic]]
    out = ops.multi_level_roi_align(leaves[:4], rois, 7, SCALES, semantic=leaves[4], **options)
    return torch.autograd.grad((out * weight).sum(), leaves, materialize_grads=True)


@pytest.mark.parametrize("channels, channels_last", [(37, True), (64, True), (8, False), (260, True)])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_backward_matches_reference(channels, channels_last, sampling_ratio):
    features, semantic = pyramid(2, channels, channels_last=channels_last)
    rois, weight = draw_numbered(25), torch.randn(25, channels, 7, 7)
    got, want = both(lambda: gradients(features, semantic, rois, weight, sampling_ratio=sampling_ratio))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_backward_in_16_bits_sums_in_32(dtype):
    features, semantic = pyramid(1, 24)
    rois, weight = draw_numbered(100, 1), torch.rand(100, 24, 7, 7)
    exact = gradients(features, semantic, rois, weight.to(dtype).float())
    rounded = gradients([one.to(dtype) for one in features], semantic.to(dtype), rois, weight.to(dtype))
    for one, other in zip(rounded, exact, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.float(), other, rtol=1e-2, atol=1e-2 * other.abs().max().item())


def test_gradcheck_and_determinism():
    features, semantic = pyramid(1, 2, 64, 64, torch.float64)
    rois = draw_numbered(4, 1, 64, 64)
    leaves = [one.requires_grad_() for one in [*features, semantic]]
    assert torch.autograd.gradcheck(
        lambda *maps: ops.multi_level_roi_align(list(maps[:4]), rois, 3, SCALES, semantic=maps[4]), leaves, atol=1e-6
    )
    assert torch.autograd.gradgradcheck(
        lambda *maps: ops.multi_level_roi_align(list(maps[:4]), rois, 3, SCALES, semantic=maps[4]), leaves, atol=1e-6
    )
    features, semantic = pyramid(2, 64)
    weight = torch.randn(300, 64, 7, 7)
    runs = [gradients(features, semantic, draw_numbered(300), weight) for _ in range(3)]
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


def test_gradient_with_odd_strides():
    features, _ = pyramid(1, 16)
    rois = draw_numbered(10, 1)
    leaves = [one.detach().clone().requires_grad_() for one in features]
    out = ops.multi_level_roi_align(leaves, rois, 7, SCALES)
    odd = torch.randn(10, 7, 16, 14).permute(0, 2, 1, 3)[..., ::2]
    got = torch.autograd.grad(out, leaves, odd, retain_graph=True)
    for one, other in zip(got, torch.autograd.grad(out, leaves, odd.contiguous()), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_boxes_that_are_not_finite_give_zeros_and_no_gradient(backend):
    features, semantic = pyramid(2, 8)
    rois = draw_numbered(6)
    rois[1, 1], rois[2, 3], rois[3, 4], rois[4] = torch.nan, torch.inf, -torch.inf, torch.nan
    leaves = [one.detach().clone().requires_grad_() for one in features]
    with ops.use_backend(backend.backend):
        out = ops.multi_level_roi_align(leaves, rois, 7, SCALES, semantic=semantic)
        grads = torch.autograd.grad(out[1:5].sum(), leaves, allow_unused=True)
    assert (out[1:5] == 0).all() and (out[0] != 0).any() and (out[5] != 0).any()
    assert all(one is None or (one == 0).all() for one in grads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_far_gigantic_and_flat_boxes(backend):
    features, _ = pyramid(1, 8)
    boxes = torch.tensor(
        [[1e6, 1e6, 2e6, 2e6], [-1e30, -1e30, 1e30, 1e30], [10, 10, 10, 30], [50, 50, 20, 20], [-500, 0, -400, 90]]
    )
    with ops.use_backend(backend.backend):
        out = ops.multi_level_roi_align(features, boxes[None], 7, SCALES) if backend.name == "cpp" else None
        far = ops.multi_level_roi_align(features, boxes[None, [0, 2, 4]], 7, SCALES)
    assert (far[0] == 0).all() and (far[2] == 0).all() and far.isfinite().all()
    assert out is None or out.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_do(backend):
    features, semantic = pyramid(2, 8)
    leaves = [one.requires_grad_() for one in features]
    with ops.use_backend(backend.backend):
        none = ops.multi_level_roi_align(leaves, torch.zeros(0, 5), 7, SCALES, semantic=semantic)
        rows = ops.multi_level_roi_align(leaves, torch.zeros(2, 0, 4), 7, SCALES)
        listed = ops.roi_align(leaves[0], [torch.zeros(0, 4), torch.zeros(0, 4)], 7)
    assert none.shape == rows.shape == listed.shape == (0, 8, 7, 7)
    assert all((one == 0).all() for one in torch.autograd.grad(none.sum() + rows.sum(), leaves, materialize_grads=True))


def test_rows_of_images_equal_numbered_rois():
    features, semantic = pyramid(2, 16)
    boxes = draw_numbered(30)[:, 1:].view(2, 15, 4)
    numbered = torch.cat([torch.arange(2).repeat_interleave(15)[:, None], boxes.flatten(0, 1)], dim=1)
    got = ops.multi_level_roi_align(features, boxes, 7, SCALES, semantic=semantic)
    assert torch.equal(got, ops.multi_level_roi_align(features, numbered, 7, SCALES, semantic=semantic))


def test_semantic_grid_pooled_is_two_calls():
    features, semantic = pyramid()
    rois = draw_numbered()
    grid = ops.roi_align(semantic, rois, 14, 1 / 8, 0, aligned=True)
    want = ops.multi_level_roi_align(features, rois, 7, SCALES) + torch.nn.functional.adaptive_avg_pool2d(grid, 7)
    got = ops.multi_level_roi_align(features, rois, 7, SCALES, semantic=semantic)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_a_map_beyond_32_bit_offsets():
    # One byte-sized channel pair, 2.2 billion elements: an int32 offset would wrap.
    rows = 2**31 // 4096 + 4096
    image = torch.empty(1, 1, rows, 4096, dtype=torch.bfloat16)
    image[0, 0, -64:] = 3.0
    roi = torch.tensor([[0.0, 100, rows - 40, 140, rows - 8]])
    assert image.numel() > 2**31
    assert (ops.roi_align(image, roi, 2, 1.0, 2, True) == 3).all()
