"""Every detector of the zoo as an ONNX file: written, checked, and beside the detector in onnxruntime."""

import importlib.util

import onnx
import pytest
import torch

import htc_fast
from htc_fast.errors import UserError
from htc_fast.inference.onnx import export_onnx
from htc_fast.inference.onnx.compare import FULL, compare_with
from htc_fast.models import zoo
from htc_fast.models.config import as_dict
from tests.inference.onnx.running import InOpenVINO, noise
from tests.inference.onnx.test_operators import COMMON, MORE
from tests.inference.test_export import VARIANTS
from tests.models.test_zoo import tiny

QUICK = ("htc_r50", "mask_rcnn_r50", "htc_r50_softnms", "htc_r50_ga")  # guided anchors are deformable convolutions too
IN_OPENVINO = ("cascade_mask_r50", "panet_r50", "htc_r50_ga", "htcpp_swin_b")  # there, too: one export serves both
WITHOUT = "htc_r50_prroipool"
# What only training reads, and the backbone, which is a tiny one here: names that differ in nothing else are one file.
TRAINING = (
    "name",
    "backbone",
    "semantic_loss_weight",
    "train_sizes",
    "image_size",
    "frozen_stages",
    "norm_eval",
    "drop_path",
    "box_loss",
    "box_loss_weight",
)


def kinds() -> dict[str, list[str]]:
    """The first name of each kind of file -> all its names."""
    found: dict[str, list[str]] = {}
    for name in sorted(set(htc_fast.list_models()) - {WITHOUT}, key=lambda one: (len(one), one)):
        kind = {field: value for field, value in as_dict(zoo.config(name)).items() if field not in TRAINING}
        found.setdefault(str(kind), []).append(name)
    return {names[0]: names for names in found.values()}


TABLE = {"htc_r50": set(), "mask_rcnn_r50": set(), **MORE}  # whose operators docs/onnx.md lists
# What these hold, others hold too, each its part: all of them were exported once.
HELD = ("detectors_htc_r50", "htc_winner", "detectors_htc_r50_rfp", "htc_r50_syncbn", "htc_r50_dcn_syncbn")
HELD += ("htc_x101_64x4d_dcn_c3_c5_mstrain", "mask_rcnn_r50_interleaved", "cascade_mask_r50_interleaved")
HELD += ("cascade_mask_r50_sem_bbox", "cascade_mask_r50_sem_mask", "cascade_mask_r50_sem_none")

KINDS = kinds() | {name: [] for name in VARIANTS if name not in htc_fast.list_models()}


TRIED = [name for name in KINDS if name not in HELD]


@pytest.mark.parametrize("name", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in TRIED])
def test_file(name, tmp_path):
    base, overrides = VARIANTS[name]
    model, path = tiny(base, **overrides).eval(), tmp_path / "model.onnx"
    if model.config.rpn.guided:
        # As drawn, every place's score is its threshold but for rounding.
        torch.nn.init.ones_(model.rpn.location.bias)
    # Checked by onnx.checker with shapes, and run, before it is there.
    found = export_onnx(model, path, image_size=(64, 96))
    assert found.twins == found.found > 0 and found.extra == 0
    assert found.boxes < 1e-3 and found.scores < 1e-5 and found.masks < 1e-4
    file = onnx.load(path)
    assert [one.domain for one in file.opset_import] == [""]
    assert name not in TABLE or all_kinds(file.graph) - COMMON == TABLE[name]
    if name in IN_OPENVINO and importlib.util.find_spec("openvino") is not None:
        there = compare_with(model, InOpenVINO(path), noise(), FULL)
        assert there.agree and there.found == 16


def all_kinds(graph):
    """Of nodes, bodies of loops included."""
    inner = [one.g for node in graph.node for one in node.attribute if one.HasField("g")]
    return {node.op_type for node in graph.node}.union(*map(all_kinds, inner))


def test_every_name_is_of_a_kind():
    names = [name for names in KINDS.values() for name in names]
    assert sorted([*names, WITHOUT]) == htc_fast.list_models()
    assert {*QUICK, *HELD, *IN_OPENVINO} <= set(KINDS) and 20 < len(KINDS) < 60


def test_exact_pooling_is_refused(tmp_path):
    with pytest.raises(UserError, match=r'ONNX has no operator .* roi_pooling="roi_align"'):
        export_onnx(tiny(WITHOUT).eval(), tmp_path / "model.onnx", image_size=(64, 96))
    assert not list(tmp_path.iterdir())
