"""What a file's tensors say about the network they came from: sizes, the names that fit, and other kinds of network."""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from htc_fast.models import zoo
from htc_fast.models.backbone import Backbone
from htc_fast.models.config import Model
from htc_fast.models.weights import detectors

# Names by our parts, which a file of one of our architectures has after conversion.
OURS = re.compile(
    r"(backbone\.(net|norms)|fpn|rfp|pafpn|aspp|rpn|box_heads|mask_heads|semantic_head|context_head|relay)\."
)
HEADS = re.compile(r"(fpn|rpn|box_heads|mask_heads)\.")
# A classifier's last layers, which some backbones bring along.
CLASSIFIER = re.compile(r"backbone\.net\.(fc|head|classifier|last_linear)\.")
# What a deformable convolution has beside its weight.
OFFSET = re.compile(r"backbone\.net\.layer(\d)\..*\.conv_offset\.weight$")
# The first fully connected layer of a box head; PANet's has one for each level.
FIRST = re.compile(r"box_heads\.0\.fc1\.(0\.)?weight$")
BOTH = ("box", "mask")
# What a norm behind a box head's convolution has.
BOX_NORM = re.compile(r"box_heads\.0\.convs\.1\.norm\.(weight|running_mean)$")
# Options of `zoo.config`, each with a value and the beginning of a name that no network without it has.
SHOWN: dict[str, tuple[Any, str]] = {
    "neck": ("pafpn", "pafpn."),
    "fpn_steps": (2, "rfp."),
    "aspp": (True, "aspp."),
    "gcn": (True, "semantic_head.lateral.0.row_column."),
    "norm": ("syncbn", "fpn.lateral.0.norm."),
    "rpn": ("ga", "rpn.location."),
    "box_head": ("4conv1fc", "box_heads.0.convs.1."),
    "adaptive_pooling": (True, "mask_heads.0.convs.0.0."),
    "mask_fc": (True, "mask_heads.0.fc."),
    "feature_relay": (True, "relay."),
    "global_context": (True, "context_head."),
    "residual_heads": (True, "mask_heads.0.convs.0.first."),
}
# Names that some network of a kind has and others lack; the first kind of which all are found.
LOOKS = (
    ("a DETR", r"(^|\.)(transformer|class_embed)\."),
    ("a YOLO", r"(^|\.)\d+\.(conv|cv\d|m)\."),
    ("a Segment Anything model", r"(^|\.)image_encoder\."),
    ("a detector of another kind", r"(^|\.)(fpn|neck|\w+_head)\."),
    ("a backbone alone", r"(^|\.)(layer\d|blocks|features|stages)\.\d"),
)


def classes(tensors: Mapping[str, Tensor]) -> int | None:
    """How many foreground classes the first box head tells; None without one."""
    if "box_heads.0.classes.weight" not in tensors:
        return None
    return _rows(tensors, "box_heads.0.classes.weight") - (2 if is_seesaw(tensors) else 1)


def is_seesaw(tensors: Mapping[str, Tensor]) -> bool:
    """Whether objectness has a branch of its own: by its counts, or by two rows more than there are masks."""
    masks = _rows(tensors, "mask_heads.0.logits.weight")
    by_rows = masks > 1 and _rows(tensors, "box_heads.0.classes.weight") == masks + 2
    return "box_heads.0.classes.counts" in tensors or by_rows


def sizes(tensors: Mapping[str, Tensor]) -> dict:
    """Options of `zoo.config` that the tensors leave no choice about: channels, box regressions, objectness, semantics,
    modules."""
    keys = {
        "channels": "fpn.output.0.weight",
        "box_channels": min((key for key in tensors if FIRST.match(key)), default=""),
        "semantic_classes": "semantic_head.logits.weight",
    }
    options: dict[str, Any] = {name: _rows(tensors, key) for name, key in keys.items() if _rows(tensors, key)}
    count, deltas = classes(tensors), _rows(tensors, "box_heads.0.deltas.weight")
    if count is not None and count > 1 and deltas in (4, 4 * count):
        options["class_agnostic"] = deltas == 4
    if is_seesaw(tensors):
        options["class_loss"] = "seesaw"
    layers = {int(found[1]) for key in tensors if (found := OFFSET.match(key))}
    if layers:
        options["dcn"] = tuple(layer + 1 for layer in sorted(layers))
    if consistent(tensors) or any(key.startswith("relay.") for key in tensors):
        options |= {"sample_consistency": True, "interleaved": False, "information_flow": False}
    return options | modules(tensors) | detectors.shown(tensors)


def consistent(tensors: Iterable[str]) -> bool:
    """Whether several box heads have one mask head, as SCNet's."""
    stages, masks = ({one.split(".")[1] for one in tensors if one.startswith(f"{kind}_heads.")} for kind in BOTH)
    return len(stages) > 1 == len(masks)


def modules(tensors: Iterable[str]) -> dict[str, Any]:
    """Options of `zoo.config` that the tensors' names show: the modules that a plain network has not."""
    beginnings = {name: begins for name, (_, begins) in SHOWN.items()}
    tensors = list(tensors)
    found = {name for key in tensors for name, begins in beginnings.items() if key.startswith(begins)}
    own = {} if "norm" in found else _box_norm(tensors)
    return {name: SHOWN[name][0] for name in SHOWN if name in found} | own


def _box_norm(names: Iterable[str]) -> dict[str, str]:
    """Which norm stands behind the box heads' convolutions alone: of batches, which are remembered, or of layers."""
    kinds = {found[1] for key in names if (found := BOX_NORM.match(key))}
    return {"box_norm": "syncbn" if "running_mean" in kinds else "layernorm"} if kinds else {}


def _rows(tensors: Mapping[str, Tensor], name: str) -> int:
    found = tensors.get(name)
    return len(found) if found is not None and found.dim() else 0


def fitting(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of models that the tensors fit, as far as their shapes tell."""
    if not any(OURS.match(key) for key in tensors):
        return []
    stages = len({key.split(".")[1] for key in tensors if key.startswith("box_heads.")})
    flow = any(key.startswith("mask_heads.1.flow.") for key in tensors)
    semantic = any(key.startswith("semantic_head.") for key in tensors)
    agnostic, shown = sizes(tensors).get("class_agnostic"), modules(tensors)
    names = []
    for name, config in zoo.MODELS.items():
        likes = len(config.stages.match_iou) == stages and (config.semantic != "none") == semantic
        likes = likes and (stages == 1 or (config.information_flow and stages > 1) == flow)
        likes = likes and (config.sample_consistency and stages > 1) == consistent(tensors)
        likes = likes and agnostic in (None, config.class_agnostic) and _switched(config) == shown
        if likes and _is_backbone(_shapes(config.backbone, config.dcn, config.sac, config.fpn_steps > 1), tensors):
            names.append(name)
    return names


def _switched(config: Model) -> dict[str, Any]:
    """As `modules`, of a configuration."""
    own = {**vars(config), "rpn": "ga" if config.rpn.guided else "rpn"}
    switched = {name: value for name, (value, _) in SHOWN.items() if own[name] == value}
    return switched | ({} if config.box_norm == "none" else {"box_norm": config.box_norm})


@functools.cache
def _shapes(
    backbone: str, dcn: tuple[int, ...], sac: tuple[int, ...] = (), recursive: bool = False
) -> dict[str, torch.Size]:
    with torch.device("meta"):
        net = Backbone(backbone, False, 0, True, dcn=dcn, sac=sac, standardised=recursive or bool(sac))
    return {f"backbone.{name}": value.shape for name, value in net.state_dict().items()}


def _is_backbone(wanted: dict[str, torch.Size], tensors: Mapping[str, Tensor]) -> bool:
    own = {key for key in tensors if key.startswith("backbone.") and not CLASSIFIER.match(key)}
    return own <= wanted.keys() and all(
        key.endswith("num_batches_tracked") or (key in tensors and tensors[key].shape == shape)
        for key, shape in wanted.items()
    )


def looks_like(names: Iterable[str]) -> str:
    """What kind of network has these names, for a sentence."""
    text = "\n".join(names)
    return next((kind for kind, part in LOOKS if re.search(part, text, re.MULTILINE)), "another kind of network")
