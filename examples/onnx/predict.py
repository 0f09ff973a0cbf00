"""A picture through the file that `htc_fast.export --format onnx` wrote, with onnxruntime and numpy alone.

Pillow only reads and writes the picture files: all that happens to pixels in between is numpy.
"""

import argparse
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

COLOURS = np.array([(230, 60, 75), (60, 180, 75), (255, 200, 25), (67, 99, 216), (245, 130, 49), (66, 212, 244)])


def stretch(pixels, size, axis):
    """A picture with one side made `size` long: bilinear at pixel centres, rounded."""
    length = pixels.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    share = (at % 1).astype(np.float32).reshape([-1 if side == axis else 1 for side in range(3)])
    low = pixels.take(at.astype(int), axis)
    return (low + (pixels.take(np.ceil(at).astype(int), axis) - np.float32(low)) * share + 0.5).astype(np.uint8)


def reach(low, high, cells, pixels):
    """[pixels, cells]: how much of each cell of a mask between low and high a pixel's centre sees; outside nothing."""
    centre = np.arange(pixels) + 0.5
    at = (centre - low) / max(high - low, 1e-6) * cells - 0.5
    inside = (centre >= low) & (centre <= high) & (high > low)
    return np.maximum(1 - abs(at[:, None] - np.arange(cells)), 0) * inside[:, None]


def attempt(what, function, *inputs):
    """What the function gives, or the end of the program with what went wrong as a sentence."""
    try:
        return function(*inputs)
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        sys.exit(f"error: cannot {what}: {reason}")


def load(path):
    return onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())


def read(path):
    picture = Image.open(path)
    if picture.mode[0] in "IF":
        raise ValueError("it has more than 8 bits a colour: save it with 8")
    return np.array(ImageOps.exif_transpose(picture).convert("RGB"))


def predict(session, picture, score):
    """picture [h, w, 3] uint8 RGB -> class names, scores [K], boxes [K, 4] and masks [K, h, w], best first."""
    notes, entry = json.loads(session.get_modelmeta().custom_metadata_map["htc_fast"]), session.get_inputs()[0]
    raw = entry.type == "tensor(uint8)"  # else float32, normalised, channels first
    frame, (h, w, _) = entry.shape[1:3] if raw else entry.shape[2:], picture.shape
    scale = min(frame[0] / h, frame[1] / w)
    height, width = (min(most, max(1, int(side * scale + 0.5))) for most, side in zip(frame, (h, w)))
    pixels = stretch(stretch(picture, width, 1), height, 0)
    if not raw:
        pixels = (pixels - np.float32(notes["mean"])) / np.float32(notes["std"])
    images = np.pad(pixels, [(0, frame[0] - height), (0, frame[1] - width), (0, 0)])[None]
    sizes = np.array([[height, width]], np.int64)
    given = {"images": images if raw else images.transpose(0, 3, 1, 2), "image_sizes": sizes}
    names = ["labels", "scores", "boxes", "masks"]
    labels, scores, boxes, masks = (one[0] for one in session.run(names, given))
    kept = (labels >= 0) & (scores >= score)
    boxes = boxes[kept] * np.float32([w / width, h / height] * 2)
    masks = [
        reach(y, y2, len(mask), h) @ mask @ reach(x, x2, len(mask), w).T >= 0.5
        for mask, (x, y, x2, y2) in zip(masks[kept], boxes)
    ]
    return [notes["class_names"][label] for label in labels[kept]], scores[kept], boxes, masks


def overlay(picture, boxes, masks):
    """The picture with a colour over each object and its box around it."""
    drawn, last = picture.copy(), np.array(picture.shape[1::-1] * 2) - 1
    for number in reversed(range(len(boxes))):  # the best on top
        colour, mask = COLOURS[number % len(COLOURS)], masks[number]
        drawn[mask] = (drawn[mask] + colour) // 2
        x, y, x2, y2 = np.minimum(boxes[number].astype(int), last)
        drawn[y : y2 + 1, [x, x2]] = drawn[[y, y2], x : x2 + 1] = colour
    return drawn


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "picture", "overlay"):
        parser.add_argument(name)
    parser.add_argument("--score", type=float, default=0.5, help="objects that score less are left out")
    options = parser.parse_args()
    session = attempt(f"load {options.model}", load, options.model)
    if "htc_fast" not in session.get_modelmeta().custom_metadata_map:
        sys.exit(f"error: {options.model} was not written by htc_fast: give the file that its export wrote.")
    batch = session.get_inputs()[0].shape[0]
    if isinstance(batch, int) and batch != 1:  # else it has a name, and any size
        sys.exit(f"error: {options.model} takes {batch} pictures at once: export it with a batch of 1.")
    picture = attempt(f"read {options.picture}", read, options.picture)
    names, scores, boxes, masks = predict(session, picture, options.score)
    for name, score, box in zip(names, scores, boxes):
        print(f"{name} {score:.4f} {' '.join(f'{side:.2f}' for side in box)}")
    attempt(f"write {options.overlay}", Image.fromarray(overlay(picture, boxes, masks)).save, options.overlay)


if __name__ == "__main__":
    main()
