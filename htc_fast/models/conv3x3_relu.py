"""The convolutions with ReLU of which the heads are made."""

from torch import Tensor, nn

from htc_fast import ops
from htc_fast.ops.winograd import Packed


class Conv3x3ReLU(nn.Conv2d):
    """Maps [K, C, H, W] -> relu(3x3 convolution) [K, O, H, W]; may own its weight in Winograd's form as well."""

    def __init__(self, channels: int, outputs: int | None = None):
        super().__init__(channels, channels if outputs is None else outputs, 3, padding=1)
        self.packed: Packed | None = None  # made by `optimize`

    def forward(self, x: Tensor) -> Tensor:
        return ops.conv3x3_relu(x, self.weight, self.bias, packed=self.packed)


class Conv1x1ReLU(nn.Conv2d):
    """Maps [N, C, H, W] -> relu(1x1 convolution) of the same shape."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu_()
