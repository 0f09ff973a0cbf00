"""Hybrid Task Cascade (Chen et al., CVPR 2019, figure 1d): boxes and masks refined in turn, semantics feeding both."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc_fast import ops
from htc_fast.models import box_head, mask_head, postprocess
from htc_fast.models.backbone import Backbone
from htc_fast.models.box_head import BoxHead
from htc_fast.models.branches import beside
from htc_fast.models.config import Model
from htc_fast.models.fpn import FPN
from htc_fast.models.guided_rpn import GuidedRPN
from htc_fast.models.inputs import check_images
from htc_fast.models.mask_head import MaskHead
from htc_fast.models.rpn import RPN
from htc_fast.models.semantic_head import SemanticHead
from htc_fast.models.structures import Detections, may_wait, trim_columns
from htc_fast.ranges import part

ROI_SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


class HTC(nn.Module):
    """The network. Cascade Mask R-CNN and Mask R-CNN are the same with parts left out, as `config` says.

    `detect` finds objects; the methods above it are its parts, which the training step puts together in its own way.
    No shape depends on the data, and nothing waits for the device.
    """

    def __init__(self, config: Model):
        super().__init__()
        self.config = config
        channels, classes, stages = config.channels, config.num_classes, len(config.stages.match_iou)
        self.backbone = Backbone(
            config.backbone, config.pretrained, config.frozen_stages, config.norm_eval, config.stride_in_1x1
        )
        self.fpn = FPN(self.backbone.channels, channels)
        self.rpn = (GuidedRPN if config.rpn.guided else RPN)(channels, config.rpn)
        self.semantic_head = SemanticHead(channels, config.semantic_classes) if config.semantic != "none" else None
        self.box_heads = nn.ModuleList(
            BoxHead(channels, config.box_channels, classes, config.class_agnostic) for _ in range(stages)
        )
        self.mask_heads = nn.ModuleList(
            MaskHead(channels, classes, flow=config.information_flow and t > 0) for t in range(stages)
        )
        self.to(memory_format=torch.channels_last)

    def extract(self, images: Tensor) -> list[Tensor]:
        """images [N, 3, H, W], sides multiples of 32 -> P2..P6."""
        with part("backbone"):
            maps = self.backbone(images)
        with part("FPN"):
            return self.fpn(maps)

    def semantic(self, features: list[Tensor], logits: bool = True) -> tuple[Tensor | None, Tensor | None]:
        """S [N, C, H/8, W/8] and logits [N, classes, H/8, W/8]; None, None without the branch."""
        if self.semantic_head is None:
            return None, None
        with part("semantic"):
            return self.semantic_head(features, logits)

    def box_stage(
        self, t: int, features: list[Tensor], semantic: Tensor | None, boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """boxes [N, R, 4] -> stage t's class logits [N, R, classes + 1] and deltas [N, R, 4 | 4 * classes]."""
        semantic = semantic if self.config.semantic in ("box", "both") else None
        with part(f"box stage {t + 1}"):
            x = self._pool(features, semantic, boxes, box_head.RESOLUTION)
            logits, deltas = self.box_heads[t](x)
        return logits.unflatten(0, boxes.shape[:2]), deltas.unflatten(0, boxes.shape[:2])

    def mask_stage(self, t: int, features: list[Tensor], semantic: Tensor | None, rois: Tensor) -> Tensor:
        """rois [K, 5] or boxes [N, R, 4] -> stage t's mask logits [K, classes, 28, 28], heads 1..t run in sequence."""
        with part(f"mask stage {t + 1}"):
            x = self.mask_features(features, semantic, rois)
            own = self._flow(x, t)[-1] if self.config.information_flow else self.mask_heads[t].features(x)
            return self.mask_heads[t].predict(own)

    def mask_features(self, features: list[Tensor], semantic: Tensor | None, rois: Tensor) -> Tensor:
        """rois [K, 5] or boxes [N, R, 4] -> RoI features [K, C, 14, 14] that every mask head starts from."""
        semantic = semantic if self.config.semantic in ("mask", "both") else None
        with part("mask RoIAlign"):
            return self._pool(features, semantic, rois, mask_head.RESOLUTION)

    def refine(
        self, t: int, boxes: Tensor, logits: Tensor, deltas: Tensor, image_sizes: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """boxes [N, R, 4] moved by stage t's deltas, where they differ by class by those of `labels` [N, R] (-1, None:
        of the best class in the logits), and clipped."""
        with part(f"box stage {t + 1}"):
            return ops.refine(boxes, logits, deltas, self.config.stages.delta_std[t], image_sizes, labels)

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
        semantic_branch = beside(lambda: self.semantic(features, logits=False)[0])
        candidates = self.rpn(features)
        limits = self.config.rpn.proposals_per_level, self.config.rpn.proposals
        with part("proposals"):
            boxes, _, valid = self.rpn.propose(candidates, image_sizes, *limits)
            boxes, valid = trim_columns(valid, boxes, valid)
        semantic = semantic_branch()
        last = (self.config.test_stage or len(self.box_heads)) - 1
        logits = []
        for t in range(last + 1):
            stage_logits, deltas = self.box_stage(t, features, semantic, boxes)
            logits.append(stage_logits)
            if t < last:
                boxes = self.refine(t, boxes, stage_logits, deltas, image_sizes)
        with part("detections"):
            every = logits if self.config.test_stage is None else logits[-1:]
            boxes, scores, labels, count = postprocess.detections(self.config, every, deltas, boxes, valid, image_sizes)
        masks = self._masks(features, semantic, boxes, labels, count)
        return Detections(boxes, scores, labels, masks, count)

    def _masks(
        self, features: list[Tensor], semantic: Tensor | None, boxes: Tensor, labels: Tensor, count: Tensor
    ) -> Tensor:
        """Mean probability of the stages' masks, for the detected class alone: [N, D, 28, 28], zeros for no class."""
        most = labels.shape[1] if not may_wait(count) else min(max(int(count.max()), 1), labels.shape[1])
        found, found_labels = boxes[:, :most], labels[:, :most]
        x = self.mask_features(features, semantic, found)
        stage = self.config.test_stage
        with part("mask stages"):
            masks = ops.mask_branch(
                x,
                found_labels.flatten(),
                [head.weights() for head in self.mask_heads],
                averaged=None if stage is None else [stage - 1],
            )
        masks, missing = masks.unflatten(0, found.shape[:2]), labels.shape[1] - most
        return F.pad(masks, (0, 0, 0, 0, 0, missing)) if missing else masks

    def _flow(self, x: Tensor, last: int) -> list[Tensor]:
        """Features of the mask heads 0..last, each fed by the one before where information flows."""
        flow: list[Tensor] = []
        for t in range(last + 1):
            flow.append(self.mask_heads[t].features(x, flow[-1] if flow else None))
        return flow

    def _pool(self, features: list[Tensor], semantic: Tensor | None, rois: Tensor, size: int) -> Tensor:
        return ops.multi_level_roi_align(
            features[:4],
            rois,
            size,
            ROI_SCALES,
            semantic=semantic,
            sampling_ratio=self.config.roi_samples,
            aligned=self.config.roi_aligned,
        )
