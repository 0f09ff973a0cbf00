"""A detector made ready for inference: the same `detect` and `predict`, in less time."""

import operator
import warnings
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from htc_fast import cores
from htc_fast.data.pictures import frame_of, list_pictures
from htc_fast.device import keep_memory, out_of_memory, supports
from htc_fast.errors import check_count, check_sides, short
from htc_fast.inference import int8
from htc_fast.inference.buckets import describe
from htc_fast.inference.graphs import graph_buckets
from htc_fast.inference.layout import prepare
from htc_fast.inference.predict import SIZE, at_stage, predict
from htc_fast.models.config import Model
from htc_fast.models.htc import HTC
from htc_fast.models.inputs import check_images
from htc_fast.models.structures import Detections
from htc_fast.ops import _onednn_int8
from htc_fast.ops._fastest import fastest

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
INT8 = "int8"
GRAPHS = 64  # about as many shapes as pictures resized to 800 x 1333 come in


def optimize(
    model: HTC,
    image_size: tuple[int, int] = (800, 1344),
    batch_size: int = 1,
    dtype: torch.dtype | str | None = None,
    calibration: Any = None,
) -> "Optimized":
    """Copy a detector into the form that detects fastest where it is.

    model       from `create_model`, on its device; it stays as it is. A change of it is noticed at the next `detect`,
                but for what is written through `.data` or into its memory from elsewhere, which torch does not count:
                call `optimize` again after that
    image_size  (height, width) in pixels of the largest input, also upright
    batch_size  images at once
    dtype       float32, bfloat16 or float16, or on a processor "int8"; where the processor lacks it, float32 with a
                warning. None: bfloat16 on a GPU, on a processor the faster of bfloat16 and float32, which is measured
    calibration for "int8": pictures as `predict` takes them, some 16 of those that will come, on which the ranges of
                features are found
    returns     Optimized
    raises      TypeError, ValueError; UserError for a picture that cannot be read
    source      float32 results equal the model's to 1e-4
    """
    if not isinstance(model, HTC):
        raise TypeError(f"model must be a detector from htc_fast.create_model, got {type(model).__name__}.")
    if dtype not in (None, *DTYPES, INT8):
        raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, '{INT8}' or None, got {short(dtype)}.")
    image_size = check_sides("image_size", image_size, "height, width", ordered=False)
    batch_size = check_count("batch_size", batch_size)
    device = next(model.parameters()).device
    if calibration is not None and dtype != INT8:
        raise ValueError(f"calibration is for dtype='{INT8}', got dtype={dtype}: leave it out.")
    if dtype is None:
        dtype = fastest().dtype if device.type == "cpu" else torch.bfloat16
    elif isinstance(dtype, str):
        dtype, calibration = _calibration(device, calibration)
    if not supports(dtype, device):
        name = str(dtype).removeprefix("torch.")
        warnings.warn(f"this {device.type} has no {name} arithmetic, so the model computes in float32.", stacklevel=2)
        dtype = torch.float32
    if device.type == "cpu":
        keep_memory()
    cores.adapt(device)
    made = Optimized(model, image_size, batch_size, dtype, quantized=calibration is not None)
    if calibration is not None:
        made.calibrate(calibration)
    return made


def _calibration(device: torch.device, pictures: Any) -> tuple[torch.dtype, list | None]:
    """The type of what is not in 8 bits, and the pictures; None where the processor has no 8 bits."""
    if device.type != "cpu":
        raise ValueError(f"dtype='{INT8}' is for processors, the model is on {device}: move it there.")
    found = [] if pictures is None else list_pictures(pictures)
    if not found:
        raise ValueError(f"dtype='{INT8}' needs calibration: pictures as predict takes them, some 16, got none.")
    if not (_onednn_int8.offered() and supports(torch.int8, device)):
        lacking = "processor has no int8 arithmetic (VNNI or AMX)" if _onednn_int8.offered() else "torch has no int8"
        warnings.warn(f"this {lacking}, so the model computes in float32.", stacklevel=3)
        return torch.float32, None
    return torch.bfloat16 if supports(torch.bfloat16, device) else torch.float32, found


def optimized(model: HTC, size: tuple[int, int] | None, batch_size: int, amp: bool) -> "Optimized":
    """`optimize` for pictures of (short side, long side), in bf16 where it is asked for."""
    size = size or model.config.image_size or SIZE
    return optimize(model, size, batch_size, torch.bfloat16 if amp else torch.float32)


class Optimized(nn.Module):
    """What `optimize` returns: `detect` and `predict` as the detector's, always in evaluation mode.

    Batch norms, activations and residual sums are folded into the backbone's convolutions, the top-down sums into the
    pyramid's. Weights lie as the kernels read them and in their own precision, to which images are cast once. On a GPU
    each input shape becomes one CUDA graph at first use. Threads may call at once: on a GPU they take turns, each on
    its own stream.
    """

    def __init__(
        self, model: HTC, image_size: tuple[int, int], batch_size: int, dtype: torch.dtype, quantized: bool = False
    ):
        super().__init__()
        self.dtype, self.batch_size = dtype, batch_size
        self.largest = frame_of(image_size)
        self.network = prepare(model, dtype, quantized=quantized)
        self.device = next(model.parameters()).device
        self.buckets = None
        if self.device.type == "cuda":
            pixels = batch_size * self.largest[0] * self.largest[1]
            self.buckets = graph_buckets(self._detect, self.device, pixels, batch_size, GRAPHS)
        self._source = _Watched(model)
        self.training = False

    predict = predict

    def calibrate(self, pictures: list) -> None:
        """Find the ranges of features on pictures, and go to 8 bits; once, by `optimize`."""
        wanted = self.config.image_size or SIZE
        size = min(min(wanted), min(self.largest)), min(max(wanted), max(self.largest))
        with at_stage(self, None):
            self.predict(pictures, size=size)
        int8.settle(self.network)

    @property
    def config(self) -> Model:
        """The detector's configuration; another test_stage may be set."""
        return self.network.config

    @config.setter
    def config(self, value: Model) -> None:
        self.network.config = value
        if self.buckets is not None:
            self.buckets.clear()

    def train(self, mode: bool = True) -> "Optimized":
        """Stays in evaluation mode: training is the detector's."""
        return self

    @torch.no_grad()
    def detect(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """Find objects.

        images       [N, 3, H, W]  as the detector's; N of any number, H and W within `image_size`, either way up
        image_sizes  [N, 2] int64
        returns      Detections
        raises       TypeError, ValueError for other or larger images; RuntimeError if the detector changed;
                     torch.OutOfMemoryError
        """
        self._check(images, image_sizes)
        if self.buckets is None:
            self._source.check()
            cores.adapt(self.device)
        parts = zip(images.split(self.batch_size), image_sizes.split(self.batch_size))
        found = [self._bucket(*part) for part in parts]
        if self.buckets is not None:  # the GPU is at work meanwhile
            self._source.check()
        if len(found) == 1:
            return found[0]
        return Detections(*(torch.cat(values) for values in zip(*(vars(one).values() for one in found))))

    def check_source(self) -> None:
        """raises  RuntimeError if the detector changed after it was copied"""
        self._source.check()

    def forward(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """As `detect`."""
        return self.detect(images, image_sizes)

    def _bucket(self, images: Tensor, image_sizes: Tensor) -> Detections:
        if self.buckets is None:
            try:
                return self._detect(images, image_sizes)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            # Outside the handler, whose traceback would keep the tensors that have to go.
            raise torch.OutOfMemoryError(describe((len(images), *images.shape[2:])))
        count = len(images)
        if count < self.batch_size:
            # One graph serves every number of images: black ones fill up, in which nothing is kept.
            fill = self.batch_size - count
            images = torch.cat([images, images.new_zeros(fill, *images.shape[1:])])
            image_sizes = torch.cat([image_sizes, image_sizes[:1].expand(fill, -1)])
        found = self.buckets(images, image_sizes)
        return Detections(*(value[:count] for value in vars(found).values()))

    def _detect(self, images: Tensor, image_sizes: Tensor) -> Detections:
        # Every layer has its type: whatever the caller has set would only undo that, in a graph for good.
        with torch.autocast(images.device.type, enabled=False):
            return self.network.detect(images, image_sizes)

    def _check(self, images: Tensor, image_sizes: Tensor) -> None:
        check_images(images, image_sizes)
        if images.device != self.device:
            raise ValueError(f"images are on {images.device} and the optimized model on {self.device}: move them.")
        height, width = images.shape[2:]
        if max(height, width) > max(self.largest) or min(height, width) > min(self.largest):
            raise ValueError(
                f"images of {height} x {width} are larger than the {self.largest[0]} x {self.largest[1]} the model was "
                "optimized for: call optimize with a larger image_size."
            )


class _Watched:
    """Notices that a detector changed after it was copied, in a fraction of a millisecond."""

    def __init__(self, model: HTC):
        # What is kept to compare with must not outlive the detector.
        self.model = weakref.ref(model, lambda _: self._forget())
        self.config = model.config
        inside = [part for one in model.modules() for part in (one._parameters, one._buffers, one._modules) if part]
        self.parts = [(part, list(part.values())) for part in inside]
        self.tensors = [one for one in (*model.parameters(), *model.buffers())]
        self.states = self._states()

    def check(self) -> None:
        """raises  RuntimeError if weights, modules or configuration are not what they were"""
        model = self.model()
        if model is None:
            return
        same = model.config is self.config and all(
            len(part) == len(values) and all(map(operator.is_, part.values(), values)) for part, values in self.parts
        )
        if not same or self._states() != self.states:
            raise RuntimeError("the detector changed after optimize copied it: call optimize again.")

    def _states(self) -> list[tuple[int, int]]:
        return [(one.data_ptr(), one._version) for one in self.tensors]

    def _forget(self) -> None:
        self.parts, self.tensors, self.states = [], [], []

    def __deepcopy__(self, memo: dict) -> "_Watched":
        return self

    def __getstate__(self):
        raise TypeError("an optimized model cannot be saved: save the detector, and optimize it after loading.")
