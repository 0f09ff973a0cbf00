"""The detectors by name: every row of the paper's tables, as one configuration each."""

from dataclasses import fields, replace
from typing import Any

from htc_fast.errors import UserError, choose, short
from htc_fast.models.config import RPN, Cascade, Model

BACKBONES = {
    "r50": "resnet50",
    "r101": "resnet101",
    "x101_32x4d": "resnext101_32x4d",
    "x101_64x4d": "resnext101_64x4d",
    "x101_32x8d": "resnext101_32x8d",
    "senet154": "legacy_senet154",
    "dpn107": "dpn107",
    "fishnet150": "fishnet150",
}
EVERYWHERE = ("r50", "r101", "x101_32x4d", "x101_64x4d")  # in every kind of detector
ENSEMBLE = ("x101_64x4d", "x101_32x8d", "dpn107", "fishnet150")  # beside SENet-154
# Guided anchoring: one anchor at each place, which may reach outside, and a few hundred proposals of high quality.
GUIDED = RPN(guided=True, allowed_border=-1.0, proposals=300, train_proposals=300)
RPNS = {"rpn": RPN(), "ga": GUIDED}
ONE_STAGE = Cascade(match_iou=(0.5,), loss_weight=(1.0,), delta_std=((0.1, 0.1, 0.2, 0.2),))


def _htc(name: str, backbone: str, **options) -> Model:
    return Model(name=name, backbone=backbone, **options)


def _cascade(name: str, backbone: str, **options) -> Model:
    """Cascade Mask R-CNN: no flow, no semantic branch, parallel unless said otherwise."""
    return Model(name=name, backbone=backbone, **{**_CASCADE, **options})


def _mask_rcnn(name: str, backbone: str, **options) -> Model:
    """Mask R-CNN: one stage, a box regression for every class."""
    return Model(name=name, backbone=backbone, stages=ONE_STAGE, **{**_CASCADE, "class_agnostic": False, **options})


_CASCADE = {"interleaved": False, "information_flow": False, "semantic": "none"}


def _table_7() -> list[Model]:
    """From HTC to the winner of COCO 2018, one step after the other; then the other backbones of its ensemble."""
    dcn: dict[str, Any] = {"dcn": (5,)}
    syncbn = dcn | {"norm": "syncbn", "box_head": "4conv1fc", "norm_eval": False}
    scales = syncbn | {"train_sizes": (400, 1400, 1600)}
    guided = scales | {"rpn": GUIDED}
    models = [
        _htc("htc_r50_dcn", "resnet50", **dcn),
        _htc("htc_r50_dcn_syncbn", "resnet50", **syncbn),
        _htc("htc_r50_dcn_syncbn_mstrain", "resnet50", **scales),
        _htc("htc_senet154_dcn_syncbn_mstrain", BACKBONES["senet154"], **scales),
        _htc("htc_winner", BACKBONES["senet154"], **guided),
    ]
    models += [_htc(f"htc_winner_{trunk}", BACKBONES[trunk], **guided) for trunk in ENSEMBLE]
    # What mmdetection's released model has: three deformable stages, no batch norms that train.
    c3_c5 = {"dcn": (3, 4, 5), "train_sizes": (400, 1400, 1600), "semantic_loss_weight": 0.2}
    return [*models, _htc("htc_x101_64x4d_dcn_c3_c5_mstrain", BACKBONES["x101_64x4d"], **c3_c5)]


def _table_8() -> list[Model]:
    """Common modules, each alone in HTC R-50; and the rows' other switches alone."""
    switches: dict[str, dict[str, Any]] = {
        "aspp": {"aspp": True},
        "pafpn": {"neck": "pafpn"},
        "gcn": {"gcn": True},
        "prroipool": {"roi_pooling": "pr_roi_pool", "roi_aligned": False},
        "softnms": {"soft_nms": True},
        "syncbn": {"norm": "syncbn", "box_head": "4conv1fc", "norm_eval": False},
        "mstrain": {"train_sizes": (400, 1400, 1600)},
        "ga": {"rpn": GUIDED},
    }
    return [_htc(f"htc_r50_{name}", "resnet50", **options) for name, options in switches.items()]


def _descendants() -> list[Model]:
    """What the cascade became: SCNet (AAAI 2021), DetectoRS (CVPR 2021), HTC++ (Swin Transformer, ICCV 2021)."""
    heads = {"sample_consistency": True, "feature_relay": True, "global_context": True, "residual_heads": True}
    scnet = {**heads, "interleaved": False, "information_flow": False, "semantic_loss_weight": 0.2}
    models = [_htc(f"scnet_{trunk}", BACKBONES[trunk], **scnet) for trunk in ("r50", "r101", "x101_64x4d")]
    detectors: dict[str, dict[str, Any]] = {"": {"fpn_steps": 2, "sac": (3, 4, 5)}}
    detectors |= {"_rfp": {"fpn_steps": 2}, "_sac": {"sac": (3, 4, 5)}}
    models += [
        _htc(f"detectors_htc_r50{name}", "resnet50", semantic_loss_weight=0.2, **options)
        for name, options in detectors.items()
    ]
    boxes = {"box_head": "4conv1fc", "box_norm": "syncbn", "box_loss": "giou", "box_loss_weight": 10.0}
    htcpp = {**boxes, "soft_nms": True, "semantic_loss_weight": 0.2, "frozen_stages": -1}
    htcpp |= {"train_sizes": (400, 1400, 1600), "image_size": (1400, 1600)}
    # The larger ones start from ImageNet-22K. Their rates are those of their authors' and CBNetV2's configurations.
    swins = (("tiny", "", 0.2), ("small", "", 0.2), ("base", ".ms_in22k", 0.3), ("large", ".ms_in22k", 0.2))
    return models + [
        _htc(f"htcpp_swin_{size[0]}", f"swin_{size}_patch4_window7_224{weights}", drop_path=rate, **htcpp)
        for size, weights, rate in swins
    ]


def _build() -> dict[str, Model]:
    models = []
    for trunk in EVERYWHERE:
        backbone = BACKBONES[trunk]
        models += [
            _htc(f"htc_{trunk}", backbone),
            _htc(f"htc_{trunk}_nosem", backbone, semantic="none"),  # Tables 2 and 4
            _cascade(f"cascade_mask_{trunk}", backbone),
            _cascade(f"cascade_mask_{trunk}_interleaved", backbone, interleaved=True),  # Tables 2, 3 and 4
            _mask_rcnn(f"mask_rcnn_{trunk}", backbone),
            _mask_rcnn(f"mask_rcnn_{trunk}_interleaved", backbone, interleaved=True),  # Table 3
        ]
    # Table 5: what the semantic branch is fused into; "none" is an auxiliary loss only.
    for suffix, semantic in (("none", "loss"), ("bbox", "box"), ("mask", "mask"), ("both", "both")):
        models.append(_cascade(f"cascade_mask_r50_sem_{suffix}", "resnet50", semantic=semantic))
    # Table 6: the weight of the semantic loss; 0.2 is what mmdetection's released models were trained with.
    for beta in (0.2, 0.5, 2.0, 3.0):
        models.append(_htc(f"htc_r50_beta{beta:g}", "resnet50", semantic_loss_weight=beta))
    models += [_htc(f"htc_{trunk}", BACKBONES[trunk]) for trunk in BACKBONES if trunk not in EVERYWHERE]
    panet = {"neck": "pafpn", "adaptive_pooling": True, "mask_fc": True}
    models += [_mask_rcnn("panet_r50", "resnet50", **panet), *_table_7(), *_table_8(), *_descendants()]
    return {model.name: model for model in models}


MODELS = _build()


def list_models() -> list[str]:
    """Every name that `config` knows."""
    return sorted(MODELS)


def config(name: str, /, **overrides: Any) -> Model:
    """The configuration of a named detector, with fields of `Model`, `RPN` (rpn_...) or `Cascade` replaced.

    overrides  backbone="convnext_tiny", semantic="box", rpn_proposals=300, loss_weight=(1, 0.5, 0.25), ...;
               rpn="ga" is short for all that guided anchoring sets
    raises     UserError for an unknown name or field, or a value that is not of its kind
    """
    base = MODELS[choose(name, MODELS, "model")]
    parts: dict[str, dict] = {"": {}, "rpn": {}, "stages": {}}
    own = {entry.name for entry in fields(Model)}
    stages = {entry.name for entry in fields(Cascade)}
    rpn = {f"rpn_{entry.name}": entry.name for entry in fields(RPN)}
    for key, value in overrides.items():
        choose(key, [*sorted(own | stages), *rpn], "model option")
        where, field = ("", key) if key in own else ("stages", key) if key in stages else ("rpn", rpn[key])
        parts[where][field] = value
    if isinstance(overrides.get("rpn"), str):
        if overrides["rpn"] not in RPNS:
            raise UserError(f"rpn must be {', '.join(RPNS)} or a models.config.RPN, got {short(overrides['rpn'])}.")
        parts[""]["rpn"] = RPNS[overrides["rpn"]]
    elif "rpn" not in overrides and parts["rpn"].get("guided", base.rpn.guided) != base.rpn.guided:
        # The other kind is made of other values.
        parts[""]["rpn"] = RPNS["rpn" if base.rpn.guided else "ga"]
    for where, kind in (("rpn", RPN), ("stages", Cascade)):
        whole = parts[""].get(where, getattr(base, where))
        if isinstance(whole, kind):
            parts[""][where] = replace(whole, **parts[where])
    backbone = parts[""].get("backbone", base.backbone)
    if isinstance(backbone, str) and backbone.split(".")[0] != base.backbone.split(".")[0]:
        # The rate of stochastic depth is the named backbone's; others may have none.
        parts[""].setdefault("drop_path", 0.0)
    return replace(base, **parts[""])
