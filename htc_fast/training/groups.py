"""Groups of weights: which of them share a learning rate and a weight decay.

Each group of the optimizer has, besides torch's own entries, `names` of its weights and `factor`, its share of the
run's learning rate. An optimizer's memory belongs to each weight, so that a run may go on with other groups.
"""

import re
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import nn

PREFIX = "backbone."
STEP = re.compile(r"rfp\.backbones\.\d+\.")  # the same network again, in a recursive pyramid
# timm's files of networks whose blocks attend: their layers are blocks; those of all others are stages.
TRANSFORMERS = {"swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr", "pvt_v2", "mvitv2", "davit"}
TRANSFORMERS |= {"hiera", "maxxvit", "twins", "nest", "levit", "tiny_vit", "metaformer", "efficientformer"}
TRANSFORMERS |= {"efficientformer_v2", "focalnet", "nextvit", "crossvit", "xcit", "mobilevit", "edgenext", "visformer"}


def parameter_groups(
    model: nn.Module, weight_decay: float, no_decay: bool = False, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Everything that trains, in groups of one rate and one weight decay each.

    weight_decay  of the weights that have one
    no_decay      none for biases, weights of norms, scales of layers, and a transformer's tables of positions
    layer_decay   the backbone's last layer has this share of the rate, the one before it this share of that, …;
                  layers are a transformer's blocks, and other networks' stages; 1: all alike
    returns       one group at the defaults, in the model's order
    source        no_decay and blocks: timm's param_groups_layer_decay, after BEiT; heads are the layer behind the last
    """
    plain = _undecayed(model) if no_decay else set()
    depths = backbone_depths(model) if layer_decay != 1 else {}
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            key = depths.get(name, 0), name in plain
            decay, factor = 0.0 if key[1] else weight_decay, layer_decay ** key[0]
            group = groups.setdefault(key, {"params": [], "names": [], "weight_decay": decay, "factor": factor})
            group["params"].append(weight)
            group["names"].append(name)
    return list(groups.values())


def backbone_depths(model: nn.Module) -> dict[str, int]:
    """Each weight of the backbones, by its name in the model: 1 for those of its last layer, 2 for the one before, …"""
    names = [name for name, _ in model.named_parameters() if name.startswith(PREFIX)]
    layers = _layers(model, names)
    last = max(layers.values(), default=0)
    found = {name: last - _nearest(name, layers) + 1 for name in names}
    others = [(name, STEP.sub(PREFIX, name)) for name, _ in model.named_parameters() if STEP.match(name)]
    # What only a further step has, for what comes back, learns as the heads do.
    return found | {name: found[first] for name, first in others if first in found}


def is_transformer(backbone: str) -> bool:
    """Whether blocks of this backbone of timm's attend."""
    base = backbone.split(".")[0]
    return timm.is_model(base) and timm.models.model_entrypoint(base).__module__.split(".")[-1] in TRANSFORMERS


def regrouped(saved: dict[str, Any], groups: list[dict[str, Any]], order: list[str]) -> tuple[dict[str, Any], bool]:
    """An optimizer's state for other groups of the same weights.

    saved    its `state_dict`
    groups   the groups of now
    order    names of the weights as a state without names has them
    returns  a state that fits, and whether the groups differ
    raises   KeyError, TypeError, ValueError or AttributeError where it is of other weights
    """
    then = [group.get("names", order) for group in saved["param_groups"]]
    now = [group["names"] for group in groups]
    indices = [index for group in saved["param_groups"] for index in group["params"]]
    by_name = dict(zip((name for names in then for name in names), indices, strict=True))
    if by_name.keys() != {name for names in now for name in names}:
        raise ValueError("an optimizer of other weights")
    places = {name: place for place, name in enumerate(name for names in now for name in names)}
    state = {places[name]: saved["state"][index] for name, index in by_name.items() if index in saved["state"]}
    common = {name: value for name, value in saved["param_groups"][0].items() if name not in ("params", "names")}
    made = [{**common, "names": names, "params": [places[name] for name in names]} for names in now]
    return {"state": state, "param_groups": made}, then != now


def _undecayed(model: nn.Module) -> set[str]:
    """Names of the weights that a decay does no good."""
    names = {name for name, one in model.named_parameters() if one.ndim <= 1 or name.endswith(".bias")}
    whole = _whole(_backbone_name(model))
    tables: set[str] = whole.no_weight_decay() if hasattr(whole, "no_weight_decay") else set()
    known = {_flat(name): name for name in tables}
    return names | {name for name, _ in model.named_parameters() if _known(name, known) is not None}


def _layers(model: nn.Module, names: list[str]) -> dict[str, int]:
    """Numbers of layers, from the first one on, of those weights that timm's network has too."""
    backbone = _backbone_name(model)
    whole = _whole(backbone)
    if whole is None or not hasattr(whole, "group_matcher"):
        return _stages(model, names)
    numbers = group_parameters(whole, whole.group_matcher(coarse=not is_transformer(backbone)), reverse=True)
    known = {_flat(name): number for name, number in numbers.items()}
    found = {name: _known(name, known) for name in names}
    return {name: number for name, number in found.items() if number is not None}


def _stages(model: nn.Module, names: list[str]) -> dict[str, int]:
    """The same for a network that is not timm's, or whose layers timm does not number: by the ends of its stages."""
    net = model.get_submodule("backbone.net")
    ends = getattr(net, "frozen_ends", None) or net.feature_info.module_name()  # type: ignore[union-attr,operator]
    children, marks = [name for name, _ in net.named_children()], {one.replace(".", "_") for one in ends}
    number, numbers = 0, {}
    for child in children:
        numbers[child] = number
        number += child in marks
    found = {name: numbers.get(name.split(".")[2]) for name in names if name.startswith("backbone.net.")}
    return {name: one for name, one in found.items() if one is not None}


def _nearest(name: str, layers: Mapping[str, int]) -> int:
    """The layer of a weight, or of those that it was put beside: the last one of the smallest part that has any."""
    if name in layers:
        return layers[name]
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        part = ".".join(parts[:count]) + "."
        beside = [number for other, number in layers.items() if other.startswith(part)]
        if beside:
            return max(beside)
    return 0


def _known(name: str, known: Mapping[str, Any]) -> Any:
    """What is known of a backbone's weight by timm's name for it, which there lies one or two modules deeper."""
    parts = name.removeprefix(PREFIX).split(".")
    if not name.startswith(PREFIX):
        return None
    return next((known[key] for cut in (1, 2) if (key := "_".join(parts[cut:])) in known), None)


def _flat(name: str) -> str:
    """A name as networks for feature maps have it, where containers are opened: layers.0 is layers_0."""
    return name.replace(".", "_")


def _backbone_name(model: nn.Module) -> str:
    return getattr(getattr(model, "config", None), "backbone", "")


def _whole(backbone: str) -> Any:
    """timm's whole network, without values, as it knows its layers and tables; None: timm has none of that name."""
    base = backbone.split(".")[0]
    if not timm.is_model(base):
        return None
    try:
        with torch.device("meta"):
            return timm.create_model(base)
    except RuntimeError:  # earlier versions of timm read numbers while they build
        return timm.create_model(base)
