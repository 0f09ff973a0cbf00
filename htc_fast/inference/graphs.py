"""A detector as CUDA graphs, one per input shape: copy in, replay, copy out; nothing waits for the host.

All graphs of a model share one memory pool and one buffer of input pixels, so no two of them may run at once, whatever
streams their callers are on: an event orders each behind the one before.
"""

import threading
import warnings

import torch
from torch import Tensor

from htc_fast.device import out_of_memory
from htc_fast.inference.buckets import Buckets, Detect, Shape
from htc_fast.models.branches import offering
from htc_fast.models.structures import Detections

# Captures one at a time in a process, and no waiting for the whole device meanwhile: it would end them.
_CAPTURE = threading.RLock()
ATTEMPTS = 2  # a capture also ends when somebody else's thread waits for the whole device


class Shared:
    """What the graphs of one model have in common.

    device  a GPU
    pixels  of the largest input, all images together
    images  how many at most
    stream  where graphs are captured: libraries keep a workspace per stream, and a model's own is shared with no other
    side    beside it, for what of a graph depends on nothing that runs meanwhile
    done    the end of the last replay
    """

    def __init__(self, device: torch.device, pixels: int, images: int):
        self.device = device
        with torch.cuda.device(device):
            self.stream, self.side = torch.cuda.Stream(device), torch.cuda.Stream(device)
            self.done = torch.cuda.Event()
            self.values = torch.zeros(3 * pixels, device=device)
            self.sizes = torch.zeros(images, 2, dtype=torch.int64, device=device)
            self.pool = torch.cuda.graph_pool_handle()

    def inputs(self, shape: Shape) -> tuple[Tensor, Tensor]:
        """images [N, 3, H, W], channels last, and image_sizes [N, 2], as views of the buffers."""
        count, height, width = shape
        images = self.values[: 3 * count * height * width].view(count, height, width, 3)
        return images.permute(0, 3, 1, 2), self.sizes[:count]

    def settle(self) -> None:
        """Wait for the last replay."""
        self.done.synchronize()

    def empty(self) -> None:
        """After the last graph: memory goes back. A pool ends with its graphs, so the next ones have a new one."""
        with _CAPTURE, torch.cuda.device(self.device):
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            self.pool = torch.cuda.graph_pool_handle()


class Captured:
    """A detection function as one CUDA graph."""

    WARM_UP = 3

    def __init__(self, detect: Detect, shape: Shape, shared: Shared):
        self.shared = shared
        self.images, self.image_sizes = shared.inputs(shape)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(shared.device):
            before = torch.cuda.current_stream()
            shared.stream.wait_stream(before)
            shared.stream.wait_event(shared.done)
            # Around the capture too: one that fails leaves its stream the current one.
            with torch.cuda.stream(shared.stream), offering(shared.side):
                self._capture(detect, shape)
            before.wait_stream(shared.stream)

    def _capture(self, detect: Detect, shape: Shape) -> None:
        self.images.zero_()
        self.image_sizes.copy_(torch.tensor([shape[1:]] * shape[0]))
        # Kernels are compiled and loaded, algorithms chosen and workspaces taken before anything is captured.
        for _ in range(self.WARM_UP):
            detect(self.images, self.image_sizes)
        # Other threads may allocate and copy meanwhile.
        capture = torch.cuda.graph(self.graph, self.shared.pool, self.shared.stream, capture_error_mode="thread_local")
        with _CAPTURE, capture:
            self.found = detect(self.images, self.image_sizes)

    def __call__(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """As `detect`; the results are the caller's own."""
        with torch.cuda.device(self.shared.device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self.shared.done)  # another graph, on another thread's stream, may still be at work
            self.images.copy_(images, non_blocking=True)
            self.image_sizes.copy_(image_sizes, non_blocking=True)
            self.graph.replay()
            found = Detections(*(value.clone() for value in vars(self.found).values()))
            self.shared.done.record(stream)
        return found


def graph_buckets(detect: Detect, device: torch.device, pixels: int, images: int, limit: int) -> Buckets:
    """Buckets that capture `detect` for every shape; one that cannot be captured runs as it is, with a warning."""
    shared = Shared(device, pixels, images)

    def make(shape: Shape) -> Detect:
        for _ in range(ATTEMPTS):
            try:
                return Captured(detect, shape, shared)
            except RuntimeError as error:
                if out_of_memory(error):
                    raise
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warnings.warn(f"images of {shape[1]} x {shape[2]} run without a CUDA graph: {reason}", stacklevel=2)
        return detect

    return Buckets(make, limit, shared.settle, shared.empty)
