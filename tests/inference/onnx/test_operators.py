"""Which of ONNX's operators a file is made of: those of the table in docs/onnx.md, which says who has them."""

import onnx
import onnxruntime
import pytest
import torch

from htc_fast.inference.onnx import graph, program, translate
from htc_fast.inference.onnx.file import translated
from tests.models.test_zoo import tiny

ARITHMETIC = "Abs Add And Cast Clip Div Exp Greater GreaterOrEqual IsNaN Less LessOrEqual Max Min Mod Mul Not Relu"
ARITHMETIC += " Sigmoid Softmax Sqrt Sub Sum Where Xor"
LAYERS = "AveragePool Conv ConvTranspose Gemm MatMul MaxPool Resize RoiAlign"
SHAPES = "Concat Gather GatherND Reshape Slice Split Squeeze Transpose Unsqueeze"
CHOICES = "NonMaxSuppression ReduceL1 ReduceMean ReduceMin ReduceProd ReduceSum ScatterND TopK"
COMMON = {*ARITHMETIC.split(), *LAYERS.split(), *SHAPES.split(), *CHOICES.split()}
# By the names that test_every_model.py exports.
MORE = {
    "scnet_r50": {"Expand"},
    "htc_r50_ga": {"Expand", "GatherElements", "GridSample", "IsInf", "Tile"},
    "htcpp_swin_b": {"ArgMax", "Equal", "Expand", "GatherElements", "Identity", "Loop", "ScatterElements", "Tile"},
}


def kinds(name, raw=False, half=False):
    traced = program.traced(tiny(name).eval(), (64, 96), 1, dynamic=False, raw=raw, half=half)
    nodes = list(translated(traced, 20).model.graph.all_nodes())
    assert {node.domain for node in nodes} == {""}
    return {node.op_type for node in nodes}


class Sorted(torch.nn.Module):
    def forward(self, x):
        values, places = x.sort(dim=1, descending=True, stable=True)
        others = x.sort(dim=1, stable=True).values
        return values[:, :5], places[:, :3], others[:, 1:4], others + 1


def test_what_nobody_reads_is_not_sorted(tmp_path):
    traced = torch.export.export(Sorted(), (torch.zeros(2, 40),))
    done = torch.onnx.export(traced, opset_version=20, custom_translation_table=translate.table(), verbose=False)
    graph.shorten(done.model)
    done.save(tmp_path / "sorted.onnx")
    onnx.checker.check_model(str(tmp_path / "sorted.onnx"), full_check=True)
    assert [node.inputs[1].const_value.numpy() for node in done.model.graph if node.op_type == "TopK"] == [5, 40]
    session = onnxruntime.InferenceSession(tmp_path / "sorted.onnx", providers=["CPUExecutionProvider"])
    torch.manual_seed(0)
    x = torch.randn(2, 40)
    for found, wanted in zip(session.run(None, {"x": x.numpy()}), Sorted()(x), strict=True):
        assert torch.equal(torch.from_numpy(found), wanted)


def test_the_usual_kinds():
    found = kinds("htc_r50")
    assert len(found) > 40 and found - COMMON == set()


@pytest.mark.slow
def test_uint8_and_16_bits_add_none():
    assert kinds("htc_r50", raw=True, half=True) - COMMON == set()
