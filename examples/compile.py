"""torch.compile over our operators: one graph without a break, and another number of boxes needs no second one."""

import argparse

import torch
from torch import Tensor, nn

from htc_fast import ops

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--small", action="store_true")
SIDE, CHANNELS, BACKEND = (16, 8, "aot_eager") if options.parse_args().small else (64, 64, "inductor")


class Head(nn.Module):
    """From a pyramid and boxes to what is kept of them."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(CHANNELS * 49, 81)

    def forward(self, maps: list[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        pooled = ops.multi_level_roi_align(maps, rois, 7, (1 / 4, 1 / 8, 1 / 16, 1 / 32))
        scores, labels = self.score(pooled.flatten(1)).softmax(1)[:, :-1].max(1)
        keep, _ = ops.batched_nms_padded(rois[None, :, 1:], scores[None], labels[None], 0.5, max_output=10)
        return keep[0], scores


torch.manual_seed(0)
model = Head().eval()
compiled = torch.compile(model, backend=BACKEND, fullgraph=True, dynamic=True)  # a break would be an error
maps = [torch.rand(1, CHANNELS, SIDE // step, SIDE // step) for step in (1, 2, 4, 8)]
with torch.no_grad():
    for count in (100, 73, 250):
        corners = torch.rand(count, 2) * 2 * SIDE
        rois = torch.cat([torch.zeros(count, 1), corners, corners + 10 + torch.rand(count, 2) * SIDE], dim=1)
        with torch.compiler.set_stance("default" if count == 100 else "fail_on_recompile"):
            found = compiled(maps, rois)
        torch.testing.assert_close(found, model(maps, rois))
print("one graph for three numbers of boxes, the results as without compiling")
