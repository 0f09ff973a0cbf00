"""Our operators as nodes of a domain of their own, for runtimes that have kernels for them.

A node's inputs are the operator's tensors: the single ones in the operator's order, then the members of its lists, one
list behind the other. How long a list is says an attribute; the operator's numbers are attributes too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from onnx.defs import OpSchema
from onnxscript.values import Op, Opset

import htc_fast.ops  # noqa: F401  torch.ops.htc_fast
from htc_fast.inference.onnx import translate
from htc_fast.inference.onnx.boxes import Value, below, op

DOMAIN, VERSION = "htc_fast", 1
FLOAT, INT32, INT64, BOOL = (f"tensor({kind})" for kind in ("float", "int32", "int64", "bool"))
FLOATS = [FLOAT, "tensor(float16)", "tensor(bfloat16)"]
UINT8 = 2  # ONNX's number of the type
TYPES = {"image_sizes": INT64, "idxs": INT64, "labels": INT64, "valid": BOOL}  # of inputs; the others are FLOATS
# What torch's schemas leave unnamed: the results, each with its type or the input whose type it has.
RESULTS = {
    "propose": {"boxes": FLOAT, "scores": FLOAT, "valid": BOOL},
    "refine": {"boxes": FLOAT},
    "detections": {"boxes": FLOAT, "scores": FLOAT, "labels": INT64, "count": INT32},
    "batched_nms_padded": {"indices": INT64, "counts": INT32},
    "soft_nms_padded": {"indices": INT64, "scores": FLOAT, "counts": INT32},
    "multi_level_roi_align": {"pooled": "features"},
    "pr_roi_pool": {"pooled": "features"},
    "resampled_sum": {"total": "maps"},
}
NUMBERS = {"float": "FLOAT", "List[float]": "FLOATS", "int": "INT", "bool": "INT"}
TRAINING = ("keep",)  # what only a gradient needs: false in a node, and its result is no output
# Whose kernels ask whether an IoU is above this number in double: rounded down to float32, it decides alike.
DOUBLE = {"propose", "detections", "batched_nms_padded"}
COUNT = "_count"


@dataclass(frozen=True)
class Signature:
    """What becomes of an operator's arguments.

    order     their names
    single    tensors -> whether they may be missing
    lists     lists of tensors
    numbers   attributes, the lists' lengths first -> ONNX's types
    """

    order: tuple[str, ...]
    single: dict[str, bool]
    lists: tuple[str, ...]
    numbers: dict[str, str]


def operator(name: str) -> Any:
    """Torch's, of one of RESULTS."""
    return getattr(torch.ops.htc_fast, name).default


def signature(name: str) -> Signature:
    """Read from torch's schema."""
    kinds = {one.name: str(one.type) for one in operator(name)._schema.arguments}
    single = {one: kind != "Tensor" for one, kind in kinds.items() if kind in ("Tensor", "Optional[Tensor]")}
    lists = tuple(one for one, kind in kinds.items() if kind == "List[Tensor]")
    numbers = {one: NUMBERS[kind] for one, kind in kinds.items() if kind in NUMBERS and one not in TRAINING}
    return Signature(tuple(kinds), single, lists, {one + COUNT: "INT" for one in lists} | numbers)


def table() -> dict[Any, Callable]:
    """For torch.onnx.export's custom_translation_table: that of standard operators, but for ours."""
    return translate.table() | {operator(name): _translation(name) for name in RESULTS}


def _translation(name: str) -> Callable:
    kinds, returned = signature(name), len(operator(name)._schema.returns)

    def translate_call(*arguments: Any) -> Value | Sequence[Value]:
        named = dict(zip(kinds.order, arguments))
        lists = [list(named[one]) for one in kinds.lists]
        counts = [len(members) for members in lists]
        tensors = [*(named[one] for one in kinds.single), *(member for members in lists for member in members)]
        numbers = named | {one + COUNT: count for one, count in zip(kinds.lists, counts)}
        node = Op(Opset(DOMAIN, VERSION), name, schema(name, counts))
        results = node(*tensors, **{one: _number(name, one, numbers[one]) for one in kinds.numbers})
        if len(RESULTS[name]) == returned:
            return results
        return results, op.Cast(results, to=UINT8)  # which nobody reads: it does not stay in the graph

    return translate_call


def _number(name: str, attribute: str, value: Any) -> Any:
    if attribute == "iou_threshold" and name in DOUBLE:
        return below(value)
    return int(value) if isinstance(value, bool) else value


def schema(name: str, counts: Sequence[int] | None = None) -> OpSchema:
    """A node's inputs, attributes and outputs in onnx's words: registered there, its checker holds files to them.

    counts   how long each list is, its members being inputs of their own; None: one variadic input for all lists
    """
    kinds, options = signature(name), OpSchema.FormalParameterOption

    def given(one: str, source: str, option: Any) -> OpSchema.FormalParameter:
        # A type that is not fixed is the input's own: boxes are float32 beside logits in float16.
        return OpSchema.FormalParameter(one, TYPES.get(source, source), param_option=option)

    inputs = [given(one, one, options.Optional if free else options.Single) for one, free in kinds.single.items()]
    if counts is not None:
        members = [(one, number) for one, count in zip(kinds.lists, counts) for number in range(count)]
        inputs += [given(f"{one}_{number}", one, options.Single) for one, number in members]
    elif kinds.lists:
        inputs.append(given("_".join(kinds.lists), kinds.lists[0], options.Variadic))
    return OpSchema(
        name,
        DOMAIN,
        VERSION,
        f"What htc_fast.ops.{name} computes.",
        inputs=inputs,
        outputs=[OpSchema.FormalParameter(one, kind) for one, kind in RESULTS[name].items()],
        attributes=[OpSchema.Attribute(one, getattr(OpSchema.AttrType, kind)) for one, kind in kinds.numbers.items()],
        type_constraints=[(one, FLOATS, "") for one in (*kinds.single, *kinds.lists) if one not in TYPES],
    )


def arguments(name: str, inputs: Sequence[Any], attributes: dict[str, Any]) -> list[Any]:
    """The operator's arguments in torch, from a node's inputs (None: it is missing) and attributes."""
    kinds, rest = signature(name), list(inputs)
    named = dict.fromkeys(kinds.order, False) | attributes
    for one in kinds.single:
        named[one] = rest.pop(0) if rest else None
    for one in kinds.lists:
        named[one], rest = rest[: attributes[one + COUNT]], rest[attributes[one + COUNT] :]
    return [named[one] for one in kinds.order]


def listing() -> str:
    """Every node's inputs, attributes and outputs, as a table in Markdown.

    inputs without a type are float32, float16 or bfloat16; "?" may be missing, "…" is a list
    """
    lines = ["| node | inputs | attributes | outputs |", "|---|---|---|---|"]
    for name, results in RESULTS.items():
        kinds = signature(name)
        inputs = [one + "?" * free + _short(TYPES.get(one, "")) for one, free in kinds.single.items()]
        inputs += [f"{one}…" for one in kinds.lists]
        numbers = [f"{one} {kind.lower()}" for one, kind in kinds.numbers.items()]
        outputs = [one + (f" as {kind}" if kind in kinds.order else _short(kind)) for one, kind in results.items()]
        lines.append(f"| `{name}` | {', '.join(inputs)} | {', '.join(numbers)} | {', '.join(outputs)} |")
    return "\n".join(lines)


def _short(kind: str) -> str:
    return " float32" if kind == FLOAT else kind.replace("tensor(", " ").rstrip(")")
