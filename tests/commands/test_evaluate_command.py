"""`python -m htc_fast.evaluate`: tables, files, stages, and errors in one line."""

import json
from dataclasses import replace

import pytest

from htc_fast import evaluate as command
from htc_fast.commands import entry, network
from htc_fast.errors import say_once
from tests.data.builder import CATEGORIES, image, instance, write
from tests.inference.fake import Fake


@pytest.fixture
def run(monkeypatch, capsys):
    say_once.cache_clear()
    monkeypatch.setattr(network, "load", lambda *_, **__: Fake())

    def run(*arguments):
        given = [*map(str, arguments), "--weights", "w", "--image-size", "64", "--device", "cpu"]
        monkeypatch.setattr("sys.argv", ["evaluate", *given])
        with pytest.raises(SystemExit) as end:
            entry.run(command.main)
        return end.value.code, *capsys.readouterr()

    return run


def test_tables_and_files(tmp_path, run):
    status, out, _ = run("--data", write(tmp_path / "data"), "--out", tmp_path / "out")
    lines = [line.split() for line in out.splitlines() if line]
    assert status == 0 and lines[0] == ["ensemble,", "2", "pictures"]
    assert lines[1] == ["AP", "AP50", "AP75", "AP", "small", "AP", "medium", "AP", "large"]
    assert lines[2][0] == "box" and lines[3][0] == "mask" and lines[3][-1] == "-"
    assert {line[0] for line in lines[5:]} == {"dog", "cat", "owl"}
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["ensemble"]
    assert metrics["pictures"] == 2 and set(metrics["per_class"]) == {"dog", "cat", "owl"}
    boxes = json.loads((tmp_path / "out" / "results.bbox.json").read_text())
    masks = json.loads((tmp_path / "out" / "results.segm.json").read_text())
    assert len(boxes) == len(masks) == 4 and {item["image_id"] for item in masks} == {10, 11}
    assert "segmentation" not in boxes[0] and "bbox" not in masks[0] and boxes[0]["category_id"] == 7


def test_every_stage(tmp_path, run):
    status, out, _ = run("--data", write(tmp_path / "data"), "--out", tmp_path / "out", "--stage", "all", "--box-areas")
    assert (
        status == 0 and [out.count(f"stage {t}, 2 pictures") for t in (1, 2, 3)] == [1, 1, 1] and "ensemble, 2" in out
    )
    assert len(list((tmp_path / "out").glob("results.stage*.json"))) == 6
    assert len(json.loads((tmp_path / "out" / "metrics.json").read_text())) == 4


def test_without_annotations_only_results(tmp_path, run):
    root = write(tmp_path / "data", {"images": [image(5)], "categories": CATEGORIES})
    annotations = root / "annotations" / "instances_val2017.json"
    status, out, _ = run("--annotations", annotations, "--out", tmp_path / "out", "--score", "0.5")
    assert status == 0 and "no annotations" in out
    assert len(json.loads((tmp_path / "out" / "results.segm.json").read_text())) == 1


def test_a_page_of_all_stages(tmp_path, run):
    status, out, _ = run("--data", write(tmp_path / "data"), "--out", tmp_path / "out", "--report", tmp_path / "page")
    files = tmp_path / "page" / "report.json", tmp_path / "out" / "metrics.json"
    numbers, metrics = (json.loads(path.read_text()) for path in files)
    assert status == 0 and out.rstrip().endswith(f"how it did, and on what: {tmp_path / 'page' / 'report.html'}")
    assert list(numbers["stages"]) == ["stage 1", "stage 2", "stage 3", "ensemble"] == list(metrics)
    for stage, one in metrics.items():
        assert numbers["stages"][stage] == {key: one[key] for key in ("metrics", "per_class")}
        assert one["pictures"] == numbers["pictures"] == 2
    source = (tmp_path / "page" / "report.html").read_text()
    assert "<title>fake: w</title>" in source and "AP by stage" in source


def test_a_page_of_one_stage(tmp_path, run):
    assert run("--data", write(tmp_path / "data"), "--report", tmp_path / "page", "--stage", "2")[0] == 0
    assert list(json.loads((tmp_path / "page" / "report.json").read_text())["stages"]) == ["stage 2"]


def test_no_page_without_a_truth(tmp_path, monkeypatch, run):
    monkeypatch.setattr(network, "load", lambda *_, **__: 1 / 0)  # said before any work
    root = write(tmp_path / "data", {"images": [image(5)], "categories": CATEGORIES})
    status, _, err = run("--annotations", root / "annotations/instances_val2017.json", "--report", tmp_path / "page")
    assert status == 2 and "has no annotations, so a report has no truth to show errors against" in err


def named(*names):
    model = Fake(len(names))
    model.config = replace(model.config, class_names=names)
    return model


def test_classes_are_matched_by_name(tmp_path, monkeypatch, run):
    monkeypatch.setattr(network, "load", lambda *_, **__: named("owl", "dog"))
    status, out, err = run("--data", write(tmp_path / "data"), "--out", tmp_path / "out")
    assert status == 0 and "cat" not in out and "no class cat here, so 1 annotations are left out" in err
    results = json.loads((tmp_path / "out" / "results.bbox.json").read_text())
    assert [item["category_id"] for item in results[:2]] == [3, 90]


def test_a_class_that_the_data_lacks_is_a_dash(tmp_path, monkeypatch, run):
    monkeypatch.setattr(network, "load", lambda *_, **__: named("fox", "dog"))
    content = {"images": [image(10)], "annotations": [instance(10, 3, 16, 12, 32, 24)], "categories": CATEGORIES[:2]}
    status, out, err = run("--data", write(tmp_path / "data", content), "--out", tmp_path / "out")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert status == 0 and rows["fox"] == ["-"] * 4 and "-" not in rows["dog"]
    assert "lacks 1 of the 2 classes (fox)" in err
    results = json.loads((tmp_path / "out" / "results.bbox.json").read_text())
    assert {item["category_id"] for item in results} == {3}
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["ensemble"]
    assert metrics["per_class"]["fox"]["box_AP"] == -1
    assert metrics["metrics"]["box_AP"] == metrics["per_class"]["dog"]["box_AP"] == pytest.approx(1)


def test_no_class_in_common(tmp_path, monkeypatch, run):
    monkeypatch.setattr(network, "load", lambda *_, **__: named("Dog", "fox"))
    status, out, err = run("--data", write(tmp_path / "data"))
    assert status == 2 and not out
    assert "has none of the classes Dog, fox: it has dog, cat, owl (is 'Dog' the same as its 'dog'?" in err


def test_numbers_of_detections(tmp_path, monkeypatch, run):
    models = []
    monkeypatch.setattr(network, "load", lambda *_, **__: models.append(Fake()) or models[-1])
    for options in ((), ("--max-dets", 300), ("--max-dets", 300, "--detections", 50), ("--detections", 200)):
        assert run("--data", write(tmp_path / "data"), "--out", tmp_path / "out", *options)[0] == 0
    assert [model.config.detections for model in models] == [100, 300, 50, 200]
    assert "box_AR100" in json.loads((tmp_path / "out" / "metrics.json").read_text())["ensemble"]["metrics"]


def test_metrics_are_written_before_tables(tmp_path, monkeypatch, run):
    monkeypatch.setattr(command, "tables", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command.evaluate(command.EvaluationRun(weights="w", data=write(tmp_path / "data"), image_size=(64,),
                                               device="cpu", out=tmp_path / "out"))  # fmt: skip
    assert "ensemble" in json.loads((tmp_path / "out" / "metrics.json").read_text())


ERRORS = {
    "no data": ([], "needs its root folder"),
    "no such folder": (["--data", "{root}/no"], "is missing"),
    "no such split": (["--data", "{root}", "--split", "test"], "no annotation file for split 'test'"),
    "device": (["--data", "{root}", "--device", "cuda:77"], "cannot be used"),
    "device name": (["--data", "{root}", "--device", "gpu"], "cannot be used"),
    "batch size": (["--data", "{root}", "--batch-size", "0"], "from 1 to 65536, got 0"),
    "stage": (["--data", "{root}", "--stage", "5"], "invalid choice"),
    "report": (["--data", "{root}", "--report", "{root}/val2017/000000000010.png"], "another place (--report)"),
    "out": (["--data", "{root}", "--out", "{root}/val2017/000000000010.png"], "cannot write"),
}


@pytest.mark.parametrize("arguments, sentence", ERRORS.values(), ids=ERRORS)
def test_errors(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr(network, "load", lambda *_, **__: Fake())
    root = str(write(tmp_path / "data"))
    given = ["--weights", "w", *(text.format(root=root) for text in arguments)]
    monkeypatch.setattr("sys.argv", ["evaluate", *given])
    with pytest.raises(SystemExit) as end:
        entry.run(command.main)
    err = capsys.readouterr().err
    assert end.value.code == 2 and sentence in err and "Traceback" not in err
