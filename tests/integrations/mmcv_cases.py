"""Calls of mmcv's compiled extension and its answers: `python -m tests.integrations.mmcv_cases` where mmcv has one.

What is kept was recorded from the C++ of onedl-mmcv 2.3.6 on a CPU: nms, roi_align, deform_conv, modulated_deform_conv
and bbox_overlaps, built against torch 2.14.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

FILE = Path(__file__).parent.parent / "fixtures" / "mmcv.safetensors"


class Case(NamedTuple):
    """A call: tensors that are read, tensors that are filled (with what they hold at first), and numbers."""

    name: str
    operator: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    numbers: dict[str, Any]


def calls() -> Iterator[Case]:
    torch.manual_seed(0)
    yield from roi_aligns()
    yield from suppressions()
    yield from deformable()


def roi_aligns() -> Iterator[Case]:
    boxes = torch.tensor(
        [[0, 1.5, 2, 30, 21], [1, 3, 3, 3, 3], [0, -9, -4, 50, 60], [1, 4, 4, 8, 16], [0, 90, 90, 95, 99]]
    )
    for mode in (0, 1):
        for aligned, ratio, dtype in ((True, 0, torch.float32), (False, 2, torch.float32), (True, 3, torch.float64)):
            maps, rois = torch.randn(2, 3, 9, 11, dtype=dtype), boxes.to(dtype)
            out = torch.zeros(5, 3, 3, 2, dtype=dtype)
            places = {name: torch.zeros_like(out if mode == 0 else out[:0]) for name in ("argmax_y", "argmax_x")}
            numbers = {"aligned_height": 3, "aligned_width": 2, "spatial_scale": 0.25, "sampling_ratio": ratio}
            numbers |= {"pool_mode": mode, "aligned": aligned}
            name = f"{('largest', 'mean')[mode]} {'aligned' if aligned else 'not aligned'} {ratio} {dtype}"
            yield Case(name, "roi_align_forward", {"input": maps, "rois": rois}, {"output": out, **places}, numbers)
            if mode == 0:  # filled by now where calls are recorded
                places = {key: one.clone() for key, one in places.items()}
            read = {"grad_output": torch.randn_like(out), "rois": rois, **places}
            yield Case(name, "roi_align_backward", read, {"grad_input": torch.zeros_like(maps)}, numbers)


def suppressions() -> Iterator[Case]:
    corners = torch.rand(40, 2) * 40
    boxes = torch.cat([corners, corners + torch.rand(40, 2) * 40], dim=1)
    boxes[1], boxes[2, 2:] = boxes[0], boxes[2, :2]
    scores = torch.randperm(40) / 40 + 0.01
    both = {"boxes": boxes.round(), "scores": scores}
    for offset in (0, 1):
        for threshold in (0.3, 0.5):
            numbers = {"iou_threshold": threshold, "offset": offset}
            yield Case(f"{offset} {threshold}", "nms", both, {}, numbers)
            for method in (0, 1, 2):
                more = {"sigma": 0.4, "min_score": 0.05, "method": method}
                name = f"{offset} {threshold} {method}"
                yield Case(name, "softnms", both, {"dets": torch.zeros(40, 5)}, numbers | more)
        for mode in (0, 1):
            numbers = {"mode": mode, "offset": offset}
            pairs = {"bboxes1": boxes[:9], "bboxes2": boxes[3:12].contiguous()}
            for aligned in (True, False):
                ious = torch.zeros(9) if aligned else torch.zeros(9, 9)
                name = f"{mode} {offset} {aligned}"
                yield Case(name, "bbox_overlaps", pairs, {"ious": ious}, numbers | {"aligned": aligned})
    dets = torch.cat([boxes, scores[:, None]], dim=1)
    yield Case("groups", "nms_match", {"dets": dets}, {}, {"iou_threshold": 0.4})


def deformable() -> Iterator[Case]:
    for kind in ("zero", "whole", "any"):
        maps, weight, bias = torch.randn(2, 4, 6, 5), torch.randn(6, 2, 3, 3), torch.randn(6)
        offset = {"zero": 0.0, "whole": 1.0, "any": 0.7}[kind] * torch.randn(2, 36, 3, 5).mul(2).round()
        mask, grad, none = torch.rand(2, 18, 3, 5), torch.randn(2, 6, 3, 5), torch.zeros(0)
        geometry = {"kW": 3, "kH": 3, "dW": 1, "dH": 2, "padW": 1, "padH": 1, "dilationW": 1, "dilationH": 1}
        geometry |= {"group": 2, "deformable_group": 2, "im2col_step": 2}
        read, scratch = {"input": maps, "offset": offset}, {"columns": none, "ones": none.clone()}
        yield Case(kind, "deform_conv_forward", {**read, "weight": weight, **scratch}, {"output": grad * 0}, geometry)
        found = {"gradInput": maps * 0, "gradOffset": offset * 0}
        read["gradOutput"] = grad
        more = {**read, "weight": weight, "columns": none}
        yield Case(kind, "deform_conv_backward_input", more, found, geometry)
        found = {"gradWeight": weight * 0}
        yield Case(kind, "deform_conv_backward_parameters", {**read, **scratch}, found, geometry | {"scale": 1.0})
        sides = {"kernel": (3, 3), "stride": (2, 1), "pad": (1, 1), "dilation": (1, 1)}
        numbers = {f"{name}_{side}": pair[at] for name, pair in sides.items() for at, side in enumerate("hw")}
        numbers |= {"group": 2, "deformable_group": 2, "with_bias": kind != "zero"}
        read = {"input": maps, "weight": weight, "bias": bias, "offset": offset, "mask": mask, **scratch}
        yield Case(kind, "modulated_deform_conv_forward", read, {"output": grad * 0}, numbers)
        found = {f"grad_{name}": read[name] * 0 for name in ("input", "weight", "bias", "offset", "mask")}
        yield Case(kind, "modulated_deform_conv_backward", {**read, "grad_output": grad}, found, numbers)


def answer(operator: Any, case: Case) -> dict[str, Tensor]:
    """What it fills and returns."""
    outputs = {name: one.clone() for name, one in case.outputs.items()}
    inputs = {name: one.clone() for name, one in case.inputs.items()}
    returned = operator(**inputs, **outputs, **case.numbers)
    if isinstance(returned, list):  # groups of indices
        returned = torch.tensor([[place, one] for place, group in enumerate(returned) for one in group])
    return outputs if returned is None else {"returned": returned, **outputs}


def record(extension: Any) -> None:
    """Each tensor once: calls name them by their places."""
    kept: dict[tuple, int] = {}
    tensors: dict[str, Tensor] = {}

    def keep(some: dict[str, Tensor]) -> dict[str, int]:
        places = {}
        for name, one in some.items():
            key = one.dtype, one.shape, one.contiguous().numpy().tobytes()
            places[name] = kept.setdefault(key, len(kept))
            tensors[str(kept[key])] = one.contiguous().clone()
        return places

    described = []
    found: dict[str, Tensor] = {}
    for case in calls():
        if case.operator == "roi_align_backward":
            case.inputs.update({name: found[name] for name in ("argmax_y", "argmax_x")})
        found = answer(getattr(extension, case.operator), case)
        described.append([case.name, case.operator, *map(keep, (case.inputs, case.outputs, found)), case.numbers])
    save_file(tensors, FILE, {"calls": json.dumps(described)})


def recorded() -> list[tuple[Case, dict[str, Tensor]]]:
    """Every call, and what mmcv's extension answered."""
    with safe_open(FILE, "pt") as file:
        calls = []
        for name, operator, *places, numbers in json.loads(file.metadata()["calls"]):
            tensors = [{key: file.get_tensor(str(one)) for key, one in some.items()} for some in places]
            calls.append((Case(name, operator, tensors[0], tensors[1], numbers), tensors[2]))
        return calls


if __name__ == "__main__":
    import mmcv._ext

    record(mmcv._ext)
