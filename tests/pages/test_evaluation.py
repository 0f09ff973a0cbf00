"""The page of an evaluation: the numbers of the JSON, every kind of error, names from anywhere, and its looks."""

import json
import re

import numpy as np
from PIL import Image

from htc_fast.data import CocoDataset, windows
from htc_fast.errors import say_once
from htc_fast.evaluation import coco
from htc_fast.evaluation.report import report
from htc_fast.evaluation.summary import NAMES
from htc_fast.pages import evaluation
from tests.data.builder import image, instance, two_pictures, write
from tests.evaluation.test_errors import instances
from tests.pages.browser import needs_browser, screenshot
from tests.pages.test_page import tags

HOSTILE = ("<script>alert(1)</script>", "$\\frac{a}$ & 'b'", "猫 قطة \u202e" + 90 * "x")
MAGENTA = (200, 0, 200)


def made(root, names, truths, objects, size=(96, 128), stages=("ensemble",)):
    """A report of one magenta picture; truths: (label, box), objects: as `instances` takes them."""
    say_once.cache_clear()
    content = {
        "images": [image(10, size[1], size[0])],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(names)],
        "annotations": [instance(10, label + 1, *box) for label, box in truths],
    }
    data = CocoDataset(write(root, content), "val", semantic="none", keep_empty=True)
    Image.new("RGB", size[::-1], MAGENTA).save(root / "val2017" / f"{10:012d}.png")
    found = {0: instances(*objects, size=size, names=tuple(names))}
    return report(data, found, {name: coco.score(data, found) for name in stages})


def every_kind(root, names=("dog", "cat", "owl"), **options):
    """One error of each kind; a dog and a cat are right."""
    truths = [
        (0, (4, 4, 20, 20)),
        (1, (40, 4, 20, 20)),
        (2, (70, 4, 20, 20)),
        (0, (4, 60, 30, 30)),
        (1, (90, 60, 30, 30)),
    ]
    objects = [
        (0, 0.9, (4, 4, 20, 20)),
        (0, 0.85, (4, 4, 20, 18)),  # doubled
        (1, 0.8, (70, 4, 20, 20)),  # wrong class
        (2, 0.78, (50, 40, 12, 12)),  # invented
        (0, 0.76, (4, 60, 30, 30), (4, 60, 30, 12)),  # poor mask
        (1, 0.7, (40, 4, 20, 20)),
    ]  # fmt: skip
    return made(root, names, truths, objects, **options)


def test_every_kind_is_shown_with_the_numbers_of_the_json(tmp_path):
    one = every_kind(tmp_path, stages=("stage 1", "ensemble"))
    path = evaluation.save(tmp_path / "out", one, "a detector")
    source, numbers = path.read_text(encoding="utf-8"), json.loads((tmp_path / "out" / "report.json").read_text())
    assert numbers == json.loads(json.dumps(one.numbers)) and path.stat().st_size < 500_000
    found = [tag for tag, _ in tags(source)]
    assert "script" not in found and found.count("img") == 5 and found.count("svg") == 3
    counts = {"missed": 1, "wrong class": 1, "poor mask": 1, "doubled": 1, "invented": 1}
    assert {kind: each["count"] for kind, each in numbers["errors"].items()} == counts
    assert all(f"<h3>{kind.capitalize()}: 1</h3>" in source for kind in counts)
    assert "cat 80% is owl (mask IoU 1.00, box IoU 1.00)" in source and "cat of 900 pixels" in source
    assert "dog 76% (mask IoU 0.40, box IoU 1.00)" in source and "a second time on dog (mask IoU 0.90" in source
    metrics = numbers["stages"]["ensemble"]["metrics"]
    assert 0 < metrics["mask_AP"] < metrics["box_AP"] < 1
    assert f"<b>{100 * metrics['mask_AP']:.1f}</b><span>mask AP</span>" in source
    values = [metrics[f"{kind}_{name}"] for kind in ("mask", "box") for name in NAMES]
    cells = [f"{100 * value:.1f}" if value >= 0 else "–" for value in values]
    assert f"<td>ensemble</td>{''.join(f'<td>{one}</td>' for one in cells)}</tr>" in source
    assert f"score at least {numbers['operating']['threshold']:.3f}, where F1" in source


def test_the_matrix(tmp_path):
    source = evaluation.build(every_kind(tmp_path), "x").html()
    [matrix] = re.findall(r'<table class="heat">(.*?)</table>', source)
    assert matrix.count("var(--accent) 50%") == 2 and matrix.count("#c62f2f 100%") == 1
    rows = [re.findall(r"<t[dh][^>]*>([^<]*)<", row) for row in matrix.split("<tr>")[1:]]
    assert rows[0] == ["truth ↓ found →", "dog", "cat", "owl", "background"]
    assert rows[1:] == [
        ["dog", "1", "", "", "1"],
        ["cat", "", "1", "", "1"],
        ["owl", "", "1", "", ""],
        ["background", "2", "", "1", ""],
    ]


def test_names_are_no_markup(tmp_path):
    source = evaluation.build(every_kind(tmp_path, HOSTILE), "<b>title</b>").html()
    assert "script" not in [tag for tag, _ in tags(source)]
    assert "&lt;script&gt;alert(1)" in source and "$\\frac{a}$ &amp; " in source and 91 * "x" not in source


def test_half_a_letter_in_a_name(tmp_path):
    one = made(tmp_path, ["\ud800 dog"], [(0, (4, 4, 20, 20))], [])
    source = evaluation.save(tmp_path / "out", one, "x").read_text(encoding="utf-8")
    assert "<td>&#55296; dog</td>" in source and "dog of 400 pixels" in source


def test_nothing_found(tmp_path):
    one = made(tmp_path, ["dog", "cat"], [(0, (4, 4, 20, 20))], [])
    source = evaluation.build(one, "x").html()
    assert "Nothing was found, so there are no scores" in source and "<h3>Missed: 1</h3>" in source
    assert one.numbers["calibration"] == {"bins": (), "error": 0.0, "error_from_threshold": 0.0}


def test_one_class_and_no_error(tmp_path):
    one = made(tmp_path, ["dog"], [(0, (4, 4, 20, 20))], [(0, 0.9, (4, 4, 20, 20))])
    source = evaluation.build(one, "x").html()
    assert "There are none: every object was found, and nothing else scores at least 0.900." in source
    assert "<b>100.0</b><span>mask AP</span>" in source and "1 class." in source


def test_nothing_right_has_no_best_score(tmp_path):
    one = made(tmp_path, ["dog"], [(0, (4, 4, 20, 20))], [(0, 0.4, (60, 60, 20, 20))])
    source = evaluation.build(one, "x").html()
    assert "highest" not in source and "score at least 0.500, as none is right at any score, and" in source
    assert "None is right, so no score does better than another: the line is at 0.500." in source


def test_pictures_without_an_object(tmp_path):
    """As the first of --limit may be."""
    content = two_pictures()
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] == 11]
    data = CocoDataset(write(tmp_path, content), "val", semantic="none", keep_empty=True)
    found = {0: instances((0, 0.9, (4, 4, 20, 20)))}
    one = report(data, found, {"ensemble": coco.score(data, found)})
    source = evaluation.build(one, "x").html()
    assert one.numbers["curves"]["mean"] == {} and "<b>–</b><span>mask AP</span>" in source
    assert one.numbers["operating"]["threshold"] == 0.5 and "<h3>Invented: 1</h3>" in source


def test_of_many_classes_the_most_confused_are_shown(tmp_path):
    names = [f"class {number}" for number in range(300)]
    truths = [(number, (4 * number, 4, 3, 30)) for number in range(0, 30)]
    objects = [(0 if label < 25 else label, 0.9, box) for label, box in truths]
    one = made(tmp_path, names, [*truths, (280, (4, 50, 20, 20))], [*objects, (280, 0.95, (4, 50, 20, 20))])
    source = evaluation.build(one, "x").html()
    [matrix] = re.findall(r'<table class="heat">(.*?)</table>', source)
    assert "Of 300 classes, the 20 that are most often mistaken are shown." in source
    assert matrix.count("<tr>") == 22 and "class 0<" in matrix and "class 280" not in matrix
    assert 'class="wide tall"' in source and "Lines of their own have the 20 classes" in source
    assert source.count("<td>class 0</td><td>1</td>") == 15 + 1  # of the table of classes, and pairs


def test_a_picture_that_is_gone_costs_its_drawings_alone(tmp_path):
    one = every_kind(tmp_path)
    (tmp_path / "val2017" / f"{10:012d}.png").unlink()
    source = evaluation.save(tmp_path / "out", one, "x").read_text(encoding="utf-8")
    assert source.count("000000000010.png is missing") == 5 and "cat of 900 pixels" in source
    assert json.loads((tmp_path / "out" / "report.json").read_text())["objects"] == 5


def test_of_a_large_picture_the_rows_around_an_error_are_read(tmp_path, monkeypatch):
    one, read = every_kind(tmp_path), []
    monkeypatch.setattr(windows.Windows, "read", lambda self, *box: read.append(box) or self._read.read(*box))
    evaluation.build(one, "x")
    assert read == [(42, 96, 74, 128), (0, 48, 56, 104), (42, 96, 0, 54), (0, 48, 0, 48), (22, 70, 32, 80)]


def test_without_time_nothing_is_drawn(tmp_path):
    source = evaluation.build(every_kind(tmp_path), "x", seconds=0).html()
    assert "<img" not in source and source.count("There was no time left to draw them") == 5


@needs_browser
def test_a_browser_shows_it(tmp_path):
    one = every_kind(tmp_path, stages=("stage 1", "ensemble"))
    path = evaluation.save(tmp_path / "out", one, "a detector")
    seen = screenshot(path, tmp_path / "seen.png", 1280, 4200).astype(int)

    def of(colour, most=12):
        return (np.abs(seen - colour).max(axis=-1) <= most).sum()

    # Of the five errors' pictures, two halves each; of the matrix, cells that are all right and all wrong; of figures.
    assert of(MAGENTA) > 5 * 2 * 100 * 100 and of((31, 111, 235)) > 800 and of((198, 47, 47)) > 400
    assert of((27, 39, 51)) > 3000
