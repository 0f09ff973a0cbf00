"""A loop without its weight: steps, evaluations and pictures only take time, on a clock that the test turns."""

import torch

from htc_fast.training.loop import Loop
from htc_fast.training.pace import Pace
from tests.training.tiny import tiny_batches, tiny_model, tiny_recipe

TERMS = ("rpn_class", "rpn_box", "stage1_class", "stage1_box", "stage1_mask")


class Clock:
    """Seconds that pass only when told; those of a slow time, (begin, end, times), count as several."""

    def __init__(self, slow=(0.0, 0.0, 1.0)):
        self.now = 1000.0
        begin, end, self.times = slow
        self.begin, self.end = self.now + begin, self.now + end

    def __call__(self):
        return self.now

    def spend(self, seconds):
        before = min(seconds, max(self.begin - self.now, 0.0))
        self.now, seconds = self.now + before, seconds - before
        if self.begin <= self.now < self.end:
            slow = min(seconds, (self.end - self.now) / self.times)
            self.now, seconds = self.now + slow * self.times, seconds - slow
        self.now += seconds


def timed_loop(folder, step, evaluation=0.0, batch_size=1, length=10, model=None, stop=None, clock=None, **options):
    """A loop of steps that take step(iteration) seconds, asked to stop in that after `stop` of them.

    Its attributes: clock, rates (of each step), evaluated, forecasts (how many).
    """
    clock = clock or Clock()

    def evaluate(model):
        clock.spend(evaluation)
        loop.evaluated.append(loop.at.iteration)
        return {"mask_AP": 0.5, "mask_AP50": 0.5}

    def forecast(model):
        before, loop.forecasts = clock.now, loop.forecasts + 1
        clock.spend(evaluation / 20)
        return 20 * (clock.now - before)

    def update(batches):
        loop.rates.append(loop.optimizer.param_groups[0]["lr"])
        clock.spend(step(loop.at.iteration))
        loop.asked = loop.asked or loop.at.iteration + 1 == stop
        return {name: torch.tensor(1.0) for name in TERMS}, batch_size

    recipe = tiny_recipe(**{"iterations": None, "log_every": 1000, "save_every": 0, **options})
    batches = tiny_batches(batch_size=batch_size, length=length)
    loop = Loop(model or tiny_model(), batches, recipe, folder, evaluate=evaluate, forecast=forecast)
    loop.pace = Pace(recipe.minutes, forecast=lambda: forecast(loop.model), clock=clock)
    loop.update, loop.clock, loop.rates, loop.evaluated, loop.began = update, clock, [], [], clock.now
    loop.forecasts = 0
    return loop
