"""The table of public checkpoints, and the names that it is asked by."""

from pathlib import Path

import pytest

from htc_fast.errors import UserError
from htc_fast.models import zoo
from htc_fast.models.weights import public, source
from htc_fast.training.run import TrainingRun

# (epochs, box AP, mask AP) as the papers' authors report them.
REPORTED = {
    ("htc_r50", "coco-1x"): (12, 42.3, 37.4),
    ("htc_r50", "coco-20e"): (20, 43.3, 38.3),
    ("scnet_r50", "coco-20e"): (20, 44.5, 40.0),
    ("scnet_x101_64x4d", "coco-20e"): (20, 47.5, 42.3),
    ("detectors_htc_r50_rfp", "coco-1x"): (12, 46.6, 40.9),
    ("detectors_htc_r50_sac", "coco-1x"): (12, 46.4, 40.9),
    ("detectors_htc_r50", "coco-1x"): (12, 49.1, 42.6),
}


@pytest.mark.parametrize("model", public.PUBLISHED)
def test_the_table(model):
    assert model in zoo.MODELS
    for name, one in public.PUBLISHED[model].items():
        schedule = name.removeprefix("coco-")
        assert one.epochs == {"1x": 12, "2x": 24, "3x": 36, "20e": 20}[schedule]
        assert one.address.startswith("https://download.openmmlab.com/mmdetection/v2.0/")
        assert one.address.endswith(f"-{one.sha256}.pth") and len(one.sha256) == 8 and int(one.sha256, 16) >= 0
        folder, file = one.address.split("/")[-2:]
        assert file.startswith(folder) and folder.endswith(f"_{schedule}_coco") and "caffe" not in folder
        assert 30 < one.mask_ap < one.box_ap < 52 and one.source.startswith("configs/")
        assert len({other.address for files in public.PUBLISHED.values() for other in files.values()}) == 37


def test_the_trunk_is_in_the_address():
    for model, files in public.PUBLISHED.items():
        trunk = next(one for one in ("x101_64x4d", "x101_32x4d", "r101", "r50") if one in model)
        assert all(f"_{trunk}_" in one.address for one in files.values())


@pytest.mark.parametrize("model, name", REPORTED)
def test_reported_numbers(model, name):
    one = public.find(name, model)
    assert (one.epochs, one.box_ap, one.mask_ap) == REPORTED[model, name]


def test_the_best_of_a_model():
    assert public.find("coco", "htc_r50") is public.PUBLISHED["htc_r50"]["coco-20e"]
    assert public.find("coco", "mask_rcnn_x101_64x4d").mask_ap == 39.7
    assert public.find("coco", "detectors_htc_r50").box_ap == 49.1


@pytest.mark.parametrize(
    "name, model, sentence",
    [
        (
            "coco-99e",
            "htc_r50",
            "has no public weights 'coco-99e', but coco-1x, coco-20e, and coco for the best",
        ),
        ("coco_20e", "htc_r50", "did you mean coco-20e?"),
        ("COCO", "htc_r50", "did you mean coco?"),
        ("coco", "htc_r50_nosem", "nobody publishes weights of htc_r50_nosem for COCO: name a file, train it, or take"),
        ("coco", "htc_r50_nosem", "such as htc_r50,"),
        ("coco", "htcpp_swin_t", "nobody publishes weights of htcpp_swin_t"),
        ("coco", "htc_r5", "unknown model 'htc_r5': did you mean htc_r50"),
        ("coco", None, "name one with --model (in Python: name=), such as htc_r50."),
    ],
)
def test_names_that_are_none(name, model, sentence):
    with pytest.raises(UserError) as error:
        public.find(name, model)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_names_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, paths = ("coco", "coco-20e", "coco_20e", "Coco", Path("coco")), ("coco.pth", "./coco", "x/coco", "w", "co")
    assert all(public.is_name(one) for one in names) and not any(public.is_name(one) for one in paths)
    # A folder of data may be called so; one of a run may be called like a name that is none.
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco_20e").mkdir()
    assert public.is_name("coco") and not public.is_name("coco_20e")
    (tmp_path / "coco-20e").write_bytes(b"")
    assert not public.is_name("coco-20e")
    assert source.local("coco-20e", "htc_r50") == "coco-20e" and source.local(Path("a.pth"), None) == Path("a.pth")


def test_training_refuses_names_before_it_reads_data():
    assert str(TrainingRun(weights="coco-20e").weights) == "coco-20e"
    with pytest.raises(UserError, match="htc_r50 has no public weights 'coco-3x', but coco-1x, coco-20e"):
        TrainingRun(weights="coco-3x")
    with pytest.raises(UserError, match="nobody publishes weights of htc_r50_nosem"):
        TrainingRun(weights="coco", model="htc_r50_nosem")
