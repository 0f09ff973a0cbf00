"""One captured graph per input shape; the least recently used goes when there are too many."""

import threading
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from htc_fast.models.structures import Detections

Shape = tuple[int, int, int]  # images, height, width
Detect = Callable[[Tensor, Tensor], Detections]


class Buckets:
    """Detection functions by shape, made at first use.

    make   shape -> function of images and image_sizes;  may run out of memory
    limit  how many are kept
    """

    def __init__(self, make: Callable[[Shape], Detect], limit: int):
        self.make, self.limit = make, limit
        self.made: OrderedDict[Shape, Detect] = OrderedDict()
        # A graph has one set of inputs and outputs: calls from several threads take turns.
        self.lock = threading.RLock()

    def __call__(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """Detect in images [N, 3, H, W] with the function for exactly that shape.

        raises  torch.OutOfMemoryError naming the shape; all other shapes' memory is free again then
        """
        shape = (len(images), *images.shape[2:])
        with self.lock:
            try:
                return self._of(shape)(images, image_sizes)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                message = describe(shape)
            # Outside the handler, whose traceback would keep the tensors that have to go.
            self.clear()
            raise torch.OutOfMemoryError(message)

    def clear(self) -> None:
        """Forget everything made so far, and give its memory back."""
        with self.lock:
            self.made.clear()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
                torch.cuda.empty_cache()

    def _of(self, shape: Shape) -> Detect:
        if shape not in self.made:
            while len(self.made) >= self.limit:
                self.made.popitem(last=False)
            self.made[shape] = self.make(shape)
        self.made.move_to_end(shape)
        return self.made[shape]


def out_of_memory(error: RuntimeError) -> bool:
    """Whether that is what went wrong, on any device."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def describe(shape: Shape) -> str:
    """What was too large, and what to lower."""
    count, height, width = shape
    lower = "batch_size, or the image size" if count > 1 else "the image size"
    return f"out of memory for {count} images of {height} x {width}: lower {lower}, or optimize with a 16-bit dtype."


class Captured:
    """A detection function as one CUDA graph: copy in, replay, copy out; nothing waits for the host.

    pool  memory that graphs which never run at once share
    """

    WARM_UP = 3

    def __init__(self, detect: Detect, shape: Shape, device: torch.device, pool: tuple):
        count, height, width = shape
        self.images = torch.zeros(count, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
        self.image_sizes = torch.tensor([[height, width]] * count, device=device)
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        # Libraries choose their algorithms and take their workspaces before anything is captured.
        with torch.cuda.stream(side):
            for _ in range(self.WARM_UP):
                detect(self.images, self.image_sizes)
        torch.cuda.current_stream(device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.found = detect(self.images, self.image_sizes)
        self.done = torch.cuda.Event()
        self.done.record()

    def __call__(self, images: Tensor, image_sizes: Tensor) -> Detections:
        stream = torch.cuda.current_stream(images.device)
        stream.wait_event(self.done)  # another thread's stream may still be at work
        self.images.copy_(images, non_blocking=True)
        self.image_sizes.copy_(image_sizes, non_blocking=True)
        self.graph.replay()
        found = Detections(*(value.clone() for value in vars(self.found).values()))
        self.done.record(stream)
        return found
