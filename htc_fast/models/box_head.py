"""Box head of one stage: two fully connected layers, then classes and deltas."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RESOLUTION = 7


class BoxHead(nn.Module):
    """RoI features [K, C, 7, 7] -> class logits [K, classes + 1] (background last) and deltas [K, 4 | 4 * classes]."""

    def __init__(self, channels: int, hidden: int, classes: int, class_agnostic: bool):
        super().__init__()
        self.fc1 = nn.Linear(channels * RESOLUTION**2, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.classes = nn.Linear(hidden, classes + 1)
        self.deltas = nn.Linear(hidden, 4 if class_agnostic else 4 * classes)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        for layer in (self.fc1, self.fc2, self.classes, self.deltas):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = dense(x, self.fc1).relu_()
        x = dense(x, self.fc2).relu_().flatten(1)
        return self.classes(x), self.deltas(x)


def dense(x: Tensor, layer: nn.Linear) -> Tensor:
    """A fully connected layer over x [K, C, h, w] -> [K, out, 1, 1].

    In fp32 on a CPU as a convolution: on two cores oneDNN's reaches 540 GFLOP/s where the matrix product reaches 200.
    In bf16 the product reaches 800, and its backward is the faster one.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return layer(x.flatten(1))[..., None, None]
    return F.conv2d(x, layer.weight.view(-1, *x.shape[1:]), layer.bias)
