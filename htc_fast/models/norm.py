"""Batch norms whose batch is that of all processes, of which only real rows count.

Torch's own refuses a CPU in training, and waits for a GPU. Here every process writes its count, mean and squared
distances into one table, so that large means cost no digits; padded rows are normalised too, and weigh nothing.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn


class JointBatchNorm(nn.BatchNorm2d):
    """Batch norm over the joint batch of all processes; the running statistics are the same in each.

    In training every process has to call it, also with no rows at all. Statistics are float32 whatever x is.
    """

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """x [K, C, h, w] and which of its rows are real, bool of K elements (None: all) -> x normalised."""
        return normalise(self, x, rows) if self.training and not _plain(x, rows) else super().forward(x)


class JointBatchNormAct(BatchNormAct2d):
    """timm's batch norm with its activation, over the joint batch."""

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, h, w] -> the activation of x normalised."""
        if not self.training or _plain(x, None):
            return super().forward(x)
        return self.act(self.drop(normalise(self, x, None)))


def join_norms(net: nn.Module) -> None:
    """Let every batch norm of a network be one over all processes' batches; names and weights stay."""
    for module in net.modules():
        # They hold nothing more: the same object, wherever it is referred to, only computes in another way.
        if isinstance(module, BatchNormAct2d):
            module.__class__ = JointBatchNormAct
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = JointBatchNorm


def keeps_statistics(module: nn.Module) -> bool:
    """Whether it is a batch norm in a frozen part, where running statistics stay as they are in training too."""
    norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    return norm and module.weight is not None and not module.weight.requires_grad


@torch.compiler.disable
def normalise(norm: nn.BatchNorm2d, x: Tensor, rows: Tensor | None) -> Tensor:
    """What a batch norm in training makes of x, by the statistics of all processes' real rows, which it remembers.

    x        [K, C, h, w];  rows  bool of K elements, None: all are real
    returns  [K, C, h, w] in x's type; without a single real row anywhere, x times the weight plus the bias
    """
    rows = None if rows is None else rows.reshape(-1, 1, 1, 1)
    with torch.no_grad():
        count, mean, square = _gathered(*_moments(x, rows))
        # Where nothing was counted nothing is known: a variance of one leaves x as large as it was.
        variance = torch.where(count > 0, square / count.clamp(min=1), 1.0)
        if norm.running_mean is not None and norm.running_var is not None:
            _remember(norm, count, mean, square)
    weight, bias = norm.weight, norm.bias
    if weight is None:
        weight, bias = torch.ones_like(mean), torch.zeros_like(mean)
    weight, bias = weight.to(mean.dtype), bias.to(mean.dtype)
    return _Normalise.apply(x, weight, bias, mean, variance, count, rows, norm.eps)


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, with the gradient that flows through the statistics."""

    @staticmethod
    def forward(ctx: Any, x, weight, bias, mean, variance, count, rows, eps):
        ctx.save_for_backward(x, weight, mean, variance, count, rows)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad):
        x, weight, mean, variance, count, rows = ctx.saved_tensors
        # The gradient for given statistics: those of weight and bias are the sums that the statistics' own is made of.
        to_x, to_weight, to_bias = torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
        if len(x):  # a CPU's kernel divides by it
            unused = mean.new_empty(0)  # a GPU's wants the batch's statistics to be there, which nobody reads
            given = weight, mean, variance, unused, unused, False, ctx.eps, [True] * 3
            to_x, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(grad, x, *given)
        sums = torch.stack([to_weight, to_bias])
        if _processes() > 1:
            dist.all_reduce(sums)
        sums *= weight * (variance + ctx.eps).rsqrt() / count.clamp(min=1)
        through = F.batch_norm(x, mean, variance, sums[0], sums[1], False, 0.0, ctx.eps)
        to_x -= through if rows is None else torch.where(rows, through, 0.0)
        return to_x, to_weight, to_bias, None, None, None, None, None


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _plain(x: Tensor, rows: Tensor | None) -> bool:
    """Whether torch's own norm does the same: one process, all rows real, and more than one pixel."""
    return rows is None and _processes() == 1 and x.numel() > x.shape[1]


def _moments(x: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Of the real rows: count of pixels [1], mean [C], sum of squared distances from it [C]."""
    pixels = x.shape[2] * x.shape[3]
    if rows is None and len(x):
        mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)
        count = mean.new_full((1,), len(x) * pixels)
        return count, mean, variance * count
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    real = x.new_ones(len(x), 1, dtype=torch.bool) if rows is None else rows.view(-1, 1)
    count = real.sum(0).to(x.dtype) * pixels
    mean = torch.where(real, x.sum((2, 3)), 0.0).sum(0) / count.clamp(min=1)
    square = torch.where(real, (x - mean[:, None, None]).square_().sum((2, 3)), 0.0).sum(0)
    return count, mean, square


def _gathered(count: Tensor, mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same of all processes together."""
    if _processes() == 1:
        return count, mean, square
    own = torch.cat([count, mean, square])
    table = own.new_empty(_processes(), len(own))
    dist.all_gather(list(table.unbind()), own)
    counts, means, squares = table.split([1, len(mean), len(mean)], dim=1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count.clamp(min=1)
    return count, mean, (squares + counts * (means - mean).square()).sum(0)


def _remember(norm: nn.BatchNorm2d, count: Tensor, mean: Tensor, square: Tensor) -> None:
    """A step of the running statistics, the variance without bias; none where there is no variance to speak of."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
    step = (count >= 2).to(mean.dtype)
    norm.num_batches_tracked += step.to(torch.int64).view(())
    rate = step * (norm.momentum if norm.momentum is not None else 1 / norm.num_batches_tracked.clamp(min=1))
    for running, value in ((norm.running_mean, mean), (norm.running_var, square / (count - 1).clamp(min=1))):
        running.lerp_(value.to(running.dtype), rate.to(running.dtype))
