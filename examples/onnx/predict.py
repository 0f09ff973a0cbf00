"""A picture through the file of `htc_fast.export --format onnx`, in onnxruntime and numpy; Pillow opens and saves."""

import argparse
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

COLOURS = np.array([(230, 60, 75), (60, 180, 75), (255, 200, 25), (67, 99, 216), (245, 130, 49), (66, 212, 244)])


def attempt(what, function, *inputs, **options):
    """What the function gives, or the end of the program with what went wrong as a sentence."""
    try:
        return function(*inputs, **options)
    except Exception as error:
        sys.exit(f"error: cannot {what}: {' '.join(str(error).split())}")


def read(path):
    picture = Image.open(path)
    if picture.mode[0] in "IF":
        raise ValueError("it has more than 8 bits a colour: save it with 8")
    return np.array(ImageOps.exif_transpose(picture).convert("RGB"))


def stretch(pixels, size, axis):
    """A picture with one side made `size` long: bilinear at pixel centres, rounded."""
    length = pixels.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    share = (at % 1).astype(np.float32).reshape([-1 if side == axis else 1 for side in range(3)])
    low = pixels.take(at.astype(int), axis)
    return (low + (pixels.take(np.ceil(at).astype(int), axis) - np.float32(low)) * share + 0.5).astype(np.uint8)


def reach(low, high, cells, pixels):
    """The pixels with centres between low and high; [those, cells]: what they see of each cell of a mask there."""
    first, last = np.clip([np.ceil(low - 0.5), np.floor(high - 0.5) + 1], 0, pixels).astype(int)
    at = (np.arange(first, last) + 0.5 - low) / max(high - low, 1e-6) * cells - 0.5
    return slice(first, last), np.maximum(1 - abs(at[:, None] - np.arange(cells)), 0)


def predict(session, picture, score):
    """picture [h, w, 3] uint8 RGB -> class names, scores [K], boxes [K, 4] and masks [K, h, w], best first."""
    notes, entry = json.loads(session.get_modelmeta().custom_metadata_map["htc_fast"]), session.get_inputs()[0]
    raw = entry.type == "tensor(uint8)"  # else float32, normalised, channels first
    frame, (h, w, _) = entry.shape[1:3] if raw else entry.shape[2:], picture.shape
    scale = min(frame[0] / h, frame[1] / w)
    height, width = (min(most, max(1, int(side * scale + 0.5))) for most, side in zip(frame, (h, w)))
    pixels = stretch(stretch(picture, width, 1), height, 0)
    if not raw:
        pixels = ((pixels - np.float32(notes["mean"])) / np.float32(notes["std"])).transpose(2, 0, 1)
    images = np.zeros([1, *entry.shape[1:]], pixels.dtype)
    images[(0, slice(height), slice(width)) if raw else (0, ..., slice(height), slice(width))] = pixels
    given = {"images": images, "image_sizes": np.int64([[height, width]])}
    labels, scores, boxes, masks = (one[0] for one in session.run(["labels", "scores", "boxes", "masks"], given))
    kept = (labels >= 0) & (scores >= score)
    boxes = boxes[kept] * np.float32([w / width, h / height] * 2)
    pasted = np.zeros((len(boxes), h, w), bool)
    for whole, mask, (left, top, right, bottom) in zip(pasted, masks[kept], boxes):
        (rows, down), (columns, across) = reach(top, bottom, len(mask), h), reach(left, right, len(mask), w)
        whole[rows, columns] = down @ mask @ across.T >= 0.5
    return [notes["class_names"][label] for label in labels[kept]], scores[kept], boxes, pasted


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "picture", "overlay"):
        parser.add_argument(name)
    parser.add_argument("--score", type=float, default=0.5, help="objects that score less are left out")
    options = parser.parse_args()
    there = onnxruntime.get_available_providers()
    usable = [one for one in ("CUDAExecutionProvider", "CPUExecutionProvider") if one in there]
    session = attempt(f"load {options.model}", onnxruntime.InferenceSession, options.model, providers=usable)
    if "htc_fast" not in session.get_modelmeta().custom_metadata_map:
        sys.exit(f"error: {options.model} was not written by htc_fast: give the file that its export wrote.")
    batch = session.get_inputs()[0].shape[0]
    if isinstance(batch, int) and batch != 1:  # else it has a name, and any size
        sys.exit(f"error: {options.model} takes {batch} pictures at once: export it with a batch of 1.")
    picture = attempt(f"read {options.picture}", read, options.picture)
    names, scores, boxes, masks = predict(session, picture, options.score)
    for name, score, box in zip(names, scores, boxes):
        print(name, f"{score:.4f}", *(f"{side:.2f}" for side in box))
    drawn, last = picture.copy(), np.array(picture.shape[1::-1] * 2) - 1
    for number in reversed(range(len(boxes))):  # the best on top
        colour, mask = COLOURS[number % len(COLOURS)], masks[number]
        drawn[mask] = (drawn[mask] + colour) // 2
        left, top, right, bottom = np.minimum(boxes[number].astype(int), last)
        drawn[top : bottom + 1, [left, right]] = drawn[[top, bottom], left : right + 1] = colour
    attempt(f"write {options.overlay}", Image.fromarray(drawn).save, options.overlay)


if __name__ == "__main__":
    main()
