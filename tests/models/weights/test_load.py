"""Weights from files: ours, mmdetection's three versions, damaged ones and hostile ones."""

import pickle
import re

import pytest
import torch

from htc_fast.errors import UserError
from htc_fast.models.weights.foreign import MMDETECTION
from htc_fast.models.weights.load import Report, load_weights, read
from htc_fast.training.checkpoint import weights_bytes
from tests.models.test_zoo import tiny


def as_mmdetection(state):
    """Our names as mmdetection 2.x and 3.x have them."""
    backward = [
        (r"^fpn\.lateral\.(\d)\.", r"neck.lateral_convs.\1.conv."),
        (r"^fpn\.output\.(\d)\.", r"neck.fpn_convs.\1.conv."),
        (r"^pafpn\.downsample\.(\d)\.", r"neck.downsample_convs.\1.conv."),
        (r"^pafpn\.output\.(\d)\.", r"neck.pafpn_convs.\1.conv."),
        (r"^rpn\.conv\.", "rpn_head.rpn_conv."),
        (r"^rpn\.objectness\.", "rpn_head.rpn_cls."),
        (r"^rpn\.deltas\.", "rpn_head.rpn_reg."),
        (r"^box_heads\.(\d)\.convs\.(\d)\.", r"roi_head.bbox_head.\1.shared_convs.\2.conv."),
        (r"^box_heads\.(\d)\.fc1\.", r"roi_head.bbox_head.\1.shared_fcs.0."),
        (r"^box_heads\.(\d)\.fc2\.", r"roi_head.bbox_head.\1.shared_fcs.1."),
        (r"^box_heads\.(\d)\.classes\.counts$", r"roi_head.bbox_head.\1.loss_cls.cum_samples"),
        (r"^box_heads\.(\d)\.classes\.", r"roi_head.bbox_head.\1.fc_cls."),
        (r"^box_heads\.(\d)\.deltas\.", r"roi_head.bbox_head.\1.fc_reg."),
        (r"^mask_heads\.(\d)\.convs\.(\d)\.", r"roi_head.mask_head.\1.convs.\2.conv."),
        (r"^mask_heads\.(\d)\.flow\.", r"roi_head.mask_head.\1.conv_res.conv."),
        (r"^mask_heads\.(\d)\.upsample\.", r"roi_head.mask_head.\1.upsample."),
        (r"^mask_heads\.(\d)\.logits\.", r"roi_head.mask_head.\1.conv_logits."),
        (r"^semantic_head\.lateral\.(\d)\.", r"roi_head.semantic_head.lateral_convs.\1.conv."),
        (r"^semantic_head\.convs\.(\d)\.", r"roi_head.semantic_head.convs.\1.conv."),
        (r"^semantic_head\.embedding\.", "roi_head.semantic_head.conv_embedding.conv."),
        (r"^semantic_head\.logits\.", "roi_head.semantic_head.conv_logits."),
        (r"\.conv\.norm\.", ".bn."),
        (r"^backbone\.net\.", "backbone."),
    ]
    # Tested elsewhere: version 1's offsets, and heads without a number.
    assert len(backward) == len(MMDETECTION) - 2
    out = {}
    for key, value in state.items():
        for pattern, name in backward:
            key = re.sub(pattern, name, key)
        out[key] = value
    return out


def same(a, b):
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


@pytest.mark.parametrize("name", ["htc_r50", "cascade_mask_r50", "mask_rcnn_r50"])
def test_mmdetection_2_and_3(name, tmp_path):
    source, target = tiny(name), tiny(name)
    for parameter in target.parameters():
        parameter.data.zero_()
    state = as_mmdetection(source.state_dict())
    if name == "mask_rcnn_r50":
        state = {re.sub(r"(bbox|mask)_head\.0\.", r"\1_head.", key): value for key, value in state.items()}
    torch.save({"meta": {"epoch": 12}, "state_dict": state, "optimizer": {}}, tmp_path / "model.pth")
    report = load_weights(target, tmp_path / "model.pth")
    assert report == Report() and same(source, target)


def test_mmdetection_1(tmp_path):
    source, target = tiny("htc_r50"), tiny("htc_r50")
    state = {}
    for key, value in as_mmdetection(source.state_dict()).items():
        if ".fc_cls." in key:
            value = torch.cat([value[-1:], value[:-1]])
        if "mask_head" in key and ".conv_logits." in key:
            value = torch.cat([torch.full_like(value[:1], 9.0), value])
        state[key.removeprefix("roi_head.")] = value
    state["mask_head.0.conv_res.conv.weight"] = torch.ones(16, 16, 1, 1)
    torch.save({"state_dict": state}, tmp_path / "model.pth")
    assert load_weights(target, tmp_path / "model.pth") == Report() and same(source, target)


def test_our_own(tmp_path):
    source, target = tiny("htc_r50"), tiny("htc_r50")
    source.rpn.conv.weight.data.fill_(3.0)
    (tmp_path / "model.safetensors").write_bytes(weights_bytes(source))
    assert load_weights(target, tmp_path / "model.safetensors") == Report() and same(source, target)


def test_report_names_what_does_not_fit(tmp_path):
    model = tiny("htc_r50")
    state = dict(model.state_dict())
    del state["rpn.conv.bias"]
    state["fpn.extra"] = torch.zeros(1)
    state["box_heads.0.classes.weight"] = torch.zeros(9, 32)
    torch.save(state, tmp_path / "odd.pth")
    report = load_weights(model, tmp_path / "odd.pth", strict=False)
    assert report.missing == ["rpn.conv.bias"] and report.unexpected == ["fpn.extra"]
    assert report.wrong_shape == ["box_heads.0.classes.weight [9, 32] for [4, 32]"]
    with pytest.raises(UserError, match="has 8 classes and the model is to have 3"):
        load_weights(model, tmp_path / "odd.pth")
    torch.save({**state, "box_heads.0.classes.weight": torch.zeros(4, 9)}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"another architecture than htc_r50: 1 missing \(rpn.conv.bias\)"):
        load_weights(model, tmp_path / "odd.pth")


class Hostile:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_s_code_is_never_run(tmp_path, zipped):
    marker, path = tmp_path / "ran", tmp_path / "hostile.pth"
    content = {"state_dict": {"rpn.conv.weight": torch.ones(2)}, "hook": Hostile(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(TypeError):
        pickle.loads(b"cbuiltins\nopen\n(tR.")  # what an ordinary reader would try
    assert read(path).tensors["rpn.conv.weight"].tolist() == [1, 1]
    assert not marker.exists()


def test_objects_of_training_frameworks_are_skipped(tmp_path, monkeypatch):
    class HistoryBuffer:
        def __init__(self):
            self.history, self.extra = torch.zeros(3), {"a": [1]}

    monkeypatch.setitem(globals(), "HistoryBuffer", HistoryBuffer)
    HistoryBuffer.__qualname__ = "HistoryBuffer"
    torch.save({"message_hub": {"log": HistoryBuffer()}, "state_dict": {"x": torch.ones(1)}}, tmp_path / "v3.pth")
    assert list(read(tmp_path / "v3.pth").tensors) == ["x"]


def test_bad_files(tmp_path):
    with pytest.raises(UserError, match="there is no weights file"):
        read(tmp_path / "nothing.pth")
    (tmp_path / "text.pth").write_text("hello, this is no checkpoint")
    with pytest.raises(UserError, match="no PyTorch checkpoint or is damaged"):
        read(tmp_path / "text.pth")
    torch.save({"state_dict": {"x": torch.ones(100)}}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:300])
    with pytest.raises(UserError, match=r"is damaged \(its table of contents is missing\)"):
        read(tmp_path / "cut.pth")
    whole = weights_bytes(tiny("htc_r50"))
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read(tmp_path / "cut.safetensors")
    torch.save({"state_dict": {}}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match="holds no tensors"):
        read(tmp_path / "empty.pth")
