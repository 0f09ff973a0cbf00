"""Groups of weights: which decay, at which share of the rate, and an optimizer's memory that moves with them."""

import pytest
import timm
import torch
from timm.models import group_parameters
from torch import nn

from htc_fast import UserError
from htc_fast.models.fishnet import FishNet
from htc_fast.training import checkpoint
from htc_fast.training.groups import _nearest, backbone_depths, is_transformer, parameter_groups, regrouped
from htc_fast.training.loop import Loop
from htc_fast.training.optimizer import full_rate, make_optimizer, set_rate
from htc_fast.training.report import Report
from tests.training.tiny import tiny_batches, tiny_model, tiny_recipe


@pytest.fixture(autouse=True)
def without_curves(monkeypatch):
    """They take longer than all else here."""
    monkeypatch.setattr(Report, "draw", lambda self: None)


class Shell(nn.Module):
    """A detector's names around a backbone, without values."""

    def __init__(self, name):
        super().__init__()
        options = {"strict_img_size": False} if "swin" in name else {}
        with torch.device("meta"):
            self.backbone = nn.Module()
            fish = name == "fishnet150"
            self.backbone.net = FishNet() if fish else timm.create_model(name, features_only=True, **options)
            self.backbone.norms = nn.ModuleList([nn.BatchNorm2d(2)])
            self.rpn = nn.Conv2d(1, 1, 1)
        self.config = type("Config", (), {"backbone": name + ("" if fish else ".in1k")})


def by_name(groups, value):
    return {name: group[value] for group in groups for name in group["names"]}


def test_by_default_all_are_one_group_in_the_model_s_order():
    model = tiny_model()
    (group,) = parameter_groups(model, 0.05)
    assert group["names"] == [name for name, one in model.named_parameters() if one.requires_grad]
    assert (group["weight_decay"], group["factor"]) == (0.05, 1.0)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay(name):
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2), nn.LayerNorm(2))
    for one in model.parameters():
        nn.init.ones_(one)
        one.grad = torch.zeros_like(one)
    optimizer = make_optimizer(model, name, 0.5, 0.1, no_decay=True)
    assert all(group["fused"] for group in optimizer.param_groups)
    optimizer.step()
    # A step without gradients: only what decays moves, by rate times decay.
    assert {key: one.flatten()[0].item() for key, one in model.named_parameters()} == pytest.approx(
        {
            "0.weight": 0.95,
            "0.bias": 1.0,
            "1.weight": 1.0,
            "1.bias": 1.0,
            "2.weight": 0.95,
            "2.bias": 1.0,
            "3.weight": 1.0,
            "3.bias": 1.0,
        }
    )


TABLES = {
    "swin_tiny_patch4_window7_224": "backbone.net.layers_0.blocks.0.attn.relative_position_bias_table",
    "hiera_tiny_224": "backbone.net.model.pos_embed",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_positions_do_not_decay(name):
    model = Shell(name)
    decays = by_name(parameter_groups(model, 0.05, no_decay=True), "weight_decay")
    assert decays[TABLES[name]] == 0.0 and dict(model.named_parameters())[TABLES[name]].ndim > 1
    assert decays["rpn.weight"] == 0.05 and decays["rpn.bias"] == 0.0
    assert sum(value > 0 for value in decays.values()) > 40
    assert by_name(parameter_groups(model, 0.05), "weight_decay")[TABLES[name]] == 0.05


DEPTHS = {
    "swin_tiny_patch4_window7_224": {
        "net.patch_embed.proj.weight": 13,
        "net.layers_0.blocks.0.attn.qkv.weight": 12,
        "net.layers_0.blocks.1.norm1.bias": 11,
        "net.layers_1.downsample.reduction.weight": 10,
        "net.layers_1.blocks.0.mlp.fc1.weight": 10,
        "net.layers_2.blocks.5.attn.relative_position_bias_table": 3,
        "net.layers_3.blocks.1.mlp.fc2.bias": 1,
        "norms.0.weight": 1,
    },
    "hiera_tiny_224": {"net.model.pos_embed": 13, "net.model.blocks.11.attn.qkv.weight": 1},
    "resnet50": {
        "net.conv1.weight": 5,
        "net.bn1.bias": 5,
        "net.layer1.2.conv3.weight": 4,
        "net.layer3.5.conv1.weight": 2,
        "net.layer4.0.downsample.0.weight": 1,
    },
    "convnext_tiny": {"net.stem_0.weight": 5, "net.stages_2.blocks.0.gamma": 2, "net.stages_3.blocks.2.gamma": 1},
    "fishnet150": {
        "net.tail1.trunk.0.conv1.weight": 5,
        "net.tail3.trunk.0.conv1.weight": 3,
        "net.bridge.trunk.0.conv1.weight": 2,
        "net.body1.trunk.0.conv1.weight": 1,
        "net.head3.trunk.0.conv1.weight": 1,
    },
}


@pytest.mark.parametrize("name", DEPTHS)
def test_layers_by_their_depth_from_the_end(name):
    model = Shell(name)
    depths = backbone_depths(model)
    assert {key: depths["backbone." + key] for key in DEPTHS[name]} == DEPTHS[name]
    assert set(depths.values()) == set(range(1, max(DEPTHS[name].values()) + 1))
    factors = by_name(parameter_groups(model, 0.0, layer_decay=0.5), "factor")
    assert factors["rpn.weight"] == 1.0 and factors["rpn.bias"] == 1.0
    assert {key: factors[key] for key in depths} == {key: 0.5**depth for key, depth in depths.items()}


def test_blocks_are_those_of_timm():
    """Its shares for the classifier's own names: what lies behind the backbone has the whole rate."""
    name = "swin_tiny_patch4_window7_224"
    with torch.device("meta"):
        whole = timm.create_model(name)
    numbers = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
    depths = backbone_depths(Shell(name))
    expected = {one.replace(".", "_"): max(numbers.values()) - number for one, number in numbers.items()}
    found = {key.removeprefix("backbone.net.").replace(".", "_"): depth for key, depth in depths.items()}
    found = {key: depth for key, depth in found.items() if "backbone_norms" not in key}
    assert len(found) > 150 and found == {key: expected[key] for key in found}


def test_what_is_put_beside_a_layer_is_of_it():
    layers = {"backbone.net.layer2.0.conv2.weight": 2, "backbone.net.layer2.1.conv2.weight": 3, "backbone.net.a": 0}
    assert _nearest("backbone.net.layer2.0.conv2.offset.weight", layers) == 2
    assert _nearest("backbone.net.layer2.switch", layers) == 3
    assert _nearest("backbone.norms.0.weight", layers) == 3
    assert _nearest("backbone.x", {}) == 0


def test_which_networks_are_transformers():
    assert is_transformer("swin_tiny_patch4_window7_224.ms_in1k") and is_transformer("pvt_v2_b0")
    assert not any(map(is_transformer, ("resnet50", "convnext_tiny", "tf_efficientnet_lite0", "fishnet150", "swan")))


def test_each_group_keeps_its_share_of_the_rate():
    optimizer = make_optimizer(tiny_model(), "adamw", 1.0, 0.05, no_decay=True, layer_decay=0.5)
    for rate in (0.25, 0.01):
        set_rate(optimizer, rate)
        # Four stages, of which the first is frozen with the stem, heads; with and without a decay.
        assert sorted({group["lr"] for group in optimizer.param_groups}) == [rate * 0.5**n for n in (3, 2, 1, 0)]
        assert full_rate(optimizer) == rate
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [0.0] * 4 + [0.05] * 4


def loop(folder, seed=0, **options):
    options = {"iterations": 2, "save_every": 0, "optimizer": "adamw", **options}
    return Loop(tiny_model(seed), tiny_batches(), tiny_recipe(**options), folder)


def memory(optimizer):
    """What an AdamW remembers of each weight, by its name."""
    names = {one: name for group in optimizer.param_groups for one, name in zip(group["params"], group["names"])}
    return {names[one]: state["exp_avg"] for one, state in optimizer.state.items()}


GROUPS = {"no_decay": True, "layer_decay": 0.5}


@pytest.mark.parametrize(("then", "now"), [({}, GROUPS), (GROUPS, {}), (GROUPS, {"no_decay": True})])
def test_memory_moves_to_other_groups(tmp_path, capsys, then, now):
    first = loop(tmp_path, **then)
    first.run()
    other = loop(tmp_path, seed=1, iterations=4, weight_decay=0.3, **now)
    capsys.readouterr()
    assert other.resume()
    said = capsys.readouterr().err
    assert "layer_decay was" in said and "memory of each weight goes with it" in said
    before, after = memory(first.optimizer), memory(other.optimizer)
    assert len(before) > 50 and before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    # Decays and shares are those of now.
    expected = parameter_groups(other.model, 0.3, **now)
    for value in ("weight_decay", "factor"):
        assert by_name(other.optimizer.param_groups, value) == by_name(expected, value)
    other.run()


def newest_state(folder):
    return checkpoint.whole(folder / "checkpoints")[-1].with_suffix(".state")


def test_a_checkpoint_of_before_there_were_groups(tmp_path):
    loop(tmp_path).run()
    path = newest_state(tmp_path)
    state = torch.load(path)
    for group in state["optimizer"]["param_groups"]:
        del group["names"], group["factor"]
    for name in ("no_decay", "layer_decay", "ema"):
        del state["recipe"][name]
    torch.save(state, path)
    for options in ({}, GROUPS):
        other = loop(tmp_path, iterations=3, **options)
        assert other.resume() and len(memory(other.optimizer)) > 50
    other.run()


def test_memory_of_other_weights_is_refused(tmp_path):
    loop(tmp_path).run()
    path = newest_state(tmp_path)
    state = torch.load(path)
    state["optimizer"]["param_groups"][0]["names"][3] = "another"
    torch.save(state, path)
    with pytest.raises(UserError, match=r"000002\.state is no state of a run of ours"):
        loop(tmp_path).resume()


def test_states_of_weights_go_by_name():
    saved = {
        "state": {0: "of a", 2: "of c"},
        "param_groups": [
            {"lr": 0.1, "params": [0, 1], "names": ["a", "b"]},
            {"lr": 0.2, "params": [2], "names": ["c"]},
        ],
    }
    state, moved = regrouped(saved, [{"names": ["c", "a"]}, {"names": ["b"]}], [])
    assert moved and state["state"] == {0: "of c", 1: "of a"}
    assert [group["params"] for group in state["param_groups"]] == [[0, 1], [2]]
    assert regrouped(saved, saved["param_groups"], [])[1] is False
