"""Named recipes: values of a `TrainingRun` that belong together, each with the reason for it.

What is given explicitly wins over the recipe, and the recipe over the defaults, which are the paper's.
"""

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import timm

from htc_fast.errors import UserError, few
from htc_fast.inference.predict import SIZE
from htc_fast.models import zoo
from htc_fast.training.groups import is_transformer

Run = TypeVar("Run", bound=type)

STRONG: dict[str, Any] = {
    "image_size": (1024, 1024),  # squares to cut or pad to, as large-scale jitter is published with
    "jitter": "large",  # 0.1 to 2.0: the most of what Simple Copy-Paste (2021) gains, and RTMDet's and ViTDet's choice
    "copy_paste": 0.5,  # half of the pictures, so that the other half looks as it was taken (Ghiasi et al. 2021)
    "epochs": 36.0,  # HTC++'s 3x; strong augmentation needs more passes than 20
    "optimizer": "adamw",  # as all recipes of today; one rate suits ResNets and transformers
    "lr": None,  # HTC++'s 1e-4 for 16 pictures a step, by the root of their number
    "weight_decay": 0.05,  # HTC++'s and RTMDet's
    "no_decay": True,  # HTC++ and RTMDet: norms, biases and tables of positions are no filters that could overfit
    "schedule": "cosine",  # needs no steps to be set for another length, and ends at weights that an average suits
    "clip": 35.0,  # mmdetection's bound for HTC; GIoU at 10 makes larger gradients in the first steps
    "ema": 0.9998,  # RTMDet's: an average over 5000 steps; the warm-up makes it right for shorter runs
    "set": {
        "box_loss": "giou",  # HTC++: of decoded boxes, what AP measures
        "box_loss_weight": 10.0,  # HTC++'s, as GIoU's gradient is small beside smooth L1's of normalised deltas
    },
}
SMALL_DATA: dict[str, Any] = {
    "image_size": (1024, 1024),  # squares to cut or pad to
    "jitter": "standard",  # 0.8 to 1.25: what was learnt of sizes is kept; 0.1 to 2.0 needs more pictures
    "flip": "horizontal",  # not both: most cameras know up from down; microscopes and drones take --flip both
    "copy_paste": 0.5,  # gains most where pictures are few (Ghiasi et al. 2021, on a tenth of COCO)
    "repeat": 0.1,  # classes in less than a tenth of the pictures: LVIS's 0.001 is for a hundred thousand of them
    "epochs": 50.0,  # few pictures make few steps
    "warmup": 100,  # of the few steps
    "optimizer": "adamw",  # reaches in few steps what SGD needs a tuned rate for
    "lr": 5e-5,  # half of AdamW's usual rate, at any batch: weights are to be adapted, not to be learnt anew
    "weight_decay": 0.05,  # as in strong
    "no_decay": True,  # as in strong
    "schedule": "cosine",  # ends at a rate of 0 however few the epochs
    "clip": 10.0,  # a single odd picture weighs much among few
    "ema": 0.999,  # an average over 1000 steps, as there are few; evens out what the last pictures did
    "set": {"frozen_stages": 2},  # edges and textures are the same everywhere, and few pictures overfit them
}
PRESETS: dict[str, dict[str, Any]] = {"paper": {}, "strong": STRONG, "small-data": SMALL_DATA}

LAYER_DECAY = 0.9  # of a transformer's blocks: what the first ones know is kept; ViTDet's for its deepest network
DROP_PATH = 0.2  # Swin's detectors have 0.1 to 0.3, ConvNeXt's 0.4 and more; ResNets' are published without
DROPPING = {"convnext"}  # timm's files of further networks that are published with it
# What of a recipe makes a run long, or belongs to a long one; and what belongs to an optimizer.
LONG = {"image_size", "epochs", "lr", "warmup", "clip"}
OPTIMIZER = {"lr", "weight_decay"}


def size_of(model: str) -> tuple[int, int]:
    """The short side and the limit of the long one that go with a model's name."""
    return zoo.MODELS[model].image_size or SIZE


def preset(given: dict[str, Any]) -> dict[str, Any]:
    """The values of a recipe beside what is given: model and backbone, and the optimizer where it is another.

    given   fields of a `TrainingRun`, of which `recipe` names it
    returns values of other fields; none for a name that there is not, which the run itself refuses
    """
    name, backbone = given.get("recipe", "paper"), given.get("backbone")
    values = dict(PRESETS.get(name, {}) if isinstance(name, str) else {})
    if not values:
        return values
    own_drop_path = False
    try:
        config = zoo.config(given.get("model", "htc_r50"))
        backbone, own_drop_path = backbone or config.backbone, config.drop_path > 0
    except (UserError, TypeError):
        pass  # said by the run
    if isinstance(backbone, str):
        values |= {"layer_decay": LAYER_DECAY} if is_transformer(backbone) else {}
        if name == "strong" and not own_drop_path and _drops(backbone):
            values["set"] = {**values["set"], "drop_path": DROP_PATH}
    if given.get("optimizer", values["optimizer"]) != values["optimizer"]:
        values = {field: value for field, value in values.items() if field not in OPTIMIZER}
    return values


def _agreeing(values: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """A recipe's values without those that what is asked for takes the place of: one says how sizes are drawn, how the
    rate falls, which loss a weight belongs to."""
    left_out = {"jitter"} if asked.keys() & {"scales", "crop", "train_sizes"} else set()
    left_out |= {"schedule"} if "steps" in asked else set()
    values = {field: value for field, value in values.items() if field not in left_out - asked.keys()}
    own, inner = values.get("set", {}), asked.get("set", {})
    if isinstance(inner, dict) and inner.get("box_loss", own.get("box_loss")) != own.get("box_loss"):
        values["set"] = {field: value for field, value in own.items() if field != "box_loss_weight"}
    return values


def filled(given: dict[str, Any]) -> dict[str, Any]:
    """What is given, and the recipe's values of what is not; `set` field by field."""
    values = _agreeing(preset(given), given)
    if isinstance(given.get("set", {}), dict) and "set" in values:
        given = {**given, "set": {**values["set"], **given.get("set", {})}}
    return {**values, **given}


def of_short_run(given: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """What of a recipe suits a run of minutes on small pictures; asked: what of `given` somebody asked for."""
    return {field: value for field, value in _agreeing(preset(given), asked).items() if field not in LONG}


def filling(kind: Run) -> Run:
    """Let a dataclass take what it is not given from the recipe that it is given; copies are given everything."""
    plain: Callable[..., None] = kind.__init__  # type: ignore[misc]
    count = len(fields(kind))

    @functools.wraps(plain)
    def fill(self: Any, *values: Any, **given: Any) -> None:
        plain(self, *values, **(given if len(given) == count or "recipe" not in given else filled(given)))

    kind.__init__ = fill  # type: ignore[misc]
    return kind


def described(run: Any) -> str:
    """A run's recipe in words: its name, and which values are others."""
    compared = {field for values in PRESETS.values() for field in values} | {"accumulate", "layer_decay", "steps"}
    values = preset({"recipe": run.recipe, "model": run.model, "backbone": run.backbone})
    values = {"image_size": size_of(run.model), **values}
    wanted = {one.name: values.get(one.name, one.default) for one in fields(run) if one.name in compared - {"set"}}
    changed = [name for name, value in wanted.items() if getattr(run, name) != value]
    changed += [name for name, value in values.get("set", {}).items() if run.set.get(name) != value]
    return f"recipe {run.recipe}" + (f" but for {few(changed)}" if changed else "")


def _drops(backbone: str) -> bool:
    base = backbone.split(".")[0]
    if is_transformer(backbone):
        return True
    return timm.is_model(base) and timm.models.model_entrypoint(base).__module__.split(".")[-1] in DROPPING
