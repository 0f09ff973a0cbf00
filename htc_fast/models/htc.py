"""Hybrid Task Cascade (Chen et al., CVPR 2019, figure 1d): boxes and masks refined in turn, semantics feeding both."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc_fast import ops
from htc_fast.errors import UserError
from htc_fast.models import box_head, mask_head, panet, postprocess, scnet, seesaw
from htc_fast.models.aspp import ASPP
from htc_fast.models.backbone import Backbone
from htc_fast.models.box_head import BoxHead
from htc_fast.models.box_norm import box_norms
from htc_fast.models.branches import beside
from htc_fast.models.config import Model
from htc_fast.models.fpn import FPN
from htc_fast.models.guided_rpn import GuidedRPN
from htc_fast.models.inputs import check_images
from htc_fast.models.mask_head import MaskHead
from htc_fast.models.norm import join_norms
from htc_fast.models.pafpn import PAFPN
from htc_fast.models.rfp import RecursivePyramid, feedback_channels
from htc_fast.models.rpn import RPN
from htc_fast.models.semantic_head import SemanticHead
from htc_fast.models.structures import Detections, may_wait, trim_columns
from htc_fast.models.weights.imagenet import with_own_pixels
from htc_fast.ranges import part

ROI_SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
SEMANTIC_SCALE = (1 / 8,)
Maybe = Tensor | None  # of a branch that not every detector has, or of what only some calls give


class HTC(nn.Module):
    """The network. Cascade Mask R-CNN and Mask R-CNN are the same with parts left out, as `config` says.

    `detect` finds objects; the methods above it are its parts, which the training step puts together in its own way.
    No shape depends on the data, and nothing waits for the device.
    """

    def __init__(self, config: Model):
        super().__init__()
        self.config = config = with_own_pixels(config) if config.pretrained else config
        channels, classes, stages = config.channels, config.num_classes, len(config.stages.match_iou)
        scnet.check(config)
        norm = config.norm == "syncbn"
        self.backbone = Backbone.of(config)
        steps = [Backbone.of(config, feedback_channels(channels)) for _ in range(config.fpn_steps - 1)]
        if norm:
            for backbone in (self.backbone, *steps):
                join_norms(backbone)
        self.fpn = FPN(self.backbone.channels, channels, norm)
        self.rfp = RecursivePyramid(steps, channels) if steps else None
        self.pafpn = PAFPN(channels) if config.neck == "pafpn" else None
        self.aspp = ASPP(channels) if config.aspp else None
        self.rpn = (GuidedRPN if config.rpn.guided else RPN)(channels, config.rpn)
        semantic = config.semantic != "none"
        if config.gcn and not semantic:
            raise UserError("gcn is a part of the semantic branch, got semantic='none': choose another, or gcn=False.")
        self.semantic_head = SemanticHead(channels, config.semantic_classes, config.gcn, norm) if semantic else None
        self.box_heads = nn.ModuleList(
            BoxHead(
                channels,
                config.box_channels,
                classes,
                config.class_agnostic,
                convolutions=4 if config.box_head == "4conv1fc" else 0,
                seesaw=config.class_loss == "seesaw",
                **box_norms(config),
            )
            for _ in range(stages)
        )
        self.mask_heads = nn.ModuleList(
            MaskHead(channels, classes, flow=config.information_flow and t > 0, norm=norm)
            for t in range(1 if config.sample_consistency else stages)
        )
        self.box_heads, self.mask_heads = panet.adapted(config, self.box_heads, self.mask_heads)
        self.context_head = scnet.ContextHead(channels, classes, norm) if config.global_context else None
        self.relay: nn.Module | None = scnet.Relay(config.box_channels, channels) if config.feature_relay else None
        if config.residual_heads:
            scnet.make_residual(self.mask_heads, self.semantic_head, channels, norm)
        self.to(memory_format=torch.channels_last)

    @property
    def backbones(self) -> list[Any]:
        """The one, and those of further steps of a recursive pyramid."""
        return [self.backbone, *(() if self.rfp is None else self.rfp.backbones)]

    def extract(self, images: Tensor) -> list[Tensor]:
        """images [N, 3, H, W], sides multiples of 32 -> P2..P6."""
        with part("backbone"):
            maps = self.backbone(images)
        with part("FPN"):
            features = self.fpn(maps)
            if self.rfp is not None:
                features = self.rfp(images, features, self.fpn)
            for module in (self.pafpn, self.aspp):
                features = features if module is None else module(features)
        return features

    def semantic(self, features: list[Tensor], logits: bool = True) -> tuple[Tensor | None, Tensor | None]:
        """S [N, C, H/8, W/8] and logits [N, classes, H/8, W/8]; None, None without the branch."""
        if self.semantic_head is None:
            return None, None
        with part("semantic"):
            return self.semantic_head(features, logits)

    def context(self, features: list[Tensor]) -> tuple[Maybe, Maybe]:
        """The vector [N, C, 1, 1] that every RoI's features take in and logits [N, classes + 1] of what is in the whole
        image; None, None without the branch."""
        if self.context_head is None:
            return None, None
        with part("context"):
            return self.context_head(features)

    def box_stage(
        self, t: int, features: list[Tensor], semantic: Maybe, boxes: Tensor, rows: Maybe = None, context: Maybe = None
    ) -> tuple[Tensor, Tensor]:
        """boxes [N, R, 4] -> stage t's class logits [N, R, classes + 1 | classes + 2] and deltas
        [N, R, 4 | 4 * classes].

        rows     [N, R] bool, which boxes are real, for norms in training; None: all
        context  as `context` gives it
        """
        with part(f"box stage {t + 1}"):
            logits, deltas = self.box_heads[t].predict(self.box_hidden(t, features, semantic, boxes, rows, context))
        return logits.unflatten(0, boxes.shape[:2]), deltas.unflatten(0, boxes.shape[:2])

    def box_hidden(
        self, t: int, features: list[Tensor], semantic: Maybe, boxes: Tensor, rows: Maybe, context: Maybe
    ) -> Tensor:
        """As `box_stage`, up to what its head reads classes and deltas from: [N * R, box_channels]."""
        semantic = semantic if self.config.semantic in ("box", "both") else None
        x = self._pool(features, semantic, boxes, box_head.RESOLUTION)
        return self.box_heads[t].hidden(scnet.with_context(x, context, boxes), rows)

    def mask_stage(
        self,
        t: int,
        features: list[Tensor],
        semantic: Maybe,
        rois: Tensor,
        rows: Maybe = None,
        context: Maybe = None,
        relayed: Maybe = None,
        labels: Maybe = None,
    ) -> Tensor:
        """rois [K, 5] or boxes [N, R, 4] -> stage t's mask logits [K, classes, 28, 28], heads 1..t run in sequence.

        rows     [K] or [N, R] bool, which RoIs are real, for norms in training; None: all
        context  as `context` gives it
        relayed  [K, box_channels], of the last box head, where its features are relayed
        labels   [K]: the class wanted of each, whose logits alone are returned, [K, 28, 28]; None: all
        """
        with part(f"mask stage {t + 1}"):
            x = self.mask_features(features, semantic, rois, context)
            if self.relay is not None and relayed is not None:
                x = scnet.added(x, self.relay(relayed))
            flows = self.config.information_flow
            own = self._flow(x, t, rows)[-1] if flows else self.mask_heads[t].features(x, rows=rows)
            return self.mask_heads[t].predict(own, labels)

    def mask_features(self, features: list[Tensor], semantic: Maybe, rois: Tensor, context: Maybe = None) -> Any:
        """rois [K, 5] or boxes [N, R, 4] -> RoI features [K, C, 14, 14] that every mask head starts from; with adaptive
        pooling a list of all levels'."""
        semantic = semantic if self.config.semantic in ("mask", "both") else None
        with part("mask RoIAlign"):
            return scnet.with_context(self._pool(features, semantic, rois, mask_head.RESOLUTION), context, rois)

    def refine(
        self, t: int, boxes: Tensor, logits: Tensor, deltas: Tensor, image_sizes: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """boxes [N, R, 4] moved by stage t's deltas, where they differ by class by those of `labels` [N, R] (-1, None:
        of the best class in the logits), and clipped."""
        if self.config.class_loss == "seesaw":
            logits = logits[..., :-1]  # objectness changes nothing about which class is the best
        with part(f"box stage {t + 1}"):
            return ops.refine(boxes, logits, deltas, self.config.stages.delta_std[t], image_sizes, labels)

    def propose(self, features: list[Tensor], image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [N, R, 4], scores [N, R] and valid [N, R] bool of the region proposal network, best first."""
        candidates = self.rpn(features)
        limits = self.config.rpn.proposals_per_level, self.config.rpn.proposals
        with part("proposals"):
            return self.rpn.propose(candidates, image_sizes, *limits)

    def cascade(
        self, features: list[Tensor], semantic: Maybe, boxes: Tensor, image_sizes: Tensor, context: Maybe = None
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """proposals [N, R, 4] -> class logits [N, R, classes + 1] of each stage that counts; of the last stage the
        deltas [N, R, 4 | 4 * classes], and the boxes [N, R, 4] that went into it."""
        last, logits = self.config.last_stage, []
        for t in range(last + 1):
            stage_logits, deltas = self.box_stage(t, features, semantic, boxes, context=context)
            logits.append(stage_logits)
            if t < last:
                boxes = self.refine(t, boxes, stage_logits, deltas, image_sizes)
        counting = logits if self.config.test_stage is None else logits[-1:]
        return seesaw.ensemble(self.config, counting), deltas, boxes

    def check(self, images: Tensor, image_sizes: Tensor) -> None:
        """raises  TypeError, ValueError where `detect` and the training step cannot take these"""
        # What was made ready for inference casts its images itself.
        check_images(images, image_sizes, next(self.parameters()) if isinstance(self.backbone, Backbone) else None)

    @torch.no_grad()
    def detect(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """Find objects.

        images       [N, 3, H, W]  normalised, zero-padded at the bottom and right to sides that 32 divides
        image_sizes  [N, 2] int64  height, width before padding
        returns      Detections, masks as probabilities inside their boxes
        raises       TypeError, ValueError
        source       paper, sections 3.1-3.2 and 4.2; ensembles as in mmdetection 2.x
        """
        self.check(images, image_sizes)
        features = self.extract(images)
        branches = beside(lambda: (self.semantic(features, logits=False)[0], self.context(features)[0]))
        boxes, _, valid = self.propose(features, image_sizes)
        boxes, valid = trim_columns(valid, boxes, valid)
        semantic, context = branches()
        logits, deltas, boxes = self.cascade(features, semantic, boxes, image_sizes, context)
        with part("detections"):
            boxes, scores, labels, count = postprocess.detections(
                self.config, logits, deltas, boxes, valid, image_sizes
            )
        masks = self.masks(features, semantic, boxes, labels, count, context)
        return Detections(boxes, scores, labels, masks, count)

    def masks(
        self, features: list[Tensor], semantic: Maybe, boxes: Tensor, labels: Tensor, count: Tensor, context: Maybe
    ) -> Tensor:
        """Mean probability of the stages' masks, for the detected class alone: [N, D, 28, 28], zeros for no class."""
        most = labels.shape[1] if not may_wait(count) else min(max(int(count.max()), 1), labels.shape[1])
        found, found_labels = boxes[:, :most], labels[:, :most]
        x = self.mask_features(features, semantic, found, context)
        if self.relay is not None:
            # By the head that the relay learnt from, whichever stage is tested.
            with part("feature relay"):
                x = scnet.added(x, self.relay(self.box_hidden(-1, features, semantic, found, None, context)))
        one = self.config.test_stage is None or self.config.sample_consistency
        averaged = None if one else [self.config.test_stage - 1]
        with part("mask stages"):
            if self.config.residual_heads or not isinstance(self.mask_heads[0], MaskHead):
                masks = panet.mask_branch(self.mask_heads, x, found_labels.flatten(), averaged)
            else:
                weights = [head.weights() for head in self.mask_heads]
                masks = ops.mask_branch(x, found_labels.flatten(), weights, averaged=averaged)
        masks, missing = masks.unflatten(0, found.shape[:2]), labels.shape[1] - most
        return F.pad(masks, (0, 0, 0, 0, 0, missing)) if missing else masks

    def _flow(self, x: Any, last: int, rows: Tensor | None = None) -> list:
        """Features of the mask heads 0..last, each fed by the one before where information flows."""
        flow: list[Any] = []
        for t in range(last + 1):
            flow.append(self.mask_heads[t].features(x, flow[-1] if flow else None, rows))
        return flow

    def _pool(
        self, features: list[Tensor], semantic: Tensor | None, rois: Tensor, size: int, scales: tuple = ROI_SCALES
    ) -> Any:
        """RoI features [K, C, size, size] of the level that fits each RoI; with adaptive pooling a list of all levels'.

        Semantic features are added to each.
        """
        if self.config.adaptive_pooling and len(scales) > 1:
            return [self._pool([one], semantic, rois, size, (scale,)) for one, scale in zip(features, scales)]
        if self.config.roi_pooling == "pr_roi_pool":
            return self._pool_exactly(features, semantic, rois.detach(), size, scales)
        return ops.multi_level_roi_align(
            features[: len(scales)],
            rois,
            size,
            scales,
            semantic=semantic,
            sampling_ratio=self.config.roi_samples,
            aligned=self.config.roi_aligned,
        )

    def _pool_exactly(
        self, features: list[Tensor], semantic: Tensor | None, rois: Tensor, size: int, scales: tuple
    ) -> Tensor:
        """S has no 14 x 14 grid of its own: the mean of four exact means is the exact mean of the bin they make."""
        aligned = self.config.roi_aligned
        pooled = ops.pr_roi_pool(features[: len(scales)], rois, size, scales, aligned=aligned)
        if semantic is None:
            return pooled
        return pooled + ops.pr_roi_pool([semantic], rois, size, SEMANTIC_SCALE, aligned=aligned)
