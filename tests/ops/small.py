"""Every CUDA kernel once, on small inputs: what compute-sanitizer and ncu watch.

python -m tests.ops.small [--device cpu: a rehearsal, on the C++ kernels]
"""

import argparse
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from htc_fast import ops
from htc_fast.ops import _rle
from tests.ops import detection_cases
from tests.ops.pr_roi_pool_cases import CASES as PRECISE_CASES
from tests.ops.propose_cases import CASES as PROPOSE_CASES
from tests.ops.propose_cases import Inputs as ProposeInputs
from tests.ops.roi_cases import CASES, Inputs

POOLED = ("plain", "brain", "brain_odd", "nchw", "strange", "long_boxes", "tiny_maps")
PROPOSED = ("pyramid", "an empty level", "several blocks", "two batches", "bfloat16")


def run_roi_align(name: str, device: str) -> None:
    inputs = Inputs(replace(CASES[name], count=min(CASES[name].count, 6)))
    case, levels = inputs.case, inputs.levels
    maps = [map.to(device).requires_grad_() for map in inputs.maps]
    out = ops.multi_level_roi_align(
        maps[:levels],
        inputs.rois.to(device),
        case.size,
        inputs.scales[:levels],
        sampling_ratio=case.ratio,
        aligned=case.aligned,
        semantic=maps[-1] if case.semantic else None,
        semantic_grid=case.semantic or 1,
    )
    torch.autograd.grad(out, maps, torch.ones_like(out))


def run_pr_roi_pool(name: str, device: str) -> None:
    inputs = Inputs(replace(PRECISE_CASES[name], count=min(PRECISE_CASES[name].count, 6)))
    maps = [map.to(device).requires_grad_() for map in inputs.maps]
    rois = inputs.rois.to(device).requires_grad_()
    out = ops.pr_roi_pool(maps, rois, inputs.case.size, inputs.scales, aligned=inputs.case.aligned)
    torch.autograd.grad(out, [*maps, rois], torch.ones_like(out))


def run_propose(name: str, device: str) -> None:
    inputs = ProposeInputs(PROPOSE_CASES[name])
    maps = [[one.to(device) for one in some] for some in (inputs.objectness, inputs.deltas)]
    ops.propose(*maps, inputs.strides, inputs.image_sizes.to(device), inputs.anchors, **inputs.options())


def run_detections(device: str) -> None:
    for by_class, average, dtype in ((True, "logits", torch.float32), (False, "probabilities", torch.float16)):
        inputs = detection_cases.Inputs(detection_cases.Case(by_class=by_class, average=average, dtype=dtype))
        logits, deltas, boxes, valid, sizes = tree_map_only(torch.Tensor, lambda one: one.to(device), inputs.arguments)
        ops.refine(boxes, logits[0], deltas, detection_cases.STD, sizes)
        ops.detections(logits, deltas, boxes, valid, sizes, **inputs.options)


def run_nms(boxes: Tensor, scores: Tensor, idxs: Tensor) -> None:
    ops.batched_nms_padded(boxes, scores, idxs, 0.5, 100)
    many = boxes[:1].repeat(1, 60, 1) + torch.rand(1, 18000, 1).to(boxes) * 1000  # more than are counted
    ops.batched_nms_padded(many, scores[:1].repeat(1, 60), idxs[:1].repeat(1, 60), 0.5, 18000)
    for method in ("linear", "gaussian"):
        ops.soft_nms(boxes[0], scores[0], idxs[0], method=method)
        ops.soft_nms_padded(boxes, scores, idxs * 0, method=method, max_output=50)  # a block's
    ops.batched_nms(boxes[0], scores[0], idxs[0], 0.5)


def run_encoders(boxes: Tensor) -> None:
    """boxes [K, 4] in an image of 120 x 140."""
    logits = torch.randn(len(boxes), 12, 14).to(boxes)
    ops.encode_logits(logits, (120, 140))
    ops.encode_logits(logits, (10, 14), crop=(0.5, 1.0, 13.0, 11.2))
    for cut in ("before", "after"):
        ops.encode_prototypes(torch.randn(len(boxes), 5).to(boxes), logits[:5], boxes, (120, 140), cut=cut)
    for height in (130, 2100):  # read once, and twice
        masks = torch.rand(2, height, 70).to(boxes) < 0.5
        runs = _rle.read("masks", ops.encode(masks))
        torch.ops.htc_fast.decode(runs.runs, runs.offsets, masks, height, 70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    device = parser.parse_args().device
    with ops.use_backend("cuda" if device == "cuda" else "cpp"):
        for name in POOLED:
            run_roi_align(name, device)
            run_pr_roi_pool(name, device)
        boxes = torch.rand(2, 300, 4).to(device) * 50
        boxes[..., 2:] += boxes[..., :2]
        run_nms(boxes, torch.rand(2, 300).to(device), torch.randint(0, 3, (2, 300)).to(device))
        for name in PROPOSED:
            run_propose(name, device)
        run_detections(device)
        masks = torch.rand(5, 28, 28).to(device)
        ops.paste_masks(masks, boxes[0, :5], (120, 140))
        ops.encode_masks(masks, boxes[0, :5], (120, 140))
        run_encoders(boxes[0, :5])
    if device == "cuda":
        torch.cuda.synchronize()
    print("ran")


if __name__ == "__main__":
    main()
