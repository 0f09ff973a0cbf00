"""Swin transformers against a plain definition, at sizes that no window divides, and made ready for inference."""

import pytest
import timm
import torch
import torch.nn.functional as F

from htc_fast.inference.layout import prepare
from htc_fast.models.backbone import Backbone
from htc_fast.models.swin import WindowBlock, is_swin, shift_mask
from tests.models.test_zoo import tiny

NAME = "swin_tiny_patch4_window7_224"
WINDOW = 7


@pytest.fixture(scope="module")
def backbone():
    """In float64; tables and norms that are no identity."""
    torch.manual_seed(0)
    made = Backbone(NAME, False, frozen_stages=-1, norm_eval=True)
    for key, one in made.named_parameters():
        if key.endswith("table"):
            torch.nn.init.normal_(one, std=0.5)
        elif "norm" in key:
            torch.nn.init.normal_(one, mean=0.6, std=0.3)
    return made.double().eval()


def layer_norm(state, name, x):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def dense(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def attention(state, name, x, places, wrapped, heads):
    """Of one window's vectors [P, C], whose places in it are [P, 2]; those from another end see their own."""
    q, k, v = dense(state, f"{name}.qkv", x).view(len(x), 3, heads, -1).unbind(1)
    logits = torch.einsum("phc,qhc->hpq", q, k) / q.shape[-1] ** 0.5
    apart = places[:, None] - places[None, :] + WINDOW - 1
    table = state[f"{name}.relative_position_bias_table"]
    logits = logits + table[apart[..., 0] * (2 * WINDOW - 1) + apart[..., 1]].permute(2, 0, 1)
    logits = logits - 100.0 * (wrapped[:, None] != wrapped[None, :]).any(-1)
    return dense(state, f"{name}.proj", torch.einsum("hpq,qhc->phc", logits.softmax(-1), v).flatten(1))


def block(state, name, x, shift, heads):
    """x [H, W, C]: padded to whole windows, which start `shift` further on and continue at the other end."""
    normed = layer_norm(state, f"{name}.norm1", x)
    height, width = (-(-side // WINDOW) * WINDOW for side in x.shape[:2])
    padded = normed.new_zeros(height, width, x.shape[2])
    padded[: x.shape[0], : x.shape[1]] = normed
    out = torch.empty_like(padded)
    for top in range(0, height, WINDOW):
        for left in range(0, width, WINDOW):
            places = torch.cartesian_prod(torch.arange(WINDOW), torch.arange(WINDOW))
            spots = places + torch.tensor([top + shift, left + shift])
            rows, columns = spots[:, 0] % height, spots[:, 1] % width
            wrapped = spots >= torch.tensor([height, width])
            out[rows, columns] = attention(state, f"{name}.attn", padded[rows, columns], places, wrapped, heads)
    x = x + out[: x.shape[0], : x.shape[1]]
    hidden = F.gelu(dense(state, f"{name}.mlp.fc1", layer_norm(state, f"{name}.norm2", x)))
    return x + dense(state, f"{name}.mlp.fc2", hidden)


def merged(state, name, x):
    """Four neighbours become one: upper left, lower left, upper right, lower right."""
    corners = [x[row::2, column::2] for column in (0, 1) for row in (0, 1)]
    return dense(state, f"{name}.reduction", layer_norm(state, f"{name}.norm", torch.cat(corners, dim=-1)))


def swin(state, image):
    """image [3, H, W] -> four maps [C, H / s, W / s], of Swin-T."""
    x = F.conv2d(image[None], state["net.patch_embed.proj.weight"], state["net.patch_embed.proj.bias"], stride=4)[0]
    x, maps = layer_norm(state, "net.patch_embed.norm", x.permute(1, 2, 0)), []
    for stage, (depth, heads) in enumerate(zip((2, 2, 6, 2), (3, 6, 12, 24))):
        name = f"net.layers_{stage}"
        x = merged(state, f"{name}.downsample", x) if stage else x
        for number in range(depth):
            x = block(state, f"{name}.blocks.{number}", x, 3 * (number % 2), heads)
        maps.append(layer_norm(state, f"norms.{stage}", x).permute(2, 0, 1))
    return maps


@pytest.mark.parametrize("size", [(96, 160), (64, 32)])
@torch.no_grad()
def test_the_definition(backbone, size):
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    found = backbone(images)
    for n in range(2):
        for one, want in zip(found, swin(backbone.state_dict(), images[n]), strict=True):
            torch.testing.assert_close(one[n], want, rtol=1e-9, atol=1e-9)
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in found)


@torch.no_grad()
def test_at_the_classifier_s_size_all_but_the_last_stage_is_timm_s(backbone):
    """There, its last stage is one window that does not shift; the published detectors' does, at every size."""
    plain = timm.create_model(NAME, features_only=True, pretrained=False).double().eval()
    plain.load_state_dict(backbone.net.state_dict())
    images = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    found, want = backbone.net(images), plain(images)
    for one, other in zip(found[:3], want[:3], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found[3], want[3], rtol=1e-3)
    blocks = [one for one in backbone.modules() if isinstance(one, WindowBlock)]
    assert [one.shift_size for one in blocks] == [(0, 0), (3, 3)] * 6 and len(blocks) == 12


def test_the_mask_of_a_small_map():
    """Three rows and six columns in windows of three, of which one row and one column came from the other end."""
    mask = shift_mask(torch.zeros(1, 3, 6, 1), (3, 3), (1, 1))
    assert mask.shape == (2, 9, 9) and set(mask.unique().tolist()) == {-100.0, 0.0}
    # In the left window the last row is alone; in the right one also the last column.
    assert (mask[0][0] == 0).nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert (mask[1][0] == 0).nonzero().flatten().tolist() == [0, 1, 3, 4]
    assert [(mask[1][place] == 0).sum().item() for place in (2, 6, 8)] == [2, 2, 1]


def test_which_networks_are_swins(backbone):
    assert is_swin(backbone.net) and not is_swin(timm.create_model("test_resnet", features_only=True))
    assert [type(one).__name__ for one in backbone.norms] == ["LayerNorm"] * 4
    assert [one.normalized_shape for one in backbone.norms] == [(96,), (192,), (384,), (768,)]


def test_imagenet_weights_bring_the_last_norm(monkeypatch):
    create = timm.create_model

    def trained(name, **options):
        made = create(name, **{**options, "pretrained": False})
        if hasattr(made, "norm"):
            torch.nn.init.constant_(made.norm.weight, 0.5)
        return made

    monkeypatch.setattr(timm, "create_model", trained)
    norms = Backbone(NAME, True, frozen_stages=-1, norm_eval=True).norms
    assert [one.weight.unique().tolist() for one in norms] == [[1.0], [1.0], [1.0], [0.5]]


def test_what_is_frozen():
    assert all(one.requires_grad for one in Backbone(NAME, False, -1, True).parameters())
    made = Backbone(NAME, False, 2, True, drop_path=0.2).train()
    frozen = {".".join(key.split(".")[:2]) for key, one in made.named_parameters() if not one.requires_grad}
    assert frozen == {"net.patch_embed", "net.layers_0", "net.layers_1", "norms.0", "norms.1"}
    free = {".".join(key.split(".")[:2]) for key, one in made.named_parameters() if one.requires_grad}
    assert free == {"net.layers_2", "net.layers_3", "norms.2", "norms.3"}
    # What does not learn drops nothing either.
    images = torch.randn(4, 3, 64, 64)
    below, last = made(images)[1], made(images)[3]
    assert torch.equal(below, made.eval()(images)[1]) and not torch.equal(last, made(images)[3])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.filterwarnings("ignore:CUDA is not available")
@torch.no_grad()
def test_ready_for_inference(device):
    """Laid out for a CPU and, with its operators' definitions, for a GPU; in 16 bits without a compiler."""
    model, images = tiny("htcpp_swin_t", backbone=NAME, drop_path=0.2).eval(), torch.randn(1, 3, 96, 160)
    want = model.backbone(images)
    exact = prepare(model, torch.float32, torch.device(device)).backbone(images)
    low = prepare(model, torch.bfloat16, torch.device(device)).backbone(images)
    for one, other, wanted in zip(exact, low, want, strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-4)
        assert other.dtype == torch.bfloat16
        torch.testing.assert_close(other.float(), wanted, rtol=0.1, atol=0.1)
