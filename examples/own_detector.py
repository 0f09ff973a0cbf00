"""One operator in a detector of ten lines, trained for a moment: RoIAlign on two levels, NMS at the end."""

import argparse

import torch
from torch import Tensor, nn

from htc_fast import ops

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--small", action="store_true")
STEPS = 5 if options.parse_args().small else 200


class Detector(nn.Module):
    """Scores the boxes that it is given."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 32, 4, stride=4), nn.Conv2d(32, 32, 2, stride=2)
        self.score = nn.Linear(32 * 49, 2)

    def forward(self, image: Tensor, rois: Tensor) -> Tensor:
        fine = self.fine(image).relu()
        maps = [fine, self.coarse(fine).relu()]
        return self.score(ops.multi_level_roi_align(maps, rois, 7, (1 / 4, 1 / 8), canonical_level=3).flatten(1))


torch.manual_seed(0)
model, image = Detector(), torch.rand(1, 3, 128, 128) * 0.2
image[:, :, 40:90, 30:100] += 0.8  # the object
corners = torch.rand(200, 2) * 80
rois = torch.cat([torch.zeros(200, 1), corners, corners + 20 + torch.rand(200, 2) * 50], dim=1)
inside = (rois[:, 1:3] > torch.tensor([25.0, 35])).all(1) & (rois[:, 3:] < torch.tensor([105.0, 95])).all(1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
for _ in range(STEPS):
    loss = nn.functional.cross_entropy(model(image, rois), inside.long())
    loss.backward(), optimizer.step(), optimizer.zero_grad()
keep = ops.nms(rois[:, 1:], model(image, rois).softmax(1)[:, 1], iou_threshold=0.5)
print(f"loss {loss.item():.3f}; {len(keep)} of {len(rois)} boxes are left")
