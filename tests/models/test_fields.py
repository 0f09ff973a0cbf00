"""A configuration of another kind is one sentence that names the field, before anything is built."""

import numpy as np
import pytest
import torch

import htc_fast
from htc_fast.errors import UserError
from htc_fast.models import zoo
from htc_fast.models.config import RPN, Cascade

NAN, INF = float("nan"), float("inf")
HUGE = 10**5000  # more digits than Python writes
COUNTS = ("rpn_proposals", "rpn_proposals_per_level", "rpn_samples", "rpn_train_proposals", "samples")
SHARES = ("score_threshold", "nms_iou", "positive_fraction", "rpn_nms_iou", "rpn_positive_iou", "rpn_positive_fraction")
SWITCHES = ("interleaved", "information_flow", "class_agnostic", "pretrained", "norm_eval", "roi_aligned")
WRONG = [
    *((one, bad, "an integer from 1 to ") for one in ("channels", "box_channels", "num_classes", "semantic_classes")
      for bad in ("abc", "16", 0, -1, 1.5, True, None, [16], 2**40, NAN, HUGE, 1j)),
    *((one, bad, "an integer of at least 1, got") for one in COUNTS for bad in ("a", -1, 0, 1.5, True, None, INF)),
    *((one, bad, "a number from 0 to 1, got") for one in SHARES for bad in ("a", -1, 2, NAN, None, True, (0.5,))),
    *((one, bad, "True or False, got") for one in SWITCHES for bad in ("no", "yes", None, 2, [], (True,))),
    *(("detections", bad, "an integer from 1 to 10000, got ") for bad in ("a", -1, 0, 1.5, True, None, 10_001, HUGE)),
    ("name", 5, "text, got 5"),
    *(("stages", bad, "a models.config.Cascade, got ") for bad in (None, 3, (0.5,), {"match_iou": (0.5,)})),
    *(("rpn", bad, "a models.config.RPN, got ") for bad in (None, "a", {"proposals": 9})),
    *(("match_iou", bad, "a tuple of 1 to 8 numbers, got ") for bad in (0.5, (), None, "abc", [0.5] * 9)),
    *(("match_iou", bad, "a tuple of which each is a number from 0 to 1")
      for bad in (("a",) * 3, (NAN, 1, 1), (2, 3, 4))),
    *(("loss_weight", bad, "a tuple of ") for bad in (1.0, ("a",) * 3, (NAN, 1, 1), (-1, 1, 1), None)),
    *(("delta_std", bad, "four numbers for each stage, got ")
      for bad in (0.1, (), ((0.1,) * 3,) * 3, ("abcd",) * 3, None)),
    *(("delta_std", ((bad,) * 4,) * 3, "a number above 0, got ") for bad in (0, -1, NAN, INF, "a")),
    *(("rpn_anchor_ratios", bad, "a tuple of ")
      for bad in ((), (0,), (-1.0,), (NAN,), ("a",), 0.5, None, range(9), (1,) * 26)),
    *(("rpn_anchor_scale", bad, "a number above 0, got ") for bad in (0, -1, NAN, INF, "8", None, True)),
    *(("semantic", bad, "") for bad in (5, None, True, "Both", ["both"])),
    *(("score_average", bad, "") for bad in (5, None, "mean")),
    *(("semantic_loss_weight", bad, "a number of at least 0, got ") for bad in (NAN, "a", None, -1, INF)),
    *(("test_stage", bad, "") for bad in (0, 1.5, "1", True, 4)),
    *(("frozen_stages", bad, "an integer from -1 to 4, got ") for bad in (1.5, "a", True, None, 9)),
    *(("roi_samples", bad, "an integer from -1 to 32768, got ") for bad in (1.5, "a", 2**40, None)),
    *(("mean", bad, "a tuple of ") for bad in (0, (1, 2), ("a", "b", "c"), (NAN, 0, 0), None)),
    *(("std", bad, "a tuple of ") for bad in (0, (1, 2), (0, 0, 0), (-1, 1, 1), None)),
    *(("backbone", bad, "text, got ") for bad in (None, 5, ["resnet50"])),
    *(("class_names", bad, "") for bad in ("abc", ("a",), None, {"a", "b", "c"}, range(80), [1] * 80)),
    *(("category_ids", bad, "a tuple, got ") for bad in (None, "abc", 5, HUGE)),
]  # fmt: skip
SIZES = (
    64,
    "abc",
    (64,),
    (1, 2, 3),
    (0, 0),
    ("a", "b"),
    (NAN, 64),
    800.0,
    (100, 64),
    (64.5, 100),
    (64, HUGE),
    {64, 100},
)


@pytest.mark.parametrize("field", sorted({one[0] for one in WRONG}))
def test_another_kind_is_told_before_anything_is_built(field):
    for _, bad, wanted in (one for one in WRONG if one[0] == field):
        with pytest.raises(UserError) as caught:
            zoo.config("htc_r50", **{field: bad})
        sentence = str(caught.value)
        assert sentence.startswith(f"{field} must ") and wanted in sentence and len(sentence) < 220, sentence
        assert "\n" not in sentence and sentence.endswith(".")


@pytest.mark.parametrize("bad", SIZES, ids=range(len(SIZES)))
def test_a_size_is_told_as_everywhere(bad):
    with pytest.raises(
        UserError, match=r"^image_size takes two sides of 32 to 65536 pixels \(short .*first, got "
    ) as caught:
        zoo.config("htc_r50", image_size=bad)
    assert len(str(caught.value)) < 220


def test_a_part_and_its_fields_are_both_taken():
    config = zoo.config("htc_r50", rpn=RPN(samples=9), rpn_proposals=7, stages=Cascade((0.4,)), loss_weight=(2, 1, 1))
    assert (config.rpn.samples, config.rpn.proposals) == (9, 7)
    assert (config.stages.match_iou, config.stages.loss_weight) == ((0.4,), (2.0, 1.0, 1.0))
    with pytest.raises(UserError, match=r"^rpn must be a models\.config\.RPN, got Cascade"):
        zoo.config("htc_r50", rpn=Cascade(), rpn_proposals=7)


def test_other_libraries_numbers_become_python_s():
    config = zoo.config(
        "htc_r50", num_classes=np.int64(3), channels=torch.tensor(16),
        samples=64.0, nms_iou=np.float32(0.5), rpn_samples=9,
        interleaved=np.bool_(False), match_iou=[np.float64(0.5), 1, 0],
        image_size=[800, np.int32(1333)],
    )  # fmt: skip
    assert (config.num_classes, config.channels, config.samples, config.rpn.samples) == (3, 16, 64, 9)
    assert (config.nms_iou, config.interleaved, config.stages.match_iou) == (0.5, False, (0.5, 1.0, 0.0))
    assert config.image_size == (800, 1333) and type(config.image_size[1]) is type(config.num_classes) is int


def test_parts_are_checked_where_they_are_made():
    with pytest.raises(UserError, match=r"^rpn_proposals must be an integer of at least 1, got 0"):
        RPN(proposals=0)
    with pytest.raises(UserError, match=r"^loss_weight must be a tuple of numbers, got 1\.0"):
        Cascade(loss_weight=1.0)


def test_names_and_files_that_are_none():
    for bad in (None, 5, ["htc_r50"], b"htc_r50"):
        with pytest.raises(UserError, match=r"^unknown model .*: "):
            htc_fast.create_model(bad)
    for bad in (5, b"x", [1], True):
        with pytest.raises(UserError, match=r"^weights must be a path or a name, got "):
            htc_fast.create_model("htc_r50", weights=bad)
        with pytest.raises(UserError, match=r"^weights must be a path or a name, got "):
            htc_fast.load(bad)
    for bad in (5.5, [1], "tpu", "cuda:x", "", b"cpu", "meta"):
        with pytest.raises(UserError, match=r"^device .* cannot be used .*: choose cpu, cuda or cuda:N"):
            htc_fast.load("weights.safetensors", device=bad)
