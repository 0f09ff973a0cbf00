"""A model of ours as mmdetection 3 has it: its names, and what its own configuration must say otherwise."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from htc_fast.errors import UserError, few
from htc_fast.models.config import Model
from htc_fast.models.htc import HTC
from htc_fast.models.weights import foreign
from htc_fast.models.weights.origin import OWN

NAMES: foreign.Renames = (
    (r"^rfp\.backbones\.(\d+)\.net\.", r"neck.rfp_modules.\1."),
    (r"^backbone\.net\.", "backbone."),
    (r"^((?:backbone|neck\.rfp_modules)\..+)\.feedback\.", r"\1.rfp_conv."),
    (r"^((?:backbone|neck\.rfp_modules)\..+)\.weight_std$", r"\1.weight_gamma"),
    (r"^((?:backbone|neck\.rfp_modules)\..+)\.weight_mean$", r"\1.weight_beta"),
    (r"^((?:backbone|neck\.rfp_modules)\..+)\.weight_difference$", r"\1.weight_diff"),
    (r"^((?:backbone|neck\.rfp_modules)\..+)\.near_offset\.", r"\1.offset_s."),
    (r"^((?:backbone|neck\.rfp_modules)\..+)\.far_offset\.", r"\1.offset_l."),
    (r"^rfp\.aspp\.branches\.(\d)\.", r"neck.rfp_aspp.aspp.\1."),
    (r"^rfp\.aspp\.pooled\.", "neck.rfp_aspp.aspp.3."),
    (r"^rfp\.gate\.", "neck.rfp_weight."),
    (r"^fpn\.lateral\.(\d)\.", r"neck.lateral_convs.\1.conv."),
    (r"^fpn\.output\.(\d)\.", r"neck.fpn_convs.\1.conv."),
    (r"^rpn\.conv\.", "rpn_head.rpn_conv."),
    (r"^rpn\.objectness\.", "rpn_head.rpn_cls."),
    (r"^rpn\.deltas\.", "rpn_head.rpn_reg."),
    (r"^box_heads\.(\d)\.fc1\.", r"roi_head.bbox_head.\1.shared_fcs.0."),
    (r"^box_heads\.(\d)\.fc2\.", r"roi_head.bbox_head.\1.shared_fcs.1."),
    (r"^box_heads\.(\d)\.classes\.", r"roi_head.bbox_head.\1.fc_cls."),
    (r"^box_heads\.(\d)\.deltas\.", r"roi_head.bbox_head.\1.fc_reg."),
    (r"^((?:mask_heads\.\d|semantic_head|context_head)\.convs\.\d)\.first\.", r"\1.conv1."),
    (r"^((?:mask_heads\.\d|semantic_head|context_head)\.convs\.\d)\.second\.", r"\1.conv2."),
    (r"^((?:mask_heads\.\d|semantic_head)\.convs\.\d)\.(weight|bias)$", r"\1.conv.\2"),
    (r"^mask_heads\.(\d)\.flow\.", r"mask_heads.\1.conv_res.conv."),
    (r"^mask_heads\.(\d)\.logits\.", r"mask_heads.\1.conv_logits."),
    (r"^mask_heads\.", "roi_head.mask_head."),
    (r"^semantic_head\.lateral\.(\d)\.", r"semantic_head.lateral_convs.\1.conv."),
    (r"^semantic_head\.embedding\.", "semantic_head.conv_embedding.conv."),
    (r"^semantic_head\.logits\.", "semantic_head.conv_logits."),
    (r"^semantic_head\.", "roi_head.semantic_head."),
    (r"^context_head\.classes\.", "context_head.fc."),
    (r"^context_head\.", "roi_head.glbctx_head."),
    (r"^relay\.dense\.", "roi_head.feat_relay_head.fc."),
)
# Of its residual networks: fields of their configuration.
BACKBONES: dict[str, dict[str, Any]] = {
    "resnet50": {"depth": 50},
    "resnet101": {"depth": 101},
    "resnext101_32x4d": {"type": "ResNeXt", "depth": 101, "groups": 32, "base_width": 4},
    "resnext101_64x4d": {"type": "ResNeXt", "depth": 101, "groups": 64, "base_width": 4},
    "resnext101_32x8d": {"type": "ResNeXt", "depth": 101, "groups": 32, "base_width": 8},
}
# Its configurations, by the fields that choose between them: (semantic branch, flow), consistent, steps, switchable.
HTC_R50, NO_SEMANTIC = "htc/htc_r50_fpn_1x_coco", "htc/htc-without-semantic_r50_fpn_1x_coco"
# Fields whose value here is all that its HTC family has.
ALIKE = ("channels", "norm", "neck", "aspp", "gcn", "box_head", "box_norm", "class_loss", "adaptive_pooling", "mask_fc",
         "roi_pooling", "score_average", "test_stage")  # fmt: skip
RPN_ALIKE = ("guided", "whole_anchors")
PARTS = {"none": (), "loss": (), "box": ("bbox",), "mask": ("mask",), "both": ("bbox", "mask")}


@dataclass(frozen=True)
class Foreign:
    """A model of ours in mmdetection's terms.

    state    its tensors under mmdetection 3's names, for load_state_dict(strict=True)
    config   name of mmdetection's configuration that it belongs to, without .py
    options  what that configuration must have otherwise, for mmengine's Config.merge_from_dict
    model    our configuration, which the checkpoint carries along, so that the way back loses nothing
    """

    state: dict[str, Tensor]
    config: str
    options: dict[str, Any]
    model: Model

    def checkpoint(self, class_names: Sequence[str]) -> dict:
        """As mmengine's runner writes it, for torch.save; class_names by label."""
        meta = {"dataset_meta": {"classes": tuple(class_names)}, OWN: json.dumps(asdict(self.model))}
        return {"meta": meta, "state_dict": self.state}


def to_mmdetection(model: HTC) -> Foreign:
    """A model as mmdetection 3 reads it: the same detections from the configuration and options that come with it.

    raises  UserError naming what mmdetection has no part or setting for
    """
    config = model.config
    _check(config)
    own = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    state = foreign.renamed(own, NAMES)
    for kind in ("bbox", "mask"):
        if not any(name.startswith(f"roi_head.{kind}_head.1.") for name in state):  # one head is no list of heads
            state = foreign.renamed(state, ((rf"^roi_head\.{kind}_head\.0\.", f"roi_head.{kind}_head."),))
    back = foreign.from_mmdetection(state)
    lost = sorted(name for name in own if back.get(name) is not own[name])
    if lost:
        raise UserError(f"{config.name} has parts that mmdetection lacks: {few(lost)}.")
    return Foreign(state, _base(config), _options(config), config)


def _check(config: Model) -> None:
    """raises  UserError"""
    plain = {one.name: one.default for one in fields(Model)}
    wrong = [f"{name}={getattr(config, name)!r}" for name in ALIKE if getattr(config, name) != plain[name]]
    wrong += [f"rpn_{name}" for name in RPN_ALIKE if getattr(config.rpn, name)]
    if config.backbone not in BACKBONES:
        wrong.insert(0, f"backbone={config.backbone!r}")
    count = len(config.stages.match_iou)
    if count not in (1, 3) or (count == 1 and not _plain(config)):
        wrong.append(f"{count} stages in such a network")
    wrong += _parts(config)
    if config.semantic != "none" and not config.information_flow and not config.sample_consistency:
        wrong.append("a semantic branch without information_flow, with which it cannot predict")
    if wrong:
        raise UserError(
            f"mmdetection has no {config.name} of this kind ({', '.join(wrong)}): expected HTC, Cascade Mask R-CNN, "
            f"Mask R-CNN, SCNet or DetectoRS over {', '.join(BACKBONES)}."
        )


def _parts(config: Model) -> list[str]:
    """What is combined as in none of mmdetection's configurations."""
    scnet = {"feature_relay": True, "global_context": True, "residual_heads": True, "semantic": "both"}
    if config.sample_consistency:
        wanted = scnet | {"fpn_steps": 1, "sac": ()}
    else:
        wanted = {name: False for name in ("feature_relay", "global_context", "residual_heads")}
    wrong = [f"{name}={getattr(config, name)!r}" for name, value in wanted.items() if getattr(config, name) != value]
    if config.fpn_steps > 2:
        wrong.append(f"fpn_steps={config.fpn_steps}")
    if config.sac not in ((), (3, 4, 5)):
        wrong.append(f"sac={config.sac}")
    if (config.fpn_steps > 1 or config.sac) and config.semantic == "none":
        wrong.append("DetectoRS without a semantic branch")
    return wrong


def _plain(config: Model) -> bool:
    """Whether it is Mask R-CNN or Cascade Mask R-CNN."""
    return config.semantic == "none" and (len(config.stages.match_iou) == 1 or not config.information_flow)


def _base(config: Model) -> str:
    if config.sample_consistency:
        return "scnet/scnet_r50_fpn_1x_coco"
    if config.fpn_steps > 1 or config.sac:
        kinds = {(True, True): "detectors_htc-r50", (True, False): "htc_r50-rfp", (False, True): "htc_r50-sac"}
        return f"detectors/{kinds[config.fpn_steps > 1, bool(config.sac)]}_1x_coco"
    if _plain(config):
        one = len(config.stages.match_iou) == 1
        return f"{'mask_rcnn/mask-rcnn' if one else 'cascade_rcnn/cascade-mask-rcnn'}_r50_fpn_1x_coco"
    return NO_SEMANTIC if config.semantic == "none" else HTC_R50


def _options(config: Model) -> dict[str, Any]:
    """By mmengine's dotted names; numbers stand for members of a list."""
    count = len(config.stages.match_iou)
    out: dict[str, Any] = {"model.backbone.init_cfg": None}
    if config.backbone != "resnet50":
        out |= {f"model.backbone.{name}": value for name, value in BACKBONES[config.backbone].items()}
    if config.stride_in_1x1:
        out["model.backbone.style"] = "caffe"
    if config.dcn:
        out["model.backbone.dcn"] = {"type": "DCN", "deform_groups": 1, "fallback_on_stride": False}
        out["model.backbone.stage_with_dcn"] = tuple(stage in config.dcn for stage in (2, 3, 4, 5))
    if (config.mean, config.std) != (Model.mean, Model.std):
        out |= {"model.data_preprocessor.mean": list(config.mean), "model.data_preprocessor.std": list(config.std)}
    for stage in range(count):
        head = "model.roi_head.bbox_head" + (f".{stage}" if count > 1 else "")
        out[f"{head}.num_classes"], out[f"{head}.fc_out_channels"] = config.num_classes, config.box_channels
        out[f"{head}.reg_class_agnostic"] = config.class_agnostic
        out[f"{head}.bbox_coder.target_stds"] = list(config.stages.delta_std[stage])
    same = _plain(config) or config.sample_consistency  # one description for the mask heads of all stages
    for stage in range(1 if same else count):
        head = "model.roi_head.mask_head" + ("" if same else f".{stage}")
        out[f"{head}.num_classes"] = config.num_classes
    if not _plain(config):
        out |= _hybrid(config)
    out |= _pooling(config)
    test = "model.test_cfg.rcnn"
    kind = "soft_nms" if config.soft_nms else "nms"
    out |= {
        f"{test}.score_thr": config.score_threshold,
        f"{test}.nms": {"type": kind, "iou_threshold": config.nms_iou},
        f"{test}.max_per_img": config.detections,
        "model.test_cfg.rpn.nms_pre": config.rpn.proposals_per_level,
        "model.test_cfg.rpn.max_per_img": config.rpn.proposals,
        "model.test_cfg.rpn.nms.iou_threshold": config.rpn.nms_iou,
        "model.rpn_head.anchor_generator.scales": [config.rpn.anchor_scale],
        "model.rpn_head.anchor_generator.ratios": list(config.rpn.anchor_ratios),
    }
    return out


def _hybrid(config: Model) -> dict[str, Any]:
    """Of the heads that HTC and its descendants have."""
    head = "model.roi_head"
    out: dict[str, Any] = {}
    if not config.sample_consistency:
        out[f"{head}.interleaved"] = config.interleaved
    if config.feature_relay:
        out[f"{head}.feat_relay_head.in_channels"] = config.box_channels
    if config.global_context:
        out[f"{head}.glbctx_head.num_classes"] = config.num_classes
    if config.semantic != "none":
        out[f"{head}.semantic_head.num_classes"] = config.semantic_classes
        if not config.sample_consistency:
            out[f"{head}.semantic_fusion"] = PARTS[config.semantic]
    return out


def _pooling(config: Model) -> dict[str, Any]:
    """RoIAlign's settings, where they are not mmdetection's own."""
    if config.roi_aligned and not config.roi_samples:
        return {}
    kinds = ["bbox_roi_extractor", "mask_roi_extractor"]
    kinds += ["semantic_roi_extractor"] if config.semantic not in ("none", "loss") else []
    own = {"sampling_ratio": config.roi_samples, "aligned": config.roi_aligned}
    return {f"model.roi_head.{kind}.roi_layer.{name}": value for kind in kinds for name, value in own.items()}
