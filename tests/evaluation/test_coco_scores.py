"""AP: pycocotools' numbers, whichever way they are asked for."""

import contextlib
import copy
import io
import json

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from htc_fast import UserError
from htc_fast.data import CocoDataset
from htc_fast.data.instances import Instances
from htc_fast.evaluation import coco
from htc_fast.evaluation.summary import NAMES, RECALLS
from htc_fast.inference.predict import at_stage
from tests.data.builder import CATEGORIES, image, instance, write
from tests.inference.fake import Fake


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Twelve pictures of up to six instances, some crowds, one picture of nothing."""
    draw = torch.Generator().manual_seed(0)
    images, annotations = [], []
    for number in range(12):
        images.append(image(100 + number, 160, 120))
        for _ in range(number % 7):
            x, y, w, h = (
                int(torch.randint(low, high, (), generator=draw)) for low, high in ((0, 90), (0, 70), (4, 70), (4, 50))
            )
            category = CATEGORIES[int(torch.randint(0, 3, (), generator=draw))]["id"]
            crowd = int(torch.rand((), generator=draw) < 0.15)
            annotations.append(instance(100 + number, category, x, y, w, h, iscrowd=crowd))
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    return CocoDataset(write(tmp_path_factory.mktemp("data"), content), "val", semantic="none")


@pytest.fixture(scope="module")
def guesses(dataset):
    """The truth, with boxes moved, masks and labels swapped, and something too much."""
    draw = torch.Generator().manual_seed(1)
    found = {}
    for index in range(len(dataset)):
        truth = dataset.truth(index)
        count = len(truth)
        boxes = truth.boxes + 1.5 * torch.randn(count, 4, generator=draw)
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        wrong = torch.rand(count, generator=draw) < 0.2
        labels = torch.where(wrong, (truth.labels + 1) % 3, truth.labels)
        swapped = (torch.rand(count, generator=draw) < 0.2).tolist()
        rle = [truth.rle[(i + swapped[i]) % count] for i in range(count)]
        scores = (1000 * torch.rand(count, generator=draw)).round() / 1000
        found[index] = Instances(boxes.round(decimals=2), scores, labels, rle, truth.size)
    return found


def pycocotools(path, results, task):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        run = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), task)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


@pytest.mark.parametrize("kind, task", [("box", "bbox"), ("mask", "segm")])
def test_equal_to_pycocotools_on_the_files(dataset, guesses, kind, task):
    scores = coco.score(dataset, guesses)
    results = json.loads(json.dumps(coco.results(dataset, guesses)[task == "segm"]))
    run = pycocotools(dataset.path, results, task)
    ours = [scores.metrics[f"{kind}_{name}"] for name in NAMES + RECALLS]
    assert ours == pytest.approx(run.stats.tolist(), abs=1e-6)
    assert 0.1 < ours[0] < 0.9
    for label, name in enumerate(dataset.classes):
        precision = run.eval["precision"][:, :, label, 0, -1]
        assert scores.per_class[name][f"{kind}_AP"] == pytest.approx(precision.mean(), abs=1e-6)
        assert scores.per_class[name][f"{kind}_AP50"] == pytest.approx(precision[0].mean(), abs=1e-6)


def test_box_areas_as_in_the_paper(dataset, guesses):
    """pycocotools takes a mask's area from the box where a result holds both."""
    boxes, masks = coco.results(dataset, guesses)
    run = pycocotools(dataset.path, [{**box, **mask} for box, mask in zip(boxes, masks)], "segm")
    by_box, by_mask = (coco.score(dataset, guesses, box_areas=flag).metrics for flag in (True, False))
    assert [by_box[f"mask_{name}"] for name in NAMES] == pytest.approx(run.stats[:6].tolist(), abs=1e-6)
    assert by_box["mask_AP"] == by_mask["mask_AP"]
    assert any(by_box[f"mask_{name}"] != by_mask[f"mask_{name}"] for name in NAMES[3:])


def test_perfect_and_empty_predictions(dataset):
    perfect = {index: dataset.truth(index) for index in range(len(dataset))}
    metrics = coco.score(dataset, perfect).metrics
    assert metrics["box_AP"] == metrics["mask_AP"] == pytest.approx(1)
    nothing = {index: found[:0] for index, found in perfect.items()}
    assert coco.score(dataset, nothing).metrics["mask_AP"] == 0
    assert coco.score(dataset, {0: perfect[0]}).metrics["mask_AP"] == -1, "picture 0 holds nothing to find"


def test_annotation_ids_do_not_matter(tmp_path):
    """pycocotools takes id 0 for "no match"; ours are numbered anew."""
    content = {"images": [image(1)], "annotations": [instance(1, 3, 4, 4, 20, 20, id=0)], "categories": CATEGORIES}
    root = write(tmp_path, content)
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace('"id": 1, "image_id"', '"id": 0, "image_id"'))
    dataset = CocoDataset(root, "val")
    assert coco.score(dataset, {0: dataset.truth(0)}).metrics["mask_AP"] == pytest.approx(1)


def test_area_may_be_missing(tmp_path):
    content = {"images": [image(1)], "annotations": [instance(1, 3, 4, 4, 20, 20)], "categories": CATEGORIES}
    del content["annotations"][0]["area"], content["annotations"][0]["iscrowd"]
    dataset = CocoDataset(write(tmp_path, content), "val")
    assert coco.score(dataset, {0: dataset.truth(0)}).metrics["mask_AP_small"] == pytest.approx(1)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_evaluate(dataset, batch_size):
    metrics = coco.evaluate(Fake(), dataset, size=(96, 128), batch_size=batch_size, limit=8, progress=False)
    assert {"box_AP", "mask_AP50", "mask_AR100"} <= set(metrics) and 0 <= metrics["mask_AP"] < 0.5
    found = coco.collect(Fake(), dataset, size=(96, 128), batch_size=batch_size, limit=8, progress=False)
    assert sorted(found) == list(range(8)) and found[0].boxes[0].tolist() == [40, 30, 120, 90]


def test_processes_share_the_work(dataset):
    parts = [coco.collect(Fake(), dataset, size=(96, 128), progress=False, rank=rank, world=3) for rank in range(3)]
    assert sorted(index for part in parts for index in part) == list(range(12)) and min(map(len, parts)) == 4
    assert coco.gather(parts[0]) is parts[0]


def test_stages():
    model = Fake()
    before = model.config
    with at_stage(model, 2):
        assert model.config.test_stage == 2
    assert model.config is before
    with pytest.raises(UserError, match="there is no stage 4: fake has stages 1 to 3"), at_stage(model, 4):
        pass


def test_errors(dataset, tmp_path):
    with pytest.raises(UserError, match=r"the model has 5 classes, .* has 3"):
        coco.evaluate(Fake(5), dataset, progress=False)
    unlabelled = CocoDataset(write(tmp_path, {"images": [image(1)], "categories": CATEGORIES}), "val")
    with pytest.raises(UserError, match="has no annotations"):
        coco.score(unlabelled, {0: unlabelled.truth(0)})
    (unlabelled.images / unlabelled.picture(0).file_name).write_text("hello")
    with pytest.raises(UserError, match="not a picture"):
        coco.evaluate(Fake(), unlabelled, progress=False)
