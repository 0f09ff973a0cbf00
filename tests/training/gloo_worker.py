"""One of two processes: half of the batch's gradients, then a short run; writes what it found."""

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from htc_fast.criterion.losses import losses
from htc_fast.training import Callback, distributed
from htc_fast.training.loop import Loop
from tests.training.tiny import Pictures, collate, tiny_batches, tiny_model, tiny_recipe

# Unlike numbers of instances, one picture without any: the processes' own normalisers would differ.
INDICES = (0, 4, 2, 5)


def first_sampler(assigned, generator=None):
    """No randomness: earlier candidates first."""
    return -torch.arange(assigned.shape[1], dtype=torch.float32).expand(assigned.shape)


class Step(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = tiny_model().train()
        # Scores apart from one another, so that rounding cannot change the order of proposals.
        torch.nn.init.normal_(self.model.rpn.objectness.weight, generator=torch.Generator().manual_seed(1))

    def forward(self, images, image_sizes, targets):
        return sum(losses(self.model, images, image_sizes, targets, first_sampler).values())


class Enough(Callback):
    """Asks for the run's end, in the leading process, as no other calls it."""

    def on_step(self, iteration, numbers):
        self.end_run("ten steps are enough")


def scored(world, model):
    return {"mask_AP": 0.0} if world.is_main else {}


def picture(index):
    torch.manual_seed(index)
    return Pictures()[index]


def gradients(indices, wrap=lambda step: step):
    step = wrap(Step())
    *batch, _ = collate([picture(index) for index in indices])
    step(*batch).backward()
    module = getattr(step, "module", step)
    return {name: p.grad for name, p in module.model.named_parameters() if p.requires_grad}


def main(folder):
    world = distributed.start("cpu")
    assert world.size == 2
    mine = INDICES[2 * world.rank : 2 * world.rank + 2]
    torch.save(gradients(mine, torch.nn.parallel.DistributedDataParallel), folder / f"gradients{world.rank}.pt")
    recipe = tiny_recipe(iterations=2, accumulate=2, save_every=1)
    trainer = Loop(tiny_model(), tiny_batches(world=world), recipe, folder / "run", world)
    trainer.run()
    assert world.agree(2**32 - 5) and not world.agree(world.rank)
    # Clocks and forecasts differ, and the limit is of few steps; the processes still take as many.
    limited = Loop(
        tiny_model(),
        tiny_batches(world=world),
        tiny_recipe(iterations=None, minutes=0.05, evaluate_every=1),
        folder / "limited",
        world,
        evaluate=partial(scored, world),
        forecast=lambda model: 0.01 * world.rank,
    )
    torch.save(asdict(limited.run()), folder / f"limited{world.rank}.pt")
    recipe, callbacks = tiny_recipe(iterations=40, log_every=10), [Enough()]
    score = partial(scored, world)
    early = Loop(tiny_model(), tiny_batches(world=world), recipe, folder / "early", world, score, callbacks=callbacks)
    torch.save(asdict(early.run()), folder / f"early{world.rank}.pt")
    model = tiny_model()
    model.backbone.norm_eval = False  # statistics that run are each process's own
    recipe = tiny_recipe(iterations=3, accumulate=2, ema=0.9, no_decay=True, layer_decay=0.5, evaluate_every=1)
    averaged = Loop(model, tiny_batches(world=world), recipe, folder / "averaged", world)
    averaged.run()
    torch.save(averaged.model.state_dict(), folder / f"averaged{world.rank}.pt")
    torch.save(trainer.model.state_dict(), folder / f"weights{world.rank}.pt")
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
