"""Checkpoints that are either whole or absent.

A checkpoint is two files: `000120.safetensors`, weights that predict and evaluate read as they are, and
`000120.state`, all else that an exact continuation needs. The state comes last: it makes the pair valid.
"""

import contextlib
import io
import os
import re
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from htc_fast.errors import UserError
from htc_fast.models.htc import HTC
from htc_fast.models.weights.save import weights_bytes as weights_bytes


def iteration_of(weights: Path) -> int | None:
    """How long the weights of a file were trained; None if there is no such file or it does not say."""
    try:
        with safetensors.safe_open(weights, "pt") as file:
            return int((file.metadata() or {})["iteration"])
    except (OSError, safetensors.SafetensorError, KeyError, ValueError):
        return None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that its name never holds half of it.

    raises  UserError if the disk is full or refuses
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError(f"could not save {path} ({error.strerror}): {remedy(path)}") from None


def remedy(path: Path) -> str:
    """What to do where a file of a run, or its folder, could not be written."""
    if any(whole(place) for place in (path.parent, path.parent / "checkpoints", path / "checkpoints")):
        return "the previous checkpoint is intact, so make room and continue with --resume."
    return "nothing is saved yet, so make room, or choose another folder (--out)."


def save(folder: Path, iteration: int, model: HTC, state: dict, keep: int) -> Path:
    """Save a checkpoint, then drop the oldest beyond `keep`; returns the weights' path."""
    weights = folder / f"{iteration:06d}.safetensors"
    write_whole(weights, weights_bytes(model, iteration))
    content = io.BytesIO()
    torch.save(state, content)
    write_whole(weights.with_suffix(".state"), content.getvalue())
    for old in whole(folder)[:-keep]:
        old.with_suffix(".state").unlink(missing_ok=True)
        old.unlink(missing_ok=True)
    return weights


def whole(folder: Path) -> list[Path]:
    """The weights of every complete checkpoint, oldest first."""
    found = [path for path in folder.glob("*.state") if re.fullmatch(r"\d+", path.stem)]
    weights = (path.with_suffix(".safetensors") for path in sorted(found, key=lambda path: int(path.stem)))
    return [path for path in weights if path.exists()]


def load(weights: Path, model: nn.Module) -> dict:
    """Put a checkpoint's weights into the model and return its state.

    raises  UserError if a file is damaged or of another model
    """
    damaged = f"{weights.name} is damaged"
    try:
        tensors = safetensors.torch.load_file(weights)
        damaged = f"{weights.stem}.state is damaged"
        state = torch.load(weights.with_suffix(".state"), map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise UserError(f"cannot continue from {weights}: {error.strerror}.") from None
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["it is empty or cut off"])[0]
        raise unusable(weights, f"{damaged} ({reason})") from error
    try:
        model.load_state_dict(tensors)
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot continue from {weights} ({reason}): give the options of the run that wrote it."
        ) from error
    return state


def unusable(weights: Path, reason: str) -> UserError:
    """What to say of a checkpoint whose files are at fault."""
    others = [one for one in whole(weights.parent) if one != weights]
    advice = "there is no other one there, so start anew in another folder (--out)."
    if others:
        both = f"{weights.name} and {weights.stem}.state"
        advice = f"delete both files, {both}, to continue from the one before, {others[-1].stem}."
    return UserError(f"cannot continue from {weights}, as {reason}: {advice}")
