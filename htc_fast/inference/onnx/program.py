"""`detect` as what is translated: from pixels as the file's user has them to float32 results."""

import copy

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from htc_fast.models.htc import HTC
from htc_fast.ops.reference import exact
from htc_fast.ranges import named_in_graphs

INPUTS = ("images", "image_sizes")
OUTPUTS = ("boxes", "scores", "labels", "masks", "count")


class Pixels(nn.Module):
    """images and image_sizes [N, 2] -> the fields of Detections, those with a point in float32.

    images  [N, 3, H, W] float32, normalised, zeros where padded; with `raw` [N, H, W, 3] uint8 RGB, padded as it may be
    half    the network computes in float16; geometry and scores stay in float32
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: HTC, raw: bool, half: bool):
        super().__init__()
        self.model = model.half() if half else model
        self.raw, self.kind = raw, torch.float16 if half else torch.float32
        mean, std = (
            torch.tensor(one, dtype=torch.float32)[:, None, None] for one in (model.config.mean, model.config.std)
        )
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        if self.raw:
            images = self.normalised(images.float().permute(0, 3, 1, 2), image_sizes)  # TensorRT casts uint8, no more
        found = vars(self.model.detect(images.to(self.kind), image_sizes))
        return tuple(one.float() if one.is_floating_point() else one for one in (found[name] for name in OUTPUTS))

    def normalised(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """[N, 3, H, W] of 0 to 255, zeros where padded."""
        height, width = images.shape[2:]
        rows = torch.arange(height)[:, None] < image_sizes[:, 0, None, None]
        columns = torch.arange(width) < image_sizes[:, 1, None, None]
        return torch.where((rows & columns)[:, None], (images - self.mean) / self.std, 0.0)


def traced(
    model: HTC, image_size: tuple[int, int], batch_size: int, *, dynamic: bool, raw: bool, half: bool
) -> ExportedProgram:
    """The program on a CPU, whose nodes know which of the paper's parts they belong to.

    image_size  (height, width), sides that 32 divides
    dynamic     the batch may have any size, which `batch_size` is an example of
    """
    frozen = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    images, sizes = example(image_size, max(batch_size, 2) if dynamic else batch_size, raw)  # of one it would be fixed
    batch = {0: Dim("batch", min=1)} if dynamic else None
    with torch.no_grad(), exact.as_torch(), named_in_graphs():
        return torch.export.export(
            Pixels(frozen, raw, half), (images, sizes), dynamic_shapes=(batch, batch) if dynamic else None, strict=False
        )


def example(image_size: tuple[int, int], batch_size: int, raw: bool) -> tuple[Tensor, Tensor]:
    """Inputs of the program: zeros, and pictures that fill them."""
    height, width = image_size
    sizes = torch.tensor([[height, width]] * batch_size)
    if raw:
        return torch.zeros(batch_size, height, width, 3, dtype=torch.uint8), sizes
    return torch.zeros(batch_size, 3, height, width), sizes
