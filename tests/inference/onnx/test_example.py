"""examples/onnx/: the written file in onnxruntime, without torch and htc_fast, in Python and in C++."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from htc_fast import ops
from htc_fast.data.pictures import resize
from htc_fast.inference.onnx import export_onnx
from tests.models.test_zoo import tiny

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

FOLDER = Path(__file__).resolve().parents[3] / "examples" / "onnx"
PYTHON, CPP = FOLDER / "predict.py", FOLDER / "predict.cpp"
SCORE = 0.9
NAMES = ("cat, or [dog]", "wheel", "glass")  # as they may be called
NONE = "import runpy, sys; sys.modules['torch'] = sys.modules['htc_fast'] = None; sys.argv = sys.argv[1:]; "
MAIN = NONE + "runpy.run_path(sys.argv[0], run_name='__main__')"
SAVED = (
    NONE + "import numpy; example = runpy.run_path(sys.argv[0]); score = float(sys.argv[4]); "
    "found = example['predict'](example['onnxruntime'].InferenceSession(sys.argv[1]), "
    "example['read'](sys.argv[2]), score); "
    "numpy.savez(sys.argv[3], **dict(zip(('names', 'scores', 'boxes', 'masks'), found)))"
)


def python(program, *words):
    done = subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def scene():
    """Picture [100, 150, 3] uint8 of discs on a gradient, which a frame of 64 x 96 does not hold."""
    y, x = np.mgrid[:100, :150]
    picture = np.stack([x * 1.5, y * 2.0, 200 - x - y * 0.5], axis=-1)
    discs = [(35, 40, 22, (240, 60, 30)), (60, 105, 30, (20, 90, 220)), (75, 30, 16, (250, 250, 250))]
    for row, column, radius, colour in discs:
        picture[(y - row) ** 2 + (x - column) ** 2 < radius**2] = colour
    return picture.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def detector():
    """With scores and masks as clear as a trained one's."""
    model = tiny("htc_r50").eval()
    model.config = replace(model.config, class_names=NAMES)
    with torch.no_grad():
        for head in model.box_heads:
            head.classes.weight *= 100
        for head in model.mask_heads:
            head.logits.weight *= 1000
    return model


@pytest.fixture(scope="module")
def folder(detector, tmp_path_factory):
    """The picture; floats.onnx and bytes.onnx, of any batch; changed copies: two.onnx, foreign.onnx."""
    folder = tmp_path_factory.mktemp("onnx")
    export_onnx(detector, folder / "floats.onnx", image_size=(64, 96))
    export_onnx(detector, folder / "bytes.onnx", image_size=(64, 96), uint8_input=True, dynamic_batch=True)
    model = onnx.load(folder / "floats.onnx")
    for entry in model.graph.input:
        entry.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, folder / "two.onnx")
    del model.metadata_props[:]
    onnx.save(model, folder / "foreign.onnx")
    for name in ("scene.png", "scene.ppm"):
        Image.fromarray(scene()).save(folder / name)
    Image.fromarray(scene()[:, :, 0] * np.uint16(200)).save(folder / "deep.png")
    Image.fromarray(scene()).save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:-500])
    return folder


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(PYTHON))


def wanted(detector):
    found = detector.predict(scene(), size=(64, 96), score_threshold=SCORE)
    found = found[0] if isinstance(found, list) else found
    assert 3 <= len(found) < detector.config.detections
    return found


def lines(text):
    """What is printed, one object a line -> names [K], numbers [K, 5]: score and box"""
    rows = [line.rsplit(" ", 5) for line in text.splitlines()]
    return [row[0] for row in rows], np.array([[float(word) for word in row[1:]] for row in rows])


@pytest.mark.parametrize("model", ["floats", "bytes"])
def test_it_finds_what_the_detector_finds(model, detector, folder, tmp_path):
    python(SAVED, PYTHON, folder / f"{model}.onnx", folder / "scene.png", tmp_path / "found.npz", SCORE)
    found, want = np.load(tmp_path / "found.npz"), wanted(detector)
    assert found["names"].tolist() == [NAMES[label] for label in want.labels]
    np.testing.assert_allclose(found["boxes"], want.boxes.numpy(), rtol=0, atol=0.05)
    np.testing.assert_allclose(found["scores"], want.scores.numpy(), rtol=0, atol=1e-3)
    ours = np.asarray(want.masks)
    assert found["masks"].shape == ours.shape == (len(want), 100, 150) and found["masks"].dtype == bool
    inside, either = (found["masks"] & ours).sum((1, 2)), (found["masks"] | ours).sum((1, 2))
    assert either.min() > 500 and (inside / either).min() > 0.99


def test_as_a_command(detector, folder, tmp_path):
    said = python(MAIN, PYTHON, folder / "floats.onnx", folder / "scene.png", tmp_path / "drawn.png", "--score", SCORE)
    names, numbers = lines(said)
    want = wanted(detector)
    assert names == [NAMES[label] for label in want.labels]
    np.testing.assert_allclose(numbers[:, 0], want.scores.numpy(), rtol=0, atol=1e-3)
    np.testing.assert_allclose(numbers[:, 1:], want.boxes.numpy(), rtol=0, atol=0.05)
    changed = (np.asarray(Image.open(tmp_path / "drawn.png")) != scene()).any(axis=2)
    masks, outlines = np.asarray(want.masks).any(0), np.zeros((100, 150), bool)
    for x, y, x2, y2 in np.minimum(want.boxes.numpy().astype(int), [149, 99] * 2):
        outlines[y : y2 + 1, [x, x2]] = outlines[[y, y2], x : x2 + 1] = True
    assert changed[masks].mean() > 0.99 and changed[outlines].mean() > 0.98
    assert changed[~masks & ~outlines].mean() < 0.01 and (~masks & ~outlines).sum() > 500


def test_nothing_found_is_the_picture_itself(folder, tmp_path):
    said = python(MAIN, PYTHON, folder / "bytes.onnx", folder / "scene.ppm", tmp_path / "drawn.png", "--score", "1.1")
    assert said == "" and (np.asarray(Image.open(tmp_path / "drawn.png")) == scene()).all()


@pytest.mark.parametrize(
    "size", [(60, 90), (99, 150), (137, 211), (100, 150), (1, 1)], ids=["down", "a little", "up", "same", "a pixel"]
)
def test_pictures_are_resized_as_ours(size, example):
    picture = np.random.default_rng(0).integers(0, 256, (100, 150, 3), np.uint8)
    made = example["stretch"](example["stretch"](picture, size[1], 1), size[0], 0)
    want = resize(torch.from_numpy(picture).permute(2, 0, 1), size).permute(1, 2, 0).numpy()
    apart = np.abs(made.astype(int) - want)
    assert made.shape == want.shape and made.dtype == np.uint8
    assert apart.max() <= 1 and (apart > 0).mean() < 0.02 + (made.size < 10)  # torch rounds its weights to 16 bits


def test_masks_are_pasted_as_ours(example):
    rng = torch.Generator().manual_seed(0)
    masks = torch.rand(7, 28, 28, generator=rng)
    boxes = torch.tensor(
        [[10.3, 5.2, 60.9, 44.4], [0, 0, 97, 71], [-20.5, -9, 30, 200], [40, 40, 40.4, 40.7], [5, 6, 5, 60]]
        + [[96.5, 70.5, 97, 71], [30.5, 10.5, 33.5, 60.5]]
    )
    want = ops.paste_masks(masks, boxes, (71, 97)).numpy()
    reach = example["reach"]
    for mask, (x, y, x2, y2), ours in zip(masks.numpy(), boxes.numpy(), want):
        pasted = np.zeros((71, 97), bool)
        (rows, down), (columns, across) = reach(y, y2, 28, 71), reach(x, x2, 28, 97)
        pasted[rows, columns] = down @ mask @ across.T >= 0.5
        assert (pasted != ours).sum() <= 2
    assert want[0].sum() > 500 and want[4].sum() == 0


BAD = {
    "no model": ("nothing.onnx", "scene.png", "a.png", "cannot load .*nothing.onnx: .*File doesn't exist"),
    "no ONNX": ("scene.png", "scene.png", "a.png", "cannot load .*scene.png: .*Protobuf parsing failed"),
    "another's": ("foreign.onnx", "scene.png", "a.png", ".*foreign.onnx was not written by htc_fast: give the file"),
    "batch of two": ("two.onnx", "scene.png", "a.png", ".*two.onnx takes 2 pictures at once: export it with a"),
    "no picture": ("floats.onnx", "nothing.png", "a.png", "cannot read .*nothing.png: .*No such file"),
    "no pixels": ("floats.onnx", "bytes.onnx", "a.png", "cannot read .*bytes.onnx: cannot identify image file"),
    "cut": ("floats.onnx", "cut.jpg", "a.png", "cannot read .*cut.jpg: image file is truncated"),
    "16 bits": ("floats.onnx", "deep.png", "a.png", "cannot read .*deep.png: it has more than 8 bits a colour: save"),
    "no folder": ("floats.onnx", "scene.png", "nowhere/a.png", "cannot write .*a.png: .*No such file"),
    "no format": ("floats.onnx", "scene.png", "a.nonsense", "cannot write .*a.nonsense: unknown file extension"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_a_sentence(case, folder, tmp_path, monkeypatch):
    model, picture, drawn, sentence = BAD[case]
    words = [str(PYTHON), str(folder / model), str(folder / picture), str(tmp_path / drawn)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(words[0], run_name="__main__")
    assert re.match(f"error: .*{sentence}", str(end.value.code)) and "\n" not in end.value.code


def test_it_is_short_and_needs_little():
    text = PYTHON.read_text()
    found = {one.names[0].name for one in ast.walk(ast.parse(text)) if isinstance(one, ast.Import)}
    found |= {one.module for one in ast.walk(ast.parse(text)) if isinstance(one, ast.ImportFrom)}
    assert found == {"argparse", "json", "sys", "numpy", "onnxruntime", "PIL"}
    assert len(text.splitlines()) <= 105 and len(CPP.read_text().splitlines()) <= 200


def headers():
    """The folder that holds onnxruntime's headers, which its Python package lacks; None: nowhere here."""
    roots = [os.environ.get("CONDA_PREFIX", sys.prefix), sys.prefix, "/usr", "/usr/local"]
    usual = [Path(root) / "include" / name for root in roots for name in ("", "onnxruntime")]
    given = os.environ.get("ONNXRUNTIME_INCLUDE")
    places = [Path(given)] if given else usual
    return next((place for place in places if (place / "onnxruntime_cxx_api.h").is_file()), None)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """predict.cpp, compiled against the library of the Python package"""
    folder, compiler = tmp_path_factory.mktemp("cpp"), shutil.which("g++") or shutil.which("clang++")
    libraries = list((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if headers() is None:
        pytest.skip("onnxruntime_cxx_api.h is not here: ONNXRUNTIME_INCLUDE names the folder of onnxruntime's headers")
    if compiler is None or not libraries:
        pytest.skip("there is no C++ compiler, or no libonnxruntime.so in onnxruntime's Python package")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(libraries[0])
    words = [compiler, "-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", CPP, "-o", folder / "predict", "-isystem"]
    done = subprocess.run(
        [*words, headers(), f"-L{folder}", "-lonnxruntime", f"-Wl,-rpath,{folder}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "predict"


@pytest.mark.parametrize("model", ["floats", "bytes"])
def test_cpp_prints_and_draws_what_python_does(model, program, folder, tmp_path):
    names = folder / f"{model}.onnx", folder / "scene.ppm"
    done = subprocess.run([program, *names, tmp_path / "cpp.ppm", str(SCORE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found, numbers), (want, theirs) = (
        lines(done.stdout),
        lines(python(MAIN, PYTHON, *names, tmp_path / "py.ppm", "--score", SCORE)),
    )
    assert found == want and len(want) >= 3
    np.testing.assert_allclose(numbers, theirs, rtol=0, atol=0.02)
    drawn, others = (np.asarray(Image.open(tmp_path / f"{name}.ppm")) for name in ("cpp", "py"))
    assert (drawn != others).any(axis=2).sum() <= 10 and (drawn != scene()).any(axis=2).mean() > 0.1


CPP_BAD = {
    "no model": ("nothing.onnx", "scene.ppm", "a.ppm", "Load model from .*nothing.onnx failed"),
    "no ONNX": ("scene.png", "scene.ppm", "a.ppm", "Load model from .*scene.png failed"),
    "another's": ("foreign.onnx", "scene.ppm", "a.ppm", "htc_fast did not write this model: give the file"),
    "batch of two": ("two.onnx", "scene.ppm", "a.ppm", "the model takes several pictures at once: export it with a"),
    "no picture": ("floats.onnx", "nothing.ppm", "a.ppm", "cannot read .*nothing.ppm: expected a binary PPM picture"),
    "no PPM": ("floats.onnx", "scene.png", "a.ppm", "cannot read .*scene.png: expected a binary PPM picture"),
    "cut": ("floats.onnx", "cut.ppm", "a.ppm", "cannot read .*cut.ppm: it ends before its last pixel"),
    "no folder": ("floats.onnx", "scene.ppm", "nowhere/a.ppm", "cannot write .*a.ppm"),
}


@pytest.mark.parametrize("case", CPP_BAD)
def test_cpp_says_what_is_wrong(case, program, folder, tmp_path):
    model, picture, drawn, sentence = CPP_BAD[case]
    (folder / "cut.ppm").write_bytes((folder / "scene.ppm").read_bytes()[:-1])
    words = [program, folder / model, folder / picture, tmp_path / drawn]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1 and re.match(f"error: {sentence}", done.stderr) and done.stderr.count("\n") == 1
