"""`python -m htc_fast.export`: a detector as one file that runs with PyTorch and our operators, without our models."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from htc_fast.commands import entry
from htc_fast.commands.network import WEIGHTS, Network
from htc_fast.commands.options import parse
from htc_fast.commands.output import check_writable
from htc_fast.errors import check_sides
from htc_fast.inference.export import check_name, export_file

ABOUT = "Write a detector as one torch.export program."


@dataclass(frozen=True, kw_only=True)
class ExportRun(Network):
    """Everything that an export is told."""

    weights: Annotated[Path, WEIGHTS]
    image_size: Annotated[tuple[int, ...], "height and width of the input; one number for both", "PX"] = (800, 1344)
    out: Annotated[Path, "file to write", "FILE"] = Path("model.pt2")
    stage: Annotated[int | None, "one stage of the cascade alone instead of the ensemble"] = None
    aot: Annotated[bool, "compile it too, with AOTInductor: a C++ compiler is needed here"] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.out)
        sides = self.image_size * 2 if len(self.image_size) == 1 else self.image_size  # one alone: a square
        object.__setattr__(self, "image_size", check_sides("--image-size", sides, "height, width", ordered=False))


def main() -> int:
    """Export, as the options say."""
    export(parse(ExportRun, "export", ABOUT))
    return 0


def export(run: ExportRun) -> None:
    """Export, run once against the detector itself, and say how to load the file."""
    model = run.detector(run.weights)
    check_writable(run.out.parent)
    began, size = time.perf_counter(), (run.image_size[0], run.image_size[-1])
    program = export_file(model, run.out, image_size=size, batch_size=run.batch_size, stage=run.stage, aot=run.aot)
    images, _ = program.example_inputs[0]
    print(f"{run.out}: images {list(images.shape)}, {time.perf_counter() - began:.0f} s")
    print(how_to_load(run))


def how_to_load(run: ExportRun) -> str:
    """Python that runs the file."""
    program = f'torch.export.load("{run.out}").module()'
    load = f'torch._inductor.aoti_load_package("{run.out}")' if run.aot else program
    return f"import torch, htc_fast.ops\ndetect = {load}\nfound = detect(images, image_sizes)  # boxes, scores, …"


if __name__ == "__main__":
    entry.run(main)
