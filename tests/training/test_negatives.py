"""Pictures without instances: left out with a word, or trained on, alone in a batch too."""

import math
from dataclasses import replace

import pytest
import torch

from htc_fast import UserError
from htc_fast.data.coco import CocoDataset
from htc_fast.data.loader import Collate
from htc_fast.detector import create_model
from htc_fast.errors import say_once
from htc_fast.training import Trainer, TrainingRun
from tests.data.builder import image, instance, two_pictures, write
from tests.training.tiny import SMALL


def with_negatives():
    """Two pictures of instances, two of none, and a small one with an instance."""
    content = two_pictures()
    content["images"] += [image(12), image(13), image(14, 64, 20)]
    content["annotations"].append(instance(14, 3, 1, 1, 9, 9))
    return content


@pytest.fixture
def run(tmp_path):
    write(tmp_path, with_negatives(), "train")
    return TrainingRun(
        train_json=tmp_path / "annotations" / "instances_train2017.json",
        train_images=tmp_path / "train2017",
        out=tmp_path / "run",
        backbone="test_resnet",
        pretrained=False,
        set=SMALL,
        image_size=(64, 96),
        iterations=5,
        batch_size=1,
        lr=1e-3,
        threads=torch.get_num_threads(),
    )


def test_left_out_with_a_word(run, capsys):
    say_once.cache_clear()
    for _ in range(2):
        assert len(Trainer(run).train) == 2
    said = capsys.readouterr().err
    assert said.count("2 pictures without instances and 1 picture of less than 32 pixels a side left out") == 1
    assert "--keep-empty" in said


def test_trained_on(run):
    trainer = Trainer(replace(run, keep_empty=True))
    assert len(trainer.train) == 5
    model = trainer.run()
    assert trainer.loop.at.iteration == 5 and all(value.isfinite().all() for value in model.state_dict().values())
    rows = (run.out / "losses.csv").read_text().splitlines()
    assert len(rows) == 2 and "nan" not in "".join(rows)


@pytest.mark.parametrize("name", ["htc_r50", "mask_rcnn_r50", "cascade_mask_r50"])
def test_losses_of_a_batch_of_nothing(tmp_path, name):
    root = write(tmp_path, with_negatives(), "train")
    dataset = CocoDataset(root, "train", keep_empty=True)
    images, sizes, targets, _ = Collate()([dataset[2], dataset[3]])
    assert targets.labels.tolist() == [[-1] * 8] * 2 and (targets.semantic[:, :6, :8] == 3).all()
    torch.manual_seed(0)
    model = create_model(
        name,
        num_classes=3,
        backbone="test_resnet",
        pretrained=False,
        semantic_classes=dataset.semantic_classes,
        **SMALL,
    )
    losses = model.train().losses(images, sizes, targets)
    total = sum(losses.values())
    total.backward()
    values = {name: float(value.detach()) for name, value in losses.items()}
    assert all(math.isfinite(value) for value in values.values())
    # Nothing to regress and no mask to draw; that all is background is learned.
    assert all(value == 0 for name, value in values.items() if name.endswith(("_mask", "_box")))
    assert any(value > 0.1 for value in values.values())
    # Several processes wait for every gradient.
    assert all(one.grad.isfinite().all() for one in model.parameters() if one.requires_grad)


def test_negatives_alone_are_refused(tmp_path, run):
    content = with_negatives()
    content["annotations"] = [{**item, "iscrowd": 1} for item in content["annotations"]]
    write(tmp_path, content, "train")
    for keep_empty in (False, True):
        with pytest.raises(UserError, match=r"nothing to train on.*not used are 4 marked 'iscrowd', which is for"):
            Trainer(replace(run, keep_empty=keep_empty))
