"""A loop without its weight: steps, evaluations and pictures only take time, on a clock that the test turns."""

import torch

from htc_fast.training.loop import Loop
from htc_fast.training.pace import Pace
from tests.training.tiny import tiny_batches, tiny_model, tiny_recipe

TERMS = ("rpn_class", "rpn_box", "stage1_class", "stage1_box", "stage1_mask")


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


def timed_loop(folder, step, evaluation=0.0, batch_size=1, length=10, model=None, **options):
    """A loop of steps that take step(iteration) seconds; its attributes: clock, rates (of each step), evaluated."""
    clock = Clock()

    def evaluate(model):
        clock.spend(evaluation)
        loop.evaluated.append(loop.at.iteration)
        return {"mask_AP": 0.5, "mask_AP50": 0.5}

    def forecast(model):
        clock.spend(evaluation / 20)
        return evaluation

    def update(batches):
        loop.rates.append(loop.optimizer.param_groups[0]["lr"])
        clock.spend(step(loop.at.iteration))
        return {name: torch.tensor(1.0) for name in TERMS}, batch_size

    recipe = tiny_recipe(**{"iterations": None, "log_every": 1000, "save_every": 0, **options})
    batches = tiny_batches(batch_size=batch_size, length=length)
    loop = Loop(model or tiny_model(), batches, recipe, folder, evaluate=evaluate, forecast=forecast)
    loop.pace = Pace(recipe.minutes, forecast=lambda: forecast(loop.model), clock=clock)
    loop.update, loop.clock, loop.rates, loop.evaluated, loop.began = update, clock, [], [], clock.now
    return loop
