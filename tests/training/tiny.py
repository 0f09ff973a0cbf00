"""A complete but tiny detector and made-up pictures: a step takes a tenth of a second."""

import torch

from htc_fast.detector import create_model
from htc_fast.models.structures import Targets
from htc_fast.training.batches import Batches
from htc_fast.training.distributed import World
from htc_fast.training.optimizer import Schedule
from htc_fast.training.recipe import Recipe

SIZE, CLASSES = 64, 3
# What makes a model of any architecture quick to train.
SMALL = {"channels": 16, "box_channels": 32, "samples": 16, "rpn_proposals": 30, "rpn_train_proposals": 30}


def tiny_model(seed=0):
    torch.manual_seed(seed)
    return create_model(
        "htc_r50",
        num_classes=CLASSES,
        backbone="test_resnet",
        pretrained=False,
        channels=16,
        box_channels=32,
        samples=32,
        rpn_samples=64,
        rpn_train_proposals_per_level=50,
        rpn_train_proposals=50,
        semantic_classes=4,
    )


class Pictures:
    """Noise with bright rectangles; deterministic but for one random draw of brightness per reading."""

    def __init__(self, length=10, bad=None):
        self.length, self.bad = length, bad

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        count = 1 + index % 3 if index != 4 else 0
        corner = torch.randint(0, 32, (count, 2), generator=generator)
        extent = torch.randint(12, 32, (count, 2), generator=generator)
        boxes = torch.cat([corner, corner + extent], dim=1).float()
        image = torch.randn(3, SIZE, SIZE, generator=generator) + torch.rand(())
        masks = torch.zeros(count, SIZE, SIZE, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
            image[:, y1:y2, x1:x2] += 2
        if index == self.bad:
            image[0, 3, 3] = float("nan")
        return image, boxes, torch.arange(count) % CLASSES, masks, f"picture{index}.png"


def collate(samples, places=4):
    images, boxes, labels, masks, names = zip(*samples, strict=True)
    targets = Targets(
        boxes=torch.stack([_pad(one, places) for one in boxes]),
        labels=torch.stack([_pad(one, places, -1) for one in labels]),
        masks=torch.stack([_pad(one, places) for one in masks]),
        semantic=torch.stack([_semantic(mask, label) for mask, label in zip(masks, labels, strict=True)]),
    )
    return torch.stack(images), torch.full((len(images), 2), SIZE), targets, list(names)


def tiny_batches(batch_size=2, world=None, **options):
    return Batches(Pictures(**options), collate, batch_size, world or World())


def tiny_recipe(**options):
    given = {"iterations": 6, "epochs": 100, "log_every": 1, "evaluate_every": 0, **options}
    return Recipe(schedule=Schedule(given.pop("rate", 0.005), warmup=given.pop("warmup", 2)), **given)


def _pad(rows, places, value=0):
    extra = rows.new_full((places - len(rows), *rows.shape[1:]), value)
    return torch.cat([rows, extra])


def _semantic(masks, labels):
    semantic = torch.full((SIZE, SIZE), CLASSES)
    for mask, label in zip(masks, labels, strict=True):
        semantic[mask.bool()] = label
    return semantic[::8, ::8]
