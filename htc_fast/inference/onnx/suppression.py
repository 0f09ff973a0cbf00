"""Non-maximum suppression in ONNX: sizes that depend on data begin and end inside one function."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from htc_fast.errors import UserError
from htc_fast.inference.onnx.boxes import INT32, NOTHING, Value, constant, either, finite, op

LOWEST = NOTHING / 2  # what is below is no candidate
SMALLEST = float(np.finfo(np.float32).tiny)  # that no runtime takes for zero


def survivors(boxes: Value, scores: Value, iou_threshold: float, threshold: float, most: int, place: Callable) -> Value:
    """boxes [B, K, 4], scores [B, C, K] -> flat places of what one NonMaxSuppression per class keeps: [S].

    most    kept per class at most
    place   (first, class, box) [S, 1] each -> a place [S, 2] in what the caller selects from
    raises  UserError for an IoU that ONNX does not take
    """
    if iou_threshold < 0:
        raise UserError(
            f"ONNX's NonMaxSuppression takes an IoU of 0 to 1, got {iou_threshold}: choose another nms_iou."
        )
    iou = constant(min(max(beside(iou_threshold), SMALLEST), 1.0))
    kept = op.NonMaxSuppression(boxes, scores, constant(most, np.int64), iou, constant(max(threshold, LOWEST)))
    columns: Value = op.Split(kept, axis=1, num_outputs=3)
    return place(*columns)


def beside(number: float) -> float:
    """The float32 next to the one that a number becomes, on the side where every runtime decides as ours.

    Ours compares an IoU with the number in double. Of one that is just the threshold OpenVINO says that it is too much,
    onnxruntime that it is not.
    """
    near = np.float32(number)
    return float(np.nextafter(near, np.float32(np.inf if float(near) <= number else -np.inf)))


def best(scores: Value, kept: Value, limit: int) -> tuple[Value, Value, Value]:
    """scores [N, K], kept [S, 2] (image, place) -> the best scores [N, P], their places [N, P], found [N, P] bool.

    P is the smaller of limit and K; equal scores: the first place.
    """
    nothing = op.Expand(constant(NOTHING), op.Shape(scores))
    left = op.ScatterND(nothing, kept, op.GatherND(scores, kept))
    values, places = op.TopK(left, constant([limit], np.int64), axis=1, largest=1, sorted=1)
    return values, places, op.Greater(values, constant(LOWEST))


def by_group(scores: Value, groups: Value) -> Value:
    """scores [N, K], groups [N, K] int64 -> scores [N, C, K]: groups as classes of one NonMaxSuppression.

    raises  UserError for groups that depend on the input: nobody knows how many there are
    """
    numbers = distinct(groups)
    if numbers is None:
        raise UserError("NMS in ONNX needs groups (idxs) that do not depend on the pictures: write a .pt2 instead.")
    one, wanted = constant([1], np.int64), constant(np.asarray(sorted(numbers))[:, None], np.int64)
    scores = op.Unsqueeze(op.Max(scores, constant(NOTHING)), one)
    return op.Where(op.Equal(op.Unsqueeze(groups, one), wanted), scores, constant(NOTHING))


def distinct(value: Value) -> set[int] | None:
    """What numbers a value of the graph can hold, where they are the graph's own; None: they depend on the input."""
    if value.const_value is not None:
        return set(np.unique(value.const_value.numpy()).tolist())
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "Constant":
        return set(np.unique(node.attributes["value"].as_tensor().numpy()).tolist())
    if node.op_type == "Concat":
        parts = [distinct(one) for one in node.inputs]
        known = [one for one in parts if one is not None]
        return {number for part in known for number in part} if len(known) == len(parts) else None
    if node.op_type in ("Expand", "Cast", "CastLike", "Identity", "Reshape"):
        return distinct(node.inputs[0])
    return None


class Body:
    """The nodes of a Loop's body: `body("Add", x, y)` adds one and gives its result; x may come from outside."""

    def __init__(self) -> None:
        self.nodes: list = []

    def __call__(self, kind: str, *inputs: Value, outputs: int = 1, **attributes: Any) -> Value:
        import onnx_ir

        node = onnx_ir.node(kind, inputs, attributes, num_outputs=outputs)
        for value in node.outputs:
            value.name = f"soft_nms_{len(self.nodes)}_{value.index()}"
        self.nodes.append(node)
        return node.outputs[0] if outputs == 1 else node.outputs


def soft_nms(
    boxes: Value, scores: Value, groups: Value, factor: Callable, least: float, limit: int
) -> tuple[Value, Value, Value]:
    """boxes [N, K, 4], scores [N, K], groups [N, K] -> places [N, limit], scores [N, limit], found [N, limit] bool.

    One Loop of `limit` steps, at most K: the best is taken, the others of its group decay.

    factor  (body, shared [N, 1, K], IoU [N, 1, K]) -> where a score changes, and what is left of it
    least   what a score must not be below
    """
    axis = constant([1], np.int64)
    real = op.And(finite(boxes), op.And(finite(scores, None), op.GreaterOrEqual(scores, constant(least))))
    boxes = either(real, boxes, 0.0)  # those that are none touch nothing
    corners = op.Transpose(boxes, perm=[0, 2, 1])
    sides = op.Sub(*reversed(op.Split(corners, axis=1, num_outputs=2)))
    outside = boxes, op.Unsqueeze(groups, axis), corners, op.ReduceProd(sides, axis, keepdims=1)
    scores = op.Unsqueeze(op.Where(real, scores, constant(NOTHING)), axis)
    _, picks, values = _loop(limit, scores, _step(*outside, factor, least))
    picks, values = (
        op.Transpose(op.Reshape(one, constant([limit, -1], np.int64)), perm=[1, 0]) for one in (picks, values)
    )
    return picks, values, op.GreaterOrEqual(values, constant(least))


def _loop(steps: int, start: Value, body: Any) -> Sequence[Value]:
    """One carried value, and two of each step -> the Loop's three results."""
    given = constant(steps, np.int64), constant(True, bool), start
    node = op.Loop(*given, body=body).producer()
    # The exporter's recorder gives a node with many inputs the first ones twice, and one output.
    node.resize_inputs(len(given))
    for place, value in enumerate(given):
        node.replace_input_with(place, value)
    node.resize_outputs(3)
    return node.outputs


def _step(boxes: Value, groups: Value, corners: Value, areas: Value, factor: Callable, least: float) -> Any:
    """The graph of one step: scores [N, 1, K] -> scores, the pick [N, 1, 1] and its score [N, 1, 1]."""
    import onnx_ir

    low, high = op.Split(corners, axis=1, num_outputs=2)
    taken = op.Expand(constant(NOTHING), op.Concat(op.Shape(areas, start=0, end=2), constant([1], np.int64), axis=0))
    zero, kinds = constant(0.0), {"step": onnx_ir.DataType.INT64, "going": onnx_ir.DataType.BOOL}
    step, going = (onnx_ir.val(f"soft_nms_{name}", kind, onnx_ir.Shape([])) for name, kind in kinds.items())
    scores = onnx_ir.val("soft_nms_scores", onnx_ir.DataType.FLOAT)
    body = Body()
    pick = body("ArgMax", scores, axis=2, keepdims=1)  # the first of equal ones
    value, area, group = (body("GatherElements", one, pick, axis=2) for one in (scores, areas, groups))
    own = body("Transpose", body("GatherND", boxes, pick, batch_dims=1), perm=[0, 2, 1])
    own_low, own_high = body("Split", own, axis=1, num_outputs=2, outputs=2)
    sides = body("Relu", body("Sub", body("Min", high, own_high), body("Max", low, own_low)))
    width, height = body("Split", sides, axis=1, num_outputs=2, outputs=2)
    shared = body("Mul", width, height)
    iou = body("Div", shared, body("Sub", body("Add", areas, area), shared))
    changes, left = factor(body, shared, iou)
    touched = body("And", body("Equal", groups, group), changes)
    if least <= 0:  # else nothing that was taken or never was there would come near it
        touched = body("And", touched, body("Greater", scores, zero))
    decayed = body("Where", touched, body("Mul", scores, left), scores)
    decayed = body("ScatterElements", decayed, pick, taken, axis=2)
    outputs = [body("Identity", going), decayed, pick, value]
    return onnx_ir.Graph([step, going, scores], outputs, nodes=body.nodes, name="soft_nms")


def linear(iou_threshold: float) -> Callable:
    """What is left where boxes overlap by iou_threshold or more: 1 - IoU."""
    threshold, one = constant(iou_threshold), constant(1.0)
    return lambda body, shared, iou: (body("GreaterOrEqual", iou, threshold), body("Sub", one, iou))


def gaussian(sigma: float) -> Callable:
    """What is left of all that overlap: exp(-IoU^2 / sigma)."""
    zero, spread = constant(0.0), constant(-sigma)
    return lambda body, shared, iou: (
        body("Greater", shared, zero),
        body("Exp", body("Div", body("Mul", iou, iou), spread)),
    )


def count(found: Value) -> Value:
    """found [N, P] bool -> how many [N] int32."""
    numbers: Value = op.Cast(found, to=INT32)
    return op.ReduceSum(numbers, constant([1], np.int64), keepdims=0)
