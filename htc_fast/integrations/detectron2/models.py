"""detectron2's modules as classes of ours, which inherit from its own: see `accelerate`.

Where detectron2 traces, and where a module is not the usual one (rotated boxes, say), its own code runs.
"""

from typing import Any

import torch
from detectron2 import structures
from detectron2.modeling import meta_arch, postprocessing
from detectron2.modeling.meta_arch import fcos, panoptic_fpn

from htc_fast.integrations.detectron2 import convolutions, heads, proposals
from htc_fast.integrations.detectron2.boxes import batched_nms
from htc_fast.integrations.detectron2.masks import paste_masks_in_image


class ChannelsLast:
    """Pictures go in in channels-last memory: convolutions, and the poolings after them, are faster in it."""

    def preprocess_image(self, batched_inputs: Any) -> Any:
        images = super().preprocess_image(batched_inputs)  # type: ignore[misc]
        images.tensor = images.tensor.contiguous(memory_format=torch.channels_last)
        return images


class GeneralizedRCNN(ChannelsLast, meta_arch.GeneralizedRCNN):
    def inference(self, batched_inputs: Any, detected_instances: Any = None, do_postprocess: Any = True) -> Any:
        if not do_postprocess or torch.jit.is_tracing():
            return super().inference(batched_inputs, detected_instances, do_postprocess)
        results = super().inference(batched_inputs, detected_instances, do_postprocess=False)
        return [{"instances": postprocess(*one)} for one in zip(results, batched_inputs)]


class PanopticFPN(ChannelsLast, meta_arch.PanopticFPN):
    def inference(self, batched_inputs: Any, do_postprocess: Any = True) -> Any:
        if not do_postprocess or torch.jit.is_tracing():
            return super().inference(batched_inputs, do_postprocess)
        processed = []
        for found, semantic, asked in zip(*super().inference(batched_inputs, do_postprocess=False), batched_inputs):
            size = _asked(found, asked)
            semantic = postprocessing.sem_seg_postprocess(semantic, found.image_size, *size)
            found = postprocess(found, asked)
            limits = self.combine_overlap_thresh, self.combine_stuff_area_thresh, self.combine_instances_score_thresh
            merged = panoptic_fpn.combine_semantic_and_instance_outputs(found, semantic.argmax(dim=0), *limits)
            processed.append({"sem_seg": semantic, "instances": found, "panoptic_seg": merged})
        return processed


def _asked(found: Any, asked: dict) -> tuple[int, int]:
    """The height and width that an input asks its result for."""
    return asked.get("height", found.image_size[0]), asked.get("width", found.image_size[1])


def postprocess(found: Any, asked: dict) -> Any:
    """detectron2's detector_postprocess at its threshold of 0.5, with our pasting."""
    height, width = _asked(found, asked)
    fields = dict(found.get_fields())
    masks = fields.pop("pred_masks", None)
    if masks is None or "pred_boxes" not in fields:
        return postprocessing.detector_postprocess(found, height, width)
    rows = torch.arange(len(found), device=fields["pred_boxes"].device)
    found = structures.Instances(found.image_size, **fields, rows_of_masks=rows)
    found = postprocessing.detector_postprocess(found, height, width)
    masks = masks.tensor if isinstance(masks, structures.ROIMasks) else masks[:, 0]
    pasted = paste_masks_in_image(masks[found.rows_of_masks], found.pred_boxes, (height, width))
    found.pred_masks = pasted.bool()  # which is uint8 of no masks
    found.remove("rows_of_masks")
    return found


class RetinaNet(ChannelsLast, meta_arch.RetinaNet):
    def inference_single_image(self, anchors: Any, box_cls: Any, box_delta: Any, image_size: Any) -> Any:
        if torch.jit.is_tracing():
            return super().inference_single_image(anchors, box_cls, box_delta, image_size)
        return _dense(self, anchors, box_cls, box_delta, image_size)


class FCOS(ChannelsLast, fcos.FCOS):
    def inference_single_image(self, anchors: Any, box_cls: Any, box_delta: Any, image_size: Any) -> Any:
        if torch.jit.is_tracing():
            return super().inference_single_image(anchors, box_cls, box_delta, image_size)
        return _dense(self, anchors, box_cls, box_delta, image_size)


def _dense(model: Any, anchors: Any, scores: Any, deltas: Any, size: Any) -> Any:
    """The best of a dense detector's boxes."""
    limits = model.test_score_thresh, model.test_topk_candidates
    found = model._decode_multi_level_predictions(anchors, scores, deltas, *limits, size)
    keep = batched_nms(found.pred_boxes.tensor, found.scores, found.pred_classes, model.test_nms_thresh)
    return found[keep[: model.max_detections_per_image]]


_PARTS = convolutions.Conv2d, proposals.ROIAlign, proposals.ROIPooler, proposals.RPN
_HEADS = heads.FastRCNNOutputLayers, heads.CascadeROIHeads, heads.MaskRCNNConvUpsampleHead
# A class of detectron2 -> ours, which inherits from it last.
OURS: dict[type, type] = {
    one.__bases__[-1]: one for one in (*_PARTS, *_HEADS, GeneralizedRCNN, PanopticFPN, RetinaNet, FCOS)
}
