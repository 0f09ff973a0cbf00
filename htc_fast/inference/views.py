"""Several looks at one picture that end in one answer: sizes, mirrored or not, and further detectors.

Every view has its own features; proposals, boxes, scores and masks are shared. All meet in one frame, that of the first
view: overlaps are the same in every frame, and a view alone gives, bit for bit, what its detector does.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from htc_fast import ops
from htc_fast.data.pictures import resize, resized_size
from htc_fast.device import out_of_memory
from htc_fast.errors import UserError, check_sides, short, shown
from htc_fast.inference.optimize import Optimized, optimized
from htc_fast.inference.predict import SIZE, changed, check_stage, predict
from htc_fast.inference.view import Size, View
from htc_fast.models import postprocess
from htc_fast.models.config import Model
from htc_fast.models.htc import HTC
from htc_fast.models.structures import Detections, trim_columns
from htc_fast.ranges import part

SIDES = (600, 800, 1000, 1200, 1400)  # short sides of the paper's views


def sizes_of(sides: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Short sides as (short side, limit of the long side): half as long again, as the paper's are."""
    return tuple((side, side * 3 // 2) for side in sides)


class Views:
    """Detectors that look at each picture in several sizes, mirrored too, and agree; `predict` as one detector's.

    models  one detector or several, on one device; of one that is optimized the layers run, but no CUDA graph
    sizes   (short side, limit of the long side) of each view; None: a single one, that of each detector's training,
            else 800, 1333, or what `predict` is given
    flip    mirrored left to right too: twice as many views
    raises  UserError if the detectors have not the same classes, or an argument makes no sense

    What is decided once for all (thresholds, suppression, numbers of proposals and detections, names of classes, which
    stages) says the first detector's configuration, `config`. Always in evaluation mode, one picture at a time.
    """

    training = False
    predict = predict

    def __init__(
        self,
        models: HTC | Optimized | Sequence[HTC | Optimized],
        sizes: Sequence[tuple[int, int]] | None = sizes_of(SIDES),
        flip: bool = True,
    ):
        several = isinstance(models, Sequence) and not isinstance(models, str)
        self.models: list[HTC | Optimized] = list(models) if several else [models]  # type: ignore[arg-type, list-item]
        for one in self.models:
            if not isinstance(one, (HTC, Optimized)):
                raise UserError(f"models must be detectors, as htc_fast.load gives them, got {shown(one)}.")
        if not self.models:
            raise UserError("models must hold at least one detector, got none.")
        if len({next(one.parameters()).device for one in self.models}) > 1:
            raise UserError("the models are on different devices: move them to one.")
        given = [sizes] if sizes is not None and not isinstance(sizes, Sequence) else sizes
        self.sizes = None if given is None else tuple(check_sides("a view's size", one) for one in given)
        if self.sizes == ():
            raise UserError("sizes must hold at least one (short side, limit of the long side), got none.")
        self.flip = bool(flip)
        self.config = _together([one.config for one in self.models])

    @property
    def config(self) -> Model:
        """What counts for all views; another test_stage may be set."""
        return self._config

    @config.setter
    def config(self, value: Model) -> None:
        for one in self.models:
            check_stage(one.config, value.test_stage)
        self._config = value

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of all detectors."""
        for one in self.models:
            yield from one.parameters()

    def train(self, mode: bool = True) -> "Views":
        """Stays in evaluation mode: training is the detectors' own."""
        return self

    def eval(self) -> "Views":
        """As it is."""
        return self

    def optimized(self, amp: bool = False) -> "Views":
        """The same views by detectors that are made ready for inference, in bf16 where it is asked for."""
        models = [one if isinstance(one, Optimized) else optimized(one, None, 1, amp) for one in self.models]
        made = Views(models, self.sizes, self.flip)
        made.config = self.config
        return made

    @torch.no_grad()
    def look(self, pixels: Tensor, size: tuple[int, int] | None = None) -> tuple[Detections, Size]:
        """Find objects in one picture.

        pixels   uint8 [3, h, w], as it is, on the detectors' device
        size     (short side, limit of the long side) of all views, where `sizes` names none
        returns  Detections [1, ...] in pixels of the first view, and that view's (height, width)
        raises   UserError for a size beside `sizes`, or where memory runs out
        source   HTC, section 4.5, merged as mmdetection 1.x and 2.x do
        """
        if size is not None and self.sizes is not None:
            raise UserError(
                "these views have sizes of their own: leave size out (--image-size), or give them that one."
            )
        try:
            with _in_place(self.models, self.config.test_stage):
                return self._look(pixels, size)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Outside the handler, whose traceback would keep the tensors that have to go.
        count, (height, width) = len(list(self._plan(size))), pixels.shape[1:]
        raise UserError(
            f"out of memory for {count} views at once of a picture of {width} x {height} pixels: take fewer or smaller "
            "ones (--tta-sides, in Python sizes), or compute in 16 bits (--amp)."
        )

    def _look(self, pixels: Tensor, size: tuple[int, int] | None) -> tuple[Detections, Size]:
        views = []
        for network, limits, flipped in self._plan(size):
            with part("preprocess"):
                resized = resize(pixels, resized_size(pixels.shape[1], pixels.shape[2], *limits))
            views.append(View(network, resized, flipped))
        frame, rpn = views[0].size, self.config.rpn
        proposals, valid = merge_proposals([view.proposals(frame) for view in views], rpn.nms_iou, rpn.proposals)
        found = [view.refined(proposals, frame) for view in views]
        with part("detections"):
            scores, boxes = (_mean(one) for one in zip(*found))
            boxes, scores, labels, count = postprocess.select(self.config, scores, boxes, valid)
        masks = _mean([view.masks(boxes, labels, count, frame) for view in views])
        return Detections(boxes, scores, labels, masks, count), frame

    def _plan(self, size: tuple[int, int] | None) -> Iterator[tuple[HTC, tuple[int, int], bool]]:
        """Every view's network, (short side, limit of the long side), and whether it is mirrored."""
        for model in self.models:
            for limits in self.sizes or (size or model.config.image_size or SIZE,):
                for flipped in (False, True) if self.flip else (False,):
                    yield _network(model), limits, flipped


def merge_proposals(
    found: Sequence[tuple[Tensor, Tensor, Tensor]], iou_threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """The best proposals of all views, after NMS over all of them.

    found    per view boxes [1, P, 4] in one frame, scores [1, P], valid [1, P] bool, as the RPN's own NMS left them
    limit    how many at most
    returns  boxes [1, R, 4], valid [1, R] bool; where all views propose the very same, these as they are: the views are
             one, or copies of one, and there is nothing to merge
    """
    boxes, scores, valid = found[0]
    if not all(torch.equal(mine, its) for other in found[1:] for mine, its in zip(found[0], other)):
        boxes, scores, valid = (torch.cat(every, dim=1) for every in zip(*found))
        scores = scores.masked_fill(~valid, -torch.inf)
        indices, _ = ops.batched_nms_padded(
            boxes, scores, torch.zeros_like(valid, dtype=torch.int64), iou_threshold, limit
        )
        valid = indices >= 0
        boxes = boxes.gather(1, indices.clamp(min=0)[..., None].expand(-1, -1, 4)).masked_fill(~valid[..., None], 0.0)
    boxes, valid = trim_columns(valid, boxes, valid)
    return boxes, valid


def _mean(found: Sequence[Tensor]) -> Tensor:
    """Of all views, in float32; boxes that are the same for every class [1, R, 1, 4] count for each."""
    return torch.stack(torch.broadcast_tensors(*found)).float().mean(dim=0)


def _network(model: HTC | Optimized) -> HTC:
    return model.network if isinstance(model, Optimized) else model


@contextlib.contextmanager
def _in_place(models: Sequence[HTC | Optimized], stage: int | None) -> Iterator[None]:
    """Within, all detectors are in evaluation mode and have those stages.

    raises  RuntimeError if a detector changed after it was optimized
    """
    with contextlib.ExitStack() as stack:
        for one in models:
            if isinstance(one, Optimized):
                one.check_source()
            elif one.training:
                stack.callback(one.train)
                one.eval()
            stack.enter_context(changed(_network(one), test_stage=stage))
        yield


def _together(configs: Sequence[Model]) -> Model:
    """The first of the configurations, with the names that any has.

    raises  UserError if two have not the same classes
    """
    numbered: list[tuple[str, Any]] = [(f"model {place} ({one.name})", one) for place, one in enumerate(configs, 1)]
    for name, one in numbered:
        if one.num_classes != configs[0].num_classes:
            raise UserError(
                f"models that look together must have the same classes: {numbered[0][0]} has {configs[0].num_classes}, "
                f"and {name} has {one.num_classes}."
            )
    named = [pair for pair in numbered if pair[1].class_names]
    for name, one in named[1:]:
        for label, (wanted, found) in enumerate(zip(named[0][1].class_names, one.class_names), 1):
            if wanted != found:
                raise UserError(
                    "models that look together must have the same classes in the same order: class "
                    f"{label} is {short(wanted)} in {named[0][0]}, and {short(found)} in {name}."
                )
    if not named or configs[0].class_names:
        return configs[0]
    return replace(configs[0], class_names=named[0][1].class_names, category_ids=named[0][1].category_ids)
