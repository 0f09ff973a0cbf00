"""`export_onnx`: a file of standard operators that is what it says, or no file at all."""

import copy
import importlib.util
import json
from pathlib import Path

import onnx
import pytest
import torch

from htc_fast.errors import UserError
from htc_fast.inference.onnx import OnnxDetector, export_onnx, translate
from htc_fast.inference.onnx import file as writing
from htc_fast.inference.onnx.compare import compare
from tests.models.test_zoo import tiny

ROOT = Path(__file__).resolve().parents[3]
SIZE = (64, 96)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A detector, its file, and what the comparison said."""
    path = tmp_path_factory.mktemp("onnx") / "new" / "tiny.onnx"
    torch.manual_seed(0)
    model = tiny("htc_r50", class_names=("cat", "dog", "owl"), category_ids=(7, 9, 12)).eval()
    return model, path, export_onnx(model, path, image_size=SIZE)


def inputs(count=1):
    torch.manual_seed(5)
    return torch.randn(count, 3, *SIZE), torch.tensor([[60, 90], [64, 50], [33, 96]])[:count]


def test_the_file_detects_what_the_detector_does(written):
    model, path, said = written
    assert said.agree and said.pictures == 2 and said.twins == said.found > 0
    images, sizes = inputs()
    found, want = OnnxDetector(path).detect(images, sizes), model.detect(images, sizes)
    assert want.count.item() > 0 and torch.equal(found.labels, want.labels) and torch.equal(found.count, want.count)
    torch.testing.assert_close(found.boxes, want.boxes, rtol=0, atol=1e-2)
    torch.testing.assert_close(found.scores, want.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.masks, want.masks, rtol=0, atol=1e-3)


def test_it_says_what_it_is(written):
    model, path, _ = written
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    shapes = {
        one.name: [side.dim_value for side in one.type.tensor_type.shape.dim]
        for one in (*file.graph.input, *file.graph.output)
    }
    most = model.config.detections
    assert shapes == {
        "images": [1, 3, 64, 96],
        "image_sizes": [1, 2],
        "boxes": [1, most, 4],
        "scores": [1, most],
        "labels": [1, most],
        "masks": [1, most, 28, 28],
        "count": [1],
    }
    assert [(one.domain, one.version) for one in file.opset_import] == [("", 20)]
    notes = json.loads({one.key: one.value for one in file.metadata_props}["htc_fast"])
    assert notes["class_names"] == ["cat", "dog", "owl"] and notes["category_ids"] == [7, 9, 12]
    assert notes["images"] == [1, 3, 64, 96] and notes["uint8"] is False and len(notes["mean"]) == 3


def test_nodes_have_the_paper_s_words(written):
    names = [node.name for node in onnx.load(written[1]).graph.node]
    parts = {name.split("/")[0] for name in names}
    stages = {f"{kind} stage {number}" for kind in ("box", "mask") for number in (1, 2, 3)}
    assert {"backbone", "FPN", "RPN head", "proposals", "semantic", "detections", "mask RoIAlign"} | stages <= parts
    assert parts <= {"backbone", "FPN", "RPN head", "proposals", "semantic", "detections", "mask RoIAlign"} | stages | {
        "mask stages"
    }
    assert len(set(names)) == len(names)


def test_nothing_of_this_machine_is_in_it(written):
    content = written[1].read_bytes()
    assert str(ROOT).encode() not in content and b"stack_trace" not in content and b"site-packages" not in content


def test_pixels_are_normalised_inside(tmp_path, written):
    model = written[0]
    said = export_onnx(model, tmp_path / "a.onnx", image_size=SIZE, uint8_input=True, dynamic_batch=True)
    assert said.agree and said.pictures == 2
    file = OnnxDetector(tmp_path / "a.onnx")
    assert file.frame == (None, 64, 96) and file.raw
    assert {one.shape[0] for one in (*file.session.get_inputs(), *file.session.get_outputs())} == {"N"}
    torch.manual_seed(1)
    pixels, sizes = torch.randint(0, 256, (3, *SIZE, 3), dtype=torch.uint8), inputs(3)[1]
    mean, std = torch.tensor(model.config.mean), torch.tensor(model.config.std)
    images = ((pixels.float() - mean) / std).permute(0, 3, 1, 2).contiguous()
    for image, (height, width) in zip(images, sizes.tolist()):
        image[:, height:], image[:, :, width:] = 0, 0
    want = model.detect(images, sizes)
    assert want.count.sum() > 0 and compare([want], [file.detect(pixels, sizes)]).agree
    alone = file.detect(pixels[1:2], sizes[1:2])
    assert compare([model.detect(images[1:2], sizes[1:2])], [alone]).agree


def test_a_batch_and_one_stage_alone(tmp_path, written):
    model = written[0]
    said = export_onnx(model, tmp_path / "two.onnx", image_size=(60, 70), batch_size=2, stage=2)
    assert said.agree and said.pictures == 2 and model.config.test_stage is None
    file = OnnxDetector(tmp_path / "two.onnx")
    assert file.frame == (2, 64, 96)
    want = tiny("htc_r50", test_stage=2).eval()
    want.load_state_dict(model.state_dict())
    images, sizes = inputs(2)
    whole, alone = model.detect(images, sizes), want.detect(images, sizes)
    assert compare([alone], [file.detect(images, sizes)]).agree and not compare([whole], [alone]).agree


def test_a_wrong_file_is_not_left_behind(tmp_path, monkeypatch):
    table = translate.table()
    refine = torch.ops.htc_fast.refine.default
    unmoved = lambda boxes, *_: boxes  # noqa: E731
    monkeypatch.setattr(translate, "table", lambda: {**table, refine: unmoved})
    (tmp_path / "a.onnx").write_text("what was there before")
    with pytest.raises(UserError, match="the file would be wrong and was not written"):
        export_onnx(tiny("htc_r50_nosem").eval(), tmp_path / "a.onnx", image_size=SIZE)
    assert [one.name for one in tmp_path.iterdir()] == ["a.onnx"]
    assert (tmp_path / "a.onnx").read_text() == "what was there before"


BAD = {
    "no detector": ({"model": "weights.pth"}, "what is exported is a detector"),
    "name": ({"path": "a.pt2"}, r"has to end in \.onnx, got a\.pt2"),
    "size": ({"image_size": (8, 8)}, "image_size takes two sides"),
    "batch": ({"batch_size": 0}, "batch_size takes a whole number"),
    "opset": (
        {"opset": 11},
        "opset takes a whole number from 18 to 21, got 11 .int.: before 18 operators of a detector are missing, ",
    ),
    "stage": ({"stage": 4}, "there is no stage 4"),
    "two batches": ({"batch_size": 2, "dynamic_batch": True}, "leave one of the two out"),
    "no pictures": ({"pictures": []}, "must be at least one, got none"),
    "a picture that is none": ({"pictures": "nowhere.png"}, r"nowhere\.png"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_written_is_told(case, tmp_path):
    given, sentence = BAD[case]
    model, path = given.get("model") or tiny("htc_r50").eval(), tmp_path / given.get("path", "a.onnx")
    options = {name: value for name, value in given.items() if name not in ("model", "path")}
    with pytest.raises(UserError, match=sentence):
        export_onnx(model, path, **{"image_size": SIZE, **options})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(UserError, match=r"a\.onnx is a folder: name a file"):
        export_onnx(tiny("htc_r50").eval(), tmp_path / "a.onnx", image_size=SIZE)
    with pytest.raises(UserError, match=r"path must name the ONNX file to write, got 3 \(int\)"):
        export_onnx(tiny("htc_r50").eval(), 3, image_size=SIZE)


def test_a_model_of_16_bits_is_written_in_32(tmp_path, written):
    model, _, want = written
    half = copy.deepcopy(model).half()
    found = export_onnx(half, tmp_path / "half.onnx", image_size=SIZE)
    assert found.agree and found.found == want.found and next(half.parameters()).dtype == torch.float16


def test_missing_packages_are_named(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(UserError, match=r"needs onnxscript: pip install 'htc_fast\[onnx\]'"):
        export_onnx(tiny("htc_r50").eval(), tmp_path / "a.onnx", image_size=SIZE)


def test_weights_beyond_two_gigabytes_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(writing, "LARGEST", 1000)
    with pytest.raises(UserError, match="one ONNX file holds 2: --fp16 halves them"):
        export_onnx(tiny("mask_rcnn_r50").eval(), tmp_path / "a.onnx", image_size=SIZE)
