"""A detector out of a file alone, and every file that gives none."""

import json
from dataclasses import asdict

import pytest
import safetensors.torch
import torch

from htc_fast import UserError, create_model
from htc_fast.data.pictures import image_limits
from htc_fast.detector import load
from htc_fast.device import find_device
from htc_fast.errors import say_once
from htc_fast.models import zoo
from htc_fast.training.checkpoint import weights_bytes

SMALL = {"backbone": "test_resnet", "channels": 16, "box_channels": 32, "semantic_classes": 4}
DESCRIBED = {"class_names": ("cat", "dog", "owl"), "category_ids": (3, 7, 90), "image_size": (320, 533)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small model with names and size, and its file."""
    model = create_model("htc_r50", num_classes=3, **DESCRIBED, **SMALL)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    path.write_bytes(weights_bytes(model))
    return model, path


@pytest.mark.parametrize("name", [None, "htc_r50"])
def test_all_comes_back(saved, name):
    model, path = saved
    found = load(path, name=name)
    assert found.config == model.config and not found.training
    assert all(torch.equal(found.state_dict()[key], value) for key, value in model.state_dict().items())
    assert {name: getattr(found.config, name) for name in DESCRIBED} == DESCRIBED


def test_another_name_than_the_file_s_is_said(saved, monkeypatch, capsys):
    _, path = saved
    say_once.cache_clear()
    monkeypatch.setitem(zoo.MODELS, "htc_r50_beta2", zoo.config("htc_r50_beta2", backbone="test_resnet"))
    assert load(path, name="htc_r50_beta2").config.semantic_loss_weight == 2
    assert "was saved as htc_r50, and is read as htc_r50_beta2, as asked." in capsys.readouterr().err
    assert load(path, otherwise="htc_r50_beta2").config.name == "htc_r50" and capsys.readouterr().err == ""


def test_what_the_file_knows_of_its_data_comes_with_the_weights(saved):
    _, path = saved
    found = create_model("htc_r50", num_classes=3, weights=path, **SMALL).config
    assert {name: getattr(found, name) for name in DESCRIBED} == DESCRIBED
    other = create_model("htc_r50", num_classes=3, weights=path, class_names=("a", "b", "c"), **SMALL).config
    assert other.class_names == ("a", "b", "c") and other.image_size == (320, 533)


def test_files_of_version_0_1_have_it_beside_the_configuration(saved, tmp_path):
    model, _ = saved
    bare = {name: value for name, value in asdict(model.config).items() if name not in DESCRIBED}
    notes = {"model": "htc_r50", "config": json.dumps(bare)}
    notes |= {name: json.dumps(value) for name, value in DESCRIBED.items()}
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(weights, tmp_path / "old.safetensors", notes)
    assert load(tmp_path / "old.safetensors").config == model.config


def test_as_many_names_as_classes():
    with pytest.raises(ValueError, match="class_names must have one entry per class, got 1 for 3 classes"):
        create_model("htc_r50", num_classes=3, class_names=("cat",), **SMALL)


def test_the_classes_are_the_file_s(saved, tmp_path):
    model, path = saved
    torch.save({"model_state_dict": model.state_dict()}, tmp_path / "plain.pth")
    for file in (path, tmp_path / "plain.pth"):
        made = create_model("htc_r50", num_classes=3, weights=file, backbone="test_resnet")
        assert (made.config.num_classes, made.config.semantic_classes, made.config.channels) == (3, 4, 16)
        with pytest.raises(UserError, match=r"has 3 classes and the model is to have 80: give num_classes=3"):
            create_model("htc_r50", weights=file, backbone="test_resnet")
        with pytest.raises(UserError, match="has 3 classes and the model is to have 5"):
            load(file, name="htc_r50", num_classes=5)


def test_a_foreign_file_brings_its_own_number_of_classes(saved, tmp_path, monkeypatch):
    model, _ = saved
    monkeypatch.setitem(zoo.MODELS, "htc_r50", zoo.config("htc_r50", backbone="test_resnet"))
    torch.save(
        {"state_dict": {f"model.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "a.ckpt"
    )
    found = load(tmp_path / "a.ckpt", name="htc_r50", device="cpu")
    assert found.config.num_classes == 3 and found.config.box_channels == 32 and found.config.class_agnostic
    torch.manual_seed(0)
    images, sizes = torch.randn(1, 3, 64, 96), torch.tensor([[64, 96]])
    want, got = model.eval().detect(images, sizes), found.detect(images, sizes)
    assert want.count.item() > 0
    assert all(torch.equal(getattr(want, name), getattr(got, name)) for name in ("boxes", "scores", "labels", "masks"))
    with pytest.raises(UserError, match=r"name it with --model .*; it fits htc_r50\.$"):
        load(tmp_path / "a.ckpt")


def test_files_that_give_no_detector(saved, tmp_path):
    _, path = saved
    with pytest.raises(UserError, match="there is no weights file"):
        load(tmp_path / "no.pth")
    with pytest.raises(UserError, match="architecture"):
        load(path, name="mask_rcnn_r50")
    with pytest.raises(UserError, match=r"unknown model 'htc_r5'.*did you mean"):
        load(path, name="htc_r5")
    foreign = tmp_path / "foreign.pth"
    torch.save({"state_dict": {"conv.weight": torch.zeros(2)}}, foreign)
    with pytest.raises(UserError, match="looks like another kind of network"):
        load(foreign)
    torch.save({"state_dict": {"rpn.conv.weight": torch.zeros(2)}}, foreign)
    with pytest.raises(UserError, match="name it with --model"):
        load(foreign)
    half = tmp_path / "half.safetensors"
    half.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="safetensors"):
        load(half)


def test_options():
    assert image_limits([800]) == (800, 1333) and image_limits([256, 300]) == (256, 300)
    for wrong in ([9], [800, 1, 2], [64, 20]):
        with pytest.raises(UserError, match="--image-size"):
            image_limits(wrong)
    assert find_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="choose cpu"):
        find_device("toaster")


def test_a_file_that_describes_no_model(saved, tmp_path):
    model, _ = saved
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    for number, text in enumerate(("{", '{"name": "htc_r50", "num_classes": 3, "class_names": ["cat"]}', "[]")):
        path = tmp_path / f"{number}.safetensors"
        safetensors.torch.save_file(weights, path, {"config": text})
        with pytest.raises(UserError, match="describes no model that can be built"):
            load(path)
