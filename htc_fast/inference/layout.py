"""Weights laid out once: what runs in low precision is stored so, and fully connected layers read RoIAlign's order."""

import torch
from torch import Tensor, nn

from htc_fast.inference.fuse import FusedConvolution
from htc_fast.models.box_head import RESOLUTION, BoxHead, convolves
from htc_fast.models.conv3x3_relu import Conv3x3ReLU
from htc_fast.ops import winograd


class ChannelsLastBoxHead(nn.Module):
    """A box head whose first layer takes RoI features [K, C, 7, 7] as they lie in memory: row, column, channel."""

    def __init__(self, head: BoxHead):
        super().__init__()
        self.fc1, self.fc2, self.classes, self.deltas = head.fc1, head.fc2, head.classes, head.deltas
        weight = self.fc1.weight.detach().unflatten(1, (-1, RESOLUTION, RESOLUTION))
        self.fc1.weight = nn.Parameter(weight.permute(0, 2, 3, 1).flatten(1).contiguous(), requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As BoxHead: class logits [K, classes + 1] and deltas [K, 4 | 4 * classes]."""
        x = _dense_relu(x.permute(0, 2, 3, 1).flatten(1), self.fc1)
        x = _dense_relu(x, self.fc2)
        return self.classes(x), self.deltas(x)


def _dense_relu(x: Tensor, layer: nn.Linear) -> Tensor:
    """relu(x W + b); on a GPU both are cuBLASLt's epilogue."""
    if x.device.type != "cuda" or torch.is_autocast_enabled("cuda"):
        return layer(x).relu_()
    return torch._addmm_activation(layer.bias, x, layer.weight.t())


def lay_out(network: nn.Module, dtype: torch.dtype) -> None:
    """Change `network` (an HTC for inference) in place."""
    device = next(network.parameters()).device
    if not convolves(device, dtype):
        for t, head in enumerate(network.box_heads):
            network.box_heads[t] = ChannelsLastBoxHead(head)
    # Taken from the weights as they were trained, before these lose bits.
    packed = _pack(network, dtype)
    for module in network.modules():
        # Norms and whatever else autocast keeps in float32 stay so.
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            module.to(dtype)
    network.to(memory_format=torch.channels_last)
    network.requires_grad_(False)
    for owner, conv, values in packed:
        owner.packed = winograd.Packed(conv.weight, values)


def _pack(network: nn.Module, dtype: torch.dtype) -> list[tuple[nn.Module, nn.Conv2d, Tensor]]:
    """The 3x3 convolutions that run faster in Winograd's form, each with its owner and its weight in that form."""
    for convolutions in (network.fpn.output, network.rpn):
        for name, conv in list(convolutions.named_children()):
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
                setattr(convolutions, name, FusedConvolution(conv, None))
    owners: list[tuple[nn.Module, nn.Conv2d]] = [
        (one, one.conv) for one in network.modules() if isinstance(one, FusedConvolution) and one.plain()
    ]
    owners += [(one, one) for one in network.modules() if isinstance(one, Conv3x3ReLU)]
    return [(owner, conv, winograd.pack(conv.weight)) for owner, conv in owners if winograd.pays(conv.weight, dtype)]
