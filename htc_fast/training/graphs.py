"""Forward and backward of training steps as CUDA graphs, one per shape of the batch.

A step is about 2400 small launches, which a GPU waits for; a graph is one. The first step of a shape runs as it
is, which compiles and chooses whatever has to be, the second is captured. Gradients are added in place to those that
are there, so these stay where they are from step to step.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from htc_fast.device import out_of_memory
from htc_fast.errors import UserError
from htc_fast.models.structures import Targets
from htc_fast.training.distributed import World

Learn = Callable[[Tensor, Tensor, Targets, int], dict[str, Tensor]]
MOST = 64  # shapes with a graph


def check_graphs(world: World) -> None:
    """raises  UserError where steps cannot be replayed: on a CPU, or by several processes"""
    if world.device.type != "cuda" or world.size > 1:
        here = f"{world.size} on a {world.device.type}"
        raise UserError(f"--graphs is for one process on a GPU, not for {here}: leave it out.")


class Graphs:
    """What `step.learn` does, replayed where the batch's shape was seen before; on one GPU, by one process.

    learn   images, image_sizes, targets and the batches of a step -> loss terms; it may not wait for the device
    world   this process and its GPU
    most    attribute: graphs kept, those used last
    raises  UserError as `check_graphs`
    """

    def __init__(self, learn: Learn, world: World):
        check_graphs(world)
        self.learn, self.device, self.most = learn, world.device, MOST
        self.made: OrderedDict[tuple, Captured] = OrderedDict()
        self.seen: set[tuple] = set()
        self.off = False
        self.buffers: dict[tuple[str, torch.dtype], Tensor] = {}
        self.stream, self.pool = torch.cuda.Stream(self.device), torch.cuda.graph_pool_handle()

    def __call__(self, images: Tensor, image_sizes: Tensor, targets: Targets, count: int) -> dict[str, Tensor]:
        """As `learn`; the terms are the caller's own."""
        given = {"images": images, "sizes": image_sizes, **vars(targets)}
        given = {name: one for name, one in given.items() if one is not None}
        key = count, *((name, one.shape, one.dtype) for name, one in given.items())
        if key not in self.made and (self.off or key not in self.seen or not self._capture(key, given, count)):
            self.seen.add(key)
            return self.learn(images, image_sizes, targets, count)
        self.made.move_to_end(key)
        return self.made[key](given)

    def _capture(self, key: tuple, given: dict[str, Tensor], count: int) -> bool:
        """Make the graph of a shape; where that cannot be, say why and go on without graphs."""
        try:
            if len(self.made) >= self.most:
                torch.cuda.synchronize(self.device)
                self.made.popitem(last=False)
                if not self.made:  # a pool ends with its graphs
                    self.pool = torch.cuda.graph_pool_handle()
            inputs = {name: self._place(name, one) for name, one in given.items()}
            self.made[key] = Captured(self.learn, inputs, count, self.stream, self.pool)
        except RuntimeError as error:
            lacks = out_of_memory(error)
            reason = "not enough memory for them" if lacks else (str(error).strip().splitlines() or ["unknown"])[0]
            warnings.warn(f"steps run without CUDA graphs from here on: {reason}", stacklevel=2)
            self._stop()
            return False
        return True

    def _place(self, name: str, like: Tensor) -> Tensor:
        """Where graphs read an input: all shapes share one buffer, a larger one where it does not fit."""
        buffer = self.buffers.get((name, like.dtype))
        if buffer is None or buffer.numel() < like.numel():
            buffer = self.buffers[name, like.dtype] = like.new_empty(like.numel())
        if name == "images":  # channels last
            count, channels, height, width = like.shape
            return buffer[: like.numel()].view(count, height, width, channels).permute(0, 3, 1, 2)
        return buffer[: like.numel()].view(like.shape)

    def _stop(self) -> None:
        self.off = True
        for generator in torch.cuda.default_generators:
            # A capture that failed leaves its generator waiting for the capture's end; a copy of its state does not.
            generator.graphsafe_set_state(generator.clone_state())
        torch.cuda.synchronize(self.device)
        self.made.clear()
        self.buffers.clear()
        torch.cuda.empty_cache()


class Captured:
    """One shape's forward and backward."""

    def __init__(self, learn: Learn, inputs: dict[str, Tensor], count: int, stream: torch.cuda.Stream, pool: Any):
        self.inputs, self.graph = inputs, torch.cuda.CUDAGraph()
        values = dict(inputs)
        images, sizes = values.pop("images"), values.pop("sizes")
        # What loads pictures may allocate meanwhile.
        with torch.cuda.graph(self.graph, pool, stream, capture_error_mode="thread_local"):
            terms = learn(images, sizes, Targets(**values), count)
            self.names, self.terms = list(terms), torch.stack(list(terms.values()))

    def __call__(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        for name, one in given.items():
            self.inputs[name].copy_(one, non_blocking=True)
        self.graph.replay()
        return dict(zip(self.names, self.terms.clone().unbind(), strict=True))
