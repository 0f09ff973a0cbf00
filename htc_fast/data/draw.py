"""Instances drawn over their picture: translucent masks, contours, labels sized to the picture."""

import colorsys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional
from torchvision.ops import masks_to_boxes
from torchvision.transforms.v2 import functional as F
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from htc_fast.data import runs
from htc_fast.data.fonts import Lettering, Piece
from htc_fast.data.pictures import Source, load_image

GOLDEN = 0.618034
LARGE = 2000  # pixels a side, beyond which masks are made smaller as run lengths
BICUBIC = F.InterpolationMode.BICUBIC
Colour = tuple[int, int, int]


class Drawable(Protocol):
    """What is drawn: `Instances`, whose own methods draw them."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    rle: list[dict]
    size: tuple[int, int]
    class_names: Sequence[str]

    @property
    def areas(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def resized(self, size: tuple[int, int]) -> "Drawable": ...


def draw(
    image: Source,
    instances: Drawable,
    *,
    labels: bool = True,
    scores: bool = True,
    boxes: bool = False,
    opacity: float = 0.45,
    zoom: float = 1.0,
    font: str | Path | None = None,
) -> Image.Image:
    """Draw instances over a picture.

    image    path, PIL image or array [H, W, 3], of the size the instances were found in; see `load_image`
    labels   write class names, with scores if `scores`; not on instances smaller than the text
    boxes    outline the boxes too
    opacity  of the masks' colour, 0 to 1
    zoom     enlarge the picture first, so that text and lines stay fine on a small one
    font     file of a font to write names in; None: the first here that has their characters
    returns  an RGB picture
    raises   UserError if the picture or the font cannot be read; ValueError if the sizes differ
    """
    pixels = load_image(image)
    if pixels.shape[:2] != tuple(instances.size):
        raise ValueError(f"the picture is {pixels.shape[:2]}, the instances were found in {tuple(instances.size)}.")
    size = [max(1, round(side * zoom)) for side in instances.size]
    canvas = F.resize(torch.from_numpy(pixels.copy()).permute(2, 0, 1), size, BICUBIC)
    unit = (size[0] * size[1]) ** 0.5 / 600
    colours, corners = _colours(instances), instances.boxes * zoom
    # In its own pixels each mask of a large picture would be a bitmap of that size.
    near = instances.resized((size[0], size[1])) if zoom < 1 and max(instances.size) > LARGE else instances
    _draw_masks(canvas, near, colours, opacity, max(1, round(1.5 * unit)))
    if boxes and len(instances):
        corners[:, 2:] = corners[:, 2:].maximum(corners[:, :2])
        canvas = draw_bounding_boxes(canvas, corners, colors=colours, width=max(1, round(unit)))
    picture = F.to_pil_image(canvas)
    if labels:
        lettering = Lettering(instances.class_names, font)
        _draw_labels(picture, instances, colours, corners, int(min(max(12 * unit, 10), 48)), scores, lettering)
    return picture


def side_by_side(
    rows: Sequence[tuple[Source, Drawable, Drawable]], width: int = 480, font: str | Path | None = None
) -> Image.Image:
    """Predictions on the left, truth on the right, one picture per row.

    rows     (picture, prediction, truth)
    width    pixels of one column
    font     as for `draw`
    """
    if not rows:
        raise ValueError("no pictures to draw: give at least one (picture, prediction, truth).")
    gap, title_font = 8, ImageFont.load_default(16)
    pairs = []
    for image, prediction, truth in rows:
        zoom = width / prediction.size[1]
        right = draw(image, truth, scores=False, zoom=zoom, font=font)
        pairs.append((draw(image, prediction, zoom=zoom, font=font), right))
    head = 28
    sheet = Image.new("RGB", (2 * width + gap, head + sum(left.height + gap for left, _ in pairs) - gap), "white")
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(("prediction", "truth")):
        pen.text((column * (width + gap) + width / 2, head / 2), title, "black", title_font, anchor="mm")
    top = head
    for left, right in pairs:
        sheet.paste(left, (0, top))
        sheet.paste(right, (width + gap, top))
        top += left.height + gap
    return sheet


def _colours(instances: Drawable) -> list[Colour]:
    """By class, the same in every picture, its second and third instance darker; by instance where a class is alone."""
    seen, alone, colours = Counter[int](), len(instances.class_names) == 1, []
    for i, label in enumerate(instances.labels.tolist()):
        hue = (0.58 + (i if alone else label) * GOLDEN) % 1
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 0.95 - 0.06 * (seen[label] % 3))
        seen[label] += 1
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def _draw_masks(canvas: Tensor, instances: Drawable, colours: list[Colour], opacity: float, line: int) -> None:
    """Large ones first, so that small ones are not painted over; one by one, as torchvision blackens overlaps."""
    _, around = runs.sizes(instances.rle)
    for i in instances.areas.argsort(descending=True, stable=True).tolist():
        mask, (x1, y1, x2, y2) = _shape(instances.rle[i], around[i], list(canvas.shape[1:]))
        if not mask.any():
            continue
        window = canvas[:, y1:y2, x1:x2]
        # What lies beyond the window counts as outside: that closes the contour at the picture's edge.
        outside = functional.pad((~mask).float(), [line] * 4, value=1.0)
        # A square's maximum is that of its rows' maxima: of thick lines that is ten times less to look at.
        rows = functional.max_pool2d(outside, (1, 2 * line + 1), stride=1)
        contour = mask & (functional.max_pool2d(rows, (2 * line + 1, 1), stride=1) > 0)
        window.copy_(draw_segmentation_masks(window, mask & ~contour, opacity, colours[i]))
        window.copy_(draw_segmentation_masks(window, contour, 1.0, colours[i]))


def _shape(rle: dict, around: Sequence[float], size: list[int]) -> tuple[Tensor, list[int]]:
    """A mask [1, h, w] as far as its box reaches in a picture of that size, and the box: x1, y1, x2, y2."""
    if list(rle["size"]) == size:  # the rest of a large picture is never looked at
        box = [int(value) for value in around]
        return torch.from_numpy(runs.window(rle, box))[None], box
    whole = torch.from_numpy(runs.window(rle, (0, 0, rle["size"][1], rle["size"][0])))[None]
    mask = F.resize(whole.to(torch.uint8) * 255, size, BICUBIC) >= 128
    x1, y1, x2, y2 = masks_to_boxes(mask)[0].int().tolist() if mask.any() else (0, 0, -1, -1)
    return mask[:, y1 : y2 + 1, x1 : x2 + 1], [x1, y1, x2 + 1, y2 + 1]


def _draw_labels(
    picture: Image.Image,
    instances: Drawable,
    colours: list[Colour],
    corners: Tensor,
    size: int,
    scores: bool,
    lettering: Lettering,
) -> None:
    """The best instances choose their places first; the worse keep out of their way if they can."""
    pen = ImageDraw.Draw(picture)
    pad = max(2, size // 5)
    taken: list[tuple[float, float, float, float]] = []
    for i in np.argsort(-instances.scores.numpy(), kind="stable"):
        x1, y1, x2, y2 = corners[i].tolist()
        if max(x2 - x1, y2 - y1) < 2 * size:
            continue
        name = lettering.name(instances.name(i), int(instances.labels[i]))
        score = f" {100 * float(instances.scores[i]):.0f}%" if scores else ""
        pieces = lettering.pieces(name + score, size)
        left, top, right, bottom = _extent(pen, pieces)
        while right - left + 2 * pad > picture.width and len(name) > 4:
            name = name[: min(len(name) - 4, len(name) * picture.width // round(right - left))] + "..."
            pieces = lettering.pieces(name + score, size)
            left, top, right, bottom = _extent(pen, pieces)
        w, h = right - left + 2 * pad, bottom - top + 2 * pad
        places = [(x1, y1 - h), (x1, y1), (x1, y2 - h), (x1, y2), (x2 - w, y1), ((x1 + x2 - w) / 2, (y1 + y2 - h) / 2)]
        places = [(min(max(x, 0), picture.width - w), min(max(y, 0), picture.height - h)) for x, y in places]
        x, y = next((place for place in places if not _overlaps(place, w, h, taken)), places[0])
        taken.append((x, y, x + w, y + h))
        pen.rounded_rectangle((x, y, x + w - 1, y + h - 1), pad, colours[i])
        red, green, blue = colours[i]
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
        for piece in pieces:
            pen.text((x + pad - left + piece.x, y + pad - top + piece.y), piece.text, ink, piece.font)


def _extent(pen: ImageDraw.ImageDraw, pieces: list[Piece]) -> tuple[float, float, float, float]:
    boxes = [pen.textbbox((piece.x, piece.y), piece.text, piece.font) for piece in pieces]
    left, top, right, bottom = zip(*boxes)
    return min(left), min(top), max(right), max(bottom)


def _overlaps(place: tuple[float, float], w: float, h: float, taken: list[tuple[float, float, float, float]]) -> bool:
    x, y = place
    return any(x < x2 and x1 < x + w and y < y2 and y1 < y + h for x1, y1, x2, y2 in taken)
