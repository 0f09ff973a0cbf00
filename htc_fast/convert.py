"""`python -m htc_fast.convert`: a checkpoint of any library as a file of ours, or of mmdetection's."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch

from htc_fast.commands import entry
from htc_fast.commands.options import parse
from htc_fast.commands.output import check_writable, replacing
from htc_fast.data.classes import classes_of
from htc_fast.detector import Detector, load
from htc_fast.errors import UserError, few, settle
from htc_fast.models.config import Model
from htc_fast.models.weights import fit
from htc_fast.models.weights.load import UNUSED, Weights, read
from htc_fast.models.weights.mmdetection import to_mmdetection
from htc_fast.models.weights.save import weights_bytes

ABOUT = "Write a checkpoint as one safetensors file that says itself how its model is built, or as mmdetection's."
SUFFIX = {"htc_fast": ".safetensors", "mmdetection": ".pth"}


@dataclass(frozen=True, kw_only=True)
class ConvertRun:
    """Everything that a conversion is told."""

    POSITIONAL = "file"

    file: Annotated[
        tuple[Path, ...], "checkpoint: ours, mmdetection's (1.x to 3.x), torchvision's or detectron2's"
    ] = ()
    out: Annotated[Path | None, "file to write (default: the checkpoint's name, .safetensors or .pth)", "FILE"] = None
    to: Annotated[Literal["htc_fast", "mmdetection"], "whose file to write"] = "htc_fast"
    model: Annotated[str | None, "name of the network, where several fit: see htc_fast.list_models()"] = None
    num_classes: Annotated[int | None, "90 reads torchvision's 91 rows as classes of your own, not COCO's ids", "N"] = (
        None
    )

    def __post_init__(self) -> None:
        if isinstance(self.file, (str, Path)):
            object.__setattr__(self, "file", (Path(self.file),))
        settle(self)
        if len(self.file) != 1:
            raise UserError(f"convert takes one checkpoint, got {len(self.file)}: python -m htc_fast.convert FILE.")
        if self.out is not None and self.out.suffix != SUFFIX[self.to]:
            raise UserError(f"--out has to end in {SUFFIX[self.to]} for --to {self.to}, got {self.out}.")


def main() -> int:
    """Convert, as the options say."""
    convert(parse(ConvertRun, "convert", ABOUT))
    return 0


def convert(run: ConvertRun) -> Path:
    """Read, say what was found and what was set, write, and say how to use the file.

    returns  path of the file
    raises   UserError if the file is of no model of ours, or the other library has no such model
    """
    [path] = run.file
    out = run.out or path.with_suffix(f".mmdetection{SUFFIX[run.to]}" if run.to == "mmdetection" else SUFFIX[run.to])
    if os.path.realpath(out) == os.path.realpath(path):
        raise UserError(f"{out} would replace the checkpoint itself: choose another name with --out.")
    check_writable(out.parent)
    file = read(path, run.num_classes)
    file.check(run.num_classes)
    name, others = chosen(file, run.model)
    model = load(path, name=name, num_classes=run.num_classes, device="cpu")
    print("\n".join(found(file, model) + settings(file, model.config, others)))
    if run.to == "mmdetection":
        _write_mmdetection(model, out)
        return out
    with replacing(out) as partial:
        partial.write_bytes(weights_bytes(model))
    print(f'wrote {out}, {out.stat().st_size / 1e6:.0f} MB: htc_fast.load("{out}"), or --weights {out}')
    return out


def chosen(file: Weights, model: str | None) -> tuple[str | None, list[str]]:
    """Name of the model to build (None: the file says it), and the other names that fit as well.

    raises  UserError where none fits
    """
    if model is not None or file.config is not None:
        return model, []
    names = fit.fitting(file.tensors)
    if not names:
        raise UserError(
            f"{file.path} holds {file.origin}'s weights of {fit.looks_like(file.tensors)}, which no model "
            "here has: name one whose backbone it may have with --model."
        )
    return names[0], names[1:]


def found(file: Weights, model: Detector) -> list[str]:
    """What the file is."""
    names = classes_of(model.config)[0]
    own = "named in the file" if model.config.class_names else "not named in the file"
    dropped = [name for name in file.tensors if name not in model.state_dict() and not UNUSED.search(name)]
    lines = [
        f"found: {file.origin}, {len(file.tensors)} tensors, {model.config.backbone}",
        f"found: {len(names)} classes, {own}: {few(names)}",
        *(f"changed: {change}" for change in file.changes),
    ]
    return lines + (
        [f"dropped: {len(dropped)} tensors that the model has no use for: {few(dropped)}"] if dropped else []
    )


def settings(file: Weights, config: Model, others: list[str]) -> list[str]:
    """What the model was given."""
    also = f" (the same tensors fit {few(others)}: choose with --model)" if others else ""
    options = [f"{name}={value!r}" for name, value in file.built.items()]
    lines = [f"set: model {config.name}{also}"]
    lines += [f"set: {', '.join(options)}"] if options else []
    scale = ", ".join(f"{one:g}" for one in config.mean), ", ".join(f"{one:g}" for one in config.std)
    return [*lines, f"set: input in RGB from 0 to 255, mean {scale[0]}, standard deviation {scale[1]}"]


def _write_mmdetection(model: Detector, out: Path) -> None:
    theirs = to_mmdetection(model)
    with replacing(out) as partial:
        torch.save(theirs.checkpoint(classes_of(model.config)[0]), partial)
    print(f"wrote {out}, {out.stat().st_size / 1e6:.0f} MB, for mmdetection 3's configs/{theirs.config}.py with")
    print("config.merge_from_dict({")
    for name, value in theirs.options.items():
        print(f"    {name!r}: {value!r},")
    print("})")


if __name__ == "__main__":
    entry.run(main)
