"""SGD as the paper's recipe has it, and the learning rate as a function of progress alone."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from htc_fast.errors import choose

OPTIMIZERS = ("sgd", "adamw")
BASE_BATCH = 16
BASE_RATE = 0.02


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a run.

    rate           full learning rate
    shape          "step" (times 0.1 at each of `steps`) or "cosine" (down to 0)
    steps          shares of the run; the paper's 16 and 19 of 20 epochs
    warmup         iterations of linear warm-up
    warmup_factor  first share of the rate
    source         mmdetection's HTC recipe; cosine for runs with a time limit
    """

    rate: float
    shape: str = "step"
    steps: tuple[float, ...] = (16 / 20, 19 / 20)
    warmup: int = 500
    warmup_factor: float = 0.001

    def __call__(self, iteration: int, progress: float) -> float:
        """The rate of an iteration (from 0) at a share `progress` (0 to 1) of the run."""
        progress = min(max(progress, 0.0), 1.0)
        if self.shape == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * progress))
        else:
            factor = 0.1 ** sum(progress >= step for step in self.steps)
        if iteration < self.warmup:
            factor *= self.warmup_factor + (1 - self.warmup_factor) * iteration / self.warmup
        return self.rate * factor


def scaled_rate(images_per_step: int) -> float:
    """The paper's 0.02 for 16 images per step, in proportion."""
    return BASE_RATE * images_per_step / BASE_BATCH


def make_optimizer(model: nn.Module, name: str, rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or AdamW, over everything that trains.

    raises  UserError for an unknown name
    """
    parameters: Iterable[nn.Parameter] = [p for p in model.parameters() if p.requires_grad]
    # Fused: one pass over weights, gradients and momenta instead of four, on the CPU too.
    if choose(name, OPTIMIZERS, "optimizer") == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=weight_decay, fused=True)
    return torch.optim.AdamW(parameters, rate, weight_decay=weight_decay, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
