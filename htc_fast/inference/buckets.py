"""Detection functions by input shape, made at first use; the least recently used goes when there are too many."""

import threading
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from htc_fast.device import out_of_memory
from htc_fast.models.structures import Detections

Shape = tuple[int, int, int]  # images, height, width
Detect = Callable[[Tensor, Tensor], Detections]


class Buckets:
    """Detection functions by shape, made at first use.

    make    shape -> function of images and image_sizes; may run out of memory
    limit   how many are kept
    settle  waits until what was made is at rest: called before anything made goes
    empty   called when nothing made is left, to give its memory back
    """

    def __init__(
        self,
        make: Callable[[Shape], Detect],
        limit: int,
        settle: Callable[[], None] = lambda: None,
        empty: Callable[[], None] = lambda: None,
    ):
        self.make, self.limit, self.settle, self.empty = make, limit, settle, empty
        self.made: OrderedDict[Shape, Detect] = OrderedDict()
        # Graphs share their memory, inputs and outputs: calls from several threads take turns.
        self.lock = threading.RLock()

    def __call__(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """Detect in images [N, 3, H, W] with the function for exactly that shape.

        Where memory runs out, the other shapes' goes first.

        raises  torch.OutOfMemoryError naming the shape; all shapes' memory is free again then
        """
        with self.lock:
            found = self._try(images, image_sizes)
            if found is None:
                alone = not self.made
                self.clear()
                found = None if alone else self._try(images, image_sizes)
            if found is not None:
                return found
            self.clear()
        raise torch.OutOfMemoryError(describe((len(images), *images.shape[2:])))

    def clear(self) -> None:
        """Forget everything made so far, and give its memory back."""
        with self.lock:
            self.settle()
            self.made.clear()
            self.empty()

    def _try(self, images: Tensor, image_sizes: Tensor) -> Detections | None:
        """None where memory ran out: outside the handler, whose traceback would keep the tensors that have to go."""
        try:
            return self._of((len(images), *images.shape[2:]))(images, image_sizes)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        return None

    def _of(self, shape: Shape) -> Detect:
        if shape not in self.made:
            if len(self.made) >= self.limit:
                self.settle()
                while len(self.made) >= self.limit:
                    self.made.popitem(last=False)
                if not self.made:
                    self.empty()
            self.made[shape] = self.make(shape)
        self.made.move_to_end(shape)
        return self.made[shape]


def describe(shape: Shape, advice: str | None = None) -> str:
    """What was too large, and what to lower, unless there is other advice."""
    count, height, width = shape
    lower = "batch_size, or the image size" if count > 1 else "the image size"
    what = "image" if count == 1 else "images"
    advice = advice or f"lower {lower}, or optimize with a 16-bit dtype."
    return f"out of memory for {count} {what} of {height} x {width}: {advice}"
