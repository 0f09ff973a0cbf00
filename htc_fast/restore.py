"""A detector out of a weights file, for the command lines that use one."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from htc_fast.detector import Detector
from htc_fast.errors import UserError
from htc_fast.models import zoo
from htc_fast.models.config import from_dict
from htc_fast.models.weights import load_weights, read, saved_config
from htc_fast.prediction import SIZE
from htc_fast.runtime import Optimized, optimize

NOTES = ("class_names", "category_ids", "image_size")


def restore(
    weights: str | Path, name: str | None = None, num_classes: int | None = None, device: str | None = None
) -> Detector:
    """Build the detector a file was saved from, ready to predict.

    weights      ours, which names its model, or another library's
    name         model name, needed where the file does not say it
    num_classes  of another library's file; None: 80
    device       "cpu", "cuda", "cuda:1"; None: a GPU if there is one
    raises       UserError if the file cannot be used, names no model, or the device is not there
    """
    where = find_device(device)
    if not Path(weights).is_file():
        raise UserError(f"there is no weights file {weights}: check the path.")
    saved = saved_config(weights)
    file = read(weights, num_classes or 80)
    if saved is not None and name in (None, saved.get("name")):
        # The file's own weights follow: nothing is to be downloaded.
        config = replace(from_dict(saved), pretrained=False)
    elif name is None:
        raise UserError(f"{weights} does not say which model it belongs to: name it with --model.")
    else:
        config = zoo.config(name, num_classes=num_classes or 80, **file.options)
    model = Detector(config)
    load_weights(model, file)
    for note, value in _notes(weights).items():
        setattr(model, note, value)
    return model.eval().to(where)


def find_device(device: str | None) -> torch.device:
    """The device of that name.

    raises  UserError if there is no such device here
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"device {device!r} cannot be used ({reason}): choose cpu, cuda or cuda:N.") from None
    return found


def image_size(sides: list[int] | None) -> tuple[int, int] | None:
    """--image-size, one or two sides, as (short side, limit of the long side); None stays None."""
    if sides is None:
        return None
    if len(sides) > 2 or min(sides) < 32:
        raise UserError(f"--image-size takes one or two sides of at least 32 pixels, got {' '.join(map(str, sides))}.")
    # One side alone keeps the paper's aspect, 1333 to 800.
    return sides[0], sides[1] if len(sides) == 2 else round(sides[0] * 1333 / 800)


def optimized(model: Detector, size: tuple[int, int] | None, batch_size: int, amp: bool) -> Optimized:
    """--optimize: the model for pictures of (short side, long side), in bf16 where --amp asks for it."""
    size = size or getattr(model, "image_size", None) or SIZE
    return optimize(model, tuple(size), batch_size, torch.bfloat16 if amp else torch.float32)


def _notes(weights: str | Path) -> dict:
    found = {}
    with suppress(SafetensorError, OSError, ValueError), safe_open(weights, framework="pt") as file:
        notes = file.metadata() or {}
        found = {name: json.loads(notes[name]) for name in NOTES if name in notes}
    return found
