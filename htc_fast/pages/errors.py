"""Pictures of single errors: what was found beside the truth, cut out around it."""

from collections.abc import Iterator
from time import monotonic

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from htc_fast.data import runs
from htc_fast.data.draw import draw
from htc_fast.data.instances import Instances
from htc_fast.data.windows import Windows
from htc_fast.errors import UserError
from htc_fast.evaluation.errors import Error
from htc_fast.evaluation.report import Report
from htc_fast.pages import page

SIDE = 200  # pixels of each half of a picture
MARGIN = 0.4  # around an error, of its longer side
LEAST = 48  # pixels that a picture shows, however small the error
GAP, HEAD = 6, 20
Window = tuple[int, int, int, int]


def pictures(made: Report, kind: str, most: int, until: float) -> Iterator[str]:
    """The worst errors of a kind as figures, as many as are drawn before `until`, by time.monotonic.

    A picture that cannot be read any more gives the sentence that says so.
    """
    for error in made.errors.worst(kind, most):
        if monotonic() >= until:
            return
        try:
            with made.dataset.windows(error.index) as windows:
                drawn = pair(made, error, windows)
        except UserError as trouble:
            yield page.text(caption(made, error), str(trouble))
        else:
            yield page.picture(drawn, caption(made, error))


def caption(made: Report, error: Error) -> str:
    """What is wrong, in words."""
    found, truth = made.found[error.index], made.dataset.truth(error.index)
    name = "" if error.found is None else f"{page.shortened(found.name(error.found))} {100 * error.score:.0f}%"
    real = "" if error.truth is None else page.shortened(truth.name(error.truth))
    overlaps = f"mask IoU {error.mask_iou:.2f}, box IoU {error.box_iou:.2f}"
    said = {
        "missed": f"{real} of {error.area} pixels",
        "wrong class": f"{name} is {real} ({overlaps})",
        "poor mask": f"{name} ({overlaps})",
        "doubled": f"{name}, a second time on {real} ({overlaps})",
        "invented": name,
    }
    return f"{said[error.kind]} · {page.shortened(made.dataset.picture(error.index).file_name)}"


def pair(made: Report, error: Error, windows: Windows) -> Image.Image:
    """Found and true, side by side; of a large picture only the rows around the error are read."""
    found, truth = made.found[error.index], made.dataset.truth(error.index)
    taken = (found.scores >= made.numbers["operating"]["threshold"]).numpy()
    mine = [one for one in (error.found, error.other) if one is not None]
    theirs = [] if error.truth is None else [error.truth]
    window = _window(torch.cat([found[mine].boxes, truth[theirs].boxes]), found.size)
    left = _cut(found[mine] if mine else found[taken], window)
    right = _cut(truth[theirs] if theirs else truth, window)
    x1, y1, x2, y2 = window
    cut = np.ascontiguousarray(windows.read(y1, y2, x1, x2))
    zoom = SIDE / max(cut.shape[:2])
    halves = [
        draw(cut, one, scores=own, boxes=True, opacity=0.4, zoom=zoom) for one, own in ((left, True), (right, False))
    ]
    width, height = halves[0].size
    sheet = Image.new("RGB", (2 * width + GAP, height + HEAD), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for half, title, x in zip(halves, ("found", "truth"), (0, width + GAP)):
        sheet.paste(half, (x, HEAD))
        pen.text((x + width / 2, HEAD / 2), title, "#5d6b79", font, anchor="mm")
    return sheet


def _window(boxes: torch.Tensor, size: tuple[int, int]) -> Window:
    """A square around boxes, as far as it lies in the picture: x1, y1, x2, y2 in whole pixels."""
    height, width = size
    limits = torch.tensor([width, height, width, height], dtype=torch.float64)
    boxes = boxes.double().clamp(min=0).minimum(limits)
    (left, top), (right, bottom) = boxes[:, :2].amin(0).tolist(), boxes[:, 2:].amax(0).tolist()
    side = max((1 + 2 * MARGIN) * max(right - left, bottom - top), LEAST)
    x1, x2 = _span((left + right) / 2, side, width)
    y1, y2 = _span((top + bottom) / 2, side, height)
    return x1, y1, x2, y2


def _span(centre: float, side: float, limit: int) -> tuple[int, int]:
    """A stretch of so many pixels, moved into the picture."""
    length = min(max(round(side), 1), limit)
    start = min(max(round(centre - side / 2), 0), limit - length)
    return start, start + length


def _cut(instances: Instances, window: Window) -> Instances:
    """What a window shows of instances; those that it does not show are left out."""
    x1, y1, x2, y2 = window
    corner = torch.tensor([x1, y1, x1, y1], dtype=instances.boxes.dtype)
    far = torch.tensor([x2 - x1, y2 - y1] * 2, dtype=instances.boxes.dtype)
    boxes = (instances.boxes - corner).clamp(min=0).minimum(far)
    inside = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)
    seen = instances[inside]
    rles = runs.cropped(seen.rle, window)
    return Instances(boxes[inside], seen.scores, seen.labels, rles, (y2 - y1, x2 - x1), seen.class_names)
