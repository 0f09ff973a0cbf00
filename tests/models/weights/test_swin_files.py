"""Swin transformers in the files of mmdetection and of their authors, name by name and number by number."""

import re

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

import htc_fast
from htc_fast import UserError
from htc_fast.models.backbone import Backbone
from htc_fast.models.weights import foreign, swin
from htc_fast.models.weights.load import Report, load_weights
from tests.models.test_zoo import tiny
from tests.models.weights.test_load import as_mmdetection

SWIN = "swin_tiny_patch4_window7_224"
# mmdetection's names, the authors' and, behind "net." but for norms, ours.
NAMES = (
    ("patch_embed.projection.weight", "patch_embed.proj.weight", "patch_embed.proj.weight"),
    ("patch_embed.norm.bias", "patch_embed.norm.bias", "patch_embed.norm.bias"),
    ("stages.0.blocks.1.norm1.weight", "layers.0.blocks.1.norm1.weight", "layers_0.blocks.1.norm1.weight"),
    ("stages.2.blocks.5.norm2.bias", "layers.2.blocks.5.norm2.bias", "layers_2.blocks.5.norm2.bias"),
    (
        "stages.0.blocks.0.attn.w_msa.relative_position_bias_table",
        "layers.0.blocks.0.attn.relative_position_bias_table",
        "layers_0.blocks.0.attn.relative_position_bias_table",
    ),
    (
        "stages.0.blocks.0.attn.w_msa.qkv.weight",
        "layers.0.blocks.0.attn.qkv.weight",
        "layers_0.blocks.0.attn.qkv.weight",
    ),
    ("stages.3.blocks.1.attn.w_msa.proj.bias", "layers.3.blocks.1.attn.proj.bias", "layers_3.blocks.1.attn.proj.bias"),
    ("stages.1.blocks.0.ffn.layers.0.0.weight", "layers.1.blocks.0.mlp.fc1.weight", "layers_1.blocks.0.mlp.fc1.weight"),
    ("stages.1.blocks.0.ffn.layers.1.bias", "layers.1.blocks.0.mlp.fc2.bias", "layers_1.blocks.0.mlp.fc2.bias"),
    ("stages.2.downsample.norm.bias", "layers.2.downsample.norm.bias", "layers_3.downsample.norm.bias"),
    (
        "stages.0.downsample.reduction.weight",
        "layers.0.downsample.reduction.weight",
        "layers_1.downsample.reduction.weight",
    ),
    ("norm0.weight", "norm0.weight", "norms.0.weight"),
    ("norm3.bias", "norm3.bias", "norms.3.bias"),
)
INDEX = ("stages.1.blocks.0.attn.w_msa.relative_position_index", "layers.1.blocks.0.attn.relative_position_index")


@pytest.mark.parametrize("library", [0, 1], ids=["mmdetection", "authors"])
def test_names(library):
    state = {f"backbone.{names[library]}": torch.full((8, 8), float(place)) for place, names in enumerate(NAMES)}
    state[f"backbone.{INDEX[library]}"] = torch.zeros(49, 49, dtype=torch.int64)
    found = foreign.from_mmdetection(state)
    own = [name if name.startswith("norms.") else f"net.{name}" for _, _, name in NAMES]
    assert {key: int(value[0, 0]) for key, value in found.items()} == {
        f"backbone.{name}": place for place, name in enumerate(own)
    }
    # Ours pass unchanged.
    assert foreign.from_mmdetection(found).keys() == found.keys()


def test_four_pixels_become_one_in_another_order():
    """Three channels of four pixels: mmdetection's place is 4 c + 2 row + column, timm's 3 (2 column + row) + c."""
    state = {swin.MMDETECTION: torch.zeros(1)}
    state["backbone.stages.0.downsample.norm.weight"] = torch.arange(12.0)
    state["backbone.stages.1.downsample.reduction.weight"] = torch.stack([torch.arange(12.0), torch.arange(12.0) + 100])
    found = swin.converted(state)
    want = [0.0, 4, 8, 2, 6, 10, 1, 5, 9, 3, 7, 11]
    assert found["backbone.net.layers_1.downsample.norm.weight"].tolist() == want
    assert found["backbone.net.layers_2.downsample.reduction.weight"].tolist() == [want, [one + 100 for one in want]]


@torch.no_grad()
def test_merging_computes_what_mmdetection_s_does():
    """Which unfolds, normalises and multiplies."""
    state = {f"backbone.stages.0.downsample.{key}": torch.randn(24) for key in ("norm.weight", "norm.bias")}
    state |= {"backbone.stages.0.downsample.reduction.weight": torch.randn(12, 24), swin.MMDETECTION: torch.zeros(1)}
    x = torch.randn(2, 6, 4, 6)
    y = F.unfold(x, 2, stride=2).transpose(1, 2)
    y = F.layer_norm(y, (24,), *(state[f"backbone.stages.0.downsample.norm.{key}"] for key in ("weight", "bias")))
    want = F.linear(y, state["backbone.stages.0.downsample.reduction.weight"]).view(2, 2, 3, 12)
    layer = Backbone(SWIN, False, -1, True).net.layers_1.downsample.__class__(6, 12)
    name = "backbone.net.layers_1.downsample."
    found = {key.removeprefix(name): value for key, value in swin.converted(state).items() if key.startswith(name)}
    layer.load_state_dict(found)
    torch.testing.assert_close(layer(x.permute(0, 2, 3, 1)), want, rtol=1e-5, atol=1e-5)


def authors(state):
    """Our backbone's tensors as the authors' detectors have them."""
    back = (
        (r"^norms\.(\d)\.", r"norm\1."),
        (r"^net\.", ""),
        (r"^layers_(\d)\.downsample\.", lambda found: f"layers.{int(found[1]) - 1}.downsample."),
        (r"^layers_(\d)\.", r"layers.\1."),
    )
    out = {}
    for key, value in state.items():
        for pattern, name in back:
            key = re.sub(pattern, name, key)
        out[f"backbone.{key}"] = value
    return out


def mmdetection(state):
    """The authors' as mmdetection converts them."""
    out = {}
    for key, value in state.items():
        if "downsample" in key:
            pixels = value.reshape(*value.shape[:-1], 4, -1)[..., [0, 2, 1, 3], :]
            value = pixels.transpose(-1, -2).reshape(value.shape)
        key = (
            key.replace("attn.", "attn.w_msa.")
            .replace("mlp.fc1.", "ffn.layers.0.0.")
            .replace("mlp.fc2.", "ffn.layers.1.")
        )
        out[key.replace("layers.", "stages.", 1) if key.startswith("backbone.layers.") else key] = value
    return {key.replace("patch_embed.proj.", "patch_embed.projection."): value for key, value in out.items()}


def test_colours_of_another_order_and_spread(tmp_path):
    model = tiny("htcpp_swin_t", backbone=SWIN)
    weight = model.backbone.net.patch_embed.proj.weight.detach().clone()
    rest = as_mmdetection({key: one for key, one in model.state_dict().items() if not key.startswith("backbone.")})
    state = {**mmdetection(authors(model.backbone.state_dict())), **rest}
    recipe = "img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)"
    torch.save({"state_dict": state, "meta": {"config": recipe}}, tmp_path / "model.pth")
    load_weights(model, tmp_path / "model.pth")
    spread = torch.tensor(model.config.std)[:, None, None]
    torch.testing.assert_close(model.backbone.net.patch_embed.proj.weight, weight.flip(1) * spread)


def test_files_of_an_earlier_version_say_why_they_are_refused(tmp_path):
    model = tiny("htcpp_swin_t", backbone=SWIN)
    model.save(tmp_path)
    path = tmp_path / "model.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        about, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    left = {key: one for key, one in tensors.items() if not key.startswith("backbone.norms.")}
    safetensors.torch.save_file(left, path, about)
    with pytest.raises(UserError, match="saved by an earlier htc_fast, whose Swin backbones had no norms"):
        htc_fast.load(path)


def test_whole_detectors_go_there_and_back(tmp_path):
    model = tiny("htcpp_swin_t", backbone=SWIN)
    rest = as_mmdetection({key: one for key, one in model.state_dict().items() if not key.startswith("backbone.")})
    own = authors(model.backbone.state_dict())
    assert "backbone.layers.2.downsample.norm.weight" in own and "backbone.norm0.bias" in own
    with torch.no_grad():
        for one in model.backbone.parameters():
            one.normal_()
    own = authors({key: one.clone() for key, one in model.backbone.state_dict().items()})
    want = {key: one.clone() for key, one in model.state_dict().items()}
    for name, state in (("authors", own), ("mmdetection", mmdetection(own))):
        assert ("backbone.stages.2.blocks.0.ffn.layers.1.weight" in state) == (name == "mmdetection")
        torch.save({"state_dict": {**state, **rest}}, tmp_path / "model.pth")
        with torch.no_grad():
            for one in model.parameters():
                one.zero_()
        assert load_weights(model, tmp_path / "model.pth") == Report()
        assert all(torch.equal(one, want[key]) for key, one in model.state_dict().items())
