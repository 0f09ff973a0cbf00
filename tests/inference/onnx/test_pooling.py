"""RoI features and sums of maps in ONNX beside ours."""

import pytest
import torch

from htc_fast import ops
from tests.inference.onnx.running import InOnnx
from tests.ops.roi_cases import CASES, Case, Inputs

QUICK = ("semantic_box", "semantic_mask", "fixed", "half", "strange", "batched")
LEFT_OUT = ("no_boxes", "small_no_boxes")
TYPES = (torch.float32, torch.float16)
NAMES = [name for name, case in CASES.items() if name not in LEFT_OUT and case.dtype in TYPES]
NAMES = sorted({*NAMES[::3], *QUICK})  # each takes an export
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3}


def pooled(inputs: Inputs):
    case, levels = inputs.case, inputs.levels

    def function(rois, *maps):
        options = {"semantic": maps[levels], "semantic_scale": 0.125} if case.semantic else {}
        options |= {"sampling_ratio": case.ratio, "aligned": case.aligned, "semantic_grid": case.semantic or 1}
        return ops.multi_level_roi_align(maps[:levels], rois, case.size, inputs.scales[:levels], **options)

    # onnxruntime takes memory for every sample: none for boxes a million pixels wide, which no picture has.
    rois = torch.where(inputs.rois.isinf(), inputs.rois, inputs.rois.clamp(-900, 900))
    return function, (rois, *inputs.maps)


@pytest.mark.parametrize("name", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in NAMES])
def test_named(name):
    inputs = Inputs(CASES[name])
    function, tensors = pooled(inputs)
    program = InOnnx(function, tensors)
    assert program.kinds.count("RoiAlign") == inputs.levels + bool(inputs.case.semantic)
    (found,), (wanted,) = program(*tensors), program.wanted(*tensors)
    assert found.dtype == inputs.case.dtype
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=TOLERANCE[found.dtype])


def test_boxes_that_are_none_give_zeros():
    inputs = Inputs(Case(count=8, boxes="strange", semantic=14, ratio=2, aligned=False))
    function, tensors = pooled(inputs)
    program = InOnnx(function, tensors)
    (found,) = program(*tensors)
    assert (found[:2] == 0).all() and found[6].abs().max() > 0


def test_levels_change_where_ours_do():
    edges = torch.tensor([56.0, 112, 224, 448])
    near = [edges, edges.nextafter(torch.tensor(0.0)), edges.nextafter(torch.tensor(1e9)), edges * (1 - 1e-6), -edges]
    sides = torch.cat(near)
    rois = torch.stack([sides * 0, sides * 0, sides * 0, sides, sides], dim=1)
    maps = [torch.full((1, 1, 512 // down, 512 // down), float(level)) for level, down in enumerate((4, 8, 16, 32), 1)]
    function = lambda rois, *maps: ops.multi_level_roi_align(list(maps), rois, 1, [1 / 4, 1 / 8, 1 / 16, 1 / 32])  # noqa: E731
    (found,), (wanted,) = InOnnx(function, (rois, *maps))(rois, *maps), [function(rois, *maps)]
    assert torch.equal(found.flatten().round(), wanted.flatten().round())
    assert set(wanted.flatten().round().tolist()) == {0, 1, 2, 3, 4}


def test_no_feature_of_another_level_is_read():
    inputs = Inputs(Case(boxes="small", count=12))
    function, tensors = pooled(inputs)
    program = InOnnx(function, tensors)
    (wanted,) = program(*tensors)
    for coarse in inputs.maps[1:]:
        coarse.fill_(torch.nan)
    assert torch.equal(program(*tensors)[0], wanted) and wanted.isfinite().all()


def sums(relu: bool):
    return lambda *maps: torch.ops.htc_fast.resampled_sum(list(maps), 12, 18, relu, False)[0]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("relu", [True, False])
def test_resampled_sum(relu, dtype):
    generator = torch.Generator().manual_seed(0)
    sizes = ((24, 36), (12, 18), (6, 9), (3, 5), (1, 1))
    maps = [torch.randn(2, 8, *size, generator=generator).to(dtype) for size in (sizes if relu else sizes[:1])]
    program = InOnnx(sums(relu), maps)
    (found,), (wanted,) = program(*maps), program.wanted(*maps)
    assert found.dtype == dtype and program.kinds.count("Resize") == max(len(maps) - 1, 1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=TOLERANCE[dtype])
