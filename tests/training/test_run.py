"""From options to data and model, without a process of its own."""

import pytest

from htc_fast import UserError
from htc_fast.data.annotations import say_once
from htc_fast.train import parser
from htc_fast.training import presets
from htc_fast.training import run as train_setup
from tests.data.builder import two_pictures, write


def options(*words):
    return train_setup.check(presets.fill(parser().parse_args([*map(str, words)]), presets.PAPER))


@pytest.fixture
def root(tmp_path):
    write(tmp_path, split="train")
    return write(tmp_path, split="val")


def datasets(*words):
    given = options(*words)
    config = train_setup.make_config(given)
    return config, *train_setup.make_datasets(given, semantic=config.semantic != "none")


def test_derived_maps_are_said_once(root, capsys):
    say_once.cache_clear()
    for _ in range(2):
        _, train, _ = datasets("--data", root)
    assert train.semantic_classes == 4
    assert capsys.readouterr().err.count("derived from the instance masks") == 1


def test_maps_wanted_derived_or_not_at_all(root, capsys):
    say_once.cache_clear()
    config, train, _ = datasets("--data", root, "--semantic", "derive")
    assert config.semantic == "both" and train.semantic_classes == 4
    config, train, _ = datasets("--data", root, "--semantic", "none")
    assert config.semantic == "none" and train.maps is None
    assert not capsys.readouterr().err


def test_held_out_pictures_need_annotations(tmp_path):
    write(tmp_path, split="train")
    write(tmp_path, {key: value for key, value in two_pictures().items() if key != "annotations"})
    with pytest.raises(UserError, match=r"has no annotations.*--val-json"):
        datasets("--data", tmp_path)


def test_the_papers_multi_scale(root):
    _, train, val = datasets("--data", root, "--train-sizes", 40, 60, 70, "--flip", "none")
    sides = {tuple(sorted(train[0]["image"].shape[1:])) for _ in range(40)}
    assert len(sides) > 8 and min(sides)[0] >= 40 and max(sides)[1] <= 70 and val.transform is None
    with pytest.raises(UserError, match="--train-sizes"):
        options("--data", root, "--train-sizes", 90, 60, 70)


def test_a_list_of_values(root):
    config = train_setup.make_config(options("--data", root, "--set", "match_iou=[0.4,0.6,0.7]"))
    assert config.stages.match_iou == (0.4, 0.6, 0.7)
