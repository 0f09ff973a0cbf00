"""From pictures to instances: load, resize, detect, and back to the pictures' own pixels."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from htc_fast import ops
from htc_fast.data.classes import default_classes
from htc_fast.data.pictures import load_image, normalise_and_pad, shrink
from htc_fast.errors import UserError
from htc_fast.instances import Instances
from htc_fast.parts import part

SIZE = (800, 1333)


def predict(
    model,
    images,
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 1,
    score_threshold: float = 0.05,
    class_names: Sequence[str] | None = None,
    workers: int = 0,
) -> list[Instances]:
    """Find the instances in pictures.

    images           path, PIL image or uint8 array [H, W, 3] RGB, or a list of them
    size             (short side, long side) the network sees; None: the model's `image_size`, else 800, 1333
    batch_size       pictures at once
    score_threshold  0 to 1; lower-scored instances are left out
    class_names      by label; None: the model's own `class_names`, else COCO's for 80 classes
    workers          processes that load pictures
    returns          one Instances per picture, in its own pixels, best first
    raises           UserError if a file is missing or no picture; TypeError, ValueError for other input
    """
    sources = list(images) if isinstance(images, (list, tuple)) else [images]
    options = {"size": size, "batch_size": batch_size, "score_threshold": score_threshold, "workers": workers}
    found: list[Instances | None] = [None] * len(sources)
    for index, result in stream(model, len(sources), Sources(sources), class_names=class_names, **options):
        if isinstance(result, UserError):
            raise result
        found[index] = result
    return found


def stream(
    model,
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

    load   number of a picture -> uint8 [H, W, 3];  called in the workers
    order  which pictures, and in which order; None: all
    """
    names = class_names or getattr(model, "class_names", None) or default_classes(model.config.num_classes)[0]
    size = size or getattr(model, "image_size", None) or SIZE
    order = list(range(count)) if order is None else list(order)
    loader = DataLoader(
        _Loaded(load, size), batch_sampler=_batches(order, batch_size), num_workers=workers, collate_fn=list
    )
    device = next(model.parameters()).device
    training = model.training
    # Dropout and stochastic depth of a backbone are for training.
    model.eval()
    try:
        for batch in loader:
            yield from ((index, item) for index, item in batch if isinstance(item, UserError))
            good = [(index, item) for index, item in batch if not isinstance(item, UserError)]
            if good:
                results = _detect(model, [item for _, item in good], device, score_threshold, names)
                yield from zip([index for index, _ in good], results)
    finally:
        model.train(training)


class Sources:
    """Pictures by number, for workers."""

    def __init__(self, sources: list):
        self.sources = sources

    def __call__(self, index: int) -> np.ndarray:
        return load_image(self.sources[index])


class _Loaded(Dataset):
    """(number, (uint8 [3, h, w] resized, original height and width)), or the error in its place."""

    def __init__(self, load: Callable[[int], np.ndarray], size: tuple[int, int]):
        self.load, self.size = load, size

    def __getitem__(self, index: int) -> tuple[int, tuple[Tensor, tuple[int, int]] | UserError]:
        try:
            pixels = self.load(index)
        except UserError as error:
            return index, error
        with part("preprocess"):
            return index, (shrink(pixels, self.size), pixels.shape[:2])


def _batches(order: list[int], batch_size: int) -> list[list[int]]:
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


@torch.no_grad()
def _detect(
    model, pictures: list[tuple[Tensor, tuple[int, int]]], device: torch.device, threshold: float, names: Sequence[str]
) -> list[Instances]:
    config = model.config
    with part("preprocess"):
        images, image_sizes = normalise_and_pad([pixels for pixels, _ in pictures], config.mean, config.std, device)
    found = model.detect(images, image_sizes)
    # Here the results leave the device: one wait per batch.
    counts = found.count.tolist()
    results = []
    for n, (pixels, original) in enumerate(pictures):
        with part("paste + RLE"):
            keep = found.scores[n, : counts[n]] >= threshold
            factor = torch.tensor([original[1] / pixels.shape[2], original[0] / pixels.shape[1]] * 2, device=device)
            boxes = found.boxes[n, : counts[n]][keep].float() * factor
            masks = found.masks[n, : counts[n]][keep].float()
            results.append(
                Instances(
                    boxes=boxes.cpu(),
                    scores=found.scores[n, : counts[n]][keep].float().cpu(),
                    labels=found.labels[n, : counts[n]][keep].cpu(),
                    rle=ops.encode_masks(masks, boxes, tuple(original)),
                    size=tuple(original),
                    class_names=names,
                )
            )
    return results
