"""A detector out of a file alone, and every file that gives none."""

import pytest
import torch

from htc_fast import UserError, create_model
from htc_fast.restore import find_device, image_size, restore
from htc_fast.training.checkpoint import weights_bytes

SMALL = {"backbone": "test_resnet", "channels": 16, "box_channels": 32, "semantic_classes": 4}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small model with names and size, and its file."""
    model = create_model("htc_r50", num_classes=3, **SMALL)
    model.class_names, model.category_ids, model.image_size = ["cat", "dog", "owl"], [3, 7, 90], (320, 533)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    path.write_bytes(weights_bytes(model))
    return model, path


@pytest.mark.parametrize("name", [None, "htc_r50"])
def test_all_comes_back(saved, name):
    model, path = saved
    found = restore(path, name)
    assert found.config == model.config and not found.training
    assert all(torch.equal(found.state_dict()[key], value) for key, value in model.state_dict().items())
    assert found.class_names == ["cat", "dog", "owl"] and found.category_ids == [3, 7, 90]
    assert tuple(found.image_size) == (320, 533)


def test_files_that_give_no_detector(saved, tmp_path):
    _, path = saved
    with pytest.raises(UserError, match="there is no weights file"):
        restore(tmp_path / "no.pth")
    with pytest.raises(UserError, match="architecture"):
        restore(path, "mask_rcnn_r50")
    with pytest.raises(UserError, match=r"unknown model 'htc_r5'.*did you mean"):
        restore(path, "htc_r5")
    foreign = tmp_path / "foreign.pth"
    torch.save({"state_dict": {"conv.weight": torch.zeros(2)}}, foreign)
    with pytest.raises(UserError, match="name it with --model"):
        restore(foreign)
    half = tmp_path / "half.safetensors"
    half.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="safetensors"):
        restore(half)


def test_options():
    assert image_size(None) is None and image_size([800]) == (800, 1333) and image_size([256, 300]) == (256, 300)
    for wrong in ([9], [800, 1, 2], [64, 20]):
        with pytest.raises(UserError, match="--image-size"):
            image_size(wrong)
    assert find_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="choose cpu"):
        find_device("toaster")
