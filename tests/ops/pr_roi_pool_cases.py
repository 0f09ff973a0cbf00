"""Precise RoI pooling's named cases: RoIAlign's, without what it does not have."""

import torch
from torch import Tensor

from htc_fast.ops.reference import pr_roi_pool as reference
from tests.ops.roi_cases import CASES as ROI_CASES
from tests.ops.roi_cases import Case, Inputs

SCALES = (1 / 4, 1 / 8, 1 / 16)
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


def pyramid(images=2, channels=37, dtype=torch.float32, seed=0, channels_last=True) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(images, channels, int(96 * s), int(160 * s), generator=generator).to(dtype) for s in SCALES]
    return [one.contiguous(memory_format=torch.channels_last) for one in made] if channels_last else made


def draw_numbered(count=40, images=2, seed=0, dtype=torch.float32) -> Tensor:
    """Boxes of all sizes, some of them partly or wholly outside."""
    generator = torch.Generator().manual_seed(seed)
    number = torch.randint(0, images, (count, 1), generator=generator)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([190.0, 115.0]) - 10
    size = torch.exp(torch.rand(count, 2, generator=generator) * 6)
    return torch.cat([number, centre - size / 2, centre + size / 2], dim=1).to(dtype)


class PreciseInputs(Inputs):
    def pool(self, column, maps: list[Tensor]) -> Tensor:
        return column.call("pr_roi_pool", maps, self.rois, self.case.size, self.scales, aligned=self.case.aligned)

    def run(self, column) -> tuple[Tensor, list[Tensor]]:
        """The output, and the gradients of all maps and of the rois."""
        maps, self.rois = [map.detach().requires_grad_() for map in self.maps], self.rois.detach().requires_grad_()
        out = self.pool(column, maps)
        return out.detach(), list(torch.autograd.grad(out, [*maps, self.rois], self.grad, materialize_grads=True))

    def precise(self) -> tuple[Tensor, list[Tensor], Tensor]:
        """The reference's output and gradients, to the maps and to the rois; edges in float32 as in the kernels."""
        maps = [map.float().requires_grad_() for map in self.maps]
        rois = self.rois.clone().requires_grad_()
        out = reference.pr_roi_pool(maps, rois, self.case.size, self.scales, self.case.aligned, 56.0)
        *grads, boxes = torch.autograd.grad(out, [*maps, rois], self.grad.float(), materialize_grads=True)
        return out.detach(), grads, boxes
