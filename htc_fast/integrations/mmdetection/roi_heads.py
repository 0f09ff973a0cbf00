"""mmdetection's RoI heads: all levels and the semantic map pooled in one launch, masks of the predicted class only."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead, HybridTaskCascadeRoIHead, StandardRoIHead, mask_heads
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.structures.bbox import bbox2roi
from torch import Tensor

from htc_fast import ops
from htc_fast.integrations import _layers
from htc_fast.integrations.mmdetection import masks, pooling
from htc_fast.ops.roi_align import turned

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class FastSingleRoIExtractor(SingleRoIExtractor):
    """mmdetection's."""

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        if not pools_mean(self, feats):
            return super().forward(feats, rois, roi_scale_factor)
        # With one level the factor does nothing in mmdetection.
        return turned(pool(self, feats, rois, factor=roi_scale_factor if len(feats) > 1 else None))


def pools_mean(extractor: Any, feats: Any) -> bool:
    """Whether an extractor is RoIAlign over levels, and nothing else."""
    if type(extractor) is not FastSingleRoIExtractor or not 1 <= len(feats) <= min(8, len(extractor.roi_layers)):
        return False
    first = extractor.roi_layers[0]
    kind = not _layers.hooked(extractor.roi_layers) and (type(first).__name__, type(first).__module__) == (
        "RoIAlign",
        "mmcv.ops.roi_align",
    )
    return kind and first.pool_mode == "avg" and feats[0].dtype in DTYPES


def pool(
    extractor: Any,
    feats: Any,
    rois: Tensor,
    semantic: Tensor | None = None,
    other: Any = None,
    factor: float | None = None,
) -> Tensor:
    """[K, C, h, w]; other: the extractor of the semantic map, whose features are added."""
    first, options = extractor.roi_layers[0], {}
    # As mmdetection rounds them where maps are in 16 bits.
    rois, finest = rois.type_as(feats[0]).float(), extractor.finest_scale
    if factor is not None:
        rois, finest = pooling.scaled(rois, factor), finest * factor
    if semantic is not None:
        layer = other.roi_layers[0]
        options = {
            "semantic": semantic,
            "semantic_scale": layer.spatial_scale,
            "semantic_grid": layer.output_size[0],
        }
    return ops.multi_level_roi_align(
        list(feats),
        rois,
        first.output_size,
        [one.spatial_scale for one in extractor.roi_layers[: len(feats)]],
        sampling_ratio=first.sampling_ratio,
        aligned=first.aligned,
        canonical_size=finest * first.spatial_scale,
        canonical_level=0,
        **options,
    )


def pool_both(head: Any, extractor: Any, x: Any, rois: Tensor, semantic: Tensor | None) -> Tensor | None:
    """Features of a head with or without a semantic map; None where one launch is not enough."""
    feats = x[: extractor.num_inputs]
    if not len(rois) or not pools_mean(extractor, feats) or _layers.hooked(extractor):
        return None
    if semantic is None:
        return pool(extractor, feats, rois)
    other = head.semantic_roi_extractor
    if not pools_mean(other, [semantic]) or _layers.hooked(other):
        return None
    one, two = extractor.roi_layers[0], other.roi_layers[0]
    same = (one.sampling_ratio, one.aligned) == (two.sampling_ratio, two.aligned)
    size, grid = tuple(one.output_size), tuple(two.output_size)
    fits = grid[0] == grid[1] and all(grid[0] % side == 0 for side in size) and semantic.dtype == feats[0].dtype
    return pool(extractor, feats, rois, semantic, other) if same and fits else None


def predict_masks(
    head: Any,
    found_by: tuple[Sequence[Any], Any],
    x: Any,
    results: list,
    metas: list[dict],
    rescale: bool,
    semantic: Tensor | None = None,
    flows: bool = False,
) -> list | None:
    """Give every image's results the masks of their own classes; None where that is to be left to mmdetection.

    found_by  the mask heads and their extractor
    flows     each head is fed by the one before, and the last one's masks count; otherwise their mean
    """
    modules, extractor = found_by
    heads, threshold = masks.heads_of(modules), head.test_cfg.mask_thr_binary
    plain = heads and not torch.is_grad_enabled() and not any(meta.get("flip", False) for meta in metas)
    if not heads or not plain or not all(len(one) and masks.pastes(one.bboxes, threshold) for one in results):
        return None
    feats = pool_both(head, extractor, x, bbox2roi([one.bboxes for one in results]), semantic)
    if feats is None or feats.dtype != heads[0].logits[0].dtype:
        return None
    heads = heads if flows else [one._replace(flow=None) for one in heads]
    labels = masks.labels_of(modules[-1], results)
    found = ops.mask_branch(feats, labels, heads, averaged=[len(heads) - 1] if flows else None)
    for one, result, meta in zip(found.split([len(result) for result in results]), results, metas):
        result.masks = masks.paste(one, result.bboxes, meta, threshold, rescale)
    return results


class FastHTCRoIHead(HybridTaskCascadeRoIHead):
    """mmdetection's; as there, the last stage's masks are the result."""

    def _bbox_forward(self, stage: int, x: Any, rois: Tensor, semantic_feat: Tensor | None = None) -> dict:
        semantic = semantic_feat if self.with_semantic and "bbox" in self.semantic_fusion else None
        feats = pool_both(self, self.bbox_roi_extractor[stage], x, rois, semantic)
        if feats is None:
            return super()._bbox_forward(stage, x, rois, semantic_feat)
        logits, deltas = self.bbox_head[stage](feats)
        return {"cls_score": logits, "bbox_pred": deltas}

    def predict_mask(
        self, x: Any, semantic_heat: Tensor, batch_img_metas: list, results_list: list, rescale: bool = False
    ) -> list:
        semantic = semantic_heat if self.with_semantic and "mask" in self.semantic_fusion else None
        given, found = (self.mask_head, self.mask_roi_extractor[-1]), None
        if self.mask_info_flow:
            found = predict_masks(self, given, x, results_list, batch_img_metas, rescale, semantic, flows=True)
        return found or super().predict_mask(x, semantic_heat, batch_img_metas, results_list, rescale)


class FastCascadeRoIHead(CascadeRoIHead):
    """mmdetection's."""

    def predict_mask(self, x: Any, batch_img_metas: list, results_list: list, rescale: bool = False) -> list:
        found, first = None, self.mask_roi_extractor[0]
        if len({(repr(one), getattr(one, "finest_scale", None)) for one in self.mask_roi_extractor}) == 1:
            found = predict_masks(self, (self.mask_head, first), x, results_list, batch_img_metas, rescale)
        return found or super().predict_mask(x, batch_img_metas, results_list, rescale)


class FastStandardRoIHead(StandardRoIHead):
    """mmdetection's."""

    def predict_mask(self, x: Any, batch_img_metas: list, results_list: list, rescale: bool = False) -> list:
        found, given = None, ([self.mask_head], self.mask_roi_extractor)
        if not self.with_shared_head and self.mask_head is not None:
            found = predict_masks(self, given, x, results_list, batch_img_metas, rescale)
        return found or super().predict_mask(x, batch_img_metas, results_list, rescale)


OURS: dict[type, type] = {
    SingleRoIExtractor: FastSingleRoIExtractor,
    HybridTaskCascadeRoIHead: FastHTCRoIHead,
    CascadeRoIHead: FastCascadeRoIHead,
    StandardRoIHead: FastStandardRoIHead,
    mask_heads.FCNMaskHead: masks.FastFCNMaskHead,
    mask_heads.HTCMaskHead: masks.FastHTCMaskHead,
    mask_heads.SCNetMaskHead: masks.FastSCNetMaskHead,
    mask_heads.FusedSemanticHead: masks.FastFusedSemanticHead,
    mask_heads.SCNetSemanticHead: masks.FastSCNetSemanticHead,
}
