"""A file that keeps our operators, run without a runtime that has them: node by node, each other node in onnxruntime.

For checks, not for speed: no node sees another, so nothing is fused or planned ahead.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from htc_fast.inference.onnx import own
from htc_fast.inference.onnx.graph import KEY
from htc_fast.inference.onnx.program import INPUTS, OUTPUTS
from htc_fast.models.structures import Detections

Arrays = Sequence[np.ndarray | None]  # None: an input that is missing


class NodeByNode:
    """`detect` of a file that `export_onnx` wrote; its fields are those of OnnxDetector."""

    def __init__(self, path: str | Path, threads: int = 0):
        self.model = onnx.load(path)
        self.notes = json.loads({one.key: one.value for one in self.model.metadata_props}[KEY])
        self.raw = self.notes["uint8"]
        count, *sides = (side.dim_value for side in self.model.graph.input[0].type.tensor_type.shape.dim)
        height, width = sides[:2] if self.raw else sides[1:]
        self.frame = count or None, height, width
        self.threads = threads or torch.get_num_threads()
        self.constants = {one.name: numpy_helper.to_array(one) for one in self.model.graph.initializer}
        self.model.graph.ClearField("initializer")  # whose weights would be there twice
        self.last = {name: number for number, node in enumerate(self.model.graph.node) for name in node.input}

    def detect(self, images: Tensor, image_sizes: Tensor) -> Detections:
        values: dict[str, np.ndarray] = dict(zip(INPUTS, (images.numpy(), image_sizes.numpy())))
        for number, node in enumerate(self.model.graph.node):
            inputs = [values.get(name, self.constants.get(name)) for name in node.input]
            values |= ours(node, inputs) if node.domain == own.DOMAIN else self._theirs(node, inputs)
            for name in {*node.input, *node.output} - {*OUTPUTS}:
                if self.last.get(name, number) == number:
                    values.pop(name, None)
        return Detections(**{name: torch.from_numpy(values[name]) for name in OUTPUTS})

    def _theirs(self, node: onnx.NodeProto, inputs: Arrays) -> dict[str, np.ndarray]:
        import onnxruntime

        wanted = [name for name in node.output if name]
        known = {name: value for name, value in zip(node.input, inputs) if value is not None}
        types = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in known.items()}
        graph = helper.make_graph(
            [node],
            node.name,
            [helper.make_tensor_value_info(name, kind, known[name].shape) for name, kind in types.items()],
            [helper.make_empty_tensor_value_info(name) for name in wanted],
        )
        alone = helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        session = onnxruntime.InferenceSession(alone.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip(wanted, session.run(wanted, known)))


def ours(node: onnx.NodeProto, inputs: Arrays) -> dict[str, np.ndarray]:
    """A node of our domain, by the kernels that torch has of it."""
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    return dict(zip(node.output, compute(node.op_type, inputs, attributes)))


def compute(name: str, inputs: Arrays, attributes: dict[str, Any]) -> list[np.ndarray]:
    """A node's outputs from its inputs and attributes."""
    tensors = [None if one is None else torch.from_numpy(np.require(one, requirements=["C", "W"])) for one in inputs]
    results = own.operator(name)(*own.arguments(name, tensors, attributes))
    results = (results,) if isinstance(results, Tensor) else results
    return [np.ascontiguousarray(one.numpy()) for one, _ in zip(results, own.RESULTS[name])]
