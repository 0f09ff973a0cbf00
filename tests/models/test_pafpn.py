"""The way back up behind the pyramid, against its definition and mmdetection's names."""

import re

import pytest
import torch
import torch.nn.functional as F

import htc_fast
from htc_fast.errors import UserError
from htc_fast.models import zoo
from htc_fast.models.htc import HTC
from htc_fast.models.pafpn import PAFPN
from htc_fast.models.weights import fit
from htc_fast.models.weights.load import Report, load_weights, read
from htc_fast.training.checkpoint import weights_bytes
from tests.models.test_zoo import tiny
from tests.models.weights.test_load import as_mmdetection, same

MODULES = ("htc_r50", "htc_r50_pafpn", "htc_r50_aspp", "htc_r50_gcn")


def maps(channels=8, side=48):
    torch.manual_seed(0)
    return [torch.randn(2, channels, side // 2**level, (side + 32) // 2**level) for level in range(5)]


def shaken(module):
    """With biases, which start at zero."""
    for parameter in module.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter)
    return module


@torch.no_grad()
def test_the_definition():
    """N2 = P2; N'_i = P_i + conv(N'_{i-1}), stride 2; N_i = conv(N'_i): each product pixel by pixel, as a matrix."""
    pafpn, features = shaken(PAFPN(8)), maps()
    down, out = ([(c.weight.flatten(1), c.bias) for c in convs] for convs in (pafpn.downsample, pafpn.output))

    def conv(x, layer, stride):
        columns = F.unfold(x, 3, padding=1, stride=stride)
        return (layer[0] @ columns + layer[1][:, None]).unflatten(2, [-(-side // stride) for side in x.shape[2:]])

    p2, p3, p4, p5, _ = features
    n3 = p3 + conv(p2, down[0], 2)
    n4 = p4 + conv(n3, down[1], 2)
    n5 = p5 + conv(n4, down[2], 2)
    want = [p2, conv(n3, out[0], 1), conv(n4, out[1], 1), conv(n5, out[2], 1)]
    want.append(want[-1][:, :, ::2, ::2])
    for one, other, p in zip(pafpn(features), want, features, strict=True):
        assert one.shape == p.shape
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_its_parameters():
    """Six 3x3 convolutions: 6 * (256 * 256 * 9 + 256) = 6 * 590,080."""
    with torch.device("meta"):
        plain, model = HTC(zoo.config("htc_r50")), HTC(zoo.config("htc_r50_pafpn"))
    assert sum(one.numel() for one in model.pafpn.parameters()) == 3_540_480
    assert sum(one.numel() for one in model.parameters()) == 80_258_293 + 3_540_480
    added = {name.rsplit(".", 1)[0] for name in model.state_dict().keys() - plain.state_dict().keys()}
    assert added == {f"pafpn.{kind}.{step}" for kind in ("downsample", "output") for step in range(3)}
    assert plain.state_dict().keys() <= model.state_dict().keys()


def test_a_change_of_the_finest_level_reaches_the_coarsest():
    pafpn, features = PAFPN(8), maps()
    before = pafpn(features)
    changed = [features[0] + 1, *features[1:]]
    assert all(not torch.equal(one, other) for one, other in zip(before, pafpn(changed)))


def test_mmdetection_s_checkpoint(tmp_path):
    source = tiny("htc_r50_pafpn")
    shaken(source.pafpn)
    state = as_mmdetection(source.state_dict())
    names = {key for key in state if re.match(r"neck\.(downsample|pafpn)_convs\.[012]\.conv\.(weight|bias)$", key)}
    assert len(names) == 12 and not [key for key in state if "pafpn." in key]
    torch.save({"state_dict": state}, tmp_path / "model.pth")
    target = tiny("htc_r50_pafpn")
    assert load_weights(target, tmp_path / "model.pth") == Report() and same(source, target)
    assert read(tmp_path / "model.pth").built["neck"] == "pafpn"


def test_files_tell_their_neck(tmp_path, monkeypatch):
    """A detector built from a file has the file's neck; one built without it does not take the file."""
    monkeypatch.setattr(zoo, "MODELS", {name: zoo.config(name) for name in (*MODULES, "mask_rcnn_r50")})
    source = shaken(tiny("mask_rcnn_r50", neck="pafpn"))
    torch.save({"state_dict": as_mmdetection(source.state_dict())}, tmp_path / "model.pth")
    small = {"backbone": "test_resnet", "num_classes": 3}
    built = htc_fast.create_model("mask_rcnn_r50", weights=tmp_path / "model.pth", **small)
    assert built.config.neck == "pafpn" and same(source, built)
    with pytest.raises(UserError, match=r"another architecture than mask_rcnn_r50: 12 unexpected \(pafpn"):
        load_weights(tiny("mask_rcnn_r50"), tmp_path / "model.pth")
    torch.save(tiny("htc_r50").state_dict(), tmp_path / "plain.pth")
    with pytest.raises(UserError, match=r"12 missing \(pafpn"):
        htc_fast.create_model("htc_r50_pafpn", weights=tmp_path / "plain.pth", **small)
    (tmp_path / "own.safetensors").write_bytes(weights_bytes(source))
    assert same(source, htc_fast.load(tmp_path / "own.safetensors", device="cpu"))


@pytest.mark.parametrize("name", MODULES)
def test_names_that_fit_tell_the_modules(name, monkeypatch):
    monkeypatch.setattr(zoo, "MODELS", {name: zoo.config(name) for name in MODULES})
    with torch.device("meta"):
        state = HTC(zoo.config(name)).state_dict()
        plain = HTC(zoo.config("htc_r50")).state_dict()
    assert fit.fitting(state) == [name] and fit.fitting(plain) == ["htc_r50"]
    assert fit.sizes(plain).keys().isdisjoint({"neck", "aspp", "gcn"})
