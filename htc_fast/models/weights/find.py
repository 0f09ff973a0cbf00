"""Where a checkpoint keeps its network, whatever a training framework has wrapped it in.

Containers and prefixes are one thing: everything that a file holds gets a dotted name, and the network lies under the
prefix that turns most of these names into ones that our detectors, or another library's, begin with. So `{"model": …}`,
Lightning's `state_dict` full of `model.…` and a list of both need no rules of their own.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from htc_fast.errors import UserError
from htc_fast.models.weights.unpickle import Array, Placeholder

# How the names of a detector's parts begin, ours, mmdetection's, torchvision's and detectron2's.
PARTS = {
    "pyramid": r"(?:fpn\.(?:lateral|output)|neck\.(?:lateral|fpn)_convs|backbone\.fpn(?:_lateral|_output|\.)"
    r"|rfp\.(?:backbones|aspp|gate)\.|neck\.rfp_)",
    "backbone": r"backbone\.",
    "proposals": r"(?:rpn\.(?:conv|objectness|deltas|head)|rpn_head|proposal_generator)\.",
    "boxes": r"(?:box_heads|(?:roi_head\.)?bbox_head|roi_heads\.box_(?:head|predictor))\.",
    "masks": r"(?:mask_heads|(?:roi_head\.)?mask_head|roi_heads\.mask_(?:head|predictor))\.",
    "semantic": r"(?:roi_head\.)?semantic_head\.",
    "context": r"(?:context_head|(?:roi_head\.)?glbctx_head)\.",
    "relay": r"(?:relay\.dense|(?:roi_head\.)?feat_relay_head)\.",
}
STARTS = re.compile(r"(?:^|(?<=\.))(?=" + "|".join(f"(?P<{part}>{start})" for part, start in PARTS.items()) + ")")
# What torch.compile, DistributedDataParallel, FSDP, checkpointing and DeepSpeed put into names, at any depth.
WRAPPED = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
# Moving averages, and what Lightning's weight averaging puts aside when the average takes its place.
COPY = re.compile(r"(?:^|[._])(?:ema|swa|avg|averaged?|shadow|callbacks|current_model_state)(?:$|[._])", re.IGNORECASE)
USUAL = re.compile(r"state_dict|model|weights|net")
# Momenta carry the weights' own names in some files.
LEFT_OUT = re.compile(r"optimi[sz]er|(^|_)(optim|sched|grads?)(_|$)|scheduler|scaler|gradient|momentum|exp_avg", re.I)
# mmdetection 2 keeps the other side of its moving average beside the weights, as ema_backbone_conv1_weight.
SWAPPED = re.compile(r"ema_[^.]+$")
DEEPEST, MOST = 80, 300_000  # containers in, and beside, one another: no checkpoint that anybody saved has more


def network(content: Any, path: object) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file's network by their own names, without what stands before them.

    content  what the file holds: dicts, lists, tensors, and placeholders for pickled objects, in one another
    path     of the file, for what is said
    returns  tensors; sentences on what was chosen where the file holds more than one
    raises   UserError if it holds two networks that differ, or a weight that is no plain tensor
    """
    names, containers = _named(content, path)
    hits: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in names:
        if name.endswith((".weight", ".bias")):
            for start in STARTS.finditer(name):
                hits[name[: start.start()]][start.lastgroup or ""].add(name)
    if hits:
        prefix, others, notes = _chosen(hits, names, path)
    else:
        prefix, others, notes = _largest(containers), [], []
    inner = tuple(other for other in others if other.startswith(prefix))
    own = {
        name.removeprefix(prefix): value
        for name, value in names.items()
        if name.startswith(prefix) and not (inner and name.startswith(inner))
    }
    if any(SWAPPED.match(name) for name in own):
        own = {name: value for name, value in own.items() if not SWAPPED.match(name)}
        notes.append(f"{path} also holds ema_…, the other side of its moving average: its plain names are read.")
    return {name: dense(value, name, path) for name, value in own.items() if _is_weight(name, value)}, notes


def _chosen(
    hits: dict[str, dict[str, set[str]]], names: dict[str, Any], path: object
) -> tuple[str, list[str], list[str]]:
    """The prefix of the network, those of other whole networks, and what is to be said."""
    covered = {prefix: set().union(*parts.values()) for prefix, parts in hits.items()}
    # Backbone, pyramid, proposals and boxes make a detector, of which another may have one part more.
    enough = min(4, max(map(len, hits.values())))
    order = sorted(
        (one for one in hits if len(hits[one]) >= enough),
        key=lambda one: (bool(COPY.search(one)), -len(hits[one]), -len(covered[one]), len(one)),
    )
    best = order[0]
    whole = [one for one in order[1:] if len(hits[one]) > 1 and covered[one].isdisjoint(covered[best])]
    copies = [one for one in whole if COPY.search(one)]
    for rival in whole:
        if (rival not in copies or COPY.search(best)) and not _same(best, rival, names):
            raise UserError(
                f"{path} holds two networks, {_place(best)} and {_place(rival)}: save the state_dict of one alone."
            )
    if COPY.search(best):
        return best, whole, [f"{path}: the weights {_place(best)} are read, as there are no others."]
    if copies:
        return best, whole, [f"{path}: the weights {_place(best)} are read, not their copy {_place(copies[0])}."]
    return best, whole, []


def _same(one: str, other: str, names: dict[str, Any]) -> bool:
    """Whether both prefixes stand before the same names and values."""
    pairs = [
        (value, names.get(other + name.removeprefix(one)))
        for name, value in names.items()
        if name.startswith(one) and isinstance(value, Tensor)
    ]
    shared = [(a, b) for a, b in pairs if isinstance(b, Tensor)]
    return bool(shared) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in shared)


def _place(prefix: str) -> str:
    return f"under {prefix.removesuffix('.')!r}" if prefix else "at the top"


def _largest(containers: Counter[str]) -> str:
    """The container with the most tensors, of equal ones the one that is called so: no name is one that we know."""
    return max(containers, key=lambda one: (containers[one], bool(USUAL.search(one))), default="")


def _is_weight(name: str, value: Any) -> bool:
    return isinstance(value, Tensor) or name.endswith((".weight", ".bias"))


def dense(value: Any, name: str, path: object) -> Tensor:
    """A tensor as it is.

    raises  UserError if it is quantised, sparse or some other object
    """
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized and not value.is_meta:
        return value.detach()
    what = value.origin if isinstance(value, Placeholder) else f"{value.dtype}, {value.layout}, on {value.device}"
    raise UserError(
        f"{path} holds {name} in a form that is not read ({what}): "
        "save the state_dict of the plain model, before it is quantised, made sparse or distributed."
    )


def _named(content: Any, path: object) -> tuple[dict[str, Any], Counter[str]]:
    """Everything that may be a tensor by its dotted name, and how many tensors each container holds."""
    names: dict[str, Any] = {}
    containers: Counter[str] = Counter()
    wrapped: dict[str, str] = {}  # plain name -> the one that it was made of
    for container, key, value in _leaves(content, path):
        full = container + key
        plain = WRAPPED.sub("", full)
        if full == plain and plain in wrapped:
            # The file has the plain name too: both networks count, whichever comes first.
            names[wrapped.pop(plain)] = names.pop(plain)
        name = full if plain in names else plain
        if name != full:
            wrapped[name] = full
        names[name] = value
        containers[name.removesuffix(WRAPPED.sub("", key))] += isinstance(value, Tensor)
    return names, containers


def _leaves(content: Any, path: object) -> Iterator[tuple[str, str, Any]]:
    """(container, name in it, tensor or unread object), in the file's order; a module is one container."""
    stack: list[tuple[str, str, Any, tuple[int, ...]]] = [("", "", content, ())]
    count = 0
    while stack:
        container, name, value, above = stack.pop()
        value = value.tensor() if isinstance(value, Array) else value
        if isinstance(value, Tensor) or (isinstance(value, Placeholder) and not value.content):
            yield container, name.removesuffix("."), value
            continue
        inside, is_module = _children(value)
        count += 1
        if count > MOST:
            raise UserError(f"{path} holds more than {MOST} dicts and lists: save the model's state_dict alone.")
        if not inside or len(above) >= DEEPEST or id(value) in above:
            continue
        if not is_module:
            container, name = container + name, ""
        above = (*above, id(value))
        stack += [(container, f"{name}{key}.", one, above) for key, one in reversed(inside)]


def _children(value: Any) -> tuple[list[tuple[str, Any]], bool]:
    """What a container holds, by name, and whether it is a module: its tables of tensors and modules have no names."""
    if isinstance(value, (list, tuple)):
        return [(str(index), one) for index, one in enumerate(value)], False
    held = value.content if isinstance(value, Placeholder) else value
    if not isinstance(held, dict):
        return [], False
    if isinstance(value, Placeholder) and isinstance(held.get("_modules"), dict):
        tables = [table for key in ("_parameters", "_buffers", "_modules") if isinstance(table := held.get(key), dict)]
        held = {key: one for table in tables for key, one in table.items()}
        return [(str(key), one) for key, one in held.items()], True
    kept = ((str(key), one) for key, one in held.items())
    return [(key, one) for key, one in kept if isinstance(one, Tensor) or not LEFT_OUT.search(key)], False
