"""One batch under way: pictures to the device, the detector over them, and its detections back in their own pixels."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from htc_fast import cores, ops
from htc_fast.data.instances import Instances
from htc_fast.data.pictures import normalise_and_pad, resize, to_device
from htc_fast.inference.reading import Picture
from htc_fast.models.htc import HTC
from htc_fast.models.structures import Detections, DetectorLike, FramedLike, Predictor, ViewsLike
from htc_fast.ranges import part


class Batch:
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
        cores.adapt(device)
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
        certain = mask_scores(found.masks)
        counts = found.count.tolist()  # the one wait of a batch, besides that for its run lengths
        boxes, scores, labels = found.boxes.float().cpu(), found.scores.float().cpu(), found.labels.cpu()
        certain = certain.cpu()
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
                mask_scores=certain[n, :kept],
            )
            results.append((self.numbers[n], instances))
        return results


def mask_scores(masks: Tensor) -> Tensor:
    """How sure masks are: the mean of the probabilities [..., h, w] that are at least 0.5; 0 where none is."""
    inside = masks >= 0.5
    total = (masks.float() * inside).sum(dim=(-2, -1))
    return total / inside.sum(dim=(-2, -1)).clamp(min=1)
