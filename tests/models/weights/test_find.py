"""A network is found under any prefix, in any container, and by value; of two the file must leave no doubt."""

import pickle

import pytest
import torch
from torch import nn

import htc_fast
from htc_fast.errors import UserError
from htc_fast.models.weights import find
from htc_fast.models.weights.load import load_weights, read
from tests.models.test_zoo import tiny
from tests.models.weights.test_foreign import SMALL, as_detectron2
from tests.models.weights.test_load import as_mmdetection

PREFIXES = (
    "_orig_mod.",
    "module.",
    "model.",
    "model._orig_mod.module.",
    "module.model.",
    "net.",
    "detector.",
    "backbone.",
    "roi_head.",
    "a.b._forward_module.",
)
OPTIMIZER = {"state": {0: {"exp_avg": torch.full((3,), 5.0), "step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}


@pytest.fixture(scope="module")
def model():
    return tiny("htc_r50")


@pytest.fixture(scope="module")
def state(model):
    return dict(model.state_dict())


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def zeros(state):
    return {key: torch.zeros_like(value) for key, value in state.items()}


def equal(path, state):
    """Whether a file's tensors are these, by our names and by value, and no others."""
    found = read(path).tensors
    return found.keys() == state.keys() and all(torch.equal(found[key], value) for key, value in state.items())


@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix(prefix, state, tmp_path):
    torch.save({"state_dict": prefixed(prefix, state)}, tmp_path / "ours.pth")
    torch.save(prefixed(prefix, as_mmdetection(state)), tmp_path / "theirs.pth")
    assert equal(tmp_path / "ours.pth", state) and equal(tmp_path / "theirs.pth", state)


def test_detectron2_s_names_have_prefixes_too(tmp_path):
    content = as_detectron2(htc_fast.create_model("mask_rcnn_r50", **SMALL))
    state = {key: torch.from_numpy(value) for key, value in content["model"].items()}
    state["pixel_mean"] = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"state_dict": prefixed("model._orig_mod.", state), "epoch": 2}, tmp_path / "last.ckpt")
    plain = read(tmp_path / "plain.pth")
    assert equal(tmp_path / "last.ckpt", plain.tensors) and plain.num_classes == 3
    assert read(tmp_path / "last.ckpt").options == plain.options == {"stride_in_1x1": True}


def test_lightning_has_other_names_beside_the_prefix(state, tmp_path):
    inside = {**prefixed("model.", state), "criterion.weight": torch.ones(81), "loss_weights": torch.ones(3)}
    content = {"epoch": 3, "state_dict": inside, "optimizer_states": [OPTIMIZER], "hyper_parameters": {"lr": 1e-3}}
    torch.save(content, tmp_path / "last.ckpt")
    assert equal(tmp_path / "last.ckpt", state)


def test_wrappers_within_the_names(state, tmp_path):
    within = {
        key.replace("backbone.", "backbone._orig_mod.").replace("rpn.", "rpn.module."): state[key] for key in state
    }
    torch.save({"model": within}, tmp_path / "compiled.pth")
    assert equal(tmp_path / "compiled.pth", state)


NAMED_MOMENTA = "named momenta"


def contents(state):
    """What people save, by name."""
    keys = ("state_dict", "model", "model_state_dict", "net", "weights", "module", "optimized_model")
    yield from ((key, {key: state, "optimizer": OPTIMIZER, "epoch": 1}) for key in keys)
    yield "nested", {"checkpoint": {"model": state}, "lr_scheduler": {"best": torch.ones(2)}}
    yield "list", [state, 3]
    yield "tuple", (OPTIMIZER, state)
    yield "bare", {**state, "optimizer": OPTIMIZER}
    momenta = {key: {"exp_avg": torch.zeros_like(value), "weight": torch.ones(1)} for key, value in state.items()}
    yield NAMED_MOMENTA, {"optimizer_state_dict": {"state": momenta}, "opt": OPTIMIZER, "model": state}
    parts = {key: value for key, value in state.items() if not key.startswith("backbone.")}
    inside = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    yield "by part", {"backbone": inside, **parts}
    yield "numpy", {"model": {key: value.numpy() for key, value in state.items()}}
    deep = state
    for _ in range(40):
        deep = {"inner": deep}
    yield "deep", deep
    circle = {"model": state}
    circle["trainer"] = [circle]
    yield "circle", circle
    marked = nn.Parameter(state["rpn.conv.weight"].clone())
    marked.lr_scale = 0.1
    yield "attributes", {**state, "rpn.conv.weight": marked}


@pytest.mark.parametrize("form", ["zip", "old", "pickle"])
def test_any_container(form, state, tmp_path):
    path, wrong = tmp_path / "saved.pt", []
    for name, content in contents(state):
        if form == "pickle":
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        wrong += [] if equal(path, state) else [name]
    assert wrong == []


@pytest.mark.parametrize("protocol", [2, 4])
def test_whole_modules_are_taken_apart(protocol, model, state, tmp_path):
    for content in (model, {"epoch": 1, "model": nn.DataParallel(model), "optimizer": OPTIMIZER}):
        torch.save(content, tmp_path / "whole.pth", pickle_protocol=protocol)
        assert equal(tmp_path / "whole.pth", state)
    torch.save(model, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert equal(tmp_path / "old.pth", state)


@pytest.mark.parametrize(
    "key", ["ema", "model_ema", "state_dict_ema", "ema_state_dict", "swa_model", "current_model_state"]
)
def test_the_plain_weights_are_read_and_their_copy_is_named(key, state, tmp_path, capsys):
    copy = {"module": zeros(state), "updates": torch.tensor(7)}
    torch.save({key: copy, "state_dict": state}, tmp_path / "both.pth")
    assert equal(tmp_path / "both.pth", state)
    said = capsys.readouterr().err
    assert "both.pth: the weights under 'state_dict' are read" in said and f"not their copy under '{key}'" in said
    torch.save({**state, key: copy}, tmp_path / "top.pth")
    assert equal(tmp_path / "top.pth", state) and "the weights at the top are read" in capsys.readouterr().err
    torch.save({key: state, "epoch": 3}, tmp_path / "only.pth")
    assert equal(tmp_path / "only.pth", state)
    assert f"the weights under '{key}' are read, as there are no others" in capsys.readouterr().err


def test_moving_averages_among_the_weights_and_in_callbacks(state, tmp_path, capsys):
    theirs = as_mmdetection(state)
    swapped = {f"ema_{key.replace('.', '_')}": torch.zeros_like(value) for key, value in theirs.items()}
    torch.save({"state_dict": {**theirs, **swapped}}, tmp_path / "v2.pth")
    assert equal(tmp_path / "v2.pth", state) and "its plain names are read" in capsys.readouterr().err
    callbacks = {"EMA": {"weights": prefixed("model.", zeros(state))}}
    torch.save({"state_dict": prefixed("model.", state), "callbacks": callbacks}, tmp_path / "last.ckpt")
    assert equal(tmp_path / "last.ckpt", state)
    assert "under 'state_dict.model' are read, not their copy under 'callbacks.EMA" in capsys.readouterr().err


def test_two_networks_are_refused_unless_they_are_one(state, tmp_path, capsys):
    torch.save({"student": state, "teacher": zeros(state)}, tmp_path / "two.pth")
    with pytest.raises(UserError, match="holds two networks, under 'student' and under 'teacher'"):
        read(tmp_path / "two.pth")
    both = [prefixed("module.", zeros(state)), state]
    for one, other in (both, both[::-1]):
        torch.save({**one, **other}, tmp_path / "two.pth")
        with pytest.raises(UserError, match="holds two networks"):
            read(tmp_path / "two.pth")
    less = {key: value for key, value in zeros(state).items() if not key.startswith("semantic_head.")}
    for one, other in ((state, less), (less, state)):
        torch.save({"student": one, "teacher": other}, tmp_path / "two.pth")
        with pytest.raises(UserError, match="holds two networks"):
            read(tmp_path / "two.pth")
    torch.save({"model": less, "ema": state}, tmp_path / "less.pth")
    assert equal(tmp_path / "less.pth", less) and "not their copy under 'ema'" in capsys.readouterr().err
    torch.save({"model": state, "pretrained": {"backbone.net.x.weight": torch.ones(1)}}, tmp_path / "start.pth")
    assert equal(tmp_path / "start.pth", state)
    torch.save({"ema_0": state, "ema_1.ema": zeros(state), "x.ema": zeros(state)}, tmp_path / "averages.pth")
    with pytest.raises(UserError, match="holds two networks"):
        read(tmp_path / "averages.pth")
    torch.save({"model": state, "compiled": prefixed("_orig_mod.", state)}, tmp_path / "twice.pth")
    assert equal(tmp_path / "twice.pth", state) and capsys.readouterr().err == ""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(dtype, state, tmp_path):
    torch.save({key: value.to(dtype) for key, value in state.items()}, tmp_path / "half.pth")
    target = tiny("htc_r50")
    target.rpn.conv.weight.data.zero_()
    load_weights(target, tmp_path / "half.pth")
    assert torch.equal(target.rpn.conv.weight, state["rpn.conv.weight"].to(dtype).float())
    assert target.rpn.conv.weight.dtype == torch.float32


def test_other_layouts(state, tmp_path):
    shared = torch.zeros(2, *state["rpn.conv.bias"].shape)
    odd = {
        "rpn.conv.bias": shared[1],
        "rpn.deltas.weight": state["rpn.deltas.weight"].transpose(0, 1).contiguous().transpose(0, 1),
    }
    shared[1] = state["rpn.conv.bias"]
    torch.save({**state, **odd}, tmp_path / "views.pth")
    assert equal(tmp_path / "views.pth", state)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["sparse", "quantised", "by channel", "meta"])
def test_tensors_that_are_not_plain(form, state, tmp_path):
    value = state["rpn.conv.weight"]
    if form == "sparse":
        value = value.to_sparse()
    elif form == "quantised":
        value = torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)
    elif form == "by channel":
        value = torch.quantize_per_channel(value, torch.ones(len(value)), torch.zeros(len(value)), 0, torch.qint8)
    else:
        value = value.to("meta")
    torch.save({**state, "rpn.conv.weight": value}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"holds rpn.conv.weight in a form that is not read"):
        read(tmp_path / "odd.pth")


def test_numbers_that_are_no_weights(state, tmp_path):
    target, path = tiny("htc_r50"), tmp_path / "odd.pth"
    torch.save({**state, "rpn.conv.bias": state["rpn.conv.bias"].to(torch.int8)}, path)
    with pytest.raises(UserError, match=r"holds rpn.conv.bias as torch.int8: save the weights as floating point"):
        load_weights(target, path)
    for number in (float("nan"), float("inf")):
        torch.save({**state, "rpn.conv.bias": torch.full_like(state["rpn.conv.bias"], number)}, path)
        with pytest.raises(UserError, match=r"holds NaN or infinity in rpn.conv.bias"):
            load_weights(target, path)


def test_endless_content_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(find, "MOST", 1000)
    content = [torch.ones(1)]
    for _ in range(40):
        content = [content, content]
    torch.save(content, tmp_path / "many.pth")
    with pytest.raises(UserError, match="holds more than 1000 dicts and lists"):
        read(tmp_path / "many.pth")


class Command:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


class Rebuilt:
    """Asks to be made by `make(*args)`, through the ways that tensors take."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (torch._tensor._rebuild_from_type_v2, (open, torch.Tensor, (self.marker, "w"), {}))


class Nested(Rebuilt):
    def __reduce__(self):
        return (torch.storage._load_from_bytes, (pickle.dumps(Command(self.marker)),))


def test_no_way_to_a_tensor_runs_code(state, tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "hostile.pth"
    module = nn.Module()
    module.register_buffer("x", torch.ones(1))
    module.hook = Command(marker)
    for hostile in (Rebuilt(marker), module):
        for content in ({"a": hostile, **state}, {"model": state, "b": [hostile]}):
            torch.save(content, path)
            assert equal(path, state) or "a.x" in read(path).tensors
    path.write_bytes(pickle.dumps({"a": Nested(marker), **state}))
    with pytest.raises(UserError, match="damaged"):
        read(path)
    assert not marker.exists()
