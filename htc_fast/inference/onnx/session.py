"""An ONNX file that `export_onnx` wrote, run in onnxruntime."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from htc_fast.inference.onnx.program import INPUTS, OUTPUTS
from htc_fast.models.structures import Detections


class OnnxDetector:
    """`detect` of a file.

    notes     what the file says of itself: model, class_names, category_ids, mean, std, images
    """

    def __init__(self, path: str | Path, threads: int = 0):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.notes = json.loads(self.session.get_modelmeta().custom_metadata_map["htc_fast"])

    def detect(self, images: Tensor, image_sizes: Tensor) -> Detections:
        given = dict(zip(INPUTS, (images.numpy(), image_sizes.numpy())))
        return Detections(**dict(zip(OUTPUTS, map(torch.from_numpy, self.session.run(list(OUTPUTS), given)))))
