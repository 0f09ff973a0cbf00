"""One function of tensors in ONNX, run in onnxruntime beside itself in PyTorch; a whole file in OpenVINO."""

import io
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from htc_fast.inference.onnx import OnnxDetector, graph, translate
from htc_fast.inference.onnx.program import OUTPUTS
from htc_fast.models.structures import Detections

OPENVINO = """
import sys, numpy, openvino
path, given, found = sys.argv[1:]
options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
model = openvino.Core().compile_model(path, "CPU", options)
results = model(dict(numpy.load(given)))
numpy.savez(found, *(results[number] for number in range(len(model.outputs))))
"""


def in_openvino(path: Path, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    """A file's results in OpenVINO, float32 by one thread, in a process of its own.

    Beside OpenVINO a test process ended without a word where a later test forked.
    """
    inputs, outputs = path.with_suffix(".in.npz"), path.with_suffix(".out.npz")
    np.savez(inputs, **given)
    command = [sys.executable, "-c", OPENVINO, str(path), str(inputs), str(outputs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with np.load(outputs) as found:
        return [found[f"arr_{number}"] for number in range(len(found.files))]


def noise() -> list[np.ndarray]:
    """Two random pictures, which a frame of 64 x 96 holds."""
    return list(np.random.default_rng(3).integers(0, 256, (2, 60, 90, 3), np.uint8))


class InOpenVINO:
    """A file as `compare_with` takes it."""

    def __init__(self, path):
        file = OnnxDetector(path)
        self.path, self.raw, self.frame = path, file.raw, file.frame

    def detect(self, images, image_sizes):
        found = in_openvino(self.path, {"images": images.numpy(), "image_sizes": image_sizes.numpy()})
        return Detections(**dict(zip(OUTPUTS, map(torch.from_numpy, found))))


class Call(nn.Module):
    def __init__(self, function: Callable):
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


class InOnnx:
    """function(*tensors) -> a tensor or several, for tensors of these shapes and types.

    kinds  of the graph's nodes, bodies of loops included
    """

    def __init__(self, function: Callable, tensors: Sequence[Tensor], opset: int = 20):
        self.function, options = function, {"opset_version": opset, "optimize": False, "verbose": False}
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(Call(function), tuple(tensors), strict=False)
            done = torch.onnx.export(program, custom_translation_table=translate.table(), **options)
        graph.optimize(done.model)
        self.kinds = [node.op_type for node in done.model.graph.all_nodes()]
        assert {node.domain for node in done.model.graph.all_nodes()} == {""}
        file = io.BytesIO()
        done.save(file)
        self.bytes = file.getvalue()
        onnx.checker.check_model(onnx.load_from_string(self.bytes), full_check=True)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.log_severity_level = 1, 3
        self.session = onnxruntime.InferenceSession(self.bytes, settings, providers=["CPUExecutionProvider"])
        self.names = [one.name for one in self.session.get_inputs()]

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        given = {f"tensors_{number}": one.contiguous().numpy() for number, one in enumerate(tensors)}
        return [torch.from_numpy(one) for one in self.session.run(None, {name: given[name] for name in self.names})]

    def wanted(self, *tensors: Tensor) -> list[Tensor]:
        with torch.no_grad():
            found = self.function(*tensors)
        return [found] if isinstance(found, Tensor) else list(found)
