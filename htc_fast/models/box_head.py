"""Box head of one stage: two fully connected layers, or four convolutions and one, then classes and deltas."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc_fast.device import instructions, is_intel
from htc_fast.models.box_norm import Conv3x3LayerNormReLU
from htc_fast.models.conv3x3_relu import Conv3x3ReLU
from htc_fast.models.convolution import by_fan_out
from htc_fast.models.seesaw import SeesawClassifier
from htc_fast.ops.roi_align import turned

RESOLUTION = 7


class BoxHead(nn.Module):
    """RoI features [K, C, 7, 7] -> class logits [K, classes + 1] (background last) and deltas [K, 4 | 4 * classes].

    convolutions  3x3, each with its ReLU; where there are some, they stand for the second fully connected layer
    norm          a batch norm follows each of them;  layer_norm: a norm over the channels of each place instead
    seesaw        classes + 2 logits: objectness has a branch of its own, as `SeesawClassifier` says
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        classes: int,
        class_agnostic: bool,
        convolutions: int = 0,
        norm: bool = False,
        seesaw: bool = False,
        layer_norm: bool = False,
    ):
        super().__init__()
        made = (
            Conv3x3LayerNormReLU(channels) if layer_norm else Conv3x3ReLU(channels, norm) for _ in range(convolutions)
        )
        self.convs = nn.ModuleList(made) if convolutions else None
        self.fc1 = nn.Linear(channels * RESOLUTION**2, hidden)
        self.fc2 = None if convolutions else nn.Linear(hidden, hidden)
        self.classes = SeesawClassifier(hidden, classes) if seesaw else nn.Linear(hidden, classes + 1)
        self.deltas = nn.Linear(hidden, 4 if class_agnostic else 4 * classes)
        dense_layers = [self.fc1] if self.fc2 is None else [self.fc1, self.fc2]
        for layer in dense_layers:
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        for layer in (*dense_layers, self.classes, self.deltas):
            nn.init.zeros_(layer.bias)
        by_fan_out(*(self.convs or ()))

    def forward(self, x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """rows: which of the K are real, bool of K elements, for norms in training; None: all."""
        return self.predict(self.hidden(x, rows))

    def hidden(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """RoI features [K, C, 7, 7] -> what classes and deltas are read from [K, hidden]; rows as of `forward`."""
        for conv in self.convs or ():
            x = conv(x, rows)
        x = dense(x, self.fc1).relu_()
        if self.fc2 is not None:
            x = dense(x, self.fc2).relu_()
        return x.flatten(1)

    def predict(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [K, hidden] -> class logits [K, classes + 1] and deltas [K, 4 | 4 * classes]."""
        return self.classes(hidden), self.deltas(hidden)


def dense(x: Tensor, layer: nn.Linear) -> Tensor:
    """A fully connected layer over x [K, C, h, w] -> [K, out, 1, 1].

    As a convolution where that is the faster way; with gradients it is not, for its own reach a third of a product's.
    """
    if torch.is_grad_enabled() or not convolves(x.device, x.dtype) or torch.is_autocast_enabled(x.device.type):
        rows = turned(x) if x.device.type == "cpu" and x.shape[2] > 1 else x
        return layer(rows.flatten(1))[..., None, None]
    return F.conv2d(x, layer.weight.view(-1, *x.shape[1:]), layer.bias)


def convolves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a convolution beats the matrix product, by rule: measuring, as `optimize` does, could differ next time,
    and what a detector under training finds has to be the same in every run.

    In fp32 on a CPU with AVX-512 of another maker than Intel: there oneDNN reaches 540 GFLOP/s on two cores, MKL's
    product 200. A core of Intel's reaches 106 GFLOP/s in the first layer as a convolution and 143 as a product, in the
    second 47 and 134. On two cores with AVX2 alone the first layer takes 1530 ms as a convolution and 140 as a product.
    """
    slow = not (is_intel() and torch.backends.mkl.is_available())
    return device.type == "cpu" and dtype == torch.float32 and "avx512_f" in instructions() and slow
