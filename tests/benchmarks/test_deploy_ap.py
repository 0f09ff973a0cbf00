"""The benchmark of AP in every form: which forms there are, what is stored, and how its table reads."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import deploy_ap
from benchmarks.tables.deploy_ap import deploy_ap_of, faster
from htc_fast.data import CocoDataset
from htc_fast.data.sample import make_sample_dataset
from htc_fast.inference import Framed
from htc_fast.models.weights.save import weights_bytes
from tests.data.builder import write
from tests.inference.fake import Fake
from tests.models.test_zoo import tiny


class Two(Fake):
    """The same with other scores."""

    def detect(self, images, image_sizes):
        found = super().detect(images, image_sizes)
        return replace(found, scores=found.scores - 0.25)


ROOT = Path(__file__).resolve().parents[2]


def test_forms_are_compared_with_the_first(tmp_path):
    dataset = CocoDataset(write(tmp_path), "val", semantic="none")
    names = {"class_names": ("cat", "dog", "owl")}
    models = Fake(), Two()
    for model in models:
        model.config = replace(model.config, **names)
    kinds = [(str(number), "float32", lambda one=one: Framed(one, (64, 64))) for number, one in enumerate(models)]
    first, second = deploy_ap.compared(iter(kinds), dataset, None)
    assert (first["matched"], first["of"], first["scores apart"]) == (1.0, 4, 0.0)
    # A box has its twin, whatever that scores.
    assert (second["matched"], second["of"], second["scores apart"]) == (1.0, 4, 0.25)
    assert first["pictures"] == 2 and first["milliseconds"]["median"] > 0 and first["mask_AP"] == second["mask_AP"]
    (one,) = deploy_ap.compared(iter(kinds[:1]), dataset, 1)
    assert one["pictures"] == 1 and len(models[0].seen) == 3


def test_types_are_those_that_the_processor_has(monkeypatch):
    files = dict.fromkeys(("float32", "float16", "int8"))
    for there, count in ((True, 10), (False, 7)):
        monkeypatch.setattr(deploy_ap, "supports", lambda *_, there=there: there)
        names = [(name, dtype) for name, dtype, _ in deploy_ap.forms(None, (64, 96), files, [])]
        assert len(set(names)) == count and names[0] == ("eager", "float32")
        assert (("OpenVINO", "bfloat16") in names) == there and ("ONNX Runtime", "int8") in names
        assert (("optimize()", "int8") in names) == there


def test_its_table():
    row = {"run by": "eager", "dtype": "float32", "pictures": 60, "box_AP": 0.39986, "box_AP50": 0.7, "mask_AP": 0.351}
    row |= {"mask_AP50": 0.6, "matched": 0.925, "of": 40, "scores apart": 0.1, "milliseconds": {"median": 123.4}}
    about = {"model": "htc_r50", "backbone": "b", "frame": [256, 320], "threads": 2, "score": 0.3, "iou": 0.9}
    about |= {"calibrated with": 16, "note": "short run", "packages": {"onnxruntime": "1.32", "openvino": None}}
    text = deploy_ap_of({**about, "machine": {"device": "cpu", "date": "2026-01-01", "torch": "2"}, "rows": [row]})
    assert [one.strip() for one in text.splitlines()[2].split("|")[1:-1]] == [
        *("eager", "float32", "0.3999", "0.7000", "0.3510", "0.6000", "92.5% of 40", "123"),
    ]
    assert "60 pictures in a frame of 256×320" in text and text.endswith("onnxruntime 1.32; short run")


def test_its_table_names_what_is_faster_elsewhere():
    parts = {
        "optimize()": {"backbone": 20.0, "RPN head": 5.0, "rest": 0.5},
        "OpenVINO": {"backbone": 10.0, "RPN head": 4.9},
    }
    rows = [{"run by": name, "dtype": kind, "parts": parts[name]} for name in parts for kind in ("bfloat16", "int8")]
    rows = [row for row in rows if row["run by"] == "OpenVINO" or row["dtype"] == "bfloat16"]
    assert faster(rows) == (
        "Faster than `optimize()` in the same type, by more than 10%, of parts that take it more than 1 ms: "
        "OpenVINO, bfloat16: backbone 10 (ours 20)."
    )


def measure(folder: str) -> None:
    """All forms of a small detector, on a small data set."""
    root = make_sample_dataset(Path(folder) / "sample", train=2, val=3)
    deploy_ap.make_sample_dataset = lambda: root
    names = CocoDataset(root, "val").classes
    model = tiny("htc_r50", num_classes=len(names), class_names=tuple(names), image_size=(64, 96))
    (Path(folder) / "tiny.safetensors").write_bytes(weights_bytes(model.eval()))
    options = ["--weights", f"{folder}/tiny.safetensors", "--threads", torch.get_num_threads(), "--out", folder]
    sys.argv = ["deploy_ap", *map(str, options), "--folder", folder]
    deploy_ap.main()


@pytest.mark.slow
def test_every_form_of_a_small_detector(tmp_path):
    # A process of its own: one that OpenVINO was loaded into does not outlive a fork.
    program = "import sys; from tests.benchmarks.test_deploy_ap import measure; measure(sys.argv[1])"
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "deploy_ap.json").read_text())
    rows = {(row["run by"], row["dtype"]): row for row in result["rows"]}
    assert len(rows) in (7, 8, 10) and all(row["pictures"] == 3 for row in rows.values())
    assert result["frame"] == [64, 96]
    scores = {name: [row["box_AP"], row["mask_AP"]] for name, row in rows.items()}
    for runtime in ("optimize()", "ONNX Runtime", "OpenVINO"):
        assert scores[runtime, "float32"] == pytest.approx(scores["eager", "float32"], abs=5e-4)
    watched = {name: set(row["parts"]) for name, row in rows.items()}
    assert watched.pop(("eager", "float32")) == watched.pop(("ONNX Runtime", "float16")) == set()
    assert all({"backbone", "FPN", "RPN head", "mask RoIAlign"} <= parts for parts in watched.values())
    sizes = [(tmp_path / f"{kind}.onnx").stat().st_size for kind in ("float32", "float16", "int8")]
    assert sizes[0] > sizes[1] > 0 and sizes[0] > sizes[2] > 0
    assert "3 pictures in a frame of 64×96" in deploy_ap_of(result)
