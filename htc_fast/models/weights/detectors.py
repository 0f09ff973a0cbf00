"""mmdetection's names of what DetectoRS adds to HTC, and how many of it a file has."""

import re
from collections.abc import Callable, Iterable

from torch import Tensor

from htc_fast.models.standardised import moments

Renames = tuple[tuple[str, str], ...]

_STEP = r"^((?:backbone|rfp\.backbones\.\d+)\.net\..+)\."
DETECTORS: Renames = (  # after those of the first backbone
    (r"^neck\.rfp_modules\.(\d+)\.", r"rfp.backbones.\1.net."),
    (r"^neck\.rfp_aspp\.aspp\.3\.", "rfp.aspp.pooled."),
    (r"^neck\.rfp_aspp\.aspp\.([0-2])\.", r"rfp.aspp.branches.\1."),
    (r"^neck\.rfp_weight\.", "rfp.gate."),
    (_STEP + r"rfp_conv\.", r"\1.feedback."),
    (_STEP + r"weight_gamma$", r"\1.weight_std"),
    (_STEP + r"weight_beta$", r"\1.weight_mean"),
    (_STEP + r"weight_diff$", r"\1.weight_difference"),
    (_STEP + r"offset_s\.", r"\1.near_offset."),
    (_STEP + r"offset_l\.", r"\1.far_offset."),
)
# What a switchable convolution has beside its weight; the backbone of a recursion's further step.
SWITCH = re.compile(r"backbone\.net\.layer(\d)\..*\.weight_difference$")
STEP = re.compile(r"rfp\.backbones\.(\d+)\.")
FIRST = re.compile(r"(?:backbone|rfp\.backbones\.\d+)\.net\.(?:conv1|patch_embed\.proj)\.weight$")  # read images


def shown(names: Iterable[str]) -> dict:
    """Options of `zoo.config` that our names leave no choice about: which stages switch, how many steps there are."""
    layers, steps = set(), set()
    for name in names:
        if found := SWITCH.match(name):
            layers.add(int(found[1]))
        elif found := STEP.match(name):
            steps.add(int(found[1]))
    options: dict = {"sac": tuple(layer + 1 for layer in sorted(layers))} if layers else {}
    return options | ({"fpn_steps": max(steps) + 2} if steps else {})


def change_first(state: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> None:
    """Change what the first convolution of each step computes with: of a standardised one the weight that it takes.

    change  weight [O, 3, kh, kw] -> another
    """
    for key in [key for key in state if FIRST.match(key)]:
        weight, deviation = state[key], state.get(f"{key}_std")
        if deviation is None:
            state[key] = change(weight)
            continue
        mean, own = moments(weight)
        state[key] = change((weight - mean) / own * deviation + state[f"{key}_mean"])
        state[f"{key}_mean"], state[f"{key}_std"] = moments(state[key])
