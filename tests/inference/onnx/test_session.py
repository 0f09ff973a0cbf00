"""A file in onnxruntime is a detector: it finds what the exported one finds, shown the same pixels."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from htc_fast import UserError
from htc_fast.data import CocoDataset
from htc_fast.data.pictures import framed_size, resized_size
from htc_fast.evaluation import evaluate
from htc_fast.inference import Framed, Views
from htc_fast.inference.onnx import OnnxDetector, export_onnx
from htc_fast.inference.onnx.graph import KEY
from htc_fast.inference.predict import at_stage
from tests.data.builder import write
from tests.inference.fake import Fake
from tests.models.test_zoo import tiny

FRAME = (64, 96)
random = np.random.default_rng(0)
LYING, UPRIGHT, LARGE, WIDE = (
    random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((60, 90), (110, 70), (128, 192), (20, 200))
)
PICTURES = [LYING, UPRIGHT, LARGE, WIDE, LYING[:, ::-1]]
FORMS = {
    "one at a time": {},
    "two at a time, uint8": {"batch_size": 2, "uint8_input": True},
    "any number": {"dynamic_batch": True},
}


@pytest.fixture(scope="module")
def model():
    names = {"class_names": ("cat", "dog", "owl"), "category_ids": (7, 3, 90)}
    return tiny("mask_rcnn_r50", **names, mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0)).eval()


@pytest.fixture(scope="module")
def paths(model, tmp_path_factory):
    """A file of each form."""
    folder = tmp_path_factory.mktemp("files")
    for number, options in enumerate(FORMS.values()):
        export_onnx(model, folder / f"{number}.onnx", image_size=FRAME, **options)
    return {form: folder / f"{number}.onnx" for number, form in enumerate(FORMS)}


@pytest.fixture(scope="module")
def path(paths):
    return paths["one at a time"]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("form", FORMS)
def test_a_file_finds_what_the_detector_finds(form, batch_size, model, paths):
    detector = OnnxDetector(paths[form])
    found = detector.predict(PICTURES, batch_size=batch_size, score_threshold=0.0)
    wanted = Framed(model, FRAME).predict(PICTURES, score_threshold=0.0)
    assert detector.frame[0] == {"one at a time": 1, "two at a time, uint8": 2, "any number": None}[form]
    assert len(found) == len(wanted) == 5
    for one, other in zip(found, wanted):
        assert len(one) > 2 and torch.equal(one.labels, other.labels) and one.class_names == other.class_names
        assert one.size == other.size and (one.masks != other.masks).float().mean() < 1e-3
        torch.testing.assert_close(one.boxes, other.boxes, rtol=0, atol=1e-2)
        torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-4)


def test_the_frame_is_the_rule_of_sizes():
    """In a frame of the picture's own orientation it is predict's, in a square one always."""
    for height, width in ((60, 90), (110, 70), (333, 500), (500, 333), (1, 900), (97, 97)):
        assert framed_size(height, width, (97, 97)) == resized_size(height, width, 97, 97)
        assert framed_size(height, width, (80, 133)) == (
            resized_size(height, width, 80, 133) if width >= height else resized_size(height, width, 80, 80)
        )
        assert framed_size(height, width, (133, 80)) == framed_size(width, height, (80, 133))[::-1]


def test_framed_pictures_are_scaled_and_padded():
    fake = Fake()
    found = Framed(fake, (60, 96)).predict([LYING, UPRIGHT, WIDE], batch_size=3)
    ((images, sizes),) = fake.seen  # upright and lying ones are one batch
    assert images.shape == (3, 3, 64, 96) and sizes.tolist() == [[64, 96], [64, 41], [10, 96]]
    assert not images[1, :, :, 41:].any() and images[1, :, :, :41].float().mean() > 50
    assert found[1].boxes[0].tolist() == pytest.approx([17.5, 27.5, 52.5, 82.5])
    with pytest.raises(UserError, match="a picture of 96 x 61 does not fit into the 64 x 96"):
        Framed(fake, FRAME).predict(UPRIGHT, size=(64, 96))
    with pytest.raises(UserError, match="model must be a detector"):
        Framed(Views(tiny("mask_rcnn_r50"), None), FRAME)
    with pytest.raises(UserError, match="frame takes two sides"):
        Framed(fake, (64,))
    assert len(Framed(fake, FRAME).predict(UPRIGHT, size=(40, 60))) == 1 and fake.seen[-1][1].tolist() == [[60, 38]]


def test_a_detector_in_its_own_frame_is_itself(model):
    model = replace_size(model)
    (found,), (wanted,) = (one.predict(LARGE, score_threshold=0.0) for one in (Framed(model, FRAME), model))
    assert len(found) > 2 and torch.equal(found.boxes, wanted.boxes) and found.rle == wanted.rle
    framed = Framed(model, FRAME)
    framed.config = replace(model.config, detections=3)
    assert len(model.predict(LARGE, score_threshold=0.0)[0]) == 3
    assert framed.training is False and framed.train().training and not framed.eval().training


def replace_size(model):
    other = tiny("mask_rcnn_r50").eval()
    other.load_state_dict(model.state_dict())
    other.config = replace(model.config, image_size=FRAME)
    return other


def test_a_file_says_what_its_detector_is(model, path):
    detector = OnnxDetector(path)
    assert detector.config == model.config and detector.frame == (1, *FRAME)
    assert detector.notes["class_names"] == ["cat", "dog", "owl"] and detector.notes["images"] == [1, 3, 64, 96]
    renamed = replace(model.config, class_names=("a", "b", "c"))
    detector.config = renamed
    assert detector.config == renamed and detector.predict(LYING, score_threshold=0.0)[0].name(0) in "abc"
    with pytest.raises(UserError, match="to change detections, export the detector anew"):
        detector.config = replace(renamed, detections=300)
    with pytest.raises(UserError, match="there is no stage 2"), at_stage(detector, 2):
        pass
    assert detector.train() is detector and not detector.training and detector.eval() is detector


def test_a_file_is_evaluated(model, paths, tmp_path):
    dataset = CocoDataset(write(tmp_path), "val", semantic="none")
    scores = [
        evaluate(one, dataset, progress=False) for one in (Framed(model, FRAME), *map(OnnxDetector, paths.values()))
    ]
    assert len(scores) == 4 and all(one == scores[0] for one in scores) and scores[0]["box_AP"] >= 0


def test_threads(path, monkeypatch):
    assert OnnxDetector(path, threads=3).session.get_session_options().intra_op_num_threads == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    detector = OnnxDetector(path)
    assert detector.session.get_session_options().intra_op_num_threads == 1
    torch.manual_seed(0)
    pictures = [torch.randn(1, 3, *FRAME) for _ in range(4)]
    alone = [detector.detect(one, torch.tensor([FRAME])) for one in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: detector.detect(one, torch.tensor([FRAME])), pictures * 3))
    assert len(together) == 12 and not torch.equal(alone[0].scores, alone[1].scores)
    assert all(torch.equal(one.scores, alone[number % 4].scores) for number, one in enumerate(together))
    for wrong in (0, True, "2"):
        with pytest.raises(UserError, match="threads takes a whole number"):
            OnnxDetector(path, threads=wrong)
    with pytest.raises(UserError, match=r"threads takes a whole number from 1 to \d+, got 100000"):
        OnnxDetector(path, threads=100_000)  # onnxruntime would open them all


def test_many_images_are_taken_by_the_batch(paths):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (5, *FRAME, 3), dtype=torch.uint8)
    sizes = torch.tensor([[64, 96], [60, 90], [33, 40], [64, 96], [50, 96]], dtype=torch.int32)
    detector = OnnxDetector(paths["two at a time, uint8"])
    found = detector.detect(images, sizes)
    assert found.boxes.shape[0] == 5 and found.count.dtype == torch.int32 and found.count.min() > 0
    last = detector.detect(images[4:], sizes[4:])
    assert torch.allclose(last.boxes[0], found.boxes[4], atol=1e-3)
    # What lies outside the picture does not count.
    outside = images.clone()
    outside[4, 50:] = 255
    assert torch.equal(detector.detect(outside[4:], sizes[4:]).scores, last.scores)


GOOD = torch.zeros(1, 3, *FRAME), torch.tensor([FRAME])
WRONG = {
    "no tensor": (np.zeros((1, 3, *FRAME)), GOOD[1], TypeError, "images must be a tensor, got ndarray"),
    "uint8": (GOOD[0].byte(), GOOD[1], TypeError, "images must be float32, got uint8"),
    "half": (GOOD[0].half(), GOOD[1], TypeError, "images must be float32, got float16"),
    "another size": (torch.zeros(1, 3, 64, 64), GOOD[1], ValueError, r"must be \[N, 3, 64, 96\] as .* was exported"),
    "none": (torch.zeros(0, 3, *FRAME), GOOD[1][:0], ValueError, r"must be \[N, 3, 64, 96\]"),
    "flat": (torch.zeros(3, *FRAME), GOOD[1], ValueError, r"must be \[N, 3, 64, 96\]"),
    "sizes of two": (GOOD[0], torch.tensor([FRAME] * 2), ValueError, r"image_sizes must be \[N, 2\] = \[1, 2\]"),
    "sizes of points": (GOOD[0], torch.tensor([[64.0, 96.0]]), TypeError, "image_sizes must be int64"),
    "too high": (GOOD[0], torch.tensor([[65, 96]]), ValueError, "heights and widths within 64 x 96"),
    "no width": (GOOD[0], torch.tensor([[64, 0]]), ValueError, "heights and widths within 64 x 96"),
    "elsewhere": (GOOD[0].to("meta"), GOOD[1], ValueError, "runs on the processor, got images on meta"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_other_images_are_refused(kind, path):
    images, sizes, error, sentence = WRONG[kind]
    with pytest.raises(error, match=sentence) as told:
        OnnxDetector(path).detect(images, sizes)
    assert "\n" not in str(told.value)


def graph(path, change):
    """The file with a change, as bytes."""
    content = onnx.load(path)
    change(content)
    return content.SerializeToString()


def forget(content):
    del content.metadata_props[:]


def note(value):
    def change(content):
        content.metadata_props[0].value = value

    return change


def foreign(content):
    content.graph.input[0].name = "data"
    for node in content.graph.node:
        node.input[:] = ["data" if one == "images" else one for one in node.input]


def own(content):
    content.graph.node[3].domain = KEY
    content.opset_import.append(onnx.helper.make_opsetid(KEY, 1))


def future(content):
    content.opset_import[0].version = 99


FILES = {
    "text": (lambda _: b"hello", "no ONNX file: expected one that htc_fast.export wrote"),
    "nothing": (lambda _: b"", "no ONNX file"),
    "a pointer": (lambda _: b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
    "half": (lambda path: path.read_bytes()[: path.stat().st_size // 2], "is damaged or no ONNX file"),
    "no notes": (lambda path: graph(path, forget), "it does not say how to use it"),
    "no JSON": (lambda path: graph(path, note("{")), "does not say how its detector is made up"),
    "a list": (lambda path: graph(path, note("[]")), "does not say how its detector is made up"),
    "no config": (lambda path: graph(path, note("{}")), "does not say how its detector is made up"),
    "half a config": (lambda path: graph(path, note('{"config": {"rpn": 3}}')), "does not say how its detector"),
    "other inputs": (lambda path: graph(path, foreign), "takes or gives other things"),
    "our operators": (lambda path: graph(path, own), "has kept our own operators"),
    "tomorrow's": (lambda path: graph(path, future), "onnxruntime does not take .* or update it"),
}


@pytest.mark.parametrize("kind", FILES)
def test_other_files_are_refused(kind, path, tmp_path):
    make, sentence = FILES[kind]
    other = tmp_path / "other.onnx"
    other.write_bytes(make(path))
    with pytest.raises(UserError, match=sentence) as told:
        OnnxDetector(other)
    assert str(other) in str(told.value) and "\n" not in str(told.value)


def test_no_file_and_no_runtime(path, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"cannot read .*none.onnx \(No such file or directory\): check the path"):
        OnnxDetector(tmp_path / "none.onnx")
    with pytest.raises(UserError, match=r"Is a directory"):
        OnnxDetector(str(tmp_path))
    with pytest.raises(UserError, match="path must name an ONNX file, got None"):
        OnnxDetector(None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="needs onnxruntime, which is not installed: pip install onnxruntime"):
        OnnxDetector(path)


def test_too_little_memory_names_the_size(path, monkeypatch):
    detector = OnnxDetector(path)

    class Session:
        def run(self, *_):
            raise Exception(
                "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer"
            )

    detector.session = Session()
    with pytest.raises(torch.OutOfMemoryError, match=r"1 image of 64 x 96: .* export it with a smaller"):
        detector.detect(*GOOD)


def test_a_file_has_its_frame_already(path):
    with pytest.raises(UserError, match="model has a frame of its own, 64 x 96: give the detector itself"):
        Framed(OnnxDetector(path), FRAME)


def test_a_configuration_is_one(path):
    detector = OnnxDetector(path)
    with pytest.raises(UserError, match="config must be a Model, as the detector's own is, got None"):
        detector.config = None


def test_the_notes_are_plain_json(path):
    (entry,) = [one for one in onnx.load(path).metadata_props if one.key == KEY]
    notes = json.loads(entry.value)
    assert notes["model"] == "mask_rcnn_r50" and notes["category_ids"] == [7, 3, 90] and notes["uint8"] is False
    assert notes["mean"] == [100.0, 110.0, 120.0] and notes["config"]["num_classes"] == 3
