"""Files whose classes' layer has objectness: ours and mmdetection's, read, built from, and fine-tuned with others."""

import pytest
import torch

import htc_fast
from htc_fast.errors import UserError
from htc_fast.models import zoo
from htc_fast.models.weights import fit, rows
from htc_fast.models.weights.load import load_weights, read
from htc_fast.training.checkpoint import weights_bytes
from tests.models.test_zoo import TINY, tiny
from tests.models.weights.test_fit import MMDETECTION
from tests.models.weights.test_fit import rows as last_layers
from tests.models.weights.test_load import as_mmdetection
from tests.models.weights.test_rows import CAT_DOG, first, numbered, start, train  # noqa: F401


def counted(model, start=1):
    """Its stages have counted so many samples of each class: other numbers everywhere."""
    for t, head in enumerate(model.box_heads):
        head.classes.counts += torch.arange(len(head.classes.counts)) + 10 * t + start
    return model


def counts(model):
    return [head.classes.counts.tolist() for head in model.box_heads]


def foreign(tmp_path, model, recipe="", counts=True):
    """A file as mmdetection writes it, which counts the background too."""
    state = as_mmdetection(model.state_dict())
    for key in [key for key in state if key.endswith("loss_cls.cum_samples")]:
        state[key] = torch.cat([state[key].float(), torch.tensor([9e6])])
        if not counts:
            del state[key]
    torch.save({"state_dict": state, "meta": {"config": recipe}}, tmp_path / "foreign.pth")
    return tmp_path / "foreign.pth"


def test_our_own_files_come_back_whole(tmp_path):
    model = counted(tiny("htc_r50", class_loss="seesaw"))
    path = tmp_path / "own.safetensors"
    path.write_bytes(weights_bytes(model))
    assert read(path).num_classes == 3
    for found in (htc_fast.load(path, device="cpu"), htc_fast.create_model("htc_r50", **TINY, weights=path)):
        assert found.config.class_loss == "seesaw" and counts(found) == counts(model) == [
            [1, 2, 3],
            [11, 12, 13],
            [21, 22, 23],
        ]
        assert torch.equal(found.box_heads[2].classes.weight, model.box_heads[2].classes.weight)


@pytest.mark.parametrize("name", ["htc_r50", "mask_rcnn_r50"])
@pytest.mark.parametrize("with_counts", [True, False])
def test_mmdetection_s(tmp_path, monkeypatch, name, with_counts):
    model = counted(tiny(name, class_loss="seesaw"))
    monkeypatch.setitem(zoo.MODELS, name, zoo.config(name, backbone="test_resnet"))
    path = foreign(tmp_path, model, counts=with_counts)
    file = read(path)
    assert file.num_classes == 3 and file.built["class_loss"] == "seesaw" and fit.is_seesaw(file.tensors)
    assert name in fit.fitting(file.tensors)
    found = htc_fast.load(path, name=name, device="cpu")
    assert found.config.class_loss == "seesaw" and found.config.num_classes == 3
    assert counts(found) == (counts(model) if with_counts else [[0, 0, 0]] * len(model.box_heads))
    for key, value in model.state_dict().items():
        assert key.endswith(".counts") or torch.equal(found.state_dict()[key], value), key


def test_lvis_has_1203_classes_and_two_rows_more(tmp_path):
    state = last_layers(MMDETECTION, 1205, mask=1203)
    state = {key: value[:4812] if len(value) == 4820 else value for key, value in state.items()}
    torch.save({"state_dict": state}, tmp_path / "lvis.pth")
    file = read(tmp_path / "lvis.pth")
    assert file.num_classes == 1203 and fit.sizes(file.tensors)["class_loss"] == "seesaw"
    assert fit.sizes(file.tensors)["class_agnostic"] is False
    with pytest.raises(UserError, match="has 1203 classes and the model is to have 80"):
        file.check(80)


def test_one_row_more_is_cross_entropy():
    tensors = tiny("htc_r50").state_dict()
    assert not fit.is_seesaw(tensors) and fit.classes(tensors) == 3 and "class_loss" not in fit.sizes(tensors)


@pytest.mark.parametrize("kind", ["NormedLinear", "NormedConv2d"])
def test_layers_that_compare_directions_are_refused(tmp_path, kind):
    recipe = f"bbox_head=dict(cls_predictor_cfg=dict(type='{kind}', tempearture=20))"
    path = foreign(tmp_path, tiny("htc_r50", class_loss="seesaw"), recipe)
    with pytest.raises(
        UserError, match=rf"compare directions alone \({kind} in its configuration\), which no model here"
    ):
        read(path)


def test_a_file_of_the_other_kind_is_another_architecture(tmp_path):
    for own, its in (("seesaw", "cross_entropy"), ("cross_entropy", "seesaw")):
        path = tmp_path / f"{its}.safetensors"
        path.write_bytes(weights_bytes(tiny("htc_r50", class_loss=its)))
        with pytest.raises(UserError, match=r"classes\.weight"):
            load_weights(tiny("htc_r50", class_loss=own), path)


def test_rows_go_where_their_classes_are():
    file = numbered(tiny("mask_rcnn_r50", num_classes=2, class_loss="seesaw")).state_dict()
    own = numbered(tiny("mask_rcnn_r50", num_classes=3, class_loss="seesaw"), start=100).state_dict()
    plain = numbered(tiny("mask_rcnn_r50", num_classes=3), start=100).state_dict()
    made = rows.moved(file, own, CAT_DOG, ("dog", "owl", "cat"))
    assert first(made, "box_heads.0.classes.weight") == [1, 101, 0, 2, 3]
    assert first(made, "mask_heads.0.logits.weight") == [1, 101, 0]
    assert first(made, "box_heads.0.deltas.bias") == [4, 5, 6, 7, 104, 105, 106, 107, 0, 1, 2, 3]
    # Of another loss the background means something else.
    assert first(rows.moved(file, plain, CAT_DOG, ("dog", "owl", "cat")), "box_heads.0.classes.bias") == [
        1,
        101,
        0,
        103,
    ]
    back = rows.moved(plain, file, ("dog", "owl", "cat"), CAT_DOG)
    assert first(back, "box_heads.0.classes.weight") == [102, 100, 2, 3]


@pytest.mark.parametrize(
    "its, own, names, expected, said",
    [
        ("seesaw", "seesaw", CAT_DOG, [0, 1, 2, 3], "every tensor fitted\n"),
        (
            "seesaw",
            "seesaw",
            ("dog", "owl", "cat"),
            [1, 101, 0, 2, 3],
            "fitted; classes by name: dog, cat from the file",
        ),
        ("cross_entropy", "seesaw", CAT_DOG, [0, 1, 102, 103], "fitted; its class_loss is another, so background and"),
        ("cross_entropy", "seesaw", ("dog", "owl"), [1, 101, 102, 103], "objectness start fresh; classes by name: dog"),
        ("seesaw", "cross_entropy", ("owl", "cat"), [100, 0, 102], "objectness start fresh; classes by name: cat"),
    ],
)
def test_training_starts_from_it(tmp_path, train, capsys, its, own, names, expected, said):  # noqa: F811
    file = numbered(tiny("htc_r50", num_classes=2, class_names=CAT_DOG, semantic_classes=3, class_loss=its))
    if its == "seesaw":
        counted(file)
    model = start(tmp_path, train, file, *names, class_loss=own)
    assert first(model.state_dict(), "box_heads.2.classes.bias") == expected
    assert said in capsys.readouterr().err
    assert own == "cross_entropy" or counts(model) == [[0] * len(names)] * 3


def test_training_starts_from_a_file_without_names(tmp_path, train, capsys):  # noqa: F811
    file = numbered(tiny("htc_r50", num_classes=2, semantic_classes=3))
    model = start(tmp_path, train, file, "dog", "cat", class_loss="seesaw")
    assert first(model.state_dict(), "box_heads.0.classes.bias") == [0, 1, 102, 103]
    assert "it names no classes, so they are taken in their order; its class_loss is another" in capsys.readouterr().err
