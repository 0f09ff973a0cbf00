"""What the fields of a configuration may hold: the field's type says of what kind, `LIMITS` from where to where.

A value of another kind would be noticed at the first picture, in a word of torch's, or never.
"""

import math
import operator
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

from htc_fast.errors import MOST, MOST_DETECTIONS, UserError, kind_of, short

COUNT, SHARE, POSITIVE, WEIGHT = (1, MOST), (0.0, 1.0), (math.ulp(0.0), 1e9), (0.0, 1e9)
LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("channels", "box_channels"), (1, 2**16)),
    **dict.fromkeys(("num_classes", "semantic_classes"), (1, 10**6)),
    **dict.fromkeys(("samples", "train_proposals_per_level", "train_proposals", "proposals_per_level"), COUNT),
    **dict.fromkeys(("proposals", "test_stage"), COUNT),
    "detections": (1, MOST_DETECTIONS),
    **dict.fromkeys(("positive_iou", "negative_iou", "low_quality_iou", "nms_iou", "match_iou"), SHARE),
    **dict.fromkeys(("positive_fraction", "score_threshold", "drop_path"), SHARE),
    **dict.fromkeys(("anchor_scale", "anchor_ratios", "delta_std", "std"), POSITIVE),
    **dict.fromkeys(("loss_weight", "semantic_loss_weight"), WEIGHT),
    **dict.fromkeys(("box_loss_weight", "global_context_loss_weight"), WEIGHT),
    **dict.fromkeys(("dcn", "sac"), (2, 5)),
    "fpn_steps": (1, 8),
    "frozen_stages": (-1, 4),  # below 1: none, as other libraries say it
    "roi_samples": (-1, 2**15),
}
# How many entries a tuple has; where nothing stands, any number.
LENGTHS = {"dcn": (0, 4), "sac": (0, 4), "anchor_ratios": (1, 25), "match_iou": (1, 8), "delta_std": (1, 8)}
LENGTHS |= dict.fromkeys(("mean", "std"), (3, 3))


def check_fields(config: Any, prefix: str = "") -> None:
    """Bring the fields of a frozen dataclass to their types: lists to tuples, other libraries' numbers to Python's.

    prefix  what stands before the fields' names where they are set, such as "rpn_"
    raises  UserError naming the first field whose value is of another kind or out of bounds
    """
    for name, hint in get_type_hints(type(config)).items():
        if name in ("rpn", "stages", "category_ids", "image_size", "train_sizes") or name not in {
            field.name for field in fields(config)
        }:
            continue
        value, (kind, optional) = getattr(config, name), kind_of(hint)
        if value is None and optional:
            continue
        try:
            object.__setattr__(config, name, _fitted(name, value, kind))
        except (TypeError, ValueError, OverflowError) as error:
            what = str(error) if type(error) is TypeError else "something else"
            raise UserError(f"{prefix}{name} must be {what}, got {short(value)}.") from None


def _fitted(name: str, value: Any, kind: Any) -> Any:
    """raises  TypeError that says what is wanted"""
    if get_origin(kind) is tuple:
        return _several(name, value, get_args(kind)[0])
    if kind is str:
        if not isinstance(value, str):
            raise TypeError("text")
        return value
    if kind is bool:
        if value not in (True, False):
            raise TypeError("True or False")
        return bool(value)
    low, high = LIMITS.get(name, (-1e9, 1e9))
    wanted = f"{'an integer' if kind is int else 'a number'}{_bounds(low, high)}"
    try:
        number = _number(value, kind)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(wanted) from None
    if not low <= number <= high:
        raise TypeError(wanted)
    return number


def _several(name: str, value: Any, inside: Any) -> tuple:
    least, most = LENGTHS.get(name, (0, 10**6))
    if get_origin(inside) is tuple:  # delta_std, whose rows are four numbers
        if (
            not isinstance(value, (tuple, list))
            or not least <= len(value) <= most
            or any(not isinstance(row, (tuple, list)) or len(row) != 4 for row in value)
        ):
            raise TypeError("four numbers for each stage")
        return tuple(tuple(_fitted(name, one, get_args(inside)[0]) for one in row) for row in value)
    if not isinstance(value, (tuple, list)) or not least <= len(value) <= most:
        count = f"{least}" if least == most else f"{least} to {most}"
        raise TypeError(f"a tuple of {count + ' ' if name in LENGTHS else ''}{'texts' if inside is str else 'numbers'}")
    try:
        return tuple(_fitted(name, one, inside) for one in value)
    except TypeError as error:
        raise TypeError(f"a tuple of which each is {error}") from None


def _number(value: Any, kind: type) -> float:
    if isinstance(value, (bool, str, bytes, complex)) or str(getattr(value, "dtype", "")).endswith("bool"):
        raise TypeError
    if kind is float:
        return float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)


def _bounds(low: float, high: float) -> str:
    if low == math.ulp(0.0):
        return " above 0"
    if (low, high) in (COUNT, WEIGHT):
        return f" of at least {low:g}"
    return "" if low == -1e9 else f" from {low:g} to {high:.7g}"
