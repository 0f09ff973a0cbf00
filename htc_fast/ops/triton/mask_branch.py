"""The mask heads of a cascade one after the other at inference, in Triton: five or six launches per head.

The mean of the heads' probabilities is made in place. Maps without a label give zeros: our products skip them on the
device, the predictor those behind the last label; cuDNN's 3x3 computes them for nothing.
"""

import torch
from torch import Tensor

from htc_fast.ops.triton.epilogue import FLOW, LABELLED
from htc_fast.ops.triton.launch import check_floats
from htc_fast.ops.triton.mask_predict import predict_class
from htc_fast.ops.triton.matrix import convolution_relu, product, rows_of


def mask_branch(
    x: Tensor, labels: Tensor, tensors: list[Tensor], convolutions: list[int], flows: list[bool], averaged: list[int]
) -> Tensor:
    """Mean probability [K, 2H, 2W] float32 of the heads in `averaged`.

    tensors       per head: weight and bias of the flow if it has one, of its convolutions, deconvolution and logits
    convolutions  3x3 convolutions per head
    flows         whether a head takes in the one before
    """
    check_floats("x", x)
    x, labels, rest = rows_of(x), labels.contiguous(), iter(tensors)
    previous = x  # the first head has no flow
    out = x.new_zeros(len(x), 2 * x.shape[2], 2 * x.shape[3], dtype=torch.float32)
    for number, (count, flow) in enumerate(zip(convolutions, flows)):
        here = x
        if flow:
            weight, bias = next(rest).contiguous(), next(rest)
            outputs, channels = weight.shape[:2]
            here = product(previous, weight, outputs, (1, channels, 0), 1, FLOW, bias, x, labels, LABELLED)
        for _ in range(count):
            here = convolution_relu(here, next(rest), next(rest), None, labels, LABELLED)
        previous, up_weight, up_bias, weight, bias = here, next(rest), next(rest), next(rest), next(rest)
        if number in averaged and len(x):
            mean = 1 if number == averaged[0] else 2
            predict_class(here, up_weight, up_bias, weight, bias, labels, out, mean, 1 / len(averaged))
    return out
