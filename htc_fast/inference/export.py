"""`detect` as a program of tensors: fixed shapes, no waiting, and none of our model code needed to run it."""

import copy

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from htc_fast.models.htc import HTC

# Calls that make the host wait for the device, a size depend on data, or values come from the host.
WAITS = ("item", "_local_scalar_dense", "nonzero", "masked_select", "unique", "unique2", "_to_copy", "is_nonzero", "to",
         "lift_fresh_copy", "lift_fresh", "pin_memory")  # fmt: skip
INDEXED = ("index", "index_put", "index_put_", "_unsafe_index", "_unsafe_index_put")


class Detect(nn.Module):
    """images [N, 3, H, W], image_sizes [N, 2] -> a dict of the fields of Detections."""

    def __init__(self, model: HTC):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, image_sizes: Tensor) -> dict[str, Tensor]:
        return vars(self.model.detect(images, image_sizes)).copy()


def export_detect(model: HTC, image_size: tuple[int, int] = (800, 1344), batch_size: int = 1) -> ExportedProgram:
    """The whole of `detect` as one program for one input shape.

    model       in evaluation mode
    image_size  (height, width), padded to sides that 32 divides
    returns     a program of images [N, 3, H, W], image_sizes [N, 2] int64 -> dict boxes, scores, labels, masks, count
    raises      RuntimeError if the program would wait for the device: `waits` says where
    """
    height, width = (-(-side // 32) * 32 for side in image_size)
    device = next(model.parameters()).device
    images = torch.zeros(batch_size, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
    sizes = torch.tensor([[height, width]] * batch_size, device=device)
    # A copy, since weights that want gradients would make the program's results want them too.
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        program = torch.export.export(Detect(frozen), (images, sizes), strict=False)
    if found := waits(program):
        raise RuntimeError(f"detect would wait for the device: {'; '.join(found)}.")
    return program


def waits(program: ExportedProgram) -> list[str]:
    """Why a program waits for the device or has sizes that depend on data; nothing for one that does neither."""
    found = []
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    for node in (node for graph in graphs for node in graph.nodes):
        words = str(node.target).replace("::", ".").split(".")
        if any(word in WAITS for word in words) and not _casts(node):
            found.append(f"{node.target} waits")
        if node.op == "call_function" and words[-2:-1] and words[-2] in INDEXED:
            indices = [index for index in node.args[1] if index is not None]
            if any(index.meta["val"].dtype in (torch.bool, torch.uint8) for index in indices):
                found.append(f"{node.target} takes a mask as index")
        value = node.meta.get("val")
        if isinstance(value, Tensor) and not all(isinstance(side, int) for side in value.shape):
            found.append(f"{node.target} has a size that depends on data")
        elif isinstance(value, (torch.SymInt, torch.SymBool, torch.SymFloat)):
            found.append(f"{node.target} gives a number to the host")
    return found


def _casts(node: torch.fx.Node) -> bool:
    """A copy that stays on the device and only changes the type or the layout, or a number of the program itself."""
    name = str(node.target)
    if name.startswith("aten.lift_fresh"):
        return node.meta["val"].dim() == 0
    named = [*node.args, *node.kwargs.values()]
    return name.startswith(("aten._to_copy", "aten.to.")) and not any(isinstance(one, torch.device) for one in named)
