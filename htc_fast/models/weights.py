"""Weights from files: our own safetensors, and mmdetection's checkpoints (v1 to v3) under our names.

A foreign file is unpickled by a reader that builds tensors and plain containers and nothing else: whatever other
object a file asks for becomes an inert placeholder, so no code of the file ever runs.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from htc_fast.errors import UserError
from htc_fast.models import unpickle

# mmdetection's names, in order; \1 and \2 are layer numbers.
RENAMES = (
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"fpn.lateral.\1."),
    (r"^neck\.fpn_convs\.(\d)\.conv\.", r"fpn.output.\1."),
    (r"^rpn_head\.rpn_conv\.", "rpn.conv."),
    (r"^rpn_head\.rpn_cls\.", "rpn.objectness."),
    (r"^rpn_head\.rpn_reg\.", "rpn.deltas."),
    (r"^roi_head\.(bbox|mask)_head\.(?!\d)", r"roi_head.\1_head.0."),
    (r"^roi_head\.bbox_head\.(\d)\.shared_fcs\.0\.", r"box_heads.\1.fc1."),
    (r"^roi_head\.bbox_head\.(\d)\.shared_fcs\.1\.", r"box_heads.\1.fc2."),
    (r"^roi_head\.bbox_head\.(\d)\.fc_cls\.", r"box_heads.\1.classes."),
    (r"^roi_head\.bbox_head\.(\d)\.fc_reg\.", r"box_heads.\1.deltas."),
    (r"^roi_head\.mask_head\.(\d)\.convs\.(\d)\.conv\.", r"mask_heads.\1.convs.\2."),
    (r"^roi_head\.mask_head\.(\d)\.conv_res\.conv\.", r"mask_heads.\1.flow."),
    (r"^roi_head\.mask_head\.(\d)\.upsample\.", r"mask_heads.\1.upsample."),
    (r"^roi_head\.mask_head\.(\d)\.conv_logits\.", r"mask_heads.\1.logits."),
    (r"^roi_head\.semantic_head\.lateral_convs\.(\d)\.conv\.", r"semantic_head.lateral.\1."),
    (r"^roi_head\.semantic_head\.convs\.(\d)\.conv\.", r"semantic_head.convs.\1."),
    (r"^roi_head\.semantic_head\.conv_embedding\.conv\.", "semantic_head.embedding."),
    (r"^roi_head\.semantic_head\.conv_logits\.", "semantic_head.logits."),
    (r"^backbone\.(?!net\.)", "backbone.net."),
)
# Head 1 of version 1 has a flow convolution that nothing ever used.
UNUSED = re.compile(r"mask_heads\.0\.flow\.|num_batches_tracked$")
HEAD_OF_VERSION_1 = re.compile(r"^(bbox_head|mask_head)\.|^semantic_head\.(lateral_convs|convs\.\d\.conv|conv_)")


@dataclass
class Report:
    """How a file fitted: keys that the file lacks, that the model lacks, and whose shapes differ."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = []
        for what, keys in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("wrong shape", self.wrong_shape),
        ):
            if keys:
                more = f", and {len(keys) - 4} more" if len(keys) > 4 else ""
                parts.append(f"{len(keys)} {what} ({', '.join(keys[:4])}{more})")
        return "; ".join(parts) or "every tensor fitted"


def load_weights(model: nn.Module, path: str | Path, strict: bool = True) -> Report:
    """Fill a model from a file.

    path     safetensors of ours, or a checkpoint of mmdetection 1.x, 2.x or 3.x
    strict   raise where a tensor is missing or has another shape (unexpected ones are only reported);
             otherwise load what fits
    raises   UserError if the file cannot be read, or is of another architecture
    """
    state = read(path)
    own = model.state_dict()
    report = Report(
        missing=[key for key in own if key not in state and not UNUSED.search(key)],
        unexpected=[key for key in state if key not in own and not UNUSED.search(key)],
        wrong_shape=[
            f"{key} {list(state[key].shape)} for {list(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    )
    if strict and (report.missing or report.wrong_shape):
        name = getattr(getattr(model, "config", None), "name", "this model")
        raise UserError(
            f"{path} holds weights of another architecture than {name}: {report}; "
            "choose the model and num_classes that the file was trained with."
        )
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    with torch.no_grad():
        for key, value in fitting.items():
            own[key].copy_(value)
    return report


def read(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint under our names.

    raises  UserError if the file is missing, damaged, or of an unknown kind
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no weights file {path}: check the path.")
    if _is_safetensors(path):
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not a whole safetensors file ({error}): copy or save it again.") from error
    state = unpickle.load(path)
    while isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    state = {key: value for key, value in state.items() if isinstance(value, Tensor)} if isinstance(state, dict) else {}
    if not state:
        raise UserError(f"{path} holds no tensors by name: expected a checkpoint with a state_dict.")
    return from_mmdetection(state)


def saved_config(path: str | Path) -> dict | None:
    """The configuration stored in one of our own files; None for a foreign file."""
    if not Path(path).is_file() or not _is_safetensors(Path(path)):
        return None
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("config")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}): copy or save it again.") from error
    return None if text is None else json.loads(text)


def from_mmdetection(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """mmdetection's tensors under our names; version 1 (heads at the top level, background first) is converted."""
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if any(HEAD_OF_VERSION_1.match(key) for key in state):
        state = {_version_2_name(key): _version_2_value(key, value) for key, value in state.items()}
    out = {}
    for key, value in state.items():
        for pattern, name in RENAMES:
            key = re.sub(pattern, name, key)
        out[key] = value
    return out


def _version_2_name(key: str) -> str:
    return f"roi_head.{key}" if HEAD_OF_VERSION_1.match(key) else key


def _version_2_value(key: str, value: Tensor) -> Tensor:
    """Background moves from first to last, and leaves the mask and class-specific box outputs."""
    if ".fc_cls." in key:
        return torch.cat([value[1:], value[:1]])
    if key.startswith("mask_head.") and ".conv_logits." in key and len(value) > 1:
        return value[1:]
    if ".fc_reg." in key and len(value) > 4:
        return value[4:]
    return value


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000
