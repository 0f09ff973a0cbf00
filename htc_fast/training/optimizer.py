"""SGD as the paper's recipe has it, or AdamW, and the learning rate as a function of progress alone."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from htc_fast.errors import choose
from htc_fast.training.groups import parameter_groups

OPTIMIZERS = ("sgd", "adamw")
BASE_BATCH = 16
BASE_RATE = 0.02
ADAMW_RATE = 1e-4


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


def scaled_rate(images_per_step: int, optimizer: str = "sgd") -> float:
    """The rate for so many images per step, from that for 16 of them.

    returns  sgd: the paper's 0.02, in proportion; adamw: HTC++'s 1e-4, by the root, as steps of Adam do not grow with
             the gradient
    source   Goyal et al. 2017 for SGD, Malladi et al. 2022 for Adam
    """
    if optimizer == "adamw":
        return ADAMW_RATE * math.sqrt(images_per_step / BASE_BATCH)
    return BASE_RATE * images_per_step / BASE_BATCH


def make_optimizer(
    model: nn.Module,
    name: str,
    rate: float,
    weight_decay: float,
    no_decay: bool = False,
    layer_decay: float = 1.0,
) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or AdamW, over everything that trains.

    no_decay, layer_decay  as `parameter_groups` has them
    raises                 UserError for an unknown name
    """
    # Fused: one pass over weights, gradients and momenta instead of four, on the CPU too.
    sgd = choose(name, OPTIMIZERS, "optimizer") == "sgd"
    groups = parameter_groups(model, weight_decay, no_decay, layer_decay)
    if sgd:
        return torch.optim.SGD(groups, rate, momentum=0.9, weight_decay=weight_decay, fused=True)
    return torch.optim.AdamW(groups, rate, weight_decay=weight_decay, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group its share of this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)


def full_rate(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate that was set, which the heads have."""
    return max(group["lr"] for group in optimizer.param_groups)
