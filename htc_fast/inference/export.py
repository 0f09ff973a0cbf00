"""`detect` as a program of tensors: fixed shapes, no waiting, and none of our model code needed to run it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from htc_fast.data.classes import classes_of
from htc_fast.data.pictures import frame_of
from htc_fast.errors import UserError, check_count, check_sides, shown
from htc_fast.inference.predict import at_stage
from htc_fast.models.config import Model
from htc_fast.models.htc import HTC

NOTES = "htc_fast.json"

# Calls that make the host wait for the device, a size depend on data, or values come from the host.
WAITS = (
    "item",
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "unique2",
    "_to_copy",
    "is_nonzero",
    "to",
    "lift_fresh_copy",
    "lift_fresh",
    "pin_memory",
)
INDEXED = ("index", "index_put", "index_put_", "_unsafe_index", "_unsafe_index_put")


class Detect(nn.Module):
    """images [N, 3, H, W], image_sizes [N, 2] -> a dict of the fields of Detections."""

    def __init__(self, model: HTC):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, image_sizes: Tensor) -> dict[str, Tensor]:
        return vars(self.model.detect(images, image_sizes)).copy()


def export_file(
    model: HTC,
    path: str | Path,
    *,
    image_size: tuple[int, int] = (800, 1344),
    batch_size: int = 1,
    stage: int | None = None,
    aot: bool = False,
) -> ExportedProgram:
    """Write `detect` as one .pt2 file that runs with torch and `htc_fast.ops` alone, and run it once to be sure.

    model       in evaluation mode
    path        torch.export's program; its extra file htc_fast.json holds class names, category ids, normalisation
    image_size  (height, width), padded to sides that 32 divides
    stage       one stage of the cascade alone; None: the ensemble
    aot         compiled by AOTInductor, for which a C++ compiler is needed; htc_fast.json's content stands beside it
    returns     the program that was written
    raises      UserError if the file cannot be written or compiled, or detects something else than the model
    """
    if not isinstance(model, HTC):
        raise UserError(f"what is exported is a detector, as htc_fast.load gives it, got {shown(model)}.")
    path = check_name(Path(path))
    image_size = check_sides("image_size", image_size, "height, width", ordered=False)
    batch_size = check_count("batch_size", batch_size)
    with at_stage(model, stage):
        program = export_detect(model, image_size, batch_size)
        _write(path, program, notes_of(model.config, program), aot)
        _compare(model, program.example_inputs[0], load_file(path, aot))
    return program


def check_name(path: Path) -> Path:
    """raises  UserError for a file that torch.export would not load again"""
    if path.suffix != ".pt2":
        raise UserError(f"the file (--out) has to end in .pt2, got {path.name}.")
    return path


def load_file(path: str | Path, aot: bool = False) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    """The file as a function of images and image_sizes."""
    if aot:
        return torch._inductor.aoti_load_package(str(path))
    return torch.export.load(path).module()


def notes_of(config: Model, program: ExportedProgram) -> dict:
    """What a user of the file has to know: classes, and how pictures become inputs."""
    names, ids = map(list, classes_of(config))
    shape = [side if isinstance(side, int) else None for side in program.example_inputs[0][0].shape]
    classes = {"class_names": names, "category_ids": ids}
    return {"model": config.name, **classes, "mean": config.mean, "std": config.std, "images": shape}


@torch.no_grad()
def _compare(model: HTC, example: tuple[Tensor, Tensor], detect: Callable[[Tensor, Tensor], dict[str, Tensor]]) -> None:
    """Run what was written and the detector on the same random input.

    Rounding may change places among boxes of equal score, so scores are compared.

    raises  UserError if they differ: the file would be wrong
    """
    zeros, sizes = example
    torch.manual_seed(0)
    images = torch.randn_like(zeros)
    found, want = detect(images, sizes), model.detect(images, sizes)
    if not torch.allclose(found["scores"].float(), want.scores.float(), atol=1e-3):
        apart = (found["scores"].float() - want.scores.float()).abs().max()
        raise UserError(f"the written program's scores are up to {apart:.3g} from the detector's: do not use the file.")


def _write(path: Path, program: ExportedProgram, content: dict, aot: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if aot:
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
            path.with_suffix(".json").write_text(json.dumps(content), encoding="utf-8")
        else:
            torch.export.save(program, path, extra_files={NOTES: json.dumps(content)})
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): make room or choose another place (--out).") from None
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        hint = "without aot (--aot) no compiler is needed" if aot else "make room or choose another place (--out)"
        raise UserError(f"cannot write {path} ({reason}): {hint}.") from None


def export_detect(model: HTC, image_size: tuple[int, int] = (800, 1344), batch_size: int = 1) -> ExportedProgram:
    """The whole of `detect` as one program for one input shape.

    model       in evaluation mode
    image_size  (height, width), padded to sides that 32 divides
    returns     a program of images [N, 3, H, W], image_sizes [N, 2] int64 -> dict boxes, scores, labels, masks, count
    raises      RuntimeError if the program would wait for the device: `waits` says where
    """
    height, width = frame_of(image_size)
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
