"""detectron2: its layers over these operators, its detectors made fast in place, its instances from ours and back.

The layers need nothing of detectron2; `accelerate`, `restore` and `to_instances` need it installed.
"""

from typing import TypeVar

from torch import nn

from htc_fast.integrations import _classes
from htc_fast.integrations.detectron2.boxes import batched_nms, nms
from htc_fast.integrations.detectron2.instances import from_instances, to_instances
from htc_fast.integrations.detectron2.masks import paste_masks_in_image
from htc_fast.integrations.detectron2.pooling import ROIAlign, ROIPooler, replace_pooling

__all__ = [
    "ROIAlign",
    "ROIPooler",
    "accelerate",
    "batched_nms",
    "from_instances",
    "nms",
    "paste_masks_in_image",
    "replace_pooling",
    "restore",
    "to_instances",
]
Model = TypeVar("Model", bound=nn.Module)


def accelerate(model: Model) -> Model:
    """Let a detectron2 detector run on these operators, in place: same weights, same names, same detections.

    model    Faster, Mask, Cascade or Keypoint R-CNN (FPN, C4, DC5), PanopticFPN, RetinaNet, FCOS, or a part of one;
             RoI pooling, proposals, the end of the box heads, the mask head and pasting are exchanged, and what cannot
             be stays detectron2's: rotated boxes, RoIPool, heads of one's own
    returns  the model itself
    raises   TypeError where model is no module; ValueError where nothing in it fits; ImportError without detectron2
    """
    from htc_fast.integrations.detectron2.models import OURS

    return _classes.take(model, OURS, "detectron2")


def restore(model: Model) -> Model:
    """Undo `accelerate`, for torch.jit.script for example.

    returns  the model itself
    raises   TypeError where model is no module; ImportError without detectron2
    """
    from htc_fast.integrations.detectron2.models import OURS

    return _classes.give_back(model, OURS)
