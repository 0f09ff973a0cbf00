"""The ONNX file in OpenVINO: its detections are the detector's. Other kinds of detectors: test_every_model.py."""

import importlib.util

import numpy as np
import pytest
import torch

from htc_fast import ops
from htc_fast.inference.onnx import export_onnx
from htc_fast.inference.onnx.compare import FULL, HALF, compare_with
from tests.inference.onnx.running import InOnnx, InOpenVINO, in_openvino, noise
from tests.models.test_zoo import tiny

if importlib.util.find_spec("openvino") is None:
    pytest.skip("OpenVINO is not installed: pip install 'htc_fast[test]'", allow_module_level=True)

SIZE = (64, 96)


def both(name, path, allowed=FULL, **options):
    """How the file in OpenVINO agrees with a small detector of that name, on random pictures."""
    model, pictures = tiny(name).eval(), noise()
    export_onnx(model, path, image_size=SIZE, pictures=pictures, **options)
    return compare_with(model, InOpenVINO(path), pictures, allowed)


def test_boxes_that_overlap_as_much_as_is_allowed_stay(tmp_path):
    boxes = torch.tensor([[[0.0, 0, 8, 8], [0, 0, 8, 4], [0, 4, 8, 8], [20, 20, 30, 30]]])
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]])

    def each(boxes, scores):
        one = torch.zeros_like(scores, dtype=torch.int64)
        return [ops.batched_nms_padded(boxes, scores, one, iou, 4)[0] for iou in (0.5, 0.49, 0.0)]

    program = InOnnx(each, (boxes, scores))
    (tmp_path / "nms.onnx").write_bytes(program.bytes)
    given = dict(zip(program.names, (boxes.numpy(), scores.numpy())))
    kept = [one[0].tolist() for one in in_openvino(tmp_path / "nms.onnx", given)]
    assert kept == [[0, 1, 2, 3], [0, 3, -1, -1], [0, 3, -1, -1]]
    assert kept == [one[0].tolist() for one in program.wanted(boxes, scores)]


def test_the_cascade(tmp_path):
    found = both("htc_r50", tmp_path / "htc.onnx", batch_size=2)
    assert found.pictures == 2 and found.twins == found.found == 16
    assert found.boxes < 1e-3 and found.scores < 1e-6 and found.masks < 1e-5


def test_boxes_of_each_class_from_uint8(tmp_path):
    found = both("mask_rcnn_r50", tmp_path / "mask_rcnn.onnx", uint8_input=True)
    assert found.twins == found.found == 16 and found.extra == 0


@pytest.mark.slow
def test_16_bits(tmp_path):
    found = both("htc_r50", tmp_path / "half.onnx", HALF, fp16=True)
    assert found.agree and found.found == 16


@pytest.mark.slow
def test_any_number_of_pictures(tmp_path):
    found = both("htc_r50", tmp_path / "any.onnx", dynamic_batch=True)
    assert found.agree and found.found > 0


# OpenVINO's RoIAlign divides by the number of samples, of which such boxes have none.
EMPTY = [[0, 0, 0, 0], [8, 8, 8, 8], [4, 4, 4, 40], [3, 9, 40, 9], [float("nan"), 0, 8, 8]]
FULL_BOXES = [[2, 2, 30, 30], [0, 0, 187, 120], [10, 10, 600, 500]]


def test_empty_boxes_are_zero(tmp_path):
    torch.manual_seed(0)
    maps = [torch.randn(1, 3, 64 >> level, 96 >> level) for level in range(4)]
    rois = torch.tensor([[*EMPTY, *FULL_BOXES]], dtype=torch.float32)

    def pooled(rois, *maps):
        return ops.multi_level_roi_align(maps, rois, 7, [1 / 4, 1 / 8, 1 / 16, 1 / 32], semantic=maps[1])

    program = InOnnx(pooled, (rois, *maps))
    (tmp_path / "pooled.onnx").write_bytes(program.bytes)
    given = {f"tensors_{number}": one.numpy() for number, one in enumerate((rois, *maps))}
    (found,), (wanted,) = in_openvino(tmp_path / "pooled.onnx", given), program.wanted(rois, *maps)
    assert (found[: len(EMPTY)] == 0).all() and np.abs(found[len(EMPTY) :]).max() > 0.5
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=2e-5)
