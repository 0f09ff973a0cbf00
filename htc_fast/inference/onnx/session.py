"""An ONNX file that `export_onnx` wrote, run in onnxruntime."""

import json
from pathlib import Path

import torch
from torch import Tensor

from htc_fast.inference.onnx.program import INPUTS, OUTPUTS
from htc_fast.models.structures import Detections


class OnnxDetector:
    """`detect` of a file.

    notes  what the file says of itself: model, class_names, category_ids, mean, std, images, uint8
    frame  [N, H, W] of its images, N None where any number goes;  raw: they are uint8 [N, H, W, 3]
    """

    def __init__(self, path: str | Path, threads: int = 0):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.notes = json.loads(self.session.get_modelmeta().custom_metadata_map["htc_fast"])
        self.raw = self.notes["uint8"]
        count, *sides = self.session.get_inputs()[0].shape
        height, width = sides[:2] if self.raw else sides[1:]
        self.frame = (count if isinstance(count, int) else None), height, width

    def detect(self, images: Tensor, image_sizes: Tensor) -> Detections:
        given = dict(zip(INPUTS, (images.numpy(), image_sizes.numpy())))
        return Detections(**dict(zip(OUTPUTS, map(torch.from_numpy, self.session.run(list(OUTPUTS), given)))))
