"""The paper's Table 1: frames per second on one TITAN Xp, and what share of that card's limit they were."""

from typing import Any

import torch

from htc_fast.detector import create_model
from htc_fast.profiling.limits import TITAN_XP
from htc_fast.profiling.meters import CostMeter, Need
from htc_fast.ranges import watching

FPS = {
    "mask_rcnn_r50": 5.3,
    "cascade_mask_r50": 3.0,
    "cascade_mask_r101": 2.9,
    "cascade_mask_x101_64x4d": 2.5,
    "htc_r50": 2.5,
    "htc_r101": 2.4,
    "htc_x101_64x4d": 2.1,
}
SIZE = (800, 1344)  # 800 x 1333, padded


def counted(name: str, size: tuple[int, int] = SIZE, batch_size: int = 1, **overrides: Any) -> dict[str, Need]:
    """What a detector needs, part by part, without running it: nothing but shapes is computed.

    name       one of `htc_fast.list_models()`
    size       height and width of the input, padded to 32
    overrides  as of `create_model`
    returns    part -> Need; RoIs read three samples per bin and axis, as their sizes are unknown
    """
    with torch.device("meta"):
        model = create_model(name, **overrides).eval()
        images, sizes = torch.empty(batch_size, 3, *size), torch.empty(batch_size, 2, dtype=torch.int64)
    with CostMeter() as meter, watching(meter):
        model.detect(images, sizes)
    return meter.needs


def published(name: str) -> dict[str, float] | None:
    """The paper's row for a model: fps, its card's roofline in ms, and the share reached; None without a row."""
    if name not in FPS:
        return None
    limit = sum(need.seconds(TITAN_XP) for need in counted(name).values())
    return {"fps": FPS[name], "limit_ms": round(limit * 1e3, 2), "share": round(FPS[name] * limit, 4)}
