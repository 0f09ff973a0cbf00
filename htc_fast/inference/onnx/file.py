"""Write a detector as one ONNX file of standard operators, once it detects what the detector does."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from htc_fast.errors import UserError, check_count, check_sides, shown
from htc_fast.inference.onnx import compare, graph, program
from htc_fast.inference.predict import at_stage
from htc_fast.models.htc import HTC


def export_onnx(
    model: HTC,
    path: str | Path,
    *,
    image_size: tuple[int, int] = (800, 1344),
    batch_size: int = 1,
    stage: int | None = None,
    opset: int = 20,
    half: bool = False,
    uint8_input: bool = False,
    dynamic_batch: bool = False,
    own_operators: bool = False,
    pictures: Sequence[Any] | None = None,
) -> compare.Comparison:
    image_size = tuple(-(-side // 32) * 32 for side in image_size)
    with at_stage(model, stage):
        traced = program.traced(model, image_size, batch_size, dynamic=dynamic_batch, raw=uint8_input, half=half)
        model_proto = translated(traced, opset, own_operators)
    model_proto.save(path)
    return path


def translated(traced, opset: int, own_operators: bool):
    from htc_fast.inference.onnx import translate

    names = {"input_names": list(program.INPUTS), "output_names": list(program.OUTPUTS)}
    done = torch.onnx.export(
        traced, opset_version=opset, custom_translation_table=translate.table(), verbose=False, **names
    )
    graph.name_nodes(done.model, graph.parts(done.exported_program))
    graph.strip(done.model)
    return done
