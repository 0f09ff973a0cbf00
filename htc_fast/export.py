"""`python -m htc_fast.export`: a detector as one file that runs with PyTorch and our operators, without our models."""

import argparse
import json
import time
from pathlib import Path

import torch

from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.data.classes import default_classes
from htc_fast.data.pictures import image_size
from htc_fast.detector import load as load_model
from htc_fast.errors import UserError
from htc_fast.evaluation.coco import at_stage
from htc_fast.inference.export import export_detect

NOTES = "htc_fast.json"


def parser() -> argparse.ArgumentParser:
    """All options."""
    made = Parser(prog="python -m htc_fast.export", description="Write a detector as one torch.export program.")
    add = made.add_argument
    add("--weights", type=Path, required=True, help="checkpoint: ours, mmdetection's, torchvision's or detectron2's")
    add("--model", help="name of the network, where the file does not say it: see htc_fast.list_models()")
    add("--out", type=Path, default=Path("model.pt2"), metavar="FILE", help="default: model.pt2")
    add("--image-size", type=int, nargs="+", metavar="PX", help="height and width of the input (default: 800 1344)")
    add("--batch-size", type=int, default=1)
    add("--stage", type=int, help="one stage of the cascade alone instead of the ensemble")
    add("--aot", action="store_true", help="compile it too, with AOTInductor: a C++ compiler is needed here")
    add("--device", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    return made


def main() -> int:
    """Export, run once against the detector itself, and say how to load the file."""
    options = parser().parse_args()
    if options.batch_size < 1:
        raise UserError("--batch-size takes a number of at least 1.")
    size = options.image_size or [800, 1344]
    image_size(size)
    if options.out.suffix != ".pt2":
        raise UserError(f"--out has to end in .pt2, got {options.out.name}.")
    size = (size[0], size[-1])
    model = load_model(options.weights, name=options.model, device=options.device)
    began = time.perf_counter()
    with at_stage(model, options.stage):
        program = export_detect(model, size, options.batch_size)
        write(options, program, notes(model, program))
        compare(model, program.example_inputs[0], load(options))
    images, _ = program.example_inputs[0]
    print(f"{options.out}: images {list(images.shape)}, {time.perf_counter() - began:.0f} s")
    print(how_to_load(options))
    return 0


def notes(model, program) -> dict:
    """What a user of the file has to know: classes, and how pictures become inputs."""
    names = model.config.class_names or default_classes(model.config.num_classes)[0]
    config = model.config
    shape = list(program.example_inputs[0][0].shape)
    return {"model": config.name, "class_names": names, "mean": config.mean, "std": config.std, "images": shape}


@torch.no_grad()
def compare(model, example: tuple[torch.Tensor, torch.Tensor], detect) -> None:
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


def write(options: argparse.Namespace, program, content: dict) -> None:
    """Save the file, compiled where asked.

    raises  UserError if it cannot be written or compiled
    """
    out = options.out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if options.aot:
            torch._inductor.aoti_compile_and_package(program, package_path=str(out))
            out.with_suffix(".json").write_text(json.dumps(content))
        else:
            torch.export.save(program, out, extra_files={NOTES: json.dumps(content)})
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}): make room or choose another --out.") from None
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"cannot write {out} ({reason}): without --aot no compiler is needed.") from None


def load(options: argparse.Namespace):
    """The file as a function of images and image_sizes."""
    if options.aot:
        return torch._inductor.aoti_load_package(str(options.out))
    return torch.export.load(options.out).module()


def how_to_load(options: argparse.Namespace) -> str:
    """Python that runs the file."""
    load = f'torch._inductor.aoti_load_package("{options.out}")' if options.aot else (
        f'torch.export.load("{options.out}").module()')  # fmt: skip
    return f"import torch, htc_fast.ops\ndetect = {load}\nfound = detect(images, image_sizes)  # boxes, scores, …"


if __name__ == "__main__":
    entry.run(main)
