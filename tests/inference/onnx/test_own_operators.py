"""Files that keep our operators: a node per call, as its schema says, and with our kernels the detector's results."""

import collections
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from htc_fast.errors import UserError
from htc_fast.export import ExportRun, export
from htc_fast.inference.onnx import export_onnx, kernels, own, program
from htc_fast.training.checkpoint import weights_bytes
from tests.models.test_zoo import tiny

ROOT = Path(__file__).resolve().parents[3]
KINDS = ("htc_r50", "mask_rcnn_r50", "htc_r50_softnms", "htc_r50_prroipool")
SIZE = (64, 96)


class Node(OpRun):
    op_domain = own.DOMAIN

    def _run(self, *inputs, **attributes):
        return tuple(kernels.compute(type(self).__name__, inputs, attributes))


class GatherElements(OpRun):
    """onnx's own takes 64 rows at most."""

    def _run(self, data, indices, axis):
        return (np.take_along_axis(data, indices, axis),)


def evaluated(model: onnx.ModelProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """By onnx itself, which holds every value to the type and shape that the file says."""
    classes = [GatherElements, *(type(name, (Node,), {}) for name in own.RESULTS)]
    runs = ReferenceEvaluator(model, new_ops=classes, check_shape_annotations=True)
    return runs.run(None, dict(zip((one.name for one in model.graph.input), inputs)))


@pytest.fixture(scope="module", params=KINDS)
def written(request, tmp_path_factory):
    """A detector, its file, and how often its program calls each operator."""
    detector = tiny(request.param).eval()
    path = tmp_path_factory.mktemp("own") / f"{request.param}.onnx"
    said = export_onnx(detector, path, image_size=SIZE, own_operators=True)
    assert said.twins == said.found > 0 and said.extra == 0
    traced = program.traced(detector, SIZE, 1, dynamic=False, raw=False, half=False)
    calls = [node.target for node in traced.graph.nodes if getattr(node.target, "namespace", "") == "htc_fast"]
    return detector, path, collections.Counter(one._opname for one in calls)


@pytest.fixture
def known():
    """onnx knows the domain's schemas."""
    for name in own.RESULTS:
        onnx.defs.register_schema(own.schema(name))
    yield
    for name in own.RESULTS:
        onnx.defs.deregister_schema(name, own.VERSION, own.DOMAIN)


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    return torch.randn(1, 3, *SIZE), torch.tensor([[60, 90]])


def ours(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.domain]


def test_one_node_per_call_and_no_other_domain(written):
    _, path, calls = written
    model = onnx.load(path)
    assert collections.Counter(node.op_type for node in ours(model)) == calls
    assert {node.domain for node in model.graph.node} == {"", "htc_fast"}
    assert {one.domain: one.version for one in model.opset_import} == {"": 20, "htc_fast": 1}
    assert len(model.functions) == 0


def test_nodes_carry_their_parts(written):
    names = [node.name for node in ours(onnx.load(written[1]))]
    assert "proposals/propose" in names and any(name.startswith("box stage 1/") for name in names)
    assert len(set(names)) == len(names)


def test_the_checker_holds_nodes_to_their_schemas(written, known):
    model = onnx.load(written[1])
    onnx.checker.check_model(model, full_check=True, check_custom_domain=True)
    del ours(model)[0].attribute[0]
    with pytest.raises(onnx.checker.ValidationError, match="attribute"):
        onnx.checker.check_model(model, check_custom_domain=True)


def test_shapes_and_types_are_known_behind_our_nodes(written):
    model = onnx.load(written[1])
    # Those that are written alone: what is inferred from them must agree.
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True), full_check=True)
    said = {one.name: one.type.tensor_type for one in [*model.graph.value_info, *model.graph.output]}
    values = [said[name] for node in model.graph.node for name in node.output]
    assert all(one.elem_type for one in values)
    assert all(side.dim_value > 0 for one in values for side in one.shape.dim)


def test_our_kernels_give_the_detector_s_detections(written):
    detector, path, _ = written
    images, sizes = pictures()
    with torch.no_grad():
        want = detector.detect(images, sizes)
    found = evaluated(onnx.load(path), [images.numpy(), sizes.numpy()])
    boxes, scores, labels, masks, count = map(torch.from_numpy, found)
    assert want.count.item() > 0 and torch.equal(count, want.count) and torch.equal(labels, want.labels)
    torch.testing.assert_close(boxes, want.boxes, rtol=0, atol=1e-2)
    torch.testing.assert_close(scores, want.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(masks, want.masks, rtol=0, atol=1e-3)


def test_node_by_node_gives_the_same(written):
    detector, path, _ = written
    with torch.no_grad():
        want = detector.detect(*pictures())
    found = kernels.NodeByNode(path).detect(*pictures())
    assert torch.equal(found.labels, want.labels) and torch.equal(found.count, want.count)
    torch.testing.assert_close(found.boxes, want.boxes, rtol=0, atol=1e-2)
    torch.testing.assert_close(found.scores, want.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.masks, want.masks, rtol=0, atol=1e-3)


class Every(torch.nn.Module):
    """Every operator once, with and without what may be missing."""

    def forward(self, maps, logits, boxes, sizes, labels):
        ours, fine, coarse = torch.ops.htc_fast, maps, maps[:, :, ::2, ::2]
        std, scores, rois = [0.1, 0.1, 0.2, 0.2], logits.softmax(-1)[..., 0], boxes
        objects, moves = [fine[:, :1], coarse[:, :1]], [fine[:, :4], coarse[:, 4:]]
        anchors, strides = [-9.0, -9.0, 9.0, 9.0] * 2, [8.0, 8.0, 16.0, 16.0]
        proposals = ours.propose(objects, moves, sizes, anchors, strides, 20, 9, 0.7, 0.0, std)
        several = logits.repeat(1, 1, 3)[..., :12]
        refined = ours.refine(boxes, logits, several, std, sizes, labels)
        found = ours.detections([logits, 2 * logits], several, boxes, None, sizes, std, True, 0.05, 0.5, 7)
        kept = ours.batched_nms_padded(boxes, scores, labels, 0.3, 6, -torch.inf)
        soft = ours.soft_nms_padded(boxes, scores, labels, True, 0.3, 0.5, 1e-3, 6)
        plain = ours.multi_level_roi_align([fine], rois, 2, 3, [0.125], 2, False, 56.0, None, 0.125, 14)
        both = ours.multi_level_roi_align([fine, coarse], rois, 7, 7, [0.125, 0.0625], 0, True, 56.0, fine, 0.125, 14)
        precise = ours.pr_roi_pool([fine, coarse], rois, 2, 2, [0.125, 0.0625], True, 56.0)
        total = ours.resampled_sum([fine, coarse], 5, 6, True, False)[0]
        return *proposals, refined, *found, *kept, *soft, plain, both, precise, total


def test_every_operator_s_arguments_arrive(known, tmp_path):
    torch.manual_seed(0)
    low = torch.rand(2, 10, 2) * 60
    boxes = torch.cat([low, low + 5 + torch.rand(2, 10, 2) * 40], 2)
    sizes, labels = torch.tensor([[64, 96], [60, 90]]), torch.randint(-1, 4, (2, 10))
    inputs = torch.randn(2, 8, 8, 12), torch.randn(2, 10, 4), boxes, sizes, labels
    traced = torch.export.export(Every(), inputs, strict=False)
    done = torch.onnx.export(traced, opset_version=20, custom_translation_table=own.table(), verbose=False)
    done.save(tmp_path / "every.onnx")
    model = onnx.load(tmp_path / "every.onnx")
    onnx.checker.check_model(model, full_check=True, check_custom_domain=True)
    counts = collections.Counter(node.op_type for node in ours(model))
    assert counts == dict.fromkeys(own.RESULTS, 1) | {"multi_level_roi_align": 2}
    nodes = {node.op_type: node for node in ours(model)}
    assert nodes["detections"].input[2] == "" and len(nodes["detections"].input) == 4 + 2
    threshold = {name: onnx.helper.get_node_attr_value(nodes[name], "iou_threshold") for name in nodes if "nms" in name}
    assert threshold["batched_nms_padded"] < 0.3 < threshold["soft_nms_padded"]  # float32's two neighbours
    found = evaluated(model, [one.numpy() for one in inputs])
    wanted = Every()(*inputs)
    assert len(found) == len(wanted)
    for one, want in zip(found, wanted):
        np.testing.assert_allclose(one, want, rtol=1e-5, atol=1e-5)


def test_every_schema_names_what_the_operator_returns():
    for name, results in own.RESULTS.items():
        unread = len(own.operator(name)._schema.returns) - len(results)
        assert unread == (name == "resampled_sum"), name
        assert [one.name for one in own.schema(name).outputs] == list(results)


def test_a_wrong_node_is_noticed_before_the_file_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(own, "below", lambda _: 0.0)  # every overlap is too much
    with pytest.raises(UserError, match="the file would be wrong and was not written"):
        export_onnx(tiny("mask_rcnn_r50").eval(), tmp_path / "a.onnx", image_size=SIZE, own_operators=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"fp16": True}, {"uint8_input": True, "dynamic_batch": True}])
def test_the_command_says_what_was_compared(options, tmp_path, capsys):
    weights, out = tmp_path / "tiny.safetensors", tmp_path / "own.onnx"
    weights.write_bytes(weights_bytes(tiny("htc_r50").eval()))
    export(ExportRun(weights=weights, out=out, image_size=SIZE, device="cpu", own_operators=True, **options))
    said = capsys.readouterr().out
    assert "of the detector's" in said and "with this library's kernels" in said and "InferenceSession" not in said
    model = onnx.load(out)
    kinds = {one.name: one.type.tensor_type.elem_type for one in model.graph.value_info}
    pooled = {kinds[node.output[0]] for node in ours(model) if node.op_type == "multi_level_roi_align"}
    assert pooled == {onnx.TensorProto.FLOAT16 if "fp16" in options else onnx.TensorProto.FLOAT}


def test_the_listing_says_what_the_schemas_say():
    assert own.listing() in (ROOT / "docs" / "onnx.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in own.listing().splitlines()[2:]]
    assert [name.strip("`") for name, *_ in rows] == list(own.RESULTS)
    for name, inputs, attributes, outputs in rows:
        told = own.schema(name.strip("`"))
        assert {one.split()[0] for one in attributes.split(", ")} == set(told.attributes)
        assert [one.split()[0] for one in outputs.split(", ")] == [one.name for one in told.outputs]
        single = [one.split()[0] for one in inputs.split(", ") if not one.endswith("…")]
        assert [one.rstrip("?") for one in single] == [one.name for one in told.inputs][: len(single)]
