"""Every CUDA kernel once, on small inputs: what compute-sanitizer watches.

python -m tests.ops.small
"""

from dataclasses import replace

import torch
from torch.utils._pytree import tree_map_only

from htc_fast import ops
from htc_fast.ops import _native
from tests.ops import detection_cases
from tests.ops.pr_roi_pool_cases import CASES as PRECISE_CASES
from tests.ops.propose_cases import CASES as PROPOSE_CASES
from tests.ops.propose_cases import Inputs as ProposeInputs
from tests.ops.roi_cases import CASES, Inputs


def run_roi_align(name: str) -> None:
    inputs = Inputs(replace(CASES[name], count=min(CASES[name].count, 6)))
    case, levels = inputs.case, inputs.levels
    maps = [map.cuda().requires_grad_() for map in inputs.maps]
    out = ops.multi_level_roi_align(
        maps[:levels],
        inputs.rois.cuda(),
        case.size,
        inputs.scales[:levels],
        sampling_ratio=case.ratio,
        aligned=case.aligned,
        semantic=maps[-1] if case.semantic else None,
        semantic_grid=case.semantic or 1,
    )
    torch.autograd.grad(out, maps, torch.ones_like(out))


def run_pr_roi_pool(name: str) -> None:
    inputs = Inputs(replace(PRECISE_CASES[name], count=min(PRECISE_CASES[name].count, 6)))
    maps = [map.cuda().requires_grad_() for map in inputs.maps]
    rois = inputs.rois.cuda().requires_grad_()
    out = ops.pr_roi_pool(maps, rois, inputs.case.size, inputs.scales, aligned=inputs.case.aligned)
    torch.autograd.grad(out, [*maps, rois], torch.ones_like(out))


def run_detections() -> None:
    for by_class, average, dtype in ((True, "logits", torch.float32), (False, "probabilities", torch.float16)):
        inputs = detection_cases.Inputs(detection_cases.Case(by_class=by_class, average=average, dtype=dtype))
        logits, deltas, boxes, valid, sizes = tree_map_only(torch.Tensor, lambda one: one.cuda(), inputs.arguments)
        ops.refine(boxes, logits[0], deltas, detection_cases.STD, sizes)
        ops.detections(logits, deltas, boxes, valid, sizes, **inputs.options)


def main() -> None:
    with ops.use_backend("cuda"):
        for name in ("plain", "brain", "brain_odd", "nchw", "strange", "long_boxes", "tiny_maps"):
            run_roi_align(name)
        if "htc_fast::pr_roi_pool" in _native.cuda_operators:
            for name in ("plain", "brain", "brain_odd", "nchw", "strange", "long_boxes", "tiny_maps"):
                run_pr_roi_pool(name)
        boxes = torch.rand(2, 300, 4).cuda() * 50
        boxes[..., 2:] += boxes[..., :2]
        scores, idxs = torch.rand(2, 300).cuda(), torch.randint(0, 3, (2, 300)).cuda()
        if "htc_fast::batched_nms_padded" in _native.cuda_operators:
            ops.batched_nms_padded(boxes, scores, idxs, 0.5, 100)
            many = boxes[:1].repeat(1, 60, 1) + torch.rand(1, 18000, 1).cuda() * 1000  # more than are counted
            ops.batched_nms_padded(many, scores[:1].repeat(1, 60), idxs[:1].repeat(1, 60), 0.5, 18000)
        if "htc_fast::propose" in _native.cuda_operators:
            for name in ("pyramid", "an empty level", "several blocks", "two batches", "bfloat16"):
                inputs = ProposeInputs(PROPOSE_CASES[name])
                maps = [[one.cuda() for one in some] for some in (inputs.objectness, inputs.deltas)]
                sizes = inputs.image_sizes.cuda()
                ops.propose(*maps, inputs.strides, sizes, inputs.anchors, **inputs.options())
        for method in ("linear", "gaussian"):
            ops.soft_nms(boxes[0], scores[0], idxs[0], method=method)
            ops.soft_nms_padded(boxes, scores, idxs * 0, method=method, max_output=50)  # a block's
        ops.batched_nms(boxes[0], scores[0], idxs[0], 0.5)
        if "htc_fast::detections" in _native.cuda_operators:
            run_detections()
        masks = torch.rand(5, 28, 28).cuda()
        for op in (ops.paste_masks, ops.encode_masks):
            if f"htc_fast::{op.__name__}" in _native.cuda_operators:
                op(masks, boxes[0, :5], (120, 140))
    torch.cuda.synchronize()
    print("ran")


if __name__ == "__main__":
    main()
