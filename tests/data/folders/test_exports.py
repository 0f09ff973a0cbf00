"""Real exports of eight tools, see exports/make.py: each gives the masks that it was made of, and trains."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from htc_fast.training import Trainer, TrainingRun
from tests.data.folders.kit import EXPORTS, bitmaps, same
from tests.data.folders.scene import HEIGHT, WIDTH, bitmap, truth
from tests.training.tiny import SMALL

# What is held out: what the files say, or a fifth.
HELD = {"cvat": "e", "label_studio": "a", "label_studio_yolo": "a", "yolo": "de", "voc": "de", "yolo_supervision": "e"}
FORMS = {"cvat": "COCO", "label_studio": "COCO", "voc": "Pascal VOC"}
CLOSE = {"yolo_supervision"}  # which makes polygons of masks itself: a triangle comes back a little smaller


@pytest.mark.parametrize("name", HELD)
def test_masks_are_what_the_tool_was_given(name, capsys):
    train, val = bitmaps(EXPORTS / name), bitmaps(EXPORTS / name, "val")
    assert {path[-1] for path in train} == set("abcde") - set(HELD[name]) and {path[-1] for path in val} == {
        *HELD[name]
    }
    expected = truth()
    for path, found in {**train, **val}.items():
        if name in CLOSE and path.endswith("c"):
            continue
        assert same(found, expected[path[-1]]), path
    said = capsys.readouterr().err
    assert f"{name} is read as {FORMS.get(name, 'YOLO')}: 5 pictures" in said and "2 classes (cat, dog)" in said
    assert ("held out of train (by class, seed 0)" in said) == (len(HELD[name]) == 1)


def test_polygons_of_a_mask_are_read_as_they_stand():
    lines = (EXPORTS / "yolo_supervision" / "labels" / "c.txt").read_text().split("\n")
    shares = [list(map(float, line.split()[1:])) for line in lines if line]
    corners = [np.array(one).reshape(-1, 2) * (WIDTH, HEIGHT) for one in shares]
    found = bitmaps(EXPORTS / "yolo_supervision")["images/c"]
    assert same(found, [("cat", bitmap(one.round(4).ravel())) for one in corners])


def test_labelme(capsys):
    found = {**bitmaps(EXPORTS / "labelme"), **bitmaps(EXPORTS / "labelme", "val")}
    assert found.keys() == {"a", "b", "c", "d", "more/e"}
    expected = truth()
    # Two polygons of one group, a bitmap; a rectangle; polygons, in a folder inside too.
    assert all(same(found[path], expected[path[-1]]) for path in ("a", "b", "c", "more/e"))
    [(label, circle)] = found["d"]
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    away = np.hypot(rows - 24, columns - 32)
    assert label == "cat" and circle[away < 11.2].all() and not circle[away > 12.8].any()
    assert "labelme: 1 of 9 objects are not used (1 that are no areas but a line" in capsys.readouterr().err


def test_cellpose():
    found = {**bitmaps(EXPORTS / "cellpose"), **bitmaps(EXPORTS / "cellpose", "val")}
    assert found.keys() == set("abce") and sum(map(len, found.values())) == 7
    for name, objects in found.items():
        # The first has the number 300, which takes 16 bits, and so comes last; where two overlap, one has the pixels.
        expected = [mask > 0 for _, mask in truth()[name]]
        assert {label for label, _ in objects} == {"object"}
        assert all(np.array_equal(mask, one) for (_, mask), one in zip(objects, expected[1:] + expected[:1])), name


def test_label_studio_without_its_pictures(tmp_path, capsys):
    """The server's paths lead nowhere; what was uploaded lies beside the file under its own name."""
    shutil.copy(EXPORTS / "label_studio_alone" / "result.json", tmp_path)
    for name in "abcde":
        shutil.copy(EXPORTS / "cvat" / "images" / "default" / f"{name}.png", tmp_path)
    found = {**bitmaps(tmp_path), **bitmaps(tmp_path, "val")}
    assert all(same(found[name], objects) for name, objects in truth().items()) and len(found) == 5
    assert (
        "5 pictures lie elsewhere than their names say, such as /data/upload/1/1aaaaaaa-a.png"
        in capsys.readouterr().err
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [*HELD, "labelme", "cellpose"])
def test_trains(name, tmp_path):
    run = TrainingRun(
        data=EXPORTS / name,
        out=tmp_path / "run",
        backbone="test_resnet",
        pretrained=False,
        set={**SMALL, "detections": 5},
        image_size=(64, 96),
        iterations=2,
        batch_size=1,
        lr=1e-3,
        workers=0,
        threads=1,
    )
    trainer = Trainer(run)
    model = trainer.run()
    assert trainer.loop.at.iteration == 2 and model.config.class_names == tuple(trainer.train.classes)
    assert (Path(run.out) / "evaluations.csv").exists() and all(
        one.isfinite().all() for one in model.state_dict().values()
    )
