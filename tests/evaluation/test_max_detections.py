"""More objects than COCO's protocol counts."""

import pytest
import torch

from htc_fast.data import CocoDataset
from htc_fast.errors import say_once
from htc_fast.evaluation import coco
from htc_fast.evaluation.summary import NAMES, RECALLS
from htc_fast.models.structures import Detections
from tests.data.builder import CATEGORIES, image, instance, write
from tests.inference.fake import Fake

SIDE, ACROSS = 10, 15
BOXES = [(SIDE * (n % ACROSS), SIDE * (n // ACROSS)) for n in range(150)]


class Perfect(Fake):
    """Finds every one of the 150 squares, as many as its configuration allows."""

    def detect(self, images, image_sizes):
        limit = self.config.detections
        boxes = torch.tensor([[x, y, x + SIDE, y + SIDE] for x, y in BOXES[:limit]], dtype=torch.float32)
        found = len(boxes)
        return Detections(
            boxes=boxes[None],
            scores=torch.linspace(0.9, 0.5, found)[None],
            labels=torch.zeros(1, found, dtype=torch.int64),
            masks=torch.ones(1, found, 28, 28),
            count=torch.tensor([found], dtype=torch.int32),
        )


@pytest.fixture
def dataset(tmp_path):
    """A picture of 150 dogs."""
    say_once.cache_clear()
    annotations = [instance(1, 3, x, y, SIDE, SIDE) for x, y in BOXES]
    content = {"images": [image(1, 150, 100)], "annotations": annotations, "categories": CATEGORIES[1:2]}
    return CocoDataset(write(tmp_path, content), "val", semantic="none")


def test_by_coco_s_protocol_and_said(dataset, capsys):
    metrics = coco.evaluate(Perfect(1), dataset, size=(100, 150), progress=False)
    assert metrics["box_AP"] == metrics["mask_AP"] == pytest.approx(0.663, abs=1e-3)
    assert metrics["box_AR100"] == pytest.approx(100 / 150)
    said = capsys.readouterr().err
    assert "1 picture holds 150 objects, of which the model finds at most 100: --detections" in said
    assert "1 picture holds 150 objects of a class, but only the best 100 detections count, as in COCO's" in said
    assert "--max-dets" in said


def test_the_whole_data_set_is_counted_whichever_pictures_are_asked_for(tmp_path, capsys):
    say_once.cache_clear()
    annotations = [instance(number, 3, x, y, SIDE, SIDE) for number in (1, 2) for x, y in BOXES]
    images = [image(1, 150, 100), image(2, 150, 100)]
    root = write(tmp_path, {"images": images, "annotations": annotations, "categories": CATEGORIES[1:2]})
    for limit in (1, None):
        coco.evaluate(
            Perfect(1), CocoDataset(root, "val", semantic="none"), size=(100, 150), limit=limit, progress=False
        )
    said = capsys.readouterr().err
    assert said.count("2 pictures hold up to 150 objects,") == said.count(" hold up to 150 objects,") == 1
    assert said.count("2 pictures hold up to 150 objects of a class") == said.count("objects of a class") == 1


def test_with_more_detections(dataset, capsys):
    metrics = coco.evaluate(Perfect(1), dataset, size=(100, 150), max_detections=150, progress=False)
    assert metrics["box_AP"] == metrics["mask_AP"] == metrics["box_AP_small"] == pytest.approx(1)
    assert metrics["box_AR150"] == pytest.approx(1) and metrics["box_AR10"] == pytest.approx(10 / 150)
    said = capsys.readouterr().err
    assert "150 detections count (--max-dets): the model gives as many objects in a picture, too." in said
    assert "box_AR100" not in metrics and "150 objects" not in said


def test_the_model_s_limit_stays_what_it_was(dataset):
    model = Perfect(1)
    before = model.config
    coco.evaluate(model, dataset, size=(100, 150), max_detections=300, progress=False)
    assert model.config is before and before.detections == 100


def test_with_fewer_detections(dataset):
    found = {0: dataset.truth(0)}
    metrics = coco.score(dataset, found, max_detections=5).metrics
    assert metrics["box_AR1"] == pytest.approx(1 / 150) and metrics["box_AR5"] == pytest.approx(5 / 150)
    assert "box_AR10" not in metrics
    # 5 of 150 found: precision 1 up to a recall of 0.033, four of COCO's 101 recalls.
    assert metrics["box_AP"] == pytest.approx(4 / 101)


def test_limits_are_by_class(tmp_path, capsys):
    """COCO's 100 are of one class: 150 objects of three classes are within it."""
    say_once.cache_clear()
    annotations = [instance(1, CATEGORIES[n % 3]["id"], x, y, SIDE, SIDE) for n, (x, y) in enumerate(BOXES)]
    content = {"images": [image(1, 150, 100)], "annotations": annotations, "categories": CATEGORIES}
    dataset = CocoDataset(write(tmp_path, content), "val", semantic="none")
    assert coco.score(dataset, {0: dataset.truth(0)}).metrics["box_AP"] == pytest.approx(1)
    assert capsys.readouterr().err == ""


def test_at_100_it_is_pycocotools_own_summary(dataset):
    found = {0: dataset.truth(0)[:120]}
    assert list(coco.score(dataset, found).metrics) == [
        f"{kind}_{name}" for kind in ("box", "mask") for name in NAMES + RECALLS
    ]
