"""Precise RoI pooling's named cases: RoIAlign's, without what it does not have; shared with the GPU's tests."""

import torch
from roi_cases import CASES as ROI_CASES
from roi_cases import Case, Inputs
from torch import Tensor

from htc_fast.ops.reference import pr_roi_pool as reference

# A sum over channels, bins and pixels, some of which cancel; as a share of the largest.
BOXES_TOLERANCE = 5e-6

CASES = {name: case for name, case in ROI_CASES.items() if case.semantic == 0 and case.ratio == 0} | {
    "unaligned": Case(aligned=False),
    "half": Case(dtype=torch.float16, channels=24),
    "brain": Case(dtype=torch.bfloat16, channels=24),
    "nchw_half": Case(layout="contiguous", dtype=torch.float16, count=4),
    "many_channels": Case(channels=300, count=3, size=(2, 3)),
    "tiny_maps": Case(levels=((1, 1), (2, 1), (1, 3), (1, 1))),
    "strange": Case(boxes="strange", count=12),
    "no_boxes": Case(count=0),
}


class PreciseInputs(Inputs):
    def precise(self) -> tuple[Tensor, list[Tensor], Tensor]:
        """The reference's output and gradients, to the maps and to the rois; edges in float32 as in the kernels."""
        maps = [map.float().requires_grad_() for map in self.maps]
        rois = self.rois.clone().requires_grad_()
        out = reference.pr_roi_pool(maps, rois, self.case.size, self.scales, self.case.aligned, 56.0)
        *grads, boxes = torch.autograd.grad(out, [*maps, rois], self.grad.float(), materialize_grads=True)
        return out.detach(), grads, boxes
