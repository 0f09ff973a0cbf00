"""Batches: one size, one count, padding that means nothing."""

import torch
from torchvision import tv_tensors

from htc_fast.data import CocoDataset
from htc_fast.data.loader import Collate
from tests.data.builder import instance, two_pictures, write


def test_collate(tmp_path):
    content = two_pictures()
    content["annotations"] += [instance(10, 3, x, 0, 4, 4) for x in range(8)]
    dataset = CocoDataset(write(tmp_path, content), "val")
    samples = [dataset[0], dataset[1]]
    samples[1]["semantic"] = tv_tensors.Mask(torch.randint(0, 4, (72, 40), dtype=torch.uint8))
    images, sizes, targets, names = Collate(mean=(100, 100, 100), std=(50, 50, 50))(samples)
    assert images.shape == (2, 3, 96, 64) and sizes.tolist() == [[48, 64], [72, 40]]
    expected = (dataset[0]["image"].as_subclass(torch.Tensor).float() - 100) / 50
    assert torch.allclose(images[0, :, :48], expected) and not images[0, :, 48:].any()
    assert targets.boxes.shape == (2, 16, 4) and targets.masks.shape == (2, 16, 96, 64)
    assert targets.labels[0].tolist() == [0, 2, *[0] * 8, *[-1] * 6] and targets.labels[1, 1:].eq(-1).all()
    assert targets.boxes[1, 0].tolist() == [5, 40, 21, 64] and targets.masks[1, 0].sum() == 16 * 24
    assert targets.semantic.shape == (2, 12, 8) and targets.semantic.dtype == torch.int64
    whole = samples[1]["semantic"].as_subclass(torch.Tensor)
    assert torch.equal(targets.semantic[1, :9, :5], whole[::8, ::8].long())
    assert targets.semantic[1, 9:].eq(255).all() and targets.semantic[1, :, 5:].eq(255).all()
    assert names == ["000000000010.png", "000000000011.png"]


def test_without_instances_or_maps(tmp_path):
    content = {**two_pictures(), "annotations": []}
    dataset = CocoDataset(write(tmp_path, content), "val", semantic="none")
    _, _, targets, _ = Collate()([dataset[0]])
    assert targets.boxes.shape == (1, 8, 4) and targets.labels.eq(-1).all() and targets.semantic is None
