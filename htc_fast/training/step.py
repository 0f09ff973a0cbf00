"""What one step of training is made of: the next batch, and its losses."""

from collections.abc import Iterator

from torch import Tensor, nn

from htc_fast.criterion.losses import losses
from htc_fast.errors import UserError
from htc_fast.models.htc import HTC
from htc_fast.models.structures import Targets


class Step(nn.Module):
    """Images to loss terms, as a module that DistributedDataParallel can wrap."""

    def __init__(self, model: HTC):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, image_sizes: Tensor, targets: Targets) -> dict[str, Tensor]:
        return losses(self.model, images, image_sizes, targets)


def fetch(batches: Iterator) -> tuple[Tensor, Tensor, Targets, list[str]]:
    """The next batch.

    raises  UserError if a picture cannot be read, or if the system ended a process that reads them
    """
    try:
        return next(batches)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that loads pictures was ended by the system ({str(error).splitlines()[0].rstrip('. ')}), often "
            "for lack of memory: continue with fewer workers (--workers 0: none) or smaller pictures."
        ) from error
