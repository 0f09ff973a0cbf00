"""Instances drawn over their picture: translucent masks, contours, labels sized to the picture."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from htc_fast.data.instances import Instances
from htc_fast.data.pictures import load_image

GOLDEN = 0.618034


def draw(
    image,
    instances: Instances,
    *,
    labels: bool = True,
    scores: bool = True,
    boxes: bool = False,
    opacity: float = 0.45,
    zoom: float = 1.0,
) -> Image.Image:
    """Draw instances over a picture.

    image    path, PIL image or uint8 array [H, W, 3], of the size the instances were found in
    labels   write class names, with scores if `scores`; not on instances smaller than the text
    boxes    outline the boxes too
    opacity  of the masks' colour, 0 to 1
    zoom     enlarge the picture first, so that text and lines stay fine on a small one
    returns  an RGB picture
    raises   ValueError if the sizes differ
    """
    pixels = load_image(image)
    if pixels.shape[:2] != tuple(instances.size):
        raise ValueError(f"the picture is {pixels.shape[:2]}, the instances were found in {tuple(instances.size)}.")
    picture = Image.fromarray(pixels)
    if zoom != 1:
        size = (max(1, round(picture.width * zoom)), max(1, round(picture.height * zoom)))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    unit = (picture.width * picture.height) ** 0.5 / 600
    colours = _colours(instances)
    _draw_masks(picture, instances, colours, opacity, max(1, round(1.5 * unit)))
    corners = instances.boxes.numpy() * zoom
    if boxes:
        pen = ImageDraw.Draw(picture)
        for colour, (x1, y1, x2, y2) in zip(colours, corners.tolist()):
            pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=max(1, round(unit)))
    if labels:
        _draw_labels(picture, instances, colours, corners, int(min(max(12 * unit, 10), 48)), scores)
    return picture


def side_by_side(rows: Sequence[tuple[object, Instances, Instances]], width: int = 480) -> Image.Image:
    """Predictions on the left, truth on the right, one picture per row.

    rows     (picture, prediction, truth)
    width    pixels of one column
    """
    if not rows:
        raise ValueError("no pictures to draw: give at least one (picture, prediction, truth).")
    gap, font = 8, ImageFont.load_default(16)
    pairs = []
    for image, prediction, truth in rows:
        zoom = width / prediction.size[1]
        pairs.append((draw(image, prediction, zoom=zoom), draw(image, truth, scores=False, zoom=zoom)))
    head = 28
    sheet = Image.new("RGB", (2 * width + gap, head + sum(left.height + gap for left, _ in pairs) - gap), "white")
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(("prediction", "truth")):
        pen.text((column * (width + gap) + width / 2, head / 2), title, "black", font, anchor="mm")
    top = head
    for left, right in pairs:
        sheet.paste(left, (0, top))
        sheet.paste(right, (width + gap, top))
        top += left.height + gap
    return sheet


def _colours(instances: Instances) -> list[tuple[int, int, int]]:
    """By class, instances of one class a little apart; by instance where there is only one class."""
    several = len(set(instances.labels.tolist())) > 1
    colours = []
    for i, label in enumerate(instances.labels.tolist()):
        hue = label * GOLDEN + (i % 5 - 2) * 0.025 if several else i * GOLDEN
        red, green, blue = colorsys.hsv_to_rgb((0.58 + hue) % 1, 0.75, 0.95 - 0.12 * (i % 3) / 2)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def _draw_masks(picture: Image.Image, instances: Instances, colours: list, opacity: float, line: int) -> None:
    """Large ones first, so that small ones are not painted over."""
    for i in np.argsort(-instances.areas.numpy(), kind="stable"):
        mask = instances.mask(i)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        window = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        factor = picture.width / mask.shape[1], picture.height / mask.shape[0]
        place = [round(float(edge * factor[k % 2])) for k, edge in enumerate(window)]
        size = (max(1, place[2] - place[0]), max(1, place[3] - place[1]))
        part = Image.fromarray(mask[window[1] : window[3], window[0] : window[2]].astype(np.uint8) * 255)
        if part.size != size:
            part = part.resize(size, Image.Resampling.BICUBIC).point(lambda value: 255 if value >= 128 else 0)
        # A margin lets the contour's soft edge run out, and closes it where the mask ends at the window.
        margin = line + 2
        solid = Image.new("L", (size[0] + 2 * margin, size[1] + 2 * margin))
        solid.paste(part, (margin, margin))
        inner = np.asarray(solid.filter(ImageFilter.MinFilter(2 * line + 1)))
        edge = Image.fromarray(np.asarray(solid) - inner).filter(ImageFilter.GaussianBlur(0.6))
        alpha = np.maximum(np.asarray(solid) * opacity, np.asarray(edge)).astype(np.uint8)
        colour = Image.new("RGB", solid.size, colours[i])
        picture.paste(colour, (place[0] - margin, place[1] - margin), Image.fromarray(alpha))


def _draw_labels(
    picture: Image.Image, instances: Instances, colours: list, corners: np.ndarray, size: int, scores: bool
) -> None:
    """The best instances choose their places first; the worse keep out of their way if they can."""
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    pad = max(2, size // 5)
    taken: list[tuple[float, float, float, float]] = []
    for i in np.argsort(-instances.scores.numpy(), kind="stable"):
        x1, y1, x2, y2 = corners[i].tolist()
        if max(x2 - x1, y2 - y1) < 2 * size:
            continue
        text = f"{instances.name(i)} {100 * float(instances.scores[i]):.0f}%" if scores else instances.name(i)
        left, top, right, bottom = pen.textbbox((0, 0), text, font)
        w, h = right - left + 2 * pad, bottom - top + 2 * pad
        places = [(x1, y1 - h), (x1, y1), (x1, y2 - h), (x1, y2), (x2 - w, y1), ((x1 + x2 - w) / 2, (y1 + y2 - h) / 2)]
        places = [(min(max(x, 0), picture.width - w), min(max(y, 0), picture.height - h)) for x, y in places]
        x, y = next((place for place in places if not _overlaps(place, w, h, taken)), places[0])
        taken.append((x, y, x + w, y + h))
        pen.rounded_rectangle((x, y, x + w - 1, y + h - 1), pad, colours[i])
        red, green, blue = colours[i]
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
        pen.text((x + pad - left, y + pad - top), text, ink, font)


def _overlaps(place: tuple[float, float], w: float, h: float, taken: list) -> bool:
    x, y = place
    return any(x < x2 and x1 < x + w and y < y2 and y1 < y + h for x1, y1, x2, y2 in taken)
