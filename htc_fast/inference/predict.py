"""From pictures to instances: load, resize, detect, and back to the pictures' own pixels."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from htc_fast.cores import usable_cores
from htc_fast.data.classes import check_names, classes_of
from htc_fast.data.instances import Instances
from htc_fast.data.pictures import framed_size, list_pictures, resized_size
from htc_fast.data.windows import Windows, open_windows
from htc_fast.errors import UserError, check_count, check_score, check_sides, say_once, short
from htc_fast.inference import tiles
from htc_fast.inference.batch import Batch
from htc_fast.inference.reading import Fit, Reader, Sources, grouped
from htc_fast.inference.threads import ahead
from htc_fast.inference.tiles import Tiling
from htc_fast.models.config import Model
from htc_fast.models.structures import FramedLike, Predictor, ViewsLike

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
    tile: int | None = None,
    overlap: float = 0.2,
) -> list[Instances]:
    """Find the instances in pictures.

    images           path, PIL image or array [H, W, 3] RGB (see `load_image`), or a list or batch [N, H, W, 3] of them
    size             (short side, long side) the network sees; None: that of the model's training, else 800, 1333; for
                     one of a single frame, such as a file, what fits into that
    batch_size       pictures at once; `Views` take one after the other, a file of a fixed batch that many
    score_threshold  0 to 1; lower-scored instances are left out
    class_names      by label; None: those of the model's training, else COCO's for 80 classes
    workers          threads that read pictures ahead; 0: one on a CPU, up to 8 beside a GPU
    tile, overlap    look at tiles of this side in pixels, of which neighbours share that part; see `inference.tiles`
    returns          one Instances per picture, in its own pixels, best first; each keeps its picture as `source`, for
                     `plot` and `crop`: a path, or the array itself, which stays in memory as long
    raises           UserError if a file is missing or no picture, an array cannot be understood, or an option makes no
                     sense
    """
    sources = list_pictures(images)
    found: dict[int, Instances] = {}
    options: dict[str, Any] = {
        "size": size,
        "batch_size": batch_size,
        "score_threshold": score_threshold,
        "class_names": class_names,
        "workers": workers,
    }
    if tile is None:
        results = stream(model, len(sources), Sources(sources), **options)
    else:
        opened = Sources(sources, open_windows)
        results = stream_tiles(model, range(len(sources)), opened, Tiling(tile, overlap), **options)
    for index, result in results:
        if isinstance(result, UserError):
            raise result
        if tile is None:
            say_full(model, result, score_threshold)
        # What was an open file has been read to its end.
        result.source = None if hasattr(sources[index], "read") else sources[index]
        found[index] = result
    return [found[index] for index in range(len(sources))]


def stream(
    model: Predictor,
    count: int,
    load: Callable[[Any], np.ndarray],
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 1,
    score_threshold: float = 0.0,
    class_names: Sequence[str] | None = None,
    workers: int = 0,
    order: Iterable[Any] | None = None,
) -> Iterator[tuple[Any, Instances | UserError]]:
    """Predict one batch after the other; a picture that cannot be read gives its error instead.

    Pictures are read ahead in threads. On a GPU the next batch is under way while one becomes run lengths; the host
    never holds more than a few batches.

    load   number of a picture -> uint8 [H, W, 3];  called in threads, but for a single picture
    order  which pictures, and in which order; None: all. Of what has no end, an iterator of whatever `load` takes
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
    single = isinstance(numbers, Sized) and len(numbers) <= 1
    loaded = ahead(read, numbers, threads if workers or not single else 0, depth=threads + 2 * batch_size)
    training = model.training
    # Dropout and stochastic depth of a backbone are for training.
    model.eval()
    started: deque[Batch] = deque()
    try:
        for batch in _batches(loaded, batch_size):
            yield from ((index, item) for index, item in batch if isinstance(item, UserError))
            good = [(index, item) for index, item in batch if not isinstance(item, UserError)]
            for group in grouped(model, good):
                started.append(Batch(model, group, device, size))
                # On a GPU `detect` returns at once: one batch stays under way.
                while len(started) > gpu:
                    yield from started.popleft().finish(score_threshold, names, side)
        while started:
            yield from started.popleft().finish(score_threshold, names, side)
    finally:
        loaded.close()
        model.train(training)


def stream_tiles(
    model: Predictor,
    order: Iterable[int],
    opened: Callable[[int], Windows],
    tiling: Tiling,
    *,
    progress: bool = False,
    **options: Any,
) -> Iterator[tuple[int, Instances | UserError]]:
    """As `stream`, of pictures that are looked at tile by tile and one after the other; batches are of tiles.

    order     numbers of pictures;  opened: number of a picture -> something that gives bands of it
    progress  show a bar that counts the tiles of a picture
    options   those of `stream`
    """

    def see(count: int, load: Callable[[int], np.ndarray]) -> Iterator[tuple[int, Instances | UserError]]:
        for number, one in stream(model, count, load, **options):
            if count > 1 and not isinstance(one, UserError):
                say_full(model, one, options.get("score_threshold", 0.0), "tile")
            yield number, one

    for index in order:
        try:
            with opened(index) as picture:
                count = len(tiling.grid(*picture.size))
                hidden = None if progress and count > 1 else True
                with tqdm(total=count, desc="tiles", unit="tile", leave=False, disable=hidden) as bar:
                    found: Instances | UserError = tiles.detect(picture, tiling, see, bar.update)
        except UserError as error:
            found = error
        yield index, found


def say_full(model: Predictor, found: Instances, threshold: float, what: str = "picture") -> None:
    """Say once that a picture has as many instances as the model gives, so that it may hold more."""
    limit = model.config.detections
    if threshold > 0 and len(found) >= limit:  # without a threshold every picture is full
        say_once(
            f"a {what} has {limit} objects, which is the limit, so there may be more in it: --detections raises that, "
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
