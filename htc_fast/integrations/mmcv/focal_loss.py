"""mmcv's focal losses: FL = -alpha (1 - p)^gamma log p of every score, without a reduction."""

from collections.abc import Callable

import torch
from torch import Tensor

SMALLEST = torch.finfo(torch.float32).tiny  # logarithms stay finite


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill `output`.

    input   [K, C]  logits
    target  [K]     classes; C or another number: none, all scores should be low
    weight  [C] of the targets' classes, or empty; where there is no class it is 1
    output  [K, C]
    """

    def loss(p: Tensor, q: Tensor, chosen: Tensor) -> Tensor:
        missed = -alpha * q**gamma * p.clamp(min=SMALLEST).log()
        return torch.where(chosen, missed, -(1 - alpha) * p**gamma * q.clamp(min=SMALLEST).log())

    _sigmoid(loss, input, target, weight, output)


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill `grad_input` [K, C] with the loss's derivative in its logit."""

    def derivative(p: Tensor, q: Tensor, chosen: Tensor) -> Tensor:
        missed = -alpha * q**gamma * (q - gamma * p * p.clamp(min=SMALLEST).log())
        return torch.where(chosen, missed, -(1 - alpha) * p**gamma * (gamma * q * q.clamp(min=SMALLEST).log() - p))

    _sigmoid(derivative, input, target, weight, grad_input)


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill `output`.

    input   [K, C]  probabilities, after softmax
    target  [K]     classes; negative: none, no loss
    weight  [C] of the targets' classes, or empty
    output  [K]
    """
    p = _of_target(input, target)
    loss = -alpha * (1 - p) ** gamma * p.clamp(min=SMALLEST).log()
    output.copy_(torch.where(target >= 0, loss, 0.0) * _weights(weight, target))


def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill `grad_input` [K, C] with the loss's derivative in the logits, and `buff` [K] with its part of each row."""
    p = _of_target(input, target)
    steep = gamma * (1 - p) ** (gamma - 1) * p * p.clamp(min=SMALLEST).log()
    row = torch.where(target >= 0, alpha * (steep - (1 - p) ** gamma), 0.0) * _weights(weight, target)
    buff.copy_(row)
    chosen = target[:, None] == torch.arange(input.shape[1], device=input.device)
    grad_input.copy_(row[:, None] * (chosen.to(row) - input))


def _sigmoid(term: Callable[..., Tensor], input: Tensor, target: Tensor, weight: Tensor, output: Tensor) -> None:
    p = input.to(torch.promote_types(input.dtype, torch.float32)).sigmoid()
    chosen = target[:, None] == torch.arange(input.shape[1], device=input.device)
    output.copy_(term(p, 1 - p, chosen) * _weights(weight, target)[:, None])


def _of_target(input: Tensor, target: Tensor) -> Tensor:
    wide = input.to(torch.promote_types(input.dtype, torch.float32))
    return wide.gather(1, target.clamp(min=0)[:, None])[:, 0]


def _weights(weight: Tensor, target: Tensor) -> Tensor:
    if weight.numel() == 0:
        return weight.new_ones(1)
    there = (target >= 0) & (target < len(weight))
    return torch.where(there, weight[target.clamp(0, len(weight) - 1)], 1.0)


OPERATORS = {
    one.__name__: one
    for one in (
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
        softmax_focal_loss_forward,
        softmax_focal_loss_backward,
    )
}
