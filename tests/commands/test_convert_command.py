"""`python -m htc_fast.convert`: what it says of a file, what it writes, and what it refuses."""

import pytest
import torch
import torchvision
from safetensors.torch import load_file

import htc_fast
from htc_fast.convert import ConvertRun, convert, main
from htc_fast.errors import UserError
from htc_fast.models import zoo
from htc_fast.models.weights import load
from htc_fast.models.weights.save import weights_bytes
from tests.models.test_zoo import TINY, tiny
from tests.models.weights.test_load import as_mmdetection

SMALL = {"num_classes": 3, "box_channels": 24, "semantic_classes": 5}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A tiny file as mmdetection has it, of a name that fits."""
    monkeypatch.setitem(zoo.MODELS, "htc_r50", zoo.config("htc_r50", **TINY))
    state = as_mmdetection(tiny("htc_r50").state_dict())
    torch.save({"state_dict": state, "meta": {"CLASSES": ("cat", "dog", "owl")}}, tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


def test_what_is_found_and_set(file, capsys):
    out = convert(ConvertRun(file=file, model="htc_r50"))
    said = capsys.readouterr().out
    assert out == file.with_suffix(".safetensors")
    assert "found: mmdetection 2 or 3, " in said and "found: 3 classes, named in the file: cat, dog, owl" in said
    assert "set: model htc_r50\n" in said and "channels=16" in said
    assert "set: input in RGB from 0 to 255, mean 123.675, 116.28, 103.53" in said
    assert f'htc_fast.load("{out}")' in said
    made = htc_fast.load(out)
    assert made.config.name == "htc_r50" and made.config.class_names == ("cat", "dog", "owl")
    wanted = tiny("htc_r50").state_dict()
    assert all(made.state_dict()[name].equal(value) for name, value in wanted.items())


def test_there_and_back(tmp_path, capsys):
    torch.manual_seed(0)
    settings = {
        "stride_in_1x1": True,
        "rpn_anchor_scale": 4.0,
        "soft_nms": True,
        "roi_samples": 2,
        "mean": (1.0, 2.0, 3.0),
    }
    model = htc_fast.create_model("htc_r50", **SMALL, **settings, class_names=("cat", "dog", "owl"))
    (tmp_path / "ours.safetensors").write_bytes(weights_bytes(model))
    there = convert(ConvertRun(file=tmp_path / "ours.safetensors", to="mmdetection"))
    said = capsys.readouterr().out
    assert there.name == "ours.mmdetection.pth" and "configs/htc/htc_r50_fpn_1x_coco.py with" in said
    assert "    'model.roi_head.bbox_head.1.num_classes': 3,\n" in said
    back = convert(ConvertRun(file=there, out=tmp_path / "back.safetensors"))
    said = capsys.readouterr().out
    assert "found: mmdetection 2 or 3, 426 tensors" in said and "set: model htc_r50\n" in said
    ours, again = load_file(tmp_path / "ours.safetensors"), load_file(back)
    assert ours.keys() == again.keys() and all(again[name].equal(value) for name, value in ours.items())
    assert htc_fast.load(back).config == model.config  # settings that no tensor shows, too


def test_torchvisions_rows_are_told(tmp_path, capsys):
    build = torchvision.models.detection.maskrcnn_resnet50_fpn
    options = {"weights": None, "weights_backbone": None}
    torch.save(build(**options).state_dict(), tmp_path / "coco.pth")
    convert(ConvertRun(file=tmp_path / "coco.pth"))
    said = capsys.readouterr().out
    assert "found: torchvision, " in said and "found: 80 classes, not named in the file: person" in said
    assert "changed: 91 rows by COCO id became 80 classes and the background, which is last here" in said
    assert "roi_aligned=False" in said and "set: model mask_rcnn_r50 (the same tensors fit" in said
    with pytest.raises(UserError, match=r"mmdetection has no mask_rcnn_r50 of this kind \(rpn_whole_anchors\)"):
        convert(ConvertRun(file=tmp_path / "coco.safetensors", to="mmdetection"))
    assert not (tmp_path / "coco.mmdetection.pth").exists()


def test_first_convolutions_that_read_bgr_are_told(tmp_path):
    state = as_mmdetection(htc_fast.create_model("htc_r50", **SMALL).state_dict())
    plain, caffe = {"state_dict": state}, {"state_dict": state}
    recipe = "img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)"
    torch.save(plain, tmp_path / "plain.pth")
    torch.save({**caffe, "meta": {"config": recipe}}, tmp_path / "caffe.pth")
    assert load.read(tmp_path / "plain.pth").changes == ()
    [change] = load.read(tmp_path / "caffe.pth").changes
    assert change.startswith("the first convolution was changed to read RGB")


def test_refusals(file, tmp_path, monkeypatch, capsys):
    for words, sentence in (
        ([], "convert takes one checkpoint, got 0"),
        (["a.pth", "b.pth"], "convert takes one checkpoint, got 2"),
        ([str(file), "--out", "x.pth"], "--out has to end in .safetensors for --to htc_fast, got x.pth"),
        ([str(file), "--to", "mmdetection", "--out", "x.safetensors"], "--out has to end in .pth for --to mmdetection"),
        ([str(file), "--model", "htc_r5"], "unknown model 'htc_r5': did you mean htc_r50"),
        ([str(tmp_path / "no.pth")], "there is no weights file"),
        (
            [str(file), "--model", "htc_r50", "--to", "mmdetection"],
            "mmdetection has no htc_r50 of this kind (backbone=",
        ),
    ):
        monkeypatch.setattr("sys.argv", ["convert", *words])
        with pytest.raises(UserError) as said:
            main()
        assert sentence in str(said.value), words
    out = convert(ConvertRun(file=file, model="htc_r50"))
    with pytest.raises(UserError, match="would replace the checkpoint itself: choose another name with --out"):
        convert(ConvertRun(file=out))
