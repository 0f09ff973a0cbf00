"""Refinement where the library has no CUDA kernel: the definition, some dozen of torch's kernels."""

from torch import Tensor

from htc_fast.ops.reference import refine as reference


def refine(
    boxes: Tensor, logits: Tensor, deltas: Tensor, std: list[float], image_sizes: Tensor, labels: Tensor | None
) -> Tensor:
    """As `ops.refine`."""
    return reference.refine(boxes, logits, deltas, std, image_sizes, labels)
