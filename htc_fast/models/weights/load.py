"""Weights from files: our own safetensors, and mmdetection's, torchvision's and detectron2's checkpoints.

A foreign file is unpickled by a reader that builds tensors and plain containers and nothing else: whatever other
object a file asks for becomes an inert placeholder, so no code of the file ever runs.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from htc_fast.errors import UserError
from htc_fast.models.config import Model, from_dict
from htc_fast.models.weights import foreign, unpickle

DESCRIBED = ("class_names", "category_ids", "image_size")
# Head 1 of mmdetection 1 has a flow convolution that nothing ever used.
UNUSED = re.compile(r"mask_heads\.0\.flow\.|num_batches_tracked$")


@dataclass
class Weights:
    """What a file holds.

    tensors  by our names
    options   of `zoo.config`: what the file's network is built with, where that differs from ours
    metadata  what one of our own files says besides
    """

    path: Path
    tensors: dict[str, Tensor]
    options: dict = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

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

    def described(self, num_classes: int) -> dict:
        """What our own file knows of the data it was trained on, as fields of `Model`; nothing for other classes."""
        config = self.config
        if config is None or config.num_classes != num_classes:
            return {}
        return {name: getattr(config, name) for name in DESCRIBED}


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
                more = f", and {len(keys) - 4} more" if len(keys) > 4 else ""
                parts.append(f"{len(keys)} {what} ({', '.join(keys[:4])}{more})")
        return "; ".join(parts) or "every tensor fitted"


def load_weights(model: nn.Module, file: str | Path | Weights, strict: bool = True) -> Report:
    """Fill a model from a file.

    file     safetensors of ours, or a checkpoint of mmdetection, torchvision or detectron2; or what `read` gave
    strict   raise where a tensor is missing or has another shape (unexpected ones are only reported);
             otherwise load what fits
    raises   UserError if the file cannot be read, or is of another architecture
    """
    config = getattr(model, "config", None)
    if not isinstance(file, Weights):
        file = read(file, getattr(config, "num_classes", 80))
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
    if strict and (report.missing or report.wrong_shape):
        name = getattr(config, "name", "this model")
        raise UserError(
            f"{file.path} holds weights of another architecture than {name}: {report}; "
            "choose the model and num_classes that the file was trained with."
        )
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    with torch.no_grad():
        for key, value in fitting.items():
            own[key].copy_(value)
    return report


def read(path: str | Path, num_classes: int = 80) -> Weights:
    """The tensors of a checkpoint under our names.

    num_classes  of the model to be filled
    raises       UserError if the file is missing, damaged, or of an unknown kind
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no weights file {path}: check the path.")
    recipe, metadata = "", dict[str, str]()
    if _is_safetensors(path):
        try:
            with safe_open(path, framework="pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}
                metadata = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not a whole safetensors file ({error}): copy or save it again.") from error
    else:
        content = unpickle.load(path)
        state, recipe = _tensors(content), _recipe(content)
    if not state:
        raise UserError(f"{path} holds no tensors by name: expected a checkpoint with a state_dict.")
    return Weights(path, *foreign.convert(state, num_classes, recipe), metadata)


def _tensors(content: Any) -> dict[str, Tensor]:
    """The tensors by name, out of whatever a training run has wrapped them in."""
    while isinstance(content, dict):
        inner = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), None)
        if inner is None:
            return {key: value for key, value in content.items() if isinstance(value, Tensor)}
        content = inner
    return {}


def _recipe(content: Any) -> str:
    """mmdetection's configuration as text."""
    meta = content.get("meta") if isinstance(content, dict) else None
    texts = [meta.get(key) for key in ("cfg", "config")] if isinstance(meta, dict) else []
    return next((text for text in texts if isinstance(text, str)), "")


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
