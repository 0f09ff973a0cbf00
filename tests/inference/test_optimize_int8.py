"""`htc_fast.optimize` in 8 bits: what it finds, what it needs, and where it says that it cannot."""

import copy
import pickle
import sys
import threading

import numpy as np
import pytest
import torch

import htc_fast
from htc_fast.device import supports
from htc_fast.errors import UserError
from htc_fast.inference import optimize
from htc_fast.inference.int8 import MaxPool, QuantizedBackbone, QuantizedFPN, QuantizedMaskHead, QuantizedSemanticHead
from htc_fast.inference.quantize import Map, QuantizedLayer, Range
from htc_fast.ops import _onednn_int8
from tests.inference.test_optimize import detector, images
from tests.models.test_zoo import SIZES

CPU = torch.device("cpu")
quantized = pytest.mark.skipif(
    not (_onednn_int8.offered() and supports(torch.int8, CPU)), reason="the processor has no int8"
)


def pictures(count=4):
    chance = np.random.default_rng(0)
    return [chance.integers(0, 255, (64, 96, 3), dtype=np.uint8) for _ in range(count)]


def layers(fast):
    return [one for one in fast.network.modules() if isinstance(one, QuantizedLayer)]


def made(name="htc_r50", batch_size=2, **overrides):
    model = detector(name, **overrides)
    return model, optimize(model, (64, 96), batch_size, "int8", pictures())


@quantized
def test_it_can_be_cast():
    _, fast = made(detections=8, backbone="resnet18")
    pixels = (torch.from_numpy(np.stack(pictures(2))).permute(0, 3, 1, 2) - 115.0) / 58.0
    want = fast.detect(pixels, SIZES)
    for dtype in (torch.float32, torch.bfloat16):
        found = fast.to(dtype).detect(pixels.to(dtype), SIZES)
        torch.testing.assert_close(found.scores.float(), want.scores, rtol=0.1, atol=0.03)


@quantized
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("htc_r50", {"backbone": "resnet18"}),
        ("htc_r50", {"backbone": "tf_efficientnet_lite0"}),
        ("mask_rcnn_r50", {"backbone": "resnet18"}),
    ],
)
def test_scores_are_much_the_same(name, overrides):
    model, fast = made(name, detections=8, **overrides)
    assert all(layer.packed is not None for layer in layers(fast)) and len(layers(fast)) > 20
    assert isinstance(fast.network.backbone, QuantizedBackbone) and isinstance(fast.network.fpn, QuantizedFPN)
    assert all(isinstance(head, QuantizedMaskHead) for head in fast.network.mask_heads)
    pixels = (torch.from_numpy(np.stack(pictures(2))).permute(0, 3, 1, 2) - 115.0) / 58.0
    found, want = fast.detect(pixels, SIZES), model.detect(pixels, SIZES)
    assert torch.equal(found.count, want.count) and found.boxes.dtype == found.masks.dtype == torch.float32
    # Tiny random networks score all boxes alike, so which ones lead may change; the scores may not.
    torch.testing.assert_close(found.scores, want.scores, rtol=0.1, atol=0.03)


@quantized
@pytest.mark.filterwarnings("error:the backbone stays unfused")
def test_the_default_type_changes_nothing():
    model, pixels = detector(backbone="resnet18"), images()
    torch.set_default_dtype(torch.float64)
    try:
        fast = optimize(model, (64, 96), 2, "int8", pictures())
        (seen,) = fast.predict(pictures(1), size=(64, 96), score_threshold=0.0)
        found = fast.detect(pixels.double(), SIZES)
    finally:
        torch.set_default_dtype(torch.float32)
    assert isinstance(fast.network.backbone, QuantizedBackbone) and len(seen) > 0
    want = fast.detect(pixels, SIZES)
    assert torch.equal(found.scores, want.scores) and torch.equal(found.boxes, want.boxes)


@quantized
def test_no_float_weights_are_left_behind():
    model, fast = made(backbone="resnet18")
    assert isinstance(fast.network.semantic_head, QuantizedSemanticHead)
    assert all(layer.exact == [] for layer in layers(fast))
    assert sum(one.numel() for one in fast.parameters()) < 0.1 * sum(one.numel() for one in model.parameters())


@quantized
def test_what_has_other_layers_stays_in_floats():
    model = detector("cascade_mask_r50", backbone="test_convnext")
    fast = optimize(model, (64, 96), 1, "int8", pictures())
    assert not isinstance(fast.network.backbone, QuantizedBackbone) and isinstance(fast.network.fpn, QuantizedFPN)
    assert fast.detect(images(1), SIZES[1:]).count.item() > 0


@quantized
def test_heads_of_residual_pairs_stay_in_floats():
    _, fast = made("scnet_r50", backbone="resnet18")
    assert isinstance(fast.network.backbone, QuantizedBackbone)
    assert not any(isinstance(head, QuantizedMaskHead) for head in fast.network.mask_heads)
    assert fast.detect(images(), SIZES).boxes.isfinite().all()


@quantized
def test_batches_other_sizes_and_pictures():
    _, fast = made(backbone="resnet18", batch_size=3)
    both, sizes = images(2), torch.tensor([[64, 96], [64, 96]])
    together = fast.detect(both, sizes)
    for number in range(2):
        alone = fast.detect(both[number : number + 1], sizes[number : number + 1])
        torch.testing.assert_close(alone.scores[0], together.scores[number], rtol=1e-3, atol=1e-3)
    assert fast.detect(images(1)[:, :, :32, :64], torch.tensor([[32, 64]])).boxes.isfinite().all()
    assert len(fast.predict(pictures(1) + [np.zeros((50, 40, 3), np.uint8)], size=(64, 96))) == 2
    with pytest.raises(ValueError, match="larger than the 64 x 96"):
        fast.detect(torch.zeros(1, 3, 128, 96), SIZES[1:])


@pytest.mark.parametrize(("sides", "size"), [((3, 2, 1), (41, 300)), ((2, 2, 0), (7, 8)), ((3, 1, 1), (5, 300))])
def test_a_maximum_of_steps_is_that_of_what_they_stand_for(sides, size):
    values = torch.randint(0, 256, (2, 8, *size), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    pool = torch.nn.MaxPool2d(*sides)
    found = MaxPool(pool)(Map(values, Range())).values
    assert found.is_contiguous(memory_format=torch.channels_last) and torch.equal(found.float(), pool(values.float()))


@quantized
def test_nothing_found():
    _, fast = made(backbone="resnet18", score_threshold=0.999)
    assert fast.detect(images(), SIZES).count.tolist() == [0, 0]


@quantized
def test_threads_find_the_same():
    _, fast = made(backbone="resnet18")
    want, found = fast.detect(images(), SIZES), {}
    threads = [
        threading.Thread(target=lambda one=one: found.update({one: fast.detect(images(), SIZES)})) for one in range(3)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 3
    assert all(torch.equal(one.boxes, want.boxes) and torch.equal(one.masks, want.masks) for one in found.values())


@quantized
def test_a_copy_finds_the_same_and_none_is_saved():
    _, fast = made(backbone="resnet18")
    want, found = fast.detect(images(), SIZES), copy.deepcopy(fast).detect(images(), SIZES)
    assert torch.equal(found.boxes, want.boxes) and torch.equal(found.masks, want.masks)
    with pytest.raises(TypeError, match="cannot be saved: save the detector"):
        fast.state_dict()
    with pytest.raises(TypeError, match="cannot be saved: save the detector, and optimize it after loading"):
        pickle.dumps(fast)


def test_what_calibration_must_be(tmp_path):
    model = detector(backbone="resnet18")
    with pytest.raises(ValueError, match="needs calibration: pictures as predict takes them"):
        optimize(model, dtype="int8")
    with pytest.raises(ValueError, match="needs calibration"):
        optimize(model, dtype="int8", calibration=[])
    with pytest.raises(ValueError, match="calibration is for dtype='int8'"):
        optimize(model, calibration=pictures())
    with pytest.raises(ValueError, match="'int8' or None, got 'uint8'"):
        optimize(model, dtype="uint8", calibration=pictures())
    with pytest.raises(UserError):
        optimize(model, dtype="int8", calibration=tmp_path / "none.jpg")


def test_on_a_gpu_it_is_refused():
    with pytest.raises(ValueError, match="is for processors, the model is on meta"):
        optimize(detector(backbone="resnet18").to("meta"), dtype="int8", calibration=pictures())


@pytest.mark.parametrize(("lacks", "says"), [("supports", "no int8 arithmetic"), ("offered", "torch has no int8")])
def test_a_processor_or_torch_without_it_says_so(lacks, says, monkeypatch):
    if lacks == "supports":
        monkeypatch.setattr(sys.modules[optimize.__module__], "supports", lambda dtype, device: dtype == torch.float32)
    else:
        monkeypatch.setattr(_onednn_int8, "NAMES", ("qconv_of_another_age",))
    with pytest.warns(UserWarning, match=says):
        fast = htc_fast.optimize(detector(backbone="resnet18"), (64, 96), dtype="int8", calibration=pictures())
    assert fast.dtype == torch.float32 and not layers(fast)
