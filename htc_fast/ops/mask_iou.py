"""How much masks overlap, all pairs of two lists: by run lengths without masks, or by bits of whole masks."""

from typing import Any

import torch
from torch import Tensor

from htc_fast.errors import ShapeError
from htc_fast.ops import _backend, _masks, _native
from htc_fast.ops._arguments import check_device
from htc_fast.ops._declare import declare
from htc_fast.ops._rle import Runs
from htc_fast.ops.reference import mask_iou as reference

_backend.register("mask_iou", "cpp", "cuda")


def mask_iou(a: Any, b: Any, crowd: Any = None) -> Any:
    """IoU of every mask of a with every one of b.

    a        A COCO RLE dicts, or masks [A, H, W] of bool
    b        B of the same kind and size
    crowd    [B] bool: where b is a crowd, what both share is divided by a's area alone; None: nowhere
    returns  [A, B] float64 on a's device, 0 where nothing is shared; an array where one was given
    raises   TypeError for other things, ValueError for masks of different sizes
    source   pycocotools.mask.iou, to the last bit, of strings as it writes them: it stops at some empty runs
    """
    first, second = _masks.masks("a", a), _masks.masks("b", b)
    if isinstance(first, Tensor) != isinstance(second, Tensor):
        raise TypeError("a and b must both be RLE dicts or both be masks [K, H, W]: encode or decode one of them.")
    count = len(second) if isinstance(second, Tensor) else len(second.sizes)
    if crowd is not None:
        flags = _masks.vector("crowd", crowd, count, "b")
        if (flags.is_floating_point() and count) or flags.is_complex():
            raise TypeError(f"crowd must be bool, got {flags.dtype}.")
        flags = flags != 0
    else:
        flags = None
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return _masks.like((a, b, crowd), iou(*counts(first, second), flags))
    return _masks.like((a, b, crowd), iou_of_runs(first, second, flags))  # type: ignore[arg-type]


def iou_of_runs(a: Runs, b: Runs, crowd: Tensor | None = None) -> Tensor:
    """IoU [A, B] of masks as runs.

    raises  ValueError where they are of different sizes
    """
    if len(a.sizes) and len(b.sizes) and not torch.equal(a.sizes[0], b.sizes[0]):
        sizes = f"those of a are {a.sizes[0].tolist()} and those of b {b.sizes[0].tolist()}"
        raise ValueError(f"masks that are compared must be of one size, but {sizes}: bring them to one image first.")
    if crowd is not None:
        crowd = crowd.cpu().contiguous()
    if _masks.native():
        return torch.ops.htc_fast.rle_iou(*a, *b, crowd)
    return iou(*reference.counts_of_runs(a.runs, a.offsets, b.runs, b.offsets), crowd)


def counts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a [A, H, W], b [B, H, W] of bool -> pixels that pairs share [A, B], that each covers [A] and [B], int64.

    raises  ShapeError where they differ in H or W, ValueError where they are on different devices
    """
    check_device("b", b, "a", a)
    if a.shape[1:] != b.shape[1:]:
        sizes = f"those of a are {list(a.shape[1:])} and those of b {list(b.shape[1:])}"
        raise ShapeError(f"masks that are compared must be of one size, but {sizes}: bring them to one image first.")
    device = a.device
    if device.type == "cuda" and _backend.forced_backend() is None and not _native.has_cuda():
        a, b = a.cpu(), b.cpu()  # built without nvcc
    if _backend.backend_for("mask_iou", a) == "reference":
        found = reference.counts_of_masks(a, b)
    else:
        found = torch.ops.htc_fast.mask_iou(a, b)
    shared, area_a, area_b = (one.to(device) for one in found)
    return shared, area_a, area_b


def iou(shared: Tensor, area_a: Tensor, area_b: Tensor, crowd: Tensor | None = None) -> Tensor:
    """Pixels shared [A, B] over those of either, or over a's alone where b is a crowd [B]."""
    whole = area_a[:, None] + area_b - shared
    if crowd is not None:
        whole = torch.where(crowd.to(whole.device), area_a[:, None], whole)
    return torch.where(shared > 0, shared.double() / whole.double(), 0.0)


def share(metric: str, shared: Tensor, area_a: Tensor, area_b: Tensor) -> Tensor:
    """The overlap [A, B] by a metric: the IoU, or pixels shared over those of the smaller of both."""
    if metric == "iou":
        return iou(shared, area_a, area_b)
    smaller = torch.minimum(area_a[:, None], area_b)
    return torch.where(shared > 0, shared.double() / smaller.double(), 0.0)


def _fake(a, b):
    long = {"dtype": torch.int64}
    pairs = a.new_empty(a.shape[0], b.shape[0], **long)
    return pairs, a.new_empty(a.shape[0], **long), a.new_empty(b.shape[0], **long)


def _fake_rle(runs_a, offsets_a, sizes_a, runs_b, offsets_b, sizes_b, crowd):
    return runs_a.new_empty(sizes_a.shape[0], sizes_b.shape[0], dtype=torch.float64)


declare("mask_iou(Tensor a, Tensor b) -> (Tensor, Tensor, Tensor)", _fake)
declare(
    "rle_iou(Tensor runs_a, Tensor offsets_a, Tensor sizes_a, Tensor runs_b, Tensor offsets_b, Tensor sizes_b, "
    "Tensor? crowd) -> Tensor",
    _fake_rle,
)
