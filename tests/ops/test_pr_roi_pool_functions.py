"""pr_roi_pool on the CPU: beside a numerical integral, options, types, strides, gradients to the maps and the boxes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from htc_fast import ops
from tests.ops.backends import ON_CPU, columns
from tests.ops.pr_roi_pool_cases import SCALES, draw_numbered, pyramid

BACKENDS = columns("pr_roi_pool", ON_CPU)


def both(features, rois, size=7, weight=None, **options) -> tuple[list[Tensor], list[Tensor]]:
    """The result and all gradients of C++ and of the reference."""
    found = []
    for backend in ("cpp", "reference"):
        leaves = [one.detach().requires_grad_() for one in [*features, rois]]
        with ops.use_backend(backend):
            out = ops.pr_roi_pool(leaves[:-1], leaves[-1], size, SCALES[: len(features)], **options)
        if weight is None:
            weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
        found.append([out.detach(), *torch.autograd.grad(out, leaves, weight, materialize_grads=True)])
    return tuple(found)


def assert_alike(found, wanted, tolerance) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        largest = max(1.0, other.double().abs().amax().item()) if other.numel() else 1.0
        torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("size", [7, (14, 14), (1, 3)])
def test_matches_reference(size, aligned):
    got, want = both(pyramid(), draw_numbered(), size, aligned=aligned)
    assert_alike(got, want, 2e-6)
    assert got[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [1, 3, 64, 250, 300])
@pytest.mark.parametrize("channels_last", [True, False])
def test_channel_counts_and_layouts(channels, channels_last):
    assert_alike(*both(pyramid(1, channels, channels_last=channels_last), draw_numbered(12, 1), (5, 3)), 2e-6)


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 1.6e-2), (torch.float64, 1e-13)]
)  # sums are 32 bits wide, so 16-bit results differ by one rounding
def test_other_dtypes(dtype, tolerance):
    rois = draw_numbered(dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    got, want = both(pyramid(dtype=dtype, channels=40), rois)
    assert_alike(got, want, tolerance)
    exact, _ = both(pyramid(dtype=dtype, channels=40, channels_last=False), rois.double())
    assert_alike(got[:-1], exact[:-1], tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("aligned", [True, False])
def test_equals_a_numerical_integral(backend, aligned):
    image, boxes = torch.randn(1, 2, 6, 8, dtype=torch.float64), [[1.3, 0.6, 6.2, 4.9], [-3, 2, 2.5, 9], [3, 3, 3.4, 5]]
    steps, bins = 600, (3, 2)
    padded = F.pad(image, (1, 1, 1, 1))  # zero outside: interpolated towards zero over one pixel
    for box in boxes:
        left, top, right, bottom = (side - 0.5 * aligned for side in box)
        share_y = (torch.arange(bins[0] * steps, dtype=torch.float64) + 0.5) / (bins[0] * steps)
        share_x = (torch.arange(bins[1] * steps, dtype=torch.float64) + 0.5) / (bins[1] * steps)
        y, x = torch.meshgrid(top + share_y * (bottom - top), left + share_x * (right - left), indexing="ij")
        grid = torch.stack([(x + 1) / 9 * 2 - 1, (y + 1) / 7 * 2 - 1], dim=2)[None]
        samples = F.grid_sample(padded, grid, align_corners=True)
        want = F.avg_pool2d(samples, steps)
        with ops.use_backend(backend.backend):
            got = ops.pr_roi_pool([image], torch.tensor([[0, *box]], dtype=torch.float64), bins, [1.0], aligned=aligned)
        torch.testing.assert_close(got, want, rtol=0, atol=2e-5)  # the midpoint rule's error at 600 steps


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_to_maps_and_boxes(backend):
    features = [one[:, :, :5, :4].clone().requires_grad_() for one in pyramid(1, 2, torch.float64)]
    rois = draw_numbered(4, 1, seed=3, dtype=torch.float64)
    rois[0, 1:] = torch.tensor([10.3, 10.2, 10.7, 10.9])  # far below a pixel
    boxes = rois[:, 1:].clone().requires_grad_()
    with ops.use_backend(backend.backend):
        assert torch.autograd.gradcheck(
            lambda boxes, *maps: ops.pr_roi_pool(list(maps), torch.cat([rois[:, :1], boxes], 1), (2, 3), SCALES),
            [boxes, *features], eps=1e-6, atol=1e-6)  # fmt: skip


def test_second_derivative_is_right_or_refused():
    features = [one[:, :, :9, :8].clone().requires_grad_() for one in pyramid(1, 2, torch.float64)]
    rois = draw_numbered(3, 1, seed=3, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda *maps: ops.pr_roi_pool(list(maps), rois, 2, SCALES), features)
    out = ops.pr_roi_pool(features, rois.requires_grad_(), 2, SCALES)
    for leaves in ([rois], features):
        slopes = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        with pytest.raises(RuntimeError, match="second derivative in the boxes"):
            sum(one.square().sum() for one in slopes).backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_short_boxes_lose_no_digits(backend):
    # On a ramp of slope one the mean is the middle, and moves half as fast as either side.
    ramp = torch.arange(60.0).expand(1, 1, 60, 60).contiguous()
    boxes = torch.tensor([[[40.2, 30.0, 40.2 + width, 31.0] for width in (1e-1, 1e-2, 1e-3, 1e-4)]], requires_grad=True)
    with ops.use_backend(backend.backend):
        out = ops.pr_roi_pool([ramp], boxes, 1, [1.0])
        (grad,) = torch.autograd.grad(out.sum(), boxes)
    middle = (boxes[0, :, 0] + boxes[0, :, 2]) / 2
    torch.testing.assert_close(out[:, 0, 0, 0], middle.detach(), rtol=1e-6, atol=0)
    if backend.name == "cpp":  # the reference subtracts integrals: its gradient has none left
        torch.testing.assert_close(grad[0, :, [0, 2]], torch.full((4, 2), 0.5), rtol=1e-3, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 20),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 10_000),
)
def test_drawn_cases(size, channels, levels, aligned, seed):
    features = pyramid(2, channels, seed=seed, channels_last=seed % 2 == 0)[:levels]
    rois = draw_numbered(6, seed=seed)
    if seed % 3 == 0:
        rois = rois.round()
    assert_alike(*both(features, rois, size, aligned=aligned), 1e-5)


def test_same_bits_with_any_number_of_threads():
    features, rois = pyramid(2, 64), draw_numbered(200)
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            leaves = [one.clone().requires_grad_() for one in [*features, rois]]
            out = ops.pr_roi_pool(leaves[:-1], leaves[-1], 7, SCALES)
            found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for run in found[1:] for a, b in zip(found[0], run, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_strange_boxes_give_zeros_and_no_gradient(backend):
    features, rois = pyramid(2, 8), draw_numbered(9, seed=1)
    rois[1, 1], rois[2, 3], rois[3, 4], rois[4] = torch.nan, torch.inf, -torch.inf, torch.nan
    rois[5, 1:] = torch.tensor([20.0, 20, 20, 40])  # no width
    rois[6, 1:] = torch.tensor([40.0, 40, 20, 20])  # inside out
    rois[7, 1:] = torch.tensor([1e6, 1e6, 2e6, 2e6])
    leaves = [one.detach().clone().requires_grad_() for one in [*features, rois]]
    with ops.use_backend(backend.backend):
        out = ops.pr_roi_pool(leaves[:-1], leaves[-1], 7, SCALES)
        grads = torch.autograd.grad(out[1:8].sum(), leaves, materialize_grads=True)
    assert (out[1:8] == 0).all() and (out[0] != 0).any() and (out[8] != 0).any()
    assert all((one == 0).all() for one in grads)


def test_gigantic_boxes_stay_finite():
    rois = torch.tensor([[0, -1e30, -1e30, 1e30, 1e30], [0, -3e38, 0, 3e38, 50]], requires_grad=True)
    out = ops.pr_roi_pool(pyramid(1, 8), rois, 7, SCALES)
    assert out.isfinite().all() and torch.autograd.grad(out.sum(), rois)[0].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_do(backend):
    leaves = [one.requires_grad_() for one in pyramid(2, 8)]
    rois, rows = torch.zeros(0, 5, requires_grad=True), torch.zeros(2, 0, 4, requires_grad=True)
    with ops.use_backend(backend.backend):
        out = [ops.pr_roi_pool(leaves, one, 7, SCALES) for one in (rois, rows)]
    assert out[0].shape == out[1].shape == (0, 8, 7, 7)
    grads = torch.autograd.grad(out[0].sum() + out[1].sum(), [*leaves, rois, rows], materialize_grads=True)
    assert all((one == 0).all() for one in grads) and grads[-1].shape == (2, 0, 4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_channels_or_pixels(backend):
    with ops.use_backend(backend.backend):
        assert ops.pr_roi_pool([torch.zeros(1, 0, 4, 4)], draw_numbered(3, 1), 7, [0.25]).shape == (3, 0, 7, 7)
        rois = draw_numbered(3, 1).requires_grad_()
        out = ops.pr_roi_pool([torch.zeros(1, 2, 0, 4)], rois, 7, [0.25])
    assert (out == 0).all()


def test_rows_of_images_equal_numbered_rois():
    features, boxes = pyramid(2, 16), draw_numbered(30)[:, 1:].reshape(2, 15, 4).requires_grad_()
    numbered = torch.cat([torch.arange(2).repeat_interleave(15)[:, None], boxes.flatten(0, 1)], dim=1)
    one, other = (ops.pr_roi_pool(features, rois, 7, SCALES) for rois in (boxes, numbered))
    assert torch.equal(one, other)
    assert torch.equal(*(torch.autograd.grad(out.sum(), boxes)[0] for out in (one, other)))


def test_non_contiguous_everything():
    wide = [torch.randn(2, 2 * 16, one.shape[2] + 1, one.shape[3] + 2) for one in pyramid(2, 16)]
    features = [one[:, ::2, 1:, 1:-1] for one in wide]
    rois = draw_numbered(10).repeat(1, 2)[:, :5]
    odd = torch.randn(10, 7, 16, 14).permute(0, 2, 1, 3)[..., ::2]
    plain, _ = both([one.contiguous() for one in features], rois.contiguous(), weight=odd.contiguous())
    got, want = both(features, rois, weight=odd)
    assert_alike(got, want, 2e-6)
    assert_alike(got, plain, 1e-6)


def test_boxes_of_a_frozen_map_and_maps_of_frozen_boxes():
    features, rois = pyramid(1, 8), draw_numbered(5, 1)
    moved = rois.clone().requires_grad_()
    (alone,) = torch.autograd.grad(ops.pr_roi_pool(features, moved, 7, SCALES).sum(), moved)
    got, _ = both(features, rois, weight=torch.ones(5, 8, 7, 7))
    assert torch.equal(alone, got[-1]) and (alone[:, 0] == 0).all()
    leaves = [one.requires_grad_() for one in features]
    grads = torch.autograd.grad(ops.pr_roi_pool(leaves, rois, 7, SCALES).sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(grads, got[1:-1], strict=True))
