"""Norms of the box heads alone: batch norms of the real rows, layer norms of every place, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import htc_fast
from htc_fast import UserError
from htc_fast.inference import optimize
from htc_fast.inference.export import export_detect, waits
from htc_fast.inference.layout import prepare
from htc_fast.models import zoo
from htc_fast.models.backbone import Backbone
from htc_fast.models.box_norm import Conv3x3LayerNormReLU
from htc_fast.models.weights import fit, foreign
from htc_fast.models.weights.load import load_weights
from htc_fast.training.checkpoint import weights_bytes
from tests.inference.test_fuse import settled
from tests.inference.test_optimize import assert_equal
from tests.models.test_zoo import SIZES, TINY, tiny
from tests.models.weights.test_load import as_mmdetection, same

NORMS = ["syncbn", "layernorm"]
LAYERS = {"box_head": "4conv1fc"}
SWIN = "swin_tiny_patch4_window7_224"


def boxed(norm, **options):
    """With norms that are no identity."""
    model = tiny("htc_r50", box_norm=norm, **LAYERS, **options)
    settled(model)
    for one in model.modules():
        if isinstance(one, nn.LayerNorm):
            nn.init.uniform_(one.weight, 0.5, 1.5), nn.init.uniform_(one.bias, -0.2, 0.2)
    return model


def test_a_layer_norm_is_of_one_place():
    layer = Conv3x3LayerNormReLU(4).double()
    nn.init.normal_(layer.norm.weight), nn.init.normal_(layer.norm.bias)
    x = torch.randn(3, 4, 7, 7, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    y = F.conv2d(x, layer.weight, padding=1)
    want = (y - y.mean(1, keepdim=True)) / (y.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    want = F.relu(want * layer.norm.weight[:, None, None] + layer.norm.bias[:, None, None])
    found = layer(x, torch.tensor([True, False, True]))
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-9)
    # Whatever stands in other rows; without any; in 16 bits.
    torch.testing.assert_close(layer(x[1:2]), want[1:2], rtol=1e-9, atol=1e-9)
    assert layer(x[:0]).shape == (0, 4, 7, 7) and layer.bias is None
    low = layer.bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.double(), want, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("norm", NORMS)
def test_only_the_box_heads_have_them(norm):
    plain, normed = (set(tiny("htc_r50", box_norm=one, **LAYERS).state_dict()) for one in ("none", norm))
    kinds = {"weight", "bias"}
    if norm == "syncbn":
        kinds |= {"running_mean", "running_var", "num_batches_tracked"}
    layers = [f"box_heads.{t}.convs.{n}" for t in range(3) for n in range(4)]
    assert normed - plain == {f"{layer}.norm.{kind}" for layer in layers for kind in kinds}
    assert plain - normed == {f"{layer}.bias" for layer in layers}


@pytest.mark.parametrize("norm", NORMS)
def test_padded_rows_weigh_nothing_in_training(norm):
    head, x = boxed(norm).box_heads[0].double().train(), torch.randn(6, 16, 7, 7, dtype=torch.float64)
    rows = torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    logits, deltas = head(x, rows)
    alone = head(x[rows])
    torch.testing.assert_close(logits[rows], alone[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(deltas[rows], alone[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
@torch.no_grad()
def test_ready_for_inference(norm):
    model, images = boxed(norm), torch.randn(2, 3, 64, 96)
    want = model.detect(images, SIZES)
    assert_equal(optimize(model, (64, 96), 2, torch.float32).detect(images, SIZES), want)
    # As for a GPU, whose operators run as their definitions here: batch norms are inside, layer norms stay.
    for device in ("cpu", "cuda"):
        made = prepare(model, torch.float32, torch.device(device))
        assert_equal(made.detect(images, SIZES), want)
        norms = [one for head in made.box_heads for one in head.modules() if "Norm" in type(one).__name__]
        assert sum(type(one) is nn.LayerNorm for one in norms) == (12 if norm == "layernorm" else 0)
    low = optimize(model, (64, 96), 2, torch.bfloat16).detect(images, SIZES)
    torch.testing.assert_close(low.scores, want.scores, rtol=0.05, atol=0.02)


@torch.no_grad()
def test_layer_norms_are_exported():
    model = boxed("layernorm")
    program = export_detect(model, (64, 96))
    images, sizes = torch.randn(1, 3, 64, 96), torch.tensor([[60, 90]])
    assert waits(program) == []
    found, want = program.module()(images, sizes), model.detect(images, sizes)
    torch.testing.assert_close(found["scores"], want.scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_with_adaptive_pooling_every_level_has_its_own(norm):
    """Under PANet's names too, a file shows them."""
    model = tiny("htc_r50", box_norm=norm, adaptive_pooling=True, **LAYERS)
    assert model.eval().detect(torch.randn(2, 3, 64, 96), SIZES).count.min() > 0
    assert "box_heads.0.convs.0.3.norm.weight" in model.state_dict()
    assert fit.modules(model.state_dict()) == {**LAYERS, "box_norm": norm, "adaptive_pooling": True}


def test_what_is_refused():
    with pytest.raises(UserError, match=r"^box_norm stands behind .*'syncbn' with box_head='2fc', which has none: set"):
        tiny("htc_r50", box_norm="syncbn")
    with pytest.raises(UserError, match=r"^norm='syncbn' puts .* already, got box_norm='layernorm' as well: set"):
        tiny("htc_r50", norm="syncbn", box_norm="layernorm", **LAYERS)
    with pytest.raises(UserError, match=r"^box_norm must be one of none, syncbn, layernorm, got 'groupnorm'"):
        tiny("htc_r50", box_norm="groupnorm", **LAYERS)


@pytest.mark.parametrize("norm", NORMS)
def test_a_model_is_built_as_the_file_tells(norm, tmp_path):
    source = boxed(norm, class_agnostic=False)
    ours, theirs = tmp_path / "model.safetensors", tmp_path / "model.pth"
    ours.write_bytes(weights_bytes(source, 1))
    made = htc_fast.load(ours, device="cpu")
    assert made.config == source.config and same(source, made)
    state = as_mmdetection(source.state_dict())
    if norm == "layernorm":
        state = {key.replace(".bn.", ".ln."): value for key, value in state.items()}
    assert f"roi_head.bbox_head.2.shared_convs.3.{'bn' if norm == 'syncbn' else 'ln'}.weight" in state
    torch.save({"state_dict": state}, theirs)
    made = htc_fast.create_model("htc_r50", num_classes=3, weights=theirs, backbone="test_resnet")
    assert (made.config.box_norm, made.config.norm, made.config.box_head) == (norm, "none", "4conv1fc")
    assert same(source, made) and str(load_weights(made, theirs)) == "every tensor fitted"


def test_detectron2_s_names():
    names = {
        "roi_heads.box_head.0.conv1.weight": "box_heads.0.convs.0.weight",
        "roi_heads.box_head.2.conv4.norm.weight": "box_heads.2.convs.3.norm.weight",
    }
    found, _ = foreign.from_detectron2({key: torch.zeros(1) for key in names})
    assert list(found)[:2] == list(names.values())


@pytest.mark.parametrize("norm", ["none", *NORMS])
def test_the_names_that_fit(norm, monkeypatch):
    monkeypatch.setattr(Backbone, "_try", lambda *_: None)  # tested elsewhere, and slow
    small = {key: value for key, value in TINY.items() if key != "backbone"}
    with torch.device("meta"):
        model = htc_fast.create_model(
            "htc_r50", **small, backbone="swin_tiny_patch4_window7_224", box_norm=norm, **LAYERS
        )
    names = fit.fitting(model.state_dict())
    assert names == (["htcpp_swin_t"] if norm == zoo.config("htcpp_swin_t").box_norm else [])
