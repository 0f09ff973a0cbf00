"""Weights from files: our own safetensors, and mmdetection's, torchvision's and detectron2's checkpoints.

A foreign file is unpickled by a reader that builds tensors and plain containers and nothing else (`unpickle.py`);
`find.py` looks for the network in what comes out, `foreign.py` puts its names and values into ours, and `fit.py` reads
from the shapes what kind of network it is.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from htc_fast.errors import UserError, few, say_once
from htc_fast.models.config import Model, from_dict
from htc_fast.models.standardised import adapt
from htc_fast.models.weights import files, find, fit, foreign, origin, unpickle

DESCRIBED = ("class_names", "category_ids", "image_size")
# Head 1 of mmdetection 1 has a flow convolution that nothing ever used; what is counted can be counted anew.
UNUSED = re.compile(r"mask_heads\.0\.flow\.|num_batches_tracked$|\.classes\.counts$")


@dataclass
class Weights:
    """What a file holds.

    tensors      by our names
    options      of `zoo.config`: what the file's network is built with, where that differs from ours
    metadata     what one of our own files says besides
    class_names  by label, as mmdetection's files have them; our own have them in `config`
    origin       whose checkpoint it is, for a sentence
    changes      what was done to the tensors besides giving them our names, a sentence each
    """

    path: Path
    tensors: dict[str, Tensor]
    options: dict = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    origin: str = "htc_fast"
    changes: tuple[str, ...] = ()

    @property
    def config(self) -> Model | None:
        """Of the model that one of our own files was saved from; None for a foreign file.

        raises  UserError if no such model can be built
        """
        if "config" not in self.metadata:
            return None
        try:
            # Files of version 0.1 have what they know of the data beside it.
            beside = {name: json.loads(self.metadata[name]) for name in DESCRIBED if name in self.metadata}
            return from_dict({**json.loads(self.metadata["config"]), **{k: v for k, v in beside.items() if v}})
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.path} describes no model that can be built ({error}): save it again.") from error

    @property
    def num_classes(self) -> int | None:
        """Foreground classes, by the rows of the first box head; None without one."""
        return fit.classes(self.tensors)

    @property
    def built(self) -> dict:
        """Fields of `Model` that the file's shapes show, and its options."""
        return {**fit.sizes(self.tensors), **self.options}

    def described(self, num_classes: int) -> dict:
        """What the file knows of the data it was trained on, as fields of `Model`; nothing for other classes."""
        config = self.config
        if config is None:
            return {"class_names": self.class_names} if len(self.class_names) == num_classes else {}
        return {name: getattr(config, name) for name in DESCRIBED} if config.num_classes == num_classes else {}

    def check(self, num_classes: int | None) -> None:
        """See that the file is of a network like ours, with so many classes (None: any).

        raises  UserError saying what it has instead
        """
        if not any(fit.HEADS.match(name) for name in self.tensors):
            raise UserError(
                f"{self.path} looks like {fit.looks_like(self.tensors)} ({len(self.tensors)} tensors: "
                f"{few(self.tensors, most=3)}): expected HTC, Cascade Mask R-CNN or Mask R-CNN, "
                "with backbone, FPN, RPN, box and mask heads."
            )
        if None not in (num_classes, self.num_classes) and num_classes != self.num_classes:
            raise UserError(
                f"{self.path} has {self.num_classes} classes and the model is to have {num_classes}: "
                f"give num_classes={self.num_classes}, or other weights."
            )


@dataclass
class Report:
    """How a file fitted: keys that the file lacks, that the model lacks, whose shapes differ; options that differ."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = []
        for what, keys in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("wrong shape", self.wrong_shape),
            ("options of the file's network that this model lacks", self.differing),
        ):
            if keys:
                parts.append(f"{len(keys)} {what} ({few(keys, most=4)})")
        return "; ".join(parts) or "every tensor fitted"


def load_weights(model: nn.Module, file: str | Path | Weights, strict: bool = True) -> Report:
    """Fill a model from a file.

    file     safetensors of ours, or a checkpoint of mmdetection, torchvision or detectron2; or what `read` gave
    strict   raise where a tensor is missing or has another shape (unexpected ones are only reported);
             otherwise load what fits
    raises   UserError if the file cannot be read, or is of another architecture
    """
    config = getattr(model, "config", None)
    count = getattr(config, "num_classes", None)
    if not isinstance(file, Weights):
        file = read(file, count)
    file.check(count if strict else None)
    own, state = model.state_dict(), file.tensors
    report = Report(
        missing=[key for key in own if key not in state and not UNUSED.search(key)],
        unexpected=[key for key in state if key not in own and not UNUSED.search(key)],
        wrong_shape=[
            f"{key} {list(state[key].shape)} for {list(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
        differing=[] if config is None else differing(config, file.options),
    )
    # A longer backbone or cascade has all that a shorter one asks for, and more.
    beyond = [key for key in report.unexpected if fit.OURS.match(key) and not fit.CLASSIFIER.match(key)]
    if strict and (report.missing or report.wrong_shape or beyond):
        if file.config is not None and {key.split(".")[1] for key in report.missing} == {"norms"}:
            raise UserError(
                f"{file.path} was saved by an earlier htc_fast, whose Swin backbones had no norms behind their maps "
                "and shifted their windows otherwise: train it anew, or use it with that version."
            )
        name = getattr(config, "name", "this model")
        names = [one for one in fit.fitting(state) if one != name]
        hint = (
            f"it fits {', '.join(names)}" if names else "choose the model and backbone that the file was trained with"
        )
        raise UserError(f"{file.path} holds weights of another architecture than {name}: {report}; {hint}.")
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    _check_values(fitting, own, file.path)
    with torch.no_grad():
        for key, value in fitting.items():
            own[key].copy_(value)
    adapt(model, fitting)
    return report


def _check_values(state: dict[str, Tensor], own: dict[str, Tensor], path: Path) -> None:
    """raises  UserError if weights are whole numbers, or not numbers at all"""
    for name, value in state.items():
        if own[name].is_floating_point() and not value.is_floating_point():
            raise UserError(
                f"{path} holds {name} as {value.dtype}: save the weights as floating point, before they are quantised."
            )
        if value.is_floating_point() and not value.float().isfinite().all():
            raise UserError(
                f"{path} holds NaN or infinity in {name}: the training that wrote it diverged, or its numbers were too "
                "large for half precision; choose an earlier checkpoint."
            )


def read(path: str | Path, num_classes: int | None = None) -> Weights:
    """The tensors of a checkpoint under our names.

    path         of the file, or of a folder that holds one model; an index of shards stands for all of them
    num_classes  of the model to be filled, if known: tells COCO's 91 rows from 90 classes of somebody's own
    raises       UserError if the file is missing, damaged, or of an unknown kind
    """
    path = files.found(Path(path))
    parts = [_content(part) for part in files.shards(path)]
    content = parts[0][0]
    if len(parts) > 1:
        content = {name: one for part, _ in parts if isinstance(part, dict) for name, one in part.items()}
    state, notes = find.network(content, path)
    if not state:
        hint = f": name {path.with_suffix('.safetensors').name} beside it" if path.suffix == ".state" else ""
        raise UserError(f"{path} holds no tensors by name: expected a checkpoint with a state_dict{hint}.")
    meta = content.get("meta") if isinstance(content, dict) else None
    meta = meta if isinstance(meta, dict) else {}
    recipe = _recipe(meta)
    if found := foreign.NORMED.search(recipe):
        raise UserError(
            f"{path} has last layers that compare directions alone ({found[0]} in its configuration), which no model "
            "here has: choose a file that was trained with plain ones."
        )
    try:
        converted, options = foreign.convert(state, num_classes, recipe)
    except (IndexError, KeyError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{path} holds tensors of unusual shapes ({error}): expected an instance segmentation model."
        ) from error
    if foreign.is_coco(state) and num_classes is None:
        notes.append(f"{path}: its 91 rows are read as COCO's 80 classes; num_classes=90 reads them as your own.")
    _without_background(converted)
    home = origin.of(state, "config" in parts[0][1])
    changes = tuple(origin.changes(state, converted))
    metadata = {"config": meta[origin.OWN]} if isinstance(meta.get(origin.OWN), str) else parts[0][1]
    file = Weights(path, converted, options, metadata, _class_names(meta), home, changes)
    if len(file.class_names) not in (0, file.num_classes):
        notes.append(f"{path} names {len(file.class_names)} classes and has {file.num_classes}: no name is used.")
    for note in notes:
        say_once(note)
    return file


def _without_background(tensors: dict[str, Tensor]) -> None:
    """Drop the row that early files of ours have for the background among what is in the whole image."""
    count = fit.classes(tensors)
    for name in ("context_head.classes.weight", "context_head.classes.bias"):
        if count is not None and name in tensors and len(tensors[name]) == count + 1:
            tensors[name] = tensors[name][:count]


def _content(path: Path) -> tuple[Any, dict[str, str]]:
    """What a file holds, and the metadata of a safetensors file."""
    if not _is_safetensors(path):
        files.check_kind(path)
        return unpickle.load(path), {}
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}): copy or save it again.") from error


def _recipe(meta: dict) -> str:
    """mmdetection's configuration as text."""
    return next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), "")


def _class_names(meta: dict) -> tuple[str, ...]:
    """mmdetection's class names: version 2 has them by themselves, version 3 among what it says of the data."""
    about = meta.get("dataset_meta")
    places = [(meta, "CLASSES"), *((about, key) for key in ("classes", "CLASSES") if isinstance(about, dict))]
    names = next((place[key] for place, key in places if place.get(key)), ())
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return ()
    # Its first releases wrote COCO's names with underscores.
    spaced = "traffic_light" in names
    return tuple(name.replace("_", " ") if spaced else name for name in names)


def differing(config: Model, options: dict) -> list[str]:
    """The options, as name=value, that a configuration has otherwise; stages that it has not do not count."""
    count, out = len(config.stages.match_iou), []
    for name, value in options.items():
        if hasattr(config.stages, name):
            own, value = getattr(config.stages, name)[:count], value[:count]
        else:
            own = getattr(config.rpn, name.removeprefix("rpn_")) if name.startswith("rpn_") else getattr(config, name)
        if own != value:
            out.append(f"{name}={value!r}")
    return out


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000
