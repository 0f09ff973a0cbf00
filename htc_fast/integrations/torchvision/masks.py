"""From the mask head to masks of the image: the predicted class alone, pasted where it belongs without a copy."""

from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import mask_rcnn, roi_heads, transform

from htc_fast import ops
from htc_fast.integrations import _layers
from htc_fast.integrations.torchvision.scripting import Exchanged

theirs = roi_heads.paste_masks_in_image


def paste_masks_in_image(masks: Tensor, boxes: Tensor, img_shape: tuple[int, int], padding: int = 1) -> Tensor:
    """torchvision's function of this name: each mask resized to its box, in an image of zeros.

    masks      [K, 1, M, M] probabilities
    boxes      [K, 4] x1, y1, x2, y2 in pixels;  img_shape: height, width
    padding    cells of zeros around a mask
    returns    [K, 1, height, width] of masks' type
    source     torchvision.models.detection.roi_heads
    """
    if torch.jit.is_scripting():
        return theirs(masks, boxes, img_shape, padding)
    elif torchvision._is_tracing() or torch.compiler.is_compiling():
        return theirs(masks, boxes, img_shape, padding)
    else:
        return _paste(masks, boxes, img_shape, padding)


@torch.no_grad()
def _corners(boxes: Tensor, scale: float) -> list[list[int]]:
    return roi_heads.expand_boxes(boxes, scale).to(torch.int64).tolist()


def _paste(masks: Tensor, boxes: Tensor, img_shape: tuple[int, int], padding: int) -> Tensor:
    height, width = img_shape
    padded, scale = roi_heads.expand_masks(masks, padding)
    out = padded.new_zeros(len(masks), 1, height, width)
    for one, mask, (left, top, right, bottom) in zip(out, padded, _corners(boxes, scale)):
        x0, x1, y0, y1 = max(left, 0), min(right + 1, width), max(top, 0), min(bottom + 1, height)
        if x0 >= x1 or y0 >= y1:
            continue
        size = max(bottom - top + 1, 1), max(right - left + 1, 1)
        large = F.interpolate(mask[None, :1], size=size, mode="bilinear", align_corners=False)[0, 0]
        one[0, y0:y1, x0:x1] = large[y0 - top : y1 - top, x0 - left : x1 - left]
    return out


class FastGeneralizedRCNNTransform(Exchanged, transform.GeneralizedRCNNTransform):
    """torchvision's."""

    def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
        if self.training:
            return result
        for one, size, original in zip(result, image_shapes, original_image_sizes):
            one["boxes"] = transform.resize_boxes(one["boxes"], size, original)
            if "masks" in one:
                one["masks"] = paste_masks_in_image(one["masks"], one["boxes"], original)
            if "keypoints" in one:
                one["keypoints"] = transform.resize_keypoints(one["keypoints"], size, original)
        return result


def probabilities(predictor: Any, x: Tensor, labels: list[Tensor]) -> list[Tensor] | None:
    """Each image's [L, 1, 2H, 2W] of the predicted classes; None where the predictor is not torchvision's own."""
    layers = list(predictor.children()) if type(predictor) is mask_rcnn.MaskRCNNPredictor else []
    if [type(one) for one in layers] != [nn.ConvTranspose2d, nn.ReLU, nn.Conv2d] or _layers.watched(x):
        return None
    up, _, logits = layers
    if _layers.hooked(predictor, *layers) or up.bias is None or logits.bias is None:
        return None
    found = ops.mask_predict(x, up.weight, up.bias, logits.weight, logits.bias, torch.cat(labels))
    return list(found.sigmoid()[:, None].split([len(one) for one in labels]))
