"""What the global context branch learns: which classes are in the whole image (SCNet, section 3.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from htc_fast.criterion.terms import Term


def context_loss(logits: Tensor, labels: Tensor, weight: float) -> Term:
    """Binary cross-entropy of every class being in the image or not, mean over images and logits.

    logits  [N, classes];  labels  [N, G] int64, -1 where padded
    """
    classes = logits.shape[1]
    # One column more takes what is padded.
    there = logits.new_zeros(len(logits), classes + 1, dtype=torch.float32)
    there = there.scatter(1, torch.where(labels >= 0, labels, classes), 1.0)[:, :classes]
    total = F.binary_cross_entropy_with_logits(logits.float(), there, reduction="sum")
    return Term(weight * total, torch.full((), there.numel(), device=logits.device))
