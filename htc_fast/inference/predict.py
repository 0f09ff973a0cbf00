"""From pictures to instances: load, resize, detect, and back to the pictures' own pixels."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from htc_fast import ops
from htc_fast.data.classes import check_names, classes_of
from htc_fast.data.instances import Instances
from htc_fast.data.pictures import framed_size, list_pictures, normalise_and_pad, resize, resized_size, to_device
from htc_fast.device import usable_cores
from htc_fast.errors import UserError, check_count, check_score, check_sides, say_once, short
from htc_fast.inference.reading import Fit, Picture, Reader, Sources
from htc_fast.inference.threads import ahead
from htc_fast.models.config import Model
from htc_fast.models.htc import HTC
from htc_fast.models.structures import Detections, DetectorLike, FramedLike, Predictor, ViewsLike
from htc_fast.ranges import part

SIZE = (800, 1333)


def predict(
    model: Predictor,
    images: Any,
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 1,
    score_threshold: float = 0.05,
    class_names: Sequence[str] | None = None,
    workers: int = 0,
) -> list[Instances]:
    """Find the instances in pictures.

    images           path, PIL image or array [H, W, 3] RGB (see `load_image`), or a list or batch [N, H, W, 3] of them
    size             (short side, long side) the network sees; None: that of the model's training, else 800, 1333; for
                     one of a single frame, such as a file, what fits into that
    batch_size       pictures at once; `Views` take one after the other, a file of a fixed batch that many
    score_threshold  0 to 1; lower-scored instances are left out
    class_names      by label; None: those of the model's training, else COCO's for 80 classes
    workers          threads that read pictures ahead; 0: one on a CPU, up to 8 beside a GPU
    returns          one Instances per picture, in its own pixels, best first
    raises           UserError if a file is missing or no picture, an array cannot be understood, or an option makes no
                     sense
    """
    sources = list_pictures(images)
    found: dict[int, Instances] = {}
    results = stream(
        model,
        len(sources),
        Sources(sources),
        size=size,
        batch_size=batch_size,
        score_threshold=score_threshold,
        class_names=class_names,
        workers=workers,
    )
    for index, result in results:
        if isinstance(result, UserError):
            raise result
        say_full(model, result, score_threshold)
        found[index] = result
    return [found[index] for index in range(len(sources))]


def stream(
    model: Predictor,
    count: int,
    load: Callable[[int], np.ndarray],
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 1,
    score_threshold: float = 0.0,
    class_names: Sequence[str] | None = None,
    workers: int = 0,
    order: Sequence[int] | None = None,
) -> Iterator[tuple[int, Instances | UserError]]:
    """Predict one batch after the other; a picture that cannot be read gives its error instead.

    Pictures are read ahead in threads. On a GPU the next batch is under way while one becomes run lengths; the host
    never holds more than a few batches.

    load   number of a picture -> uint8 [H, W, 3];  called in threads, but for a single picture
    order  which pictures, and in which order; None: all
    """
    batch_size, workers = check_count("batch_size", batch_size), check_count("workers", workers, least=0)
    score_threshold = check_score("score_threshold", score_threshold)
    names = classes_of(model.config)[0] if class_names is None else check_names(class_names, model.config)
    size = None if size is None else check_sides("size", size)
    device = next(model.parameters()).device
    gpu = device.type == "cuda"
    side = torch.cuda.Stream(device) if gpu else None
    threads = workers or (min(8, usable_cores()) if gpu else 1)
    read = Reader(load, _fit(model, size), device)
    batch_size = (model.frame[0] if isinstance(model, FramedLike) else None) or batch_size
    numbers = range(count) if order is None else order
    # To start a thread, and a GPU in it, takes longer than to read one picture.
    loaded = ahead(read, numbers, threads if workers or len(numbers) > 1 else 0, depth=threads + 2 * batch_size)
    training = model.training
    # Dropout and stochastic depth of a backbone are for training.
    model.eval()
    started: deque[_Batch] = deque()
    try:
        for batch in _batches(loaded, batch_size):
            yield from ((index, item) for index, item in batch if isinstance(item, UserError))
            good = [(index, item) for index, item in batch if not isinstance(item, UserError)]
            for group in _groups(model, good):
                started.append(_Batch(model, group, device, size))
                # On a GPU `detect` returns at once: one batch stays under way.
                while len(started) > gpu:
                    yield from started.popleft().finish(score_threshold, names, side)
        while started:
            yield from started.popleft().finish(score_threshold, names, side)
    finally:
        loaded.close()
        model.train(training)


def say_full(model: Predictor, found: Instances, threshold: float) -> None:
    """Say once that a picture has as many instances as the model gives, so that it may hold more."""
    limit = model.config.detections
    if threshold > 0 and len(found) >= limit:  # without a threshold every picture is full
        say_once(
            f"a picture has {limit} objects, which is the limit, so there may be more in it: --detections raises that, "
            "of an ONNX file where it is exported (in Python model.config = dataclasses.replace(model.config, "
            "detections=...))."
        )


def at_stage(model: Predictor, stage: int | None) -> contextlib.AbstractContextManager[None]:
    """Within, the model detects with one stage of its cascade alone (1, 2, 3), or with all (None).

    raises  UserError if there is no such stage
    """
    check_stage(model.config, stage)
    return changed(model, test_stage=stage)


def check_stage(config: Model, stage: int | None) -> None:
    """raises  UserError if the model has no such stage"""
    count = len(config.stages.match_iou)
    if stage is not None and (isinstance(stage, bool) or stage not in range(1, count + 1)):
        stages = f"stages 1 to {count}" if count > 1 else "one stage"
        raise UserError(f"there is no stage {short(stage)}: {config.name} has {stages}.")


@contextlib.contextmanager
def changed(model: Predictor, **fields: Any) -> Iterator[None]:
    """Within, the model's configuration has other values."""
    before = model.config
    after = replace(before, **fields)
    if after == before:  # an optimized model would drop its graphs
        yield
        return
    model.config = after
    try:
        yield
    finally:
        model.config = before


def _batches(items: Iterator, batch_size: int) -> Iterator[list]:
    while batch := list(islice(items, batch_size)):
        yield batch


def _fit(model: Predictor, size: tuple[int, int] | None) -> Fit | None:
    if isinstance(model, ViewsLike):  # they resize pictures themselves
        return None
    if size is None and isinstance(model, FramedLike):
        frame = model.frame[1:]
        return lambda height, width: framed_size(height, width, frame)
    short_side, long_side = size or model.config.image_size or SIZE
    return lambda height, width: resized_size(height, width, short_side, long_side)


def _groups(model: Predictor, pictures: list[tuple[int, Picture]]) -> list[list[tuple[int, Picture]]]:
    if isinstance(model, ViewsLike):
        return [[one] for one in pictures]
    if isinstance(model, FramedLike):
        return [pictures] if pictures else []
    # Padded to one size, upright and lying pictures would be mostly padding.
    lying = [one for one in pictures if one[1].resized[0] <= one[1].resized[1]]
    upright = [one for one in pictures if one[1].resized[0] > one[1].resized[1]]
    return [group for group in (lying, upright) if group]


class _Batch:
    """Pictures that the detector is at work on."""

    @torch.no_grad()
    def __init__(
        self,
        model: Predictor,
        pictures: list[tuple[int, Picture]],
        device: torch.device,
        size: tuple[int, int] | None,
    ):
        self.numbers = [number for number, _ in pictures]
        self.pictures = [picture for _, picture in pictures]
        with part("preprocess"):
            pixels = [to_device(one.pixels, device) for one in self.pictures]
        if isinstance(model, ViewsLike):
            self.found, frame = model.look(pixels[0], size)
            self.pictures = [replace(self.pictures[0], resized=frame)]
        else:
            self.found = self._detect(model, pixels)
        self.done = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None

    def _detect(self, model: DetectorLike, pixels: list[Tensor]) -> Detections:
        with part("preprocess"):
            pixels = [resize(one, picture.resized) for one, picture in zip(pixels, self.pictures)]
        if isinstance(model, FramedLike):
            return model.see(pixels)
        with part("preprocess"):
            batch, sizes = normalise_and_pad(pixels, model.config.mean, model.config.std, pixels[0].device)
            if isinstance(model, HTC):  # of .half() or .double(); an optimized one casts by itself
                batch = batch.to(next(model.parameters()).dtype)
        return model.detect(batch, sizes)

    @torch.no_grad()
    def finish(
        self, threshold: float, names: Sequence[str], side: torch.cuda.Stream | None
    ) -> list[tuple[int, Instances]]:
        """Wait for the detections, and bring them to the pictures' own pixels.

        side  a stream of the GPU, because that of `detect` is already busy with the next batch
        """
        if side is None or self.done is None:
            return self._finish(threshold, names)
        with torch.cuda.stream(side):
            side.wait_event(self.done)
            return self._finish(threshold, names)

    def _finish(self, threshold: float, names: Sequence[str]) -> list[tuple[int, Instances]]:
        found, device = self.found, self.found.boxes.device
        counts = found.count.tolist()  # the one wait of a batch, besides that for its run lengths
        boxes, scores, labels = found.boxes.float().cpu(), found.scores.float().cpu(), found.labels.cpu()
        results = []
        for n, picture in enumerate(self.pictures):
            height, width = picture.original
            kept = int((scores[n, : counts[n]] >= threshold).sum())  # best first, so these are the first
            factor = torch.tensor([width / picture.resized[1], height / picture.resized[0]] * 2)
            own = boxes[n, :kept] * factor
            with part("paste + RLE"):
                rle = ops.encode_masks(found.masks[n, :kept].float(), to_device(own, device), picture.original)
            instances = Instances(
                boxes=own,
                scores=scores[n, :kept],
                labels=labels[n, :kept],
                rle=rle,
                size=picture.original,
                class_names=names,
            )
            results.append((self.numbers[n], instances))
        return results
