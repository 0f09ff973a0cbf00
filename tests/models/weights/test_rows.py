"""Rows of the last layers, moved by name."""

import pytest
import torch

import htc_fast
from htc_fast import UserError
from htc_fast.data import CocoDataset
from htc_fast.data.classes import default_classes
from htc_fast.models.weights import rows
from htc_fast.training.checkpoint import weights_bytes
from htc_fast.training.start import start_from
from tests.data.builder import image, instance, write
from tests.models.test_zoo import tiny

CAT_DOG = ("cat", "dog")


def numbered(model, start=0.0):
    """Every row of the last layers holds its number."""
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if rows.LAST.match(key):
                shape = (-1, *[1] * (value.dim() - 1))
                value.copy_((start + torch.arange(len(value), dtype=value.dtype)).view(shape).expand_as(value))
    return model


def first(tensors, name):
    return tensors[name].flatten(1)[:, 0].tolist() if tensors[name].dim() > 1 else tensors[name].tolist()


def test_rows_go_where_their_classes_are():
    name = "mask_rcnn_r50"  # a regression for every class
    file = numbered(tiny(name, num_classes=2)).state_dict()
    own = numbered(tiny(name, num_classes=3), start=100).state_dict()
    made = rows.moved(file, own, CAT_DOG, ("dog", "owl", "cat"))
    assert first(made, "box_heads.0.classes.weight") == [1, 101, 0, 2]
    assert first(made, "box_heads.0.classes.bias") == [1, 101, 0, 2]
    assert first(made, "mask_heads.0.logits.weight") == [1, 101, 0]
    assert first(made, "box_heads.0.deltas.bias") == [4, 5, 6, 7, 104, 105, 106, 107, 0, 1, 2, 3]
    assert made["box_heads.0.fc1.weight"] is file["box_heads.0.fc1.weight"]


def test_one_regression_for_all_classes_stays():
    file, own = (numbered(tiny("htc_r50", num_classes=1), start).state_dict() for start in (0, 100))
    made = rows.moved(file, own, ["cat"], ["dog"])
    assert first(made, "box_heads.0.deltas.bias") == [0, 1, 2, 3] and first(made, "mask_heads.1.logits.bias") == [100]


@pytest.fixture
def train(tmp_path):
    """A data set of dog (id 1) and cat (id 2): in the other order than the file."""

    def train(*names):
        content = {
            "images": [image(1)],
            "annotations": [instance(1, 1, 4, 4, 20, 20)],
            "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
        }
        return CocoDataset(write(tmp_path / "-".join(names), content), "val", semantic="derive")

    return train


def start(tmp_path, train, file, *names, **fields):
    """Rows of the first stage's classes in a model of `names`, started from `file`."""
    path = tmp_path / "file.safetensors"
    path.write_bytes(weights_bytes(file))
    fields |= {"num_classes": len(names), "class_names": names, "semantic_classes": len(names) + 1}
    model = numbered(tiny("htc_r50", **fields), 100)
    start_from(model, path, train(*names))
    return model


@pytest.mark.parametrize(
    "names, expected, said",
    [
        (CAT_DOG, [0, 1, 2], "every tensor fitted\n"),
        (("dog", "cat"), [1, 0, 2], "classes by name: dog, cat from the file\n"),
        (("dog", "owl"), [1, 101, 2], "classes by name: dog from the file, owl start fresh\n"),
        (("owl", "Cat"), [100, 101, 2], "owl, Cat start fresh (is 'Cat' the same as its 'cat'? then call them alike)"),
        (("dog", "owl", "cat"), [1, 101, 0, 2], "classes by name: dog, cat from the file, owl start fresh"),
    ],
)
def test_training_starts_from_rows_of_the_same_name(tmp_path, train, capsys, names, expected, said):
    file = numbered(tiny("htc_r50", num_classes=2, class_names=CAT_DOG, semantic_classes=3))
    semantic = file.semantic_head.logits.bias
    with torch.no_grad():
        semantic.copy_(torch.arange(3))
    model = start(tmp_path, train, file, *names)
    assert first(model.state_dict(), "box_heads.2.classes.bias") == expected
    assert said in capsys.readouterr().err
    # Semantic maps derived from the masks have the same classes, with the background behind them.
    made = model.semantic_head.logits.bias.tolist()
    assert [made[names.index(name)] for name in names if name in CAT_DOG] == [
        CAT_DOG.index(name) for name in names if name in CAT_DOG
    ] and made[-1] == 2


def test_a_file_without_names(tmp_path, train, capsys):
    file = numbered(tiny("htc_r50", num_classes=2, semantic_classes=3))
    model = start(tmp_path, train, file, "dog", "cat")
    assert first(model.state_dict(), "box_heads.0.classes.bias") == [0, 1, 2]
    assert "it names no classes, so they are taken in their order" in capsys.readouterr().err


def test_eighty_classes_without_names_are_coco_s(tmp_path, train, capsys):
    names = default_classes(80)[0]
    file = numbered(tiny("htc_r50", num_classes=80, semantic_classes=3))
    model = start(tmp_path, train, file, "dog", "owl")
    assert first(model.state_dict(), "mask_heads.0.logits.bias") == [names.index("dog"), 101]
    assert "classes by name: dog from the file, owl start fresh" in capsys.readouterr().err


def test_names_given_with_weights_keep_their_places(tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(weights_bytes(tiny("htc_r50", num_classes=2, class_names=CAT_DOG)))
    made = {"weights": path, "num_classes": 2, "backbone": "test_resnet", "channels": 16, "box_channels": 32}
    made |= {"semantic_classes": 5}
    assert htc_fast.create_model("htc_r50", **made).config.class_names == CAT_DOG
    assert htc_fast.create_model("htc_r50", **made, class_names=("cat", "Hund")).config.class_names == ("cat", "Hund")
    with pytest.raises(UserError, match="puts 'dog' in another place than the model, whose classes are cat, dog"):
        htc_fast.create_model("htc_r50", **made, class_names=("dog", "cat"))
