"""`htc_fast.optimize`: the detector's own results, its limits, and its behaviour when things change or run out."""

import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

import htc_fast
from htc_fast.device import supports
from htc_fast.errors import UserError
from htc_fast.inference import Optimized, optimize
from htc_fast.inference.buckets import Buckets
from htc_fast.inference.predict import at_stage
from htc_fast.ops import _fastest
from tests.inference.test_fuse import settled
from tests.models.test_zoo import SIZES, tiny

CASES = {
    "htc": ("htc_r50", {}),
    "no semantic branch": ("htc_r50_nosem", {}),
    "boxes by class": ("mask_rcnn_r50", {}),
    "second stage alone": ("htc_r50", {"test_stage": 2}),
    "efficientnet": ("htc_r50", {"backbone": "tf_efficientnet_lite0"}),
    "wide enough for Winograd": ("htc_r50", {"backbone": "resnet18", "channels": 64, "detections": 4}),
    "convnext": ("cascade_mask_r50", {"backbone": "test_convnext"}),
}


def detector(name="htc_r50", **overrides):
    model = tiny(name, **overrides)
    settled(model.backbone)
    return model.eval()


def images(count=2):
    torch.manual_seed(1)
    return torch.randn(count, 3, 64, 96)


def assert_equal(found, want, tolerance=1e-4):
    assert torch.equal(found.labels, want.labels) and torch.equal(found.count, want.count) and want.count.min() > 0
    for name in ("boxes", "scores", "masks"):
        torch.testing.assert_close(getattr(found, name), getattr(want, name), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_float32_equals_the_detector(case):
    name, overrides = CASES[case]
    model = detector(name, **overrides)
    fast = optimize(model, (64, 96), batch_size=2, dtype=torch.float32)
    assert_equal(fast.detect(images(), SIZES), model.detect(images(), SIZES))


def test_a_caller_s_autocast_changes_nothing():
    fast = optimize(detector(), (64, 96), batch_size=2, dtype=torch.float32)
    want = fast.detect(images(), SIZES)
    with torch.autocast("cpu", torch.bfloat16):
        found = fast.detect(images(), SIZES)
    assert all(map(torch.equal, vars(found).values(), vars(want).values()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_finds_much_the_same(dtype):
    model = detector(detections=8)
    fast = Optimized(model, (64, 96), 1, dtype)
    found, want = fast.detect(images(1), SIZES[1:]), model.detect(images(1), SIZES[1:])
    assert {p.dtype for p in fast.network.box_heads.parameters()} == {dtype}
    assert found.boxes.dtype == torch.float32
    # Tiny random networks score all boxes alike, so which ones lead may change; the scores may not.
    torch.testing.assert_close(found.scores, want.scores, rtol=0.05, atol=0.02)


def test_a_processor_without_the_type_says_so_and_computes_in_float32(monkeypatch):
    monkeypatch.setattr(
        sys.modules["htc_fast.inference.optimize"], "supports", lambda dtype, device: dtype == torch.float32
    )
    with pytest.warns(UserWarning, match="no bfloat16 arithmetic, so the model computes in float32"):
        fast = optimize(detector(), (64, 96), dtype=torch.bfloat16)
    assert fast.dtype == torch.float32
    assert supports(torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_a_type_it_takes_the_one_that_measures_faster(monkeypatch, dtype):
    monkeypatch.setattr(_fastest, "_found", [_fastest.Fastest(False, dtype)])
    monkeypatch.setattr(sys.modules["htc_fast.inference.optimize"], "supports", lambda dtype, device: True)
    assert optimize(detector(), (64, 96)).dtype == dtype
    assert optimize(detector(), (64, 96), dtype=torch.float32).dtype == torch.float32


def test_the_detector_stays_as_it_is():
    model = detector()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    want = model.detect(images(), SIZES)
    model.train()
    fast = optimize(model, (64, 96), 2, torch.float32)
    assert model.training and not fast.training
    fast.train()
    assert not fast.training and not fast.network.training
    fast.detect(images(), SIZES)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert_equal(model.eval().detect(images(), SIZES), want, 0)
    assert any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("change", ["weights", "loaded", "cast", "configuration"])
def test_a_changed_detector_is_noticed(change):
    model = detector()
    fast = optimize(model, (64, 96), 2, torch.float32)
    fast.detect(images(), SIZES)
    if change == "weights":
        with torch.no_grad():
            model.box_heads[0].fc1.weight[0, 0] += 1
    elif change == "loaded":
        model.load_state_dict(model.state_dict())
    elif change == "cast":
        model.double()
    else:
        model.config = replace(model.config, score_threshold=0.5)
    with pytest.raises(RuntimeError, match="changed after optimize"):
        fast.detect(images(), SIZES)


def test_a_forgotten_detector_is_no_change():
    model = detector()
    want = model.detect(images(), SIZES)
    fast = optimize(model, (64, 96), 2, torch.float32)
    del model
    assert_equal(fast.detect(images(), SIZES), want)


def test_one_stage_alone_and_back():
    model = detector()
    fast = optimize(model, (64, 96), 2, torch.float32)
    ensemble = fast.detect(images(), SIZES)
    with at_stage(fast, 1):
        alone = fast.detect(images(), SIZES)
    with at_stage(model, 1):
        want = model.detect(images(), SIZES)
    assert_equal(alone, want)
    assert not torch.equal(ensemble.scores, alone.scores)
    assert_equal(fast.detect(images(), SIZES), ensemble, 0)


def test_more_images_than_a_batch():
    model = detector()
    fast = optimize(model, (64, 96), 2, torch.float32)
    sizes = torch.tensor([[60, 90], [64, 96], [64, 50], [32, 96], [64, 96]])
    found = fast.detect(images(5), sizes)
    assert_equal(found, model.detect(images(5), sizes))
    assert found.boxes.shape[0] == 5


def test_predict_uses_the_detector_s_names_and_size():
    model = detector(num_classes=3, class_names=("a", "b", "c"), image_size=(64, 96))
    fast = optimize(model, (64, 96), dtype=torch.float32)
    picture = np.random.default_rng(0).integers(0, 255, (120, 200, 3), np.uint8)
    (found,), (want,) = fast.predict(picture, score_threshold=0.0), model.predict(picture, score_threshold=0.0)
    assert found.class_names == ("a", "b", "c") and len(found) == len(want) > 0
    torch.testing.assert_close(found.boxes, want.boxes, rtol=1e-4, atol=1e-3)
    assert [one["counts"] for one in found.rle] == [one["counts"] for one in want.rle]


def test_upright_and_smaller_images_too_but_no_larger_ones():
    fast = optimize(detector(), (64, 96), dtype=torch.float32)
    for height, width in ((96, 64), (32, 32)):
        fast.detect(torch.randn(1, 3, height, width), torch.tensor([[height, width]]))
    with pytest.raises(ValueError, match="96 x 96 are larger than the 64 x 96"):
        fast.detect(torch.randn(1, 3, 96, 96), torch.tensor([[96, 96]]))
    with pytest.raises(ValueError, match="that 32 divides, got 60 x 96"):
        fast.detect(torch.randn(1, 3, 60, 96), torch.tensor([[60, 96]]))
    with pytest.raises(ValueError, match="image_sizes"):
        fast.detect(torch.randn(1, 3, 64, 96), torch.tensor([60, 96]))


def test_bad_arguments():
    model = detector()
    with pytest.raises(TypeError, match="create_model, got Linear"):
        optimize(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="dtype must be one of"):
        optimize(model, dtype=torch.int8)
    for size in ((float("nan"), 64), (100.5, 200), 800, None, "ab", (16, 96), (10**5000, 64), (64,) * 3):
        with pytest.raises(UserError, match=r"^image_size takes two sides of 32 .*\(height, width\), got "):
            optimize(model, size)
    for batch in (0, 1.5, 10**5000):
        with pytest.raises(UserError, match=r"^batch_size takes a whole number"):
            optimize(model, batch_size=batch)
    assert htc_fast.optimize is optimize


def test_threads_get_their_own_results():
    model = detector()
    fast = optimize(model, (64, 96), dtype=torch.float32)
    inputs = [torch.randn(1, 3, 64, 96) for _ in range(6)]
    want = [model.detect(one, SIZES[1:]) for one in inputs]
    found = [None] * len(inputs)

    def work(index):
        for _ in range(3):
            found[index] = fast.detect(inputs[index], SIZES[1:])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(inputs))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for one, other in zip(found, want):
        assert_equal(one, other)


def test_running_out_of_memory_names_the_images_and_leaves_the_model_usable(monkeypatch):
    fast = optimize(detector(), (64, 96), 2, torch.float32)
    detect = fast.network.detect
    monkeypatch.setattr(fast.network, "detect", lambda *_: torch.empty(1 << 60))
    with pytest.raises(torch.OutOfMemoryError, match=r"2 images of 64 x 96: lower batch_size, or the image size"):
        fast.detect(images(), SIZES)
    monkeypatch.setattr(fast.network, "detect", detect)
    assert fast.detect(images(), SIZES).count.min() > 0


def test_buckets_are_made_once_and_the_oldest_go():
    made = []

    def make(shape):
        made.append(shape)
        if shape[1] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return lambda images, sizes: shape

    buckets = Buckets(make, limit=2)
    of = lambda side: buckets(torch.zeros(1, 3, side, 32), None)  # noqa: E731
    assert of(32) == (1, 32, 32) and of(64) == (1, 64, 32) and of(32) == (1, 32, 32) and len(made) == 2
    of(96)  # drops 64, which was used longest ago
    of(32)
    assert len(made) == 3
    of(64)
    assert len(made) == 4 and list(buckets.made) == [(1, 32, 32), (1, 64, 32)]
    with pytest.raises(torch.OutOfMemoryError, match="1 image of 128 x 32: lower the image size"):
        of(128)
    assert not buckets.made and of(32) == (1, 32, 32)
    with pytest.raises(RuntimeError, match="something else"):
        Buckets(lambda shape: (_ for _ in ()).throw(RuntimeError("something else")), 1)(torch.zeros(1, 3, 2, 2), None)


def test_made_in_inference_mode():
    model = detector()
    with torch.inference_mode():
        fast = optimize(model, (64, 96), dtype=torch.float32)
        assert_equal(
            fast.detect(images(1), torch.tensor([[64, 96]])), model.detect(images(1), torch.tensor([[64, 96]]))
        )
