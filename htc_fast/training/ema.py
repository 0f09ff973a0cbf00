"""An exponential average of the weights over the steps of a run, which detects better than the last step's weights.

It is what is evaluated, drawn and written as best.safetensors and model.safetensors; checkpoints hold the weights as
they are trained, and the average in their state.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from htc_fast.training.distributed import World


class Average:
    """Decay times the average so far plus the rest times the weights of now, after every step.

    The decay of the n-th step, from 0, is at most (1 + n) / (10 + n), so that the average is soon one of weights that
    have learnt. Running statistics of batch norms are averaged like weights; frozen weights and counts are the model's.
    It takes the memory of one more copy of the weights that train, and while they are exchanged that of one of them.

    model    on its device already; its weights stay where they are
    decay    0 to below 1; 0: nothing is kept, and the model holds its weights at all times
    world    in several processes weights are the same in all; running statistics may differ, and those of the main
             process are shown in all
    updates  attribute: steps that are in it
    on       attribute: whether the model holds the average, and this object the weights that train
    source   Polyak averaging, with the warm-up of TensorFlow's ExponentialMovingAverage
    """

    def __init__(self, model: nn.Module, decay: float, world: World | None = None):
        self.decay, self.world, self.updates, self.on = decay, world or World(), 0, False
        persistent = model.state_dict().keys() if decay else ()
        weights = {name: one for name, one in model.named_parameters() if one.requires_grad and decay}
        buffers = {name: one for name, one in model.named_buffers() if name in persistent and one.is_floating_point()}
        self.names, self.buffers = [*weights, *buffers], len(buffers)
        self.live = [one.detach() for one in (*weights.values(), *buffers.values())]
        self.kept = [one.clone() for one in self.live]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step; nothing waits for the device."""
        if self.decay:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            torch._foreach_lerp_(self.kept, self.live, 1 - decay)
            self.updates += 1

    def show(self) -> None:
        """Put the average into the model, if it is not there; the weights that train are kept meanwhile."""
        if not self.on:
            if self.world.size > 1:
                for buffer in self.kept[len(self.kept) - self.buffers :]:
                    dist.broadcast(buffer, 0)
            self._exchange()
            self.on = True

    def hide(self) -> None:
        """Put the weights that train back, bit for bit."""
        if self.on:
            self._exchange()
            self.on = False

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Within, the model holds the average."""
        hides = not self.on
        self.show()
        try:
            yield
        finally:
            if hides:
                self.hide()

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from."""
        return {"updates": self.updates, "weights": dict(zip(self.names, self.kept))}

    @torch.no_grad()
    def restore(self, state: dict[str, Any] | None) -> str:
        """Go on from a state; None: begin with the model's weights of now.

        returns  a sentence where there was an average and now is none, or the other way round; else an empty one
        raises   KeyError, TypeError, ValueError or AttributeError where it is none of this model
        """
        if not self.decay:
            left = "the checkpoint's average of the weights is left: they count as they are trained."
            return "" if state is None else left
        weights = dict(zip(self.names, self.live)) if state is None else state["weights"]
        updates = 0 if state is None else state["updates"]
        if weights.keys() != {*self.names} or type(updates) is not int or updates < 0:
            raise ValueError("an average of other weights")
        for name, kept in zip(self.names, self.kept, strict=True):
            if weights[name].shape != kept.shape:
                raise ValueError(f"{name} is of another shape")
            kept.copy_(weights[name])
        self.updates = updates
        return "the checkpoint has no average of the weights: one begins with its weights." if state is None else ""

    @torch.no_grad()
    def _exchange(self) -> None:
        # Values and not places: captured graphs read the places, and what is made of weights looks at their versions.
        for kept, live in zip(self.kept, self.live, strict=True):
            held = live.clone()
            live.copy_(kept)
            kept.copy_(held)
