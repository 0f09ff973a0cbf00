"""The finished graph: nodes named by the paper's parts, and what a user of the file has to know in its metadata."""

import json
from typing import Any

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


def strip(model: Any) -> None:
    """Take out where on this machine the graph was made."""
    model.metadata_props.clear()
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        values += node.outputs
    for value in values:
        value.metadata_props.clear()
    model.graph.metadata_props.clear()


def note(model: Any, content: dict) -> None:
    """Write what the results mean into the file."""
    model.metadata_props[KEY] = json.dumps(content)
    model.producer_name = "htc_fast"
