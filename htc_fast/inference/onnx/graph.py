"""The finished graph: nodes named by the paper's parts, and what a user of the file has to know in its metadata."""

import json
import re
from typing import Any

import numpy as np

from htc_fast.ranges import PART

KEY = "htc_fast"  # of the file's metadata


def parts(program: Any) -> dict[str, str]:
    """Names of an exported program's nodes -> the part they belong to; a node between two parts goes with the first."""
    found, last = {}, "input"
    for node in program.graph.nodes:
        last = (node.meta.get("custom") or {}).get(PART, last)
        found[node.name] = last
    return found


def name_nodes(model: Any, where: dict[str, str]) -> None:
    """model: of onnx_ir; each node becomes "part/Kind", with a number where there are several."""
    seen: dict[str, int] = {}
    last = "input"
    for node in model.graph:
        source = node.metadata_props.get("pkg.torch.onnx.fx_node", "").partition(" ")[0].removeprefix("%")
        last = where.get(source, last)
        stem = f"{last}/{node.op_type}"
        seen[stem] = seen.get(stem, 0) + 1
        node.name = stem if seen[stem] == 1 else f"{stem} {seen[stem]}"


def optimize(model: Any) -> None:
    """As torch.onnx.export would, once what is constant or unused is gone: rules are tried at every node, twice."""
    from onnxscript import optimizer

    optimizer.fold_constants(model)
    optimizer.remove_unused_nodes(model)
    optimizer.optimize_ir(model)


def shorten(model: Any) -> None:
    """TopK gives no more than the slices behind it leave.

    Guided anchors sort every place of a level and read a thousand; TensorRT's K ends below 3840.
    """
    for node in model.graph.all_nodes():
        if node.op_type != "TopK" or (most := node.inputs[1].const_value) is None:
            continue
        axis = node.attributes.get_int("axis", -1) % len(node.outputs[0].shape)
        ends = [_end(use.node, axis) for output in node.outputs for use in output.uses()]
        if ends and None not in ends and max(ends) < most.numpy().item():
            _give(model, node, axis, max(ends))


def _end(node: Any, axis: int) -> Any:
    """How many of the first a node reads along the axis; None: another part, or all."""
    numbers = [None if one is None or one.const_value is None else one.const_value.numpy() for one in node.inputs[1:]]
    if node.op_type != "Slice" or len(numbers) < 3 or any(one is None or one.size != 1 for one in numbers):
        return None
    start, end, along, *step = (int(one.item()) for one in numbers if one is not None)
    return end if start == 0 and end > 0 and along == axis and step in ([], [1]) else None


def _give(model: Any, node: Any, axis: int, count: int) -> None:
    import onnx_ir

    name = f"{node.name} K"
    value = onnx_ir.val(name, const_value=onnx_ir.tensor(np.array([count]), name=name))
    model.graph.initializers.add(value)
    node.replace_input_with(1, value)
    for output in node.outputs:
        output.shape = onnx_ir.Shape([count if at == axis else side for at, side in enumerate(output.shape)])


def strip(model: Any) -> None:
    """Take out where on this machine the graph was made; the number of pictures, where it is not fixed, is N."""
    import onnx_ir

    model.metadata_props.clear()
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        values += node.outputs
    for value in values:
        value.metadata_props.clear()
        if value.shape is not None and not value.shape.is_static():
            value.shape = onnx_ir.Shape(map(_named, value.shape))
    model.graph.metadata_props.clear()


def _named(side: Any) -> Any:
    """A side of a shape; in its expression torch calls the number of pictures s34 or alike."""
    name = None if isinstance(side, int) else side.value
    return side if name is None else re.sub(r"\bs\d+\b", "N", str(name))


def note(model: Any, content: dict) -> None:
    """Write what the results mean into the file."""
    model.metadata_props[KEY] = json.dumps(content)
    model.producer_name = "htc_fast"
