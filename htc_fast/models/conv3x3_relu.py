"""The convolutions with ReLU of which the heads are made."""

from torch import Tensor

from htc_fast import ops
from htc_fast.models.convolution import Convolution
from htc_fast.ops.packed_convolution import Packed


class Conv3x3ReLU(Convolution):
    """Maps [K, C, H, W] -> relu(3x3 convolution) [K, O, H, W]; may own its weight in a faster form as well."""

    def __init__(self, channels: int, norm: bool = False, outputs: int | None = None):
        super().__init__(channels, channels if outputs is None else outputs, 3, norm)
        self.packed: Packed | None = None  # made by `optimize`

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        if self.normalises:
            return super().forward(x, rows).relu_()
        return ops.conv3x3_relu(x, *self.folded(), packed=self.packed)


class Conv1x1ReLU(Convolution):
    """Maps [N, C, H, W] -> relu(1x1 convolution) of the same shape."""

    def __init__(self, channels: int, norm: bool = False):
        super().__init__(channels, channels, 1, norm)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        return super().forward(x, rows).relu_()
