"""torch.compile for the parts of a training step that are nothing but layers."""

from torch import nn

PARTS = ("backbone", "fpn", "pafpn", "aspp", "semantic_head")


def compile_layers(model: nn.Module) -> None:
    """Compile the backbone, the pyramid and the semantic head in place; names of weights stay as they are.

    The first step of each input shape takes a minute or so longer: worth it for long runs at few sizes.
    """
    for name in PARTS:
        part = getattr(model, name, None)
        if part is not None:
            part.compile()
