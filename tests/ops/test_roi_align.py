"""multi_level_roi_align, backend x named case: outputs and gradients against the reference in float64."""

from dataclasses import replace

import pytest
import torch
import torchvision
from hypothesis import strategies as st

from tests.ops.backends import ALL, CUDA, EMULATED, INTERPRETED, REFERENCE, TRITON, cases, columns, emulated_only
from tests.ops.roi_cases import CASES, INF, NAN, SMALL, TOLERANCE, Inputs, draw_case, drawn
from tests.simt import emulator, operators

OPERATOR = "multi_level_roi_align"
UNCHECKED = (EMULATED, CUDA, INTERPRETED, TRITON)  # on the CPU an image number out of range is an error
WATCHED = emulated_only(
    CASES,
    asan="half half_sparse brain_odd wide odd nchw sliced batched five_levels tiny_maps long_boxes_fixed crowd "
    "strange one_bin many_bins longer_than_tables no_boxes small_every_border small_semantic_uneven fixed_many",
    race="brain half_of_64 brain_of_320 semantic_uneven nchw_half odd tiny_maps same_place crowd many_bins more_bins "
    "one_bin small_levels large_among_small longer_than_tables small_two_blocks small_many_samples small_batched "
    "small_half small_sliced",
)
QUICK = (
    "small_no_boxes",
    "small_not_finite",
    "small_every_border",
    "small_odd",
    "small_semantic_same_grid",
    "small_pair",
)
pytestmark = pytest.mark.filterwarnings("ignore:invalid value")  # of Triton's interpreter


def unless(name: str, column) -> str | None:
    if column == EMULATED and name not in WATCHED:
        return "finds nothing under this check that others do not"
    if column == INTERPRETED and name not in SMALL:
        return "Triton's interpreter would take a minute"
    if column == INTERPRETED and CASES[name].dtype == torch.bfloat16:
        return "Triton's interpreter gets bfloat16 wrong"
    return None


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    size = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance * size)


@pytest.mark.parametrize("name, column", cases(OPERATOR, CASES, ALL, unless, QUICK))
def test_named(name, column):
    inputs = Inputs(CASES[name])
    out, wanted_grads = inputs.expected()
    found, grads = inputs.run(column)
    tolerance = TOLERANCE[inputs.case.dtype]
    if column.backend == "triton":
        tolerance = max(tolerance, 1e-5)  # steps between samples are rounded: coordinates of 32 to 64 are 4e-6 off
    assert found.dtype == inputs.case.dtype
    assert column == REFERENCE or found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), out, rtol=tolerance, atol=tolerance)
    for grad, wanted in zip(grads, wanted_grads, strict=True):
        assert grad.dtype == inputs.case.dtype
        close(grad, wanted, tolerance)
    if column in (CUDA, TRITON):
        assert all(torch.equal(one, other) for one, other in zip(grads, inputs.run(column)[1])), (
            "it is not deterministic"
        )


@pytest.mark.parametrize("name", [pytest.param(name, id=f"{name}-cuda_emulated") for name in WATCHED])
def test_scattered_gradient(name):
    """The way that adds with atomics: it sums in float32 and stays there."""
    inputs = Inputs(CASES[name])
    case, semantic = inputs.case, inputs.case.semantic
    found = operators.roi_align_gradients(inputs.grad, inputs.maps, semantic > 0, inputs.rois, inputs.scales,
                                          [*case.size, case.ratio, semantic or 1], case.aligned,
                                          deterministic=False)  # fmt: skip
    for grad, wanted in zip(found, inputs.expected()[1], strict=True):
        close(grad, wanted, TOLERANCE[torch.float32])


SCATTERED = ["small_odd", "small_semantic_uneven", "small_sparse", "small_not_finite"]


@pytest.mark.parametrize("name, column", cases(OPERATOR, SCATTERED, (CUDA, INTERPRETED, TRITON), quick=()))
def test_scattered_gradient_equals_gathered(name, column):
    inputs = Inputs(CASES[name])
    sizes = [inputs.case.images, *(side for map in inputs.maps for side in map.shape[2:])]
    case, semantic, scales = inputs.case, inputs.case.semantic, inputs.scales[: inputs.levels]
    arguments = sizes, scales, case.ratio, case.aligned, 56.0, semantic > 0, 0.125, semantic or 1
    grad, rois = column.give((inputs.grad, inputs.rois))
    if column == CUDA:
        gathered = torch.ops.htc_fast.multi_level_roi_align_backward(grad, rois, *arguments, deterministic=True)
        scattered = torch.ops.htc_fast.multi_level_roi_align_backward(grad, rois, *arguments, deterministic=False)
    else:
        backward = torch.ops.htc_fast_triton.multi_level_roi_align_backward
        gathered, again, scattered = (backward(grad, rois, *arguments, way) for way in (True, True, False))
        assert all(torch.equal(one, other) for one, other in zip(gathered, again))
    for one, other in zip(gathered, scattered):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)


def unless_repeated(image: float, column) -> str | None:
    return "slow, and told by the other images" if column == INTERPRETED and abs(image) > 2 else None


@pytest.mark.parametrize("image, column", cases(OPERATOR, [-1.0, 2.0, 1e30, NAN, -INF], UNCHECKED, unless_repeated, ()))
def test_images_that_are_not_there_give_zeros(image, column):
    inputs = Inputs(SMALL["small_semantic_same_grid"])
    inputs.rois[1, 0] = image
    out, grads = inputs.run(column)
    assert (out[1] == 0).all() and (out[0] != 0).any() and out.isfinite().all()
    alone = Inputs(SMALL["small_semantic_same_grid"])
    alone.rois, alone.grad = inputs.rois[[0, 2]], inputs.grad[[0, 2]]
    assert all(torch.equal(found, wanted) for found, wanted in zip(grads, alone.run(column)[1]))


@pytest.mark.parametrize("column", columns(OPERATOR, UNCHECKED))
def test_a_huge_box_costs_no_more_than_its_map(column):
    out, grads = Inputs(replace(SMALL["small_not_finite"], rois=((0, -1e9, -1e9, 1e9, 1e9), (1, 0, 0, 1e29, 20)))).run(
        column
    )
    assert out.isfinite().all() and all(one.isfinite().all() for one in grads)


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED, CUDA)))
@pytest.mark.parametrize("kind", [{}, {"dtype": torch.bfloat16, "channels": 64}], ids=["fp32", "bf16"])
def test_an_infinite_pixel_stays_in_its_bins(kind, column):
    inputs = Inputs(replace(CASES["plain"], count=6, **kind))
    clean = inputs.pool(column, inputs.maps)
    inputs.maps[0][:, :, :4, :4] = float("inf")
    found = inputs.pool(column, inputs.maps)
    assert found.isfinite().any() and torch.equal(found[found.isfinite()], clean[found.isfinite()])


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
def test_order_of_threads_does_not_matter(column):
    inputs, results = Inputs(replace(CASES["semantic_box"], channels=8)), []
    for seed in (0, 1, 2):
        emulator.set_seed(seed)
        out, grads = inputs.run(column)
        results.append([out, *grads])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.slow
@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
@drawn
def test_drawn(column, data):
    own = {"ratio": st.sampled_from([0, 1, 2, 3]), "semantic": st.sampled_from([0, 7, 14])}
    case = draw_case(data, **own)
    emulator.set_seed(data.draw(st.integers(0, 5)))
    inputs = Inputs(case)
    (out, wanted), (found, grads) = inputs.expected(), inputs.run(column)
    close(found, out, TOLERANCE[case.dtype])
    for grad, one in zip(grads, wanted, strict=True):
        close(grad, one, TOLERANCE[case.dtype])


@pytest.mark.parametrize("column", columns("roi_align", (INTERPRETED, TRITON)))
def test_one_map_has_torchvisions_defaults(column):
    inputs = Inputs(SMALL["small_two_blocks"])
    got = column.call("roi_align", inputs.maps[0], inputs.rois, 2, 0.25)
    torch.testing.assert_close(
        got, torchvision.ops.roi_align(inputs.maps[0], inputs.rois, 2, 0.25), rtol=1e-5, atol=1e-5
    )
