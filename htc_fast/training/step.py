"""What one step of training is made of: the next batch, its losses, and their gradient."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from htc_fast.criterion.losses import losses
from htc_fast.device import keep_memory
from htc_fast.errors import UserError
from htc_fast.models.htc import HTC
from htc_fast.models.structures import Targets
from htc_fast.ranges import part
from htc_fast.training.distributed import World


class Step(nn.Module):
    """Images to loss terms, as a module that DistributedDataParallel can wrap."""

    def __init__(self, model: HTC):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, image_sizes: Tensor, targets: Targets) -> dict[str, Tensor]:
        return losses(self.model, images, image_sizes, targets)


def make_step(model: HTC, world: World) -> nn.Module:
    """The step of one process, or of one among several, which share their gradients."""
    if world.device.type == "cpu":  # every step frees what the next one needs
        keep_memory()
    step = Step(model)
    if world.size == 1:
        return step
    # A semantic branch that only helps by its loss has features that nothing uses.
    unused = model.config.semantic == "loss"
    return nn.parallel.DistributedDataParallel(step, find_unused_parameters=unused)


def reseed(world: World, seed: int, iteration: int) -> None:
    """Make the random numbers of a step a function of (seed, rank, iteration)."""
    # torch.manual_seed also writes a traceback down, for a GPU that is not there.
    generator: Any = torch.default_generator if world.device.type == "cpu" else torch
    generator.manual_seed(((seed * 1_000_003 + world.rank) * 1_000_003 + iteration) % 2**63)


def learn(
    step: nn.Module,
    precision: Callable[[], AbstractContextManager],
    images: Tensor,
    image_sizes: Tensor,
    targets: Targets,
    count: int,
) -> dict[str, Tensor]:
    """Add to the weights' gradients what one of `count` batches has to say; returns its loss terms."""
    with part("forward"), precision():
        terms = step(images, image_sizes, targets)
    with part("backward"):
        (sum(terms.values()) / count).backward()  # type: ignore[union-attr]
    return {name: value.detach() for name, value in terms.items()}


def add(total: dict[str, Tensor], terms: dict[str, Tensor], count: int) -> None:
    """Add one of `count` batches to the mean loss terms of a step."""
    for name, value in terms.items():
        share = value / count
        total[name] = total[name] + share if name in total else share


def fetch(batches: Iterator, device: torch.device) -> tuple[Tensor, Tensor, Targets, list[str]]:
    """The next batch, on the device.

    raises  UserError if a picture cannot be read, or if the system ended a process that reads them
    """
    try:
        images, image_sizes, targets, names = next(batches)
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        return images, image_sizes.to(device, non_blocking=True), targets.to(device, non_blocking=True), names
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that loads pictures was ended by the system ({str(error).splitlines()[0].rstrip('. ')}), often "
            "for lack of memory: continue with fewer workers (--workers 0: none) or smaller pictures."
        ) from error
