"""Checkpoints of mmdetection (1.x to 3.x), torchvision and detectron2 under our names, and what their networks need.

Names and values are converted so that a file does here what it did at home: background moves to the last class, rows
by COCO id become rows by class, BGR input of any scale becomes our RGB. What is no matter of weights (where a residual
block has its stride, how RoIAlign samples) comes back as options for `zoo.config`. What remains different: both
libraries let deltas shrink a box without limit, and torchvision drops detections of less than a hundredth of a pixel.
"""

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from htc_fast.models.config import Model
from htc_fast.models.weights import swin
from htc_fast.models.weights.detectors import DETECTORS, change_first

# COCO's 80 classes among its ids 1 to 90, in order.
COCO_IDS = [number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
DETECTRON_MEAN = (103.53, 116.28, 123.675)  # BGR
# Detectron2's box coders weigh deltas by 10, 20, 30 and half of it; its third stage is not mmdetection's rounded 0.033.
DETECTRON_STD = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (1 / 30, 1 / 30, 1 / 15, 1 / 15))
Renames = tuple[tuple[str, str], ...]

MMDETECTION: Renames = (
    (r"^((?:neck|roi_head)\..+)\.(?:bn|ln|norm_layer)\.", r"\1.conv.norm."),
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"fpn.lateral.\1."),
    (r"^neck\.fpn_convs\.(\d)\.conv\.", r"fpn.output.\1."),
    (r"^neck\.downsample_convs\.(\d)\.conv\.", r"pafpn.downsample.\1."),
    (r"^neck\.pafpn_convs\.(\d)\.conv\.", r"pafpn.output.\1."),
    (r"^rpn_head\.rpn_conv\.", "rpn.conv."),
    (r"^rpn_head\.rpn_cls\.", "rpn.objectness."),
    (r"^rpn_head\.rpn_reg\.", "rpn.deltas."),
    (r"^roi_head\.(bbox|mask)_head\.(?!\d)", r"roi_head.\1_head.0."),
    (r"^roi_head\.bbox_head\.(\d)\.shared_convs\.(\d)\.conv\.", r"box_heads.\1.convs.\2."),
    (r"^roi_head\.bbox_head\.(\d)\.shared_fcs\.0\.", r"box_heads.\1.fc1."),
    (r"^roi_head\.bbox_head\.(\d)\.shared_fcs\.1\.", r"box_heads.\1.fc2."),
    (r"^roi_head\.bbox_head\.(\d)\.fc_cls\.", r"box_heads.\1.classes."),
    (r"^roi_head\.bbox_head\.(\d)\.fc_reg\.", r"box_heads.\1.deltas."),
    (r"^roi_head\.bbox_head\.(\d)\.loss_cls\.cum_samples$", r"box_heads.\1.classes.counts"),
    (r"^roi_head\.mask_head\.(\d)\.convs\.(\d)\.conv\.", r"mask_heads.\1.convs.\2."),
    (r"^roi_head\.mask_head\.(\d)\.conv_res\.conv\.", r"mask_heads.\1.flow."),
    (r"^roi_head\.mask_head\.(\d)\.upsample\.", r"mask_heads.\1.upsample."),
    (r"^roi_head\.mask_head\.(\d)\.conv_logits\.", r"mask_heads.\1.logits."),
    (r"^roi_head\.semantic_head\.lateral_convs\.(\d)\.conv\.", r"semantic_head.lateral.\1."),
    (r"^roi_head\.semantic_head\.convs\.(\d)\.conv\.", r"semantic_head.convs.\1."),
    (r"^roi_head\.semantic_head\.conv_embedding\.conv\.", "semantic_head.embedding."),
    (r"^roi_head\.semantic_head\.conv_logits\.", "semantic_head.logits."),
    (r"^backbone\.(?!net\.|norms\.\d)", "backbone.net."),
    (r"^(backbone\.net\..*\.conv\d)_offset\.", r"\1.conv_offset."),  # version 1's
)
GUIDED: Renames = (  # where mmdetection's RPN is GA-RPN
    (r"^rpn_head\.conv_loc\.", "rpn.location."),
    (r"^rpn_head\.conv_shape\.", "rpn.shape."),
    (r"^rpn_head\.feature_adaption\.conv_offset\.", "rpn.adaption.offsets."),
    (r"^rpn_head\.feature_adaption\.conv_adaption\.", "rpn.adaption."),
    (r"^rpn_head\.conv_cls\.", "rpn.objectness."),
    (r"^rpn_head\.conv_reg\.", "rpn.deltas."),
)
SCNET: Renames = (  # mmdetection's residual pairs, and what SCNet has beside HTC's parts
    (r"^(roi_head\.\w+(?:\.\d)?\.convs\.\d)\.bn([12])\.", r"\1.conv\2.norm."),
    (r"^(roi_head\.\w+(?:\.\d)?\.convs\.\d)\.conv1\.", r"\1.first."),
    (r"^(roi_head\.\w+(?:\.\d)?\.convs\.\d)\.conv2\.", r"\1.second."),
    (r"^roi_head\.mask_head\.(\d)\.convs\.", r"mask_heads.\1.convs."),
    (r"^roi_head\.semantic_head\.convs\.", "semantic_head.convs."),
    (r"^roi_head\.glbctx_head\.convs\.", "context_head.convs."),
    (r"^roi_head\.glbctx_head\.fc\.", "context_head.classes."),
    (r"^roi_head\.feat_relay_head\.fc\.", "relay.dense."),
)
TORCHVISION: Renames = (
    (r"^backbone\.body\.", "backbone.net."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?(weight|bias)$", r"fpn.lateral.\1.\2"),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?(weight|bias)$", r"fpn.output.\1.\2"),
    (r"^rpn\.head\.conv\.(?:0\.0\.)?(weight|bias)$", r"rpn.conv.\1"),
    (r"^rpn\.head\.cls_logits\.", "rpn.objectness."),
    (r"^rpn\.head\.bbox_pred\.", "rpn.deltas."),
    (r"^roi_heads\.box_head\.fc6\.", "box_heads.0.fc1."),
    (r"^roi_heads\.box_head\.fc7\.", "box_heads.0.fc2."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "box_heads.0.classes."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "box_heads.0.deltas."),
    (r"^roi_heads\.mask_head\.(\d)\.0\.", r"mask_heads.0.convs.\1."),
    *((rf"^roi_heads\.mask_head\.mask_fcn{k + 1}\.", f"mask_heads.0.convs.{k}.") for k in range(4)),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "mask_heads.0.upsample."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask_heads.0.logits."),
)
DETECTRON2: Renames = (
    (r"^backbone\.bottom_up\.stem\.conv1\.norm\.", "backbone.net.bn1."),
    (r"^backbone\.bottom_up\.stem\.conv1\.", "backbone.net.conv1."),
    *((rf"^backbone\.bottom_up\.res{s + 1}\.", f"backbone.net.layer{s}.") for s in range(1, 5)),
    (r"^(backbone\.net\.layer\d\.\d+)\.shortcut\.norm\.", r"\1.downsample.1."),
    (r"^(backbone\.net\.layer\d\.\d+)\.shortcut\.", r"\1.downsample.0."),
    (r"^(backbone\.net\.layer\d\.\d+)\.conv(\d)\.norm\.", r"\1.bn\2."),
    (r"^(backbone\.net\.layer\d\.\d+\.conv\d)_offset\.", r"\1.conv_offset."),
    *((rf"^backbone\.fpn_lateral{k + 2}\.", f"fpn.lateral.{k}.") for k in range(4)),
    *((rf"^backbone\.fpn_output{k + 2}\.", f"fpn.output.{k}.") for k in range(4)),
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn.conv."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.objectness."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.deltas."),
    (r"^roi_heads\.box_(head|predictor)\.(?!\d)", r"roi_heads.box_\1.0."),
    *((rf"^roi_heads\.box_head\.(\d)\.conv{k + 1}\.", rf"box_heads.\1.convs.{k}.") for k in range(4)),
    (r"^roi_heads\.box_head\.(\d)\.fc(\d)\.", r"box_heads.\1.fc\2."),
    (r"^roi_heads\.box_predictor\.(\d)\.cls_score\.", r"box_heads.\1.classes."),
    (r"^roi_heads\.box_predictor\.(\d)\.bbox_pred\.", r"box_heads.\1.deltas."),
    *((rf"^roi_heads\.mask_head\.mask_fcn{k + 1}\.", f"mask_heads.0.convs.{k}.") for k in range(4)),
    (r"^roi_heads\.mask_head\.deconv\.", "mask_heads.0.upsample."),
    (r"^roi_heads\.mask_head\.predictor\.", "mask_heads.0.logits."),
)
VERSION_1 = re.compile(r"^(bbox_head|mask_head)\.|^semantic_head\.(lateral_convs|convs\.\d\.(conv|bn)|conv_)")
# What detectron2's files carry besides weights.
FIXED = re.compile(r"^pixel_(mean|std)$|\.cell_anchors\.|\.anchor_generator\.")
NORMED = re.compile(r"\bNormed(Linear|Conv2d)\b")
NUMBERS = r"\b{}\s*=\s*[\[(]([\d\s.,]+)[\])]"


def convert(
    state: dict[str, Tensor], num_classes: int | None = None, recipe: str = ""
) -> tuple[dict[str, Tensor], dict]:
    """A checkpoint's tensors under our names, and the model options that the file's network needs.

    state        names and tensors of mmdetection, torchvision or detectron2 (ours pass unchanged)
    num_classes  of the model to be filled, if known: 90 takes 91 rows for classes of somebody's own, not for COCO's ids
    recipe       mmdetection's configuration as text, which its files carry: it tells the original ResNets (style
                 "caffe", input in BGR) from the usual ones
    returns      tensors by name; options for `zoo.config`
    """
    if any(key.startswith(("backbone.bottom_up.", "proposal_generator.")) for key in state):
        return from_detectron2(state)
    if any(key.startswith(("backbone.body.", "roi_heads.box_predictor.")) for key in state):
        return from_torchvision(state, num_classes)
    state = from_mmdetection(state)
    return state, _of_recipe(state, recipe)


def renamed(state: dict[str, Tensor], renames: Renames) -> dict[str, Tensor]:
    """The same tensors; every rule is applied to every name, in order."""
    out = {}
    for key, value in state.items():
        for pattern, name in renames:
            key = re.sub(pattern, name, key)
        out[key] = value
    return out


def from_mmdetection(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """mmdetection's tensors under our names; version 1 (heads at the top level, background first) is converted."""
    # Seesaw Loss counts the background's samples too, behind the classes', and never asks.
    state = {key: value[:-1] if key.endswith(".loss_cls.cum_samples") else value for key, value in state.items()}
    if any(VERSION_1.match(key) for key in state):
        state = {f"roi_head.{key}" if VERSION_1.match(key) else key: _version_2(key, v) for key, v in state.items()}
    return renamed(swin.converted(state), MMDETECTION + GUIDED + SCNET + DETECTORS)


def _version_2(key: str, value: Tensor) -> Tensor:
    """Background moves from first to last, and leaves the mask and class-specific box outputs."""
    if ".fc_cls." in key:
        return torch.cat([value[1:], value[:1]])
    if key.startswith("mask_head.") and ".conv_logits." in key and len(value) > 1:
        return value[1:]
    if ".fc_reg." in key and len(value) > 4:
        return value[4:]
    return value


def _of_recipe(state: dict[str, Tensor], recipe: str) -> dict:
    """Options that mmdetection's configuration asks for; first convolutions are converted where they take BGR."""
    found = [one for name in ("mean", "std") if (one := re.search(NUMBERS.format(name), recipe))]
    options = {"stride_in_1x1": True} if re.search(r"\bstyle\s*=\s*['\"]caffe['\"]", recipe) else {}
    if len(found) == 2:
        mean, spread = ([float(number) for number in one[1].split(",") if number.strip()] for one in found)
        if len(mean) == len(spread) == 3:
            options |= _to_rgb(state, mean, spread, bgr=re.search(r"to_rgb\s*=\s*False", recipe) is not None)
    return options


def _to_rgb(state: dict[str, Tensor], mean: Sequence[float], spread: Sequence[float], bgr: bool) -> dict:
    """Let first convolutions read RGB over our spread; returns the mean as an option if it is not ours."""
    order = (2, 1, 0) if bgr else (0, 1, 2)
    mean, spread = tuple(mean[c] for c in order), tuple(spread[c] for c in order)
    if bgr or spread != Model.std:
        factor = torch.tensor(Model.std) / torch.tensor(spread)
        change_first(state, lambda weight: weight.float()[:, list(order)] * factor[:, None, None])
    return {} if mean == Model.mean else {"mean": mean}


def is_coco(state: dict[str, Tensor]) -> bool:
    """Whether these are torchvision's tensors, by its names, with a row for every id of COCO."""
    return len(state.get("roi_heads.box_predictor.cls_score.bias", ())) == 91


def from_torchvision(state: dict[str, Tensor], num_classes: int | None) -> tuple[dict[str, Tensor], dict]:
    """torchvision's Mask R-CNN: background first; COCO files have a row for every id from 0 to 90."""
    # Names without ".0" come from before 0.13, as COCO_V1 does, whose frozen batch norms add nothing to the variance.
    old = "rpn.head.conv.weight" in state
    coco = is_coco(state) and num_classes != 90
    state = renamed(state, TORCHVISION)
    rows = len(state.get("box_heads.0.classes.bias", ()))
    kept = COCO_IDS if coco else list(range(1, rows))
    rules: dict[str, Callable[[Tensor], Tensor]] = {
        "box_heads.0.classes.": lambda value: value[kept + [0]],
        "box_heads.0.deltas.": lambda value: value.unflatten(0, (-1, 4))[kept].flatten(0, 1),
        "mask_heads.0.logits.": lambda value: value[kept],
    }
    for key, value in state.items():
        state[key] = next((rule(value) for name, rule in rules.items() if key.startswith(name)), value)
    if old:
        _add_epsilon(state)
    return state, {"roi_aligned": False, "roi_samples": 2, "rpn_whole_anchors": True}


def _add_epsilon(state: dict[str, Tensor], epsilon: float = 1e-5) -> None:
    """Scale batch norms that add nothing to the variance, so that those which add `epsilon` compute the same."""
    for key in [key for key in state if key.endswith(".running_var")]:
        weight = key.removesuffix("running_var") + "weight"
        state[weight] = state[weight] * (1 + epsilon / state[key].clamp(min=1e-12)).sqrt()


def from_detectron2(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict]:
    """detectron2's Mask R-CNN and Cascade Mask R-CNN; a cascade's one mask head stands for all of ours."""
    pixels = {key: [round(float(one), 4) for one in state[key].flatten()] for key in state if key.startswith("pixel_")}
    state = renamed({key: value for key, value in state.items() if not FIXED.search(key)}, DETECTRON2)
    mean, spread = pixels.get("pixel_mean", DETECTRON_MEAN), pixels.get("pixel_std", (1.0, 1.0, 1.0))
    options = _to_rgb(state, mean, spread, bgr=True)
    middle = state.get("backbone.net.layer1.0.conv2.weight")
    # The original ResNets have their stride in a block's first convolution, grouped ones in the second.
    options["stride_in_1x1"] = middle is not None and middle.shape[0] == middle.shape[1]
    stages = [t for t in range(1, 9) if f"box_heads.{t}.fc1.weight" in state]
    if stages:
        options |= {"score_average": "probabilities", "delta_std": DETECTRON_STD}
        heads = {key: value for key, value in state.items() if key.startswith("mask_heads.0.")}
        state |= {key.replace("mask_heads.0", f"mask_heads.{t}"): value for t in stages for key, value in heads.items()}
    return state, options
