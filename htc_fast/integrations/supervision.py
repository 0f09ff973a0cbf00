"""supervision's Detections in and out, no pixel lost; masks travel as its compact masks, not as [K, H, W]."""

from typing import Any

import numpy as np
import supervision
import torch
from supervision.detection.compact_mask import CompactMask

from htc_fast import ops
from htc_fast.data.instances import Instances
from htc_fast.ops import _rle


def to_detections(found: Instances, compact: bool = True) -> supervision.Detections:
    """Instances as supervision's Detections.

    compact  masks as CompactMask, run lengths inside boxes; False: as an array [n, H, W] of bool
    returns  xyxy, confidence, class_id, mask, and data["class_name"] where the instances have names
    """
    mask = _compact(found) if compact else ops.decode(found.rle).numpy().reshape(-1, *found.size)
    names = np.array([found.name(index) for index in range(len(found))], dtype=str)
    return supervision.Detections(
        xyxy=found.boxes.float().numpy(),
        mask=mask,
        confidence=found.scores.float().numpy(),
        class_id=found.labels.numpy().astype(int),
        data={"class_name": names} if len(found.class_names) else {},
    )


def from_detections(detections: supervision.Detections, image_size: tuple[int, int] | None = None) -> Instances:
    """supervision's Detections as instances, best first; tracks and other data stay behind.

    image_size  height, width of the picture; None: that of the masks
    returns     scores of 1 where there is no confidence, labels of 0 where there is no class
    raises      ValueError where there are boxes without masks, or masks of another size than the picture
    """
    mask, count = detections.mask, len(detections)
    if mask is None and (count or image_size is None):
        raise ValueError("detections must have masks; of none at all, give image_size.")
    height, width = image_size if mask is None and image_size is not None else mask.shape[1:]  # type: ignore[union-attr]
    size = int(height), int(width)
    if image_size is not None and tuple(image_size) != size:
        raise ValueError(f"detections have masks of {size[0]} x {size[1]}, but image_size is {tuple(image_size)}.")
    boxes = torch.as_tensor(np.array(detections.xyxy, dtype=np.float32)).reshape(-1, 4)
    scores, labels = torch.ones(count), torch.zeros(count, dtype=torch.int64)
    if detections.confidence is not None:
        scores = torch.as_tensor(np.array(detections.confidence, dtype=np.float32))
    if detections.class_id is not None:
        labels = torch.as_tensor(np.array(detections.class_id, dtype=np.int64))
    found = Instances(boxes, scores, labels, _rles(mask, size) if count else [], size, _names(detections, labels))
    return found[scores.sort(descending=True, stable=True).indices]


def _compact(found: Instances) -> CompactMask:
    """Each mask cut to the box around it; a mask without pixels is one pixel that is not set, as supervision has it."""
    around = ops.rle_to_box(found.rle).reshape(-1, 4).long()
    around[:, 2:] = around[:, 2:].maximum(around[:, :2] + 1)
    counts = [_counts(ops.crop(rle, box)) for rle, box in zip(found.rle, around.tolist(), strict=True)]
    sides = (around[:, 2:] - around[:, :2]).flip(1)
    return CompactMask(counts, sides.int().numpy(), around[:, :2].int().numpy(), found.size)


def _counts(rle: dict[str, Any]) -> np.ndarray:
    """Lengths of runs, zeros first, int32."""
    runs, total = _rle.read("rle", rle).runs.flatten(), rle["size"][0] * rle["size"][1]
    counts = np.diff(runs.numpy(), prepend=0, append=total)
    return (counts if counts[-1] else counts[:-1]).astype(np.int32)


def _rles(mask: Any, size: tuple[int, int]) -> list[dict[str, Any]]:
    if not isinstance(mask, CompactMask):
        return ops.encode(np.asarray(mask, dtype=bool))
    corners = mask.offsets.tolist()
    return [ops.shift(ops.encode(mask.crop(index)), x, y, size) for index, (x, y) in enumerate(corners)]


def _names(detections: supervision.Detections, labels: torch.Tensor) -> list[str]:
    """Names by label, as far as they are known; labels without one are called by their number."""
    given = detections.data.get("class_name")
    if given is None or not len(labels) or int(labels.min()) < 0:
        return []
    names = [str(label) for label in range(int(labels.max()) + 1)]
    for label, name in zip(labels.tolist(), given, strict=True):
        names[label] = str(name)
    return names
