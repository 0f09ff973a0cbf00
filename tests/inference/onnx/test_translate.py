"""What of a program is ONNX, and what says that it is not."""

import pytest
import torch
import torch.nn.functional as F

from htc_fast import ops
from htc_fast.errors import UserError
from htc_fast.inference.onnx import translate
from tests.inference.onnx.running import Call, InOnnx


def exported(function, *tensors):
    return torch.export.export(Call(function), tensors, strict=False)


def test_sorted_as_torch_sorts():
    values = torch.randint(0, 5, (2, 40), generator=torch.Generator().manual_seed(0)).float()
    ways = {"descending": True, "dim": 1}, {"descending": False, "dim": 1}, {"descending": True, "dim": -2}
    function = lambda one: [each for way in ways for each in one.sort(stable=True, **way)]  # noqa: E731
    program = InOnnx(function, (values,))
    found, wanted = program(values), program.wanted(values)
    assert len(found) == 6 and all(map(torch.equal, found, wanted))


def test_a_kernel_as_large_as_its_map_is_a_product():
    generator = torch.Generator().manual_seed(0)
    x, whole, biases, small = (
        torch.randn(n, generator=generator) for n in ((3, 8, 5, 4), (6, 8, 5, 4), 6, (6, 4, 3, 3))
    )

    def function(x, whole, biases, small):
        full = [F.conv2d(x, whole, biases), F.conv2d(x, whole), F.conv2d(F.conv2d(x, whole), whole[:, :6, :1, :1])]
        return *full, F.conv2d(x, whole, padding=1), F.conv2d(x, small, biases, (2, 1), 1, (1, 2), 2)

    program = InOnnx(function, (x, whole, biases, small))
    assert program.kinds.count("Gemm") == 3 and program.kinds.count("Conv") == 2
    for found, wanted in zip(program(x, whole, biases, small), program.wanted(x, whole, biases, small), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_what_has_no_translation_is_named():
    maps, rois = torch.randn(1, 4, 8, 8), torch.tensor([[0.0, 1, 1, 9, 9]])
    program = exported(lambda x, boxes: ops.pr_roi_pool([x], boxes, 2, [0.25]), maps, rois)
    (told,) = translate.missing(program)
    assert 'roi_pooling="pr_roi_pool"' in told and 'roi_pooling="roi_align"' in told
    with pytest.raises(UserError, match="no operator for the exact mean over a bin"):
        translate.check(program)
    pasted = exported(lambda masks, boxes: ops.paste_masks(masks, boxes, (20, 30)), maps[0], torch.zeros(4, 4))
    assert translate.missing(pasted) == [
        "htc_fast::paste_masks has no translation to ONNX: write a .pt2 of this detector instead."
    ]


def test_what_has_one_is_not_named():
    x = torch.randn(1, 4, 8, 8)
    program = exported(lambda x: ops.multi_level_roi_align([x], x[:, 0, :2, :4], 2, [0.25]), x)
    assert translate.missing(program) == []
    translate.check(program)


def test_every_translation_is_of_an_operator():
    assert {one.namespace for one in translate.table()} == {"htc_fast", "aten"}
    assert torch.ops.htc_fast.soft_nms_padded.default in translate.table()
