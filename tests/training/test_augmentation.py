"""From the options --jitter, --copy-paste and --repeat to what training sees."""

import itertools

import pytest
import torch

from htc_fast import UserError
from htc_fast.commands.options import changed
from htc_fast.training import Trainer, TrainingRun
from htc_fast.training.distributed import World
from htc_fast.training.trainer import describe_data, make_batches, make_config, make_datasets
from tests.data.builder import CATEGORIES, image, instance, write
from tests.training.test_run import small_run


@pytest.fixture
def root(tmp_path):
    """Eleven lying pictures of one cat and two dogs, and an upright one with an owl."""
    content = {"images": [image(n) for n in range(11)] + [image(11, 40, 72)], "categories": CATEGORIES}
    content["annotations"] = [instance(11, 90, 2, 2, 20, 20)]
    for n in range(11):
        content["annotations"] += [instance(n, 7, 4, 4, 20, 20), instance(n, 3, 30, 8, 12, 30)]
        content["annotations"] += [instance(n, 3, 44, 20, 18, 20)]
    return write(tmp_path, content, "train")


def batches_of(root, **options):
    files = {"train_json": root / "annotations/instances_train2017.json", "train_images": root / "train2017"}
    run = small_run(None, None, **files, **options)
    config = make_config(run)
    train, _ = make_datasets(run, config)
    return run, train, make_batches(run, train, config, World())


def first(batches, count):
    return list(itertools.islice(batches.stream(), count))


@pytest.mark.parametrize("jitter", ["standard", "large"])
def test_jitter_makes_squares(root, jitter):
    _, train, batches = batches_of(root, jitter=jitter, image_size=(64, 96), turn=True, flip="both")
    assert {images.shape for images, *_ in first(batches, 12)} == {(2, 3, 96, 96)}
    # Upright pictures and lying ones share batches.
    assert len(batches) == 6 and any(11 in batch for batch in batches.plan(0))
    _, _, targets, _ = next(batches.stream())
    assert targets.semantic.shape == (2, 12, 12) and (targets.labels >= 0).any()
    torch.manual_seed(0)
    shares = [float((plain(train[n]["semantic"]) == 255).float().mean()) for n in range(12) for _ in range(3)]
    # At a factor of 0.1 nearly all is padding; at 0.8, the 77 x 58 pixels of a lying picture are half of the square.
    assert max(shares) > (0.9 if jitter == "large" else 0.3) and (jitter == "large" or max(shares) < 0.75)


def plain(tensor):
    return tensor.as_subclass(torch.Tensor)


def test_jitter_takes_the_place_of_a_model_s_sizes(root):
    _, train, _ = batches_of(root, jitter="standard", model="htc_r50_mstrain", image_size=(96, 96))
    assert {tuple(train[n]["image"].shape) for n in range(12)} == {(3, 96, 96)}


def test_jitter_s_square_has_the_last_side_of_image_size(root):
    _, train, _ = batches_of(root, jitter="standard", image_size=(64,))
    assert train[0]["image"].shape == (3, 64, 64)


def test_copy_paste_adds_objects(root):
    _, train, batches = batches_of(root, copy_paste=1.0, jitter="standard", image_size=(96, 96), flip="none")
    most = max(int((targets.labels >= 0).sum(dim=1).max()) for _, _, targets, _ in first(batches, 6))
    assert most > 3 and max(len(train[n]["labels"]) for n in range(12)) == 3
    # Pictures of their own sizes, too.
    _, _, batches = batches_of(root, copy_paste=1.0)
    assert max(int((targets.labels >= 0).sum(dim=1).max()) for _, _, targets, _ in first(batches, 7)) > 3


def test_repeat_brings_the_owl_more_often(root):
    _, _, batches = batches_of(root, repeat=0.75, batch_size=1)
    # One of twelve has it: sqrt(0.75 * 12) = 3.
    assert len(batches) == 14 and [index for (index,) in batches.plan(0)].count(11) == 3
    assert len(batches_of(root, batch_size=1)[2]) == 12


def test_a_run_that_goes_on_compares_them(root):
    run, train, _ = batches_of(root, jitter="large", copy_paste=0.5, repeat=0.25, image_size=(64, 64))
    about = describe_data(run, train, None)
    assert (about["jitter"], about["copy_paste"], about["repeat"]) == ("large", 0.5, 0.25)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"copy_paste": 1.5}, r"--copy-paste takes a number from 0 to 1, got 1.5 \(float\)"),
        ({"repeat": -0.1}, r"--repeat takes a number from 0 to 1, got -0.1"),
        ({"repeat": float("nan")}, r"--repeat takes a number from 0 to 1, got nan"),
        ({"jitter": "huge"}, "one of none, standard, large"),
        ({"jitter": "large", "crop": 64}, "--jitter large draws sizes and cuts pictures .* leave out --scales"),
        ({"jitter": "large", "scales": (0.5, 1.0)}, "--jitter large draws sizes"),
        ({"jitter": "standard", "train_sizes": (64, 64, 96)}, "--jitter standard draws sizes"),
    ],
)
def test_what_does_not_go_together(options, sentence):
    with pytest.raises(UserError, match=sentence):
        TrainingRun(**options)


def test_jitter_takes_the_place_of_the_sample_s_sizes():
    run = changed(TrainingRun.sample(jitter="large"), {"jitter": "large", "copy_paste": 0.5})
    assert (run.jitter, run.scales, run.crop, run.image_size) == ("large", (1.0, 1.0), None, (256, 256))
    assert TrainingRun.sample().crop == 256 and TrainingRun.sample().scales == (0.8, 1.25)


def test_a_run_with_all_of_them_goes_on_where_it_stood(root, tmp_path):
    write(root, {"images": [image(1)], "annotations": [instance(1, 7, 4, 4, 20, 20)], "categories": CATEGORIES})
    made = {"jitter": "large", "copy_paste": 1.0, "repeat": 0.75, "image_size": (64, 64), "evaluate_every": 0}
    whole = Trainer(small_run(root, tmp_path / "whole", iterations=3, **made)).run()
    # A run that ends after two steps of the same schedule.
    half = Trainer(small_run(root, tmp_path / "half", iterations=3, **made))
    half.loop._after_step = lambda *_: setattr(half.loop, "stopping", half.loop.at.iteration == 2)
    half.run()
    assert half.loop.at.iteration == 2
    rest = Trainer(small_run(root, tmp_path / "half", iterations=3, resume=True, **made)).run()
    assert all(torch.equal(one, other) for one, other in zip(whole.state_dict().values(), rest.state_dict().values()))
