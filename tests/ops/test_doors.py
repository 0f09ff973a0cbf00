"""Every operator's door: an argument of another kind is one sentence that names it, whatever the backend."""

import re

import numpy as np
import pytest
import torch

import htc_fast.ops as ops
from htc_fast.errors import UserError
from htc_fast.ops import _arguments, _backend

NAN, INF = float("nan"), float("inf")
LEVELS, ROIS = [torch.rand(2, 4, 16, 16), torch.rand(2, 4, 8, 8)], torch.tensor([[0, 1.0, 1, 9, 9], [1, 2, 2, 30, 30]])
MAPS, LABELS, BOXES, SCORES = torch.rand(2, 8, 5, 5), torch.tensor([0, 2]), torch.rand(2, 5, 4), torch.rand(2, 5)
SIZES, IDXS, STD = torch.tensor([[20, 30], [20, 30]]), torch.zeros(2, 5, dtype=torch.int64), (0.1, 0.1, 0.2, 0.2)
W3, W1, UP, B = torch.rand(8, 8, 3, 3), torch.rand(8, 8, 1, 1), torch.rand(8, 8, 2, 2), torch.rand(8)
HEAD = ops.MaskHeadWeights(((W3, B),), (UP, B), (torch.rand(3, 8, 1, 1), torch.rand(3)))
POOLED = {"features": LEVELS, "rois": ROIS, "output_size": 3, "spatial_scales": (0.25, 0.125)}
SOFT = {"method": "linear", "iou_threshold": 0.3, "sigma": 0.5, "min_score": 0.01, "max_output": 3}
SQUARE = [1, 2, 7, 2, 7, 8, 1, 8]
RLES = [{"size": [3, 4], "counts": [1, 4, 7]}]
GOOD = {
    "roi_align": {
        "input": LEVELS[0], "boxes": ROIS, "output_size": 3, "spatial_scale": 0.25, "sampling_ratio": 2,
        "aligned": True,
    },
    "multi_level_roi_align": {
        **POOLED, "sampling_ratio": 2, "aligned": True, "canonical_size": 224, "canonical_level": 4,
        "semantic": LEVELS[1], "semantic_scale": 0.125, "semantic_grid": 6,
    },
    "pr_roi_pool": {**POOLED, "aligned": True, "canonical_size": 224, "canonical_level": 4},
    "conv3x3_relu": {
        "x": MAPS, "weight": W3, "bias": B, "residual": MAPS, "count": torch.tensor([1, 0]), "packed": None,
    },
    "mask_flow": {"x": MAPS, "m": MAPS, "weight": W1, "bias": B},
    "mask_predict": {"x": MAPS, "up_weight": UP, "up_bias": B, "weight": W1, "bias": B, "labels": LABELS},
    "semantic_merge": {"features": [MAPS, MAPS], "weights": [W1, W1], "biases": [B, B], "level": 1},
    "mask_branch": {"x": MAPS, "labels": LABELS, "heads": [HEAD], "averaged": [0]},
    "nms": {"boxes": BOXES[0], "scores": SCORES[0], "iou_threshold": 0.5},
    "batched_nms": {"boxes": BOXES[0], "scores": SCORES[0], "idxs": IDXS[0], "iou_threshold": 0.5},
    "batched_nms_padded": {
        "boxes": BOXES, "scores": SCORES, "idxs": IDXS, "iou_threshold": 0.5, "max_output": 3, "score_threshold": 0.1,
    },
    "soft_nms": {"boxes": BOXES[0], "scores": SCORES[0], "idxs": IDXS[0], **SOFT},
    "soft_nms_padded": {"boxes": BOXES, "scores": SCORES, "idxs": IDXS, **SOFT},
    "rasterize": {"polygons": [[SQUARE]], "image_size": (20, 30)},
    "rasterize_in_boxes": {
        "polygons": [[SQUARE]], "boxes": [[0.0, 0, 9, 9]], "size": 7, "index": [0], "device": None,
    },
    "rle_to_polygons": {"rles": [{"size": [2, 2], "counts": [1, 3]}], "holes": "bridged"},
    "refine": {
        "boxes": BOXES, "logits": torch.rand(2, 5, 4), "deltas": torch.rand(2, 5, 12), "std": STD, "image_sizes": SIZES,
        "labels": IDXS,
    },
    "detections": {
        "logits": [torch.rand(2, 5, 4)], "deltas": torch.rand(2, 5, 12), "boxes": BOXES, "valid": IDXS == 0,
        "image_sizes": SIZES, "std": STD, "score_average": "logits", "score_threshold": 0.1, "iou_threshold": 0.5,
        "limit": 9,
    },
    "propose": {
        "objectness": [torch.rand(2, 3, 4, 5)], "deltas": [torch.rand(2, 12, 4, 5)], "strides": (4,),
        "image_sizes": SIZES, "anchors": [[[-8.0, -8, 8, 8]] * 3], "per_level": 10, "limit": 5, "iou_threshold": 0.7,
        "min_size": 0.0, "delta_std": STD,
    },
    "paste_masks": {"masks": torch.rand(5, 7, 7), "boxes": BOXES[0], "image_size": (20, 30), "threshold": 0.5},
    "encode_logits": {"logits": MAPS[0], "image_size": (20, 30), "threshold": 0.0, "crop": None},
    "encode_prototypes": {
        "coefficients": torch.rand(5, 8), "prototypes": MAPS[0], "boxes": BOXES[0], "image_size": (20, 30),
        "threshold": 0.0, "crop": None, "cut": "after",
    },
    "encode_masks": {"masks": torch.rand(5, 7, 7), "boxes": BOXES[0], "image_size": (20, 30), "threshold": 0.5},
    "encode": {"masks": torch.rand(2, 7, 9) > 0.5}, "decode": {"rles": RLES, "device": "cpu"},
    "rle_area": {"rles": RLES}, "rle_to_box": {"rles": RLES}, "merge": {"rles": RLES, "intersect": True},
    "crop": {"rles": RLES, "box": (1, 0, 3, 2)}, "flip": {"rles": RLES, "horizontal": False},
    "resize": {"rles": RLES, "image_size": (7, 9)}, "shift": {"rles": RLES, "dx": 1, "dy": -1, "image_size": (7, 9)},
    "mask_targets": {
        "layers": torch.zeros(2, 3, 9, 9, dtype=torch.int16), "rois": torch.zeros(5, 5), "layer": IDXS[0] * 0,
        "number": IDXS[0], "size": 7,
    },
}  # fmt: skip
# Operators on masks as data take lists and arrays as well as tensors: each one's own file tests its door.
DATA = {"mask_iou", "mask_nms", "matrix_nms", "merge_tiles"}
OPTIONAL = {"residual", "count", "labels", "valid", "semantic"}
# What a sentence calls an argument where it is not the argument's own name.
CALLED = {"input": "level 0", "features": "level 0"}


def others(operator: str, name: str, good: torch.Tensor) -> list:
    """What no operator takes in place of this tensor."""
    wrong = ["abc", 3, good.tolist(), good.to_sparse(), good.to(torch.complex64), good.flatten()[0]]
    wrong += [] if name in OPTIONAL else [None]
    wrong += [] if operator == "encode" else [good.numpy()]  # which takes arrays too
    if good.is_floating_point():
        wrong += [good.int(), good.bool(), good.to(torch.float8_e4m3fn)]
        wrong += [torch.quantize_per_tensor(good, 0.1, 0, torch.quint8)]
    # Sizes may be of floats where boxes are only clipped to them, and so may the classes of torchvision's function.
    elif name != "image_sizes" and (operator, name) != ("batched_nms", "idxs"):
        wrong += [good.float()]
    return wrong


def tensors_of(operator: str):
    """(what the sentence must name, the arguments with one tensor replaced), for each tensor and each other thing."""
    for name, good in GOOD[operator].items():
        if isinstance(good, torch.Tensor):
            for bad in others(operator, name, good):
                yield name, {name: bad}
        elif isinstance(good, list) and isinstance(good[0], torch.Tensor):
            for bad in (None, 3, "abc", {"P2": good[0]}):
                yield name, {name: bad}
            for bad in others(operator, name, good[-1]):
                yield name, {name: [*good[:-1], bad]}


def said(operator: str, changed: dict, backend: str) -> Exception:
    with ops.use_backend(backend), pytest.raises((TypeError, ValueError)) as caught:
        getattr(ops, operator)(**{**GOOD[operator], **changed})
    return caught.value


@pytest.mark.parametrize("operator", GOOD)
def test_what_is_no_such_tensor_is_told_alike(operator):
    for name, changed in tensors_of(operator):
        native, reference = (said(operator, changed, backend) for backend in ("cpp", "reference"))
        assert type(native) is type(reference) and str(native) == str(reference), changed
        sentence = str(native)
        assert re.search(r"(must|expected|is on|expects|does not fit)", sentence) and "\n" not in sentence, sentence
        words = {name, name.rstrip("s"), CALLED.get(name, name), "level", "rois", "maps", "bias", "boxes"}
        assert any(word in sentence for word in words), (name, sentence)


POOLINGS, ALIGNS = ("roi_align", "multi_level_roi_align", "pr_roi_pool"), ("roi_align", "multi_level_roi_align")
LEVELLED = ("multi_level_roi_align", "pr_roi_pool")
HUGE = 10**5000  # more digits than Python writes
NUMBERS = [
    *((one, "output_size", bad, "output_size must be one or two positive integers up to 32768, got ")
      for one in POOLINGS
      for bad in (0, -1, True, 1.5, 2.0, None, "abc", [1], (1, 2, 3), (0, 0), (True, True),
                  2**32, HUGE, (1.5, 2.5), {})),
    *((one, "sampling_ratio", bad, "sampling_ratio must be an integer") for one in ALIGNS
      for bad in (1.5, None, "2", True, NAN, INF, 2**32, -(2**40), HUGE, [2], 1j)),
    *((one, "aligned", bad, "aligned must be True or False, got ") for one in POOLINGS
      for bad in (None, "yes", 2, 1.0, [True], (), NAN, 1j)),
    *(("roi_align", "spatial_scale", bad, "spatial_scale must be a")
      for bad in (0, -1, NAN, INF, None, "1", True, [1], 1j)),
    *((one, "spatial_scales", bad, "patial_scales must be a list or a tuple, got ") for one in LEVELLED
      for bad in (None, 0.25, "ab", {0.25, 0.125}, torch.tensor(0.25))),
    *((one, "spatial_scales", bad, "a spatial scale must be a") for one in LEVELLED
      for bad in ((0.25, 0), (NAN, 1), (0.25, None), ("a", 1), (True, 1))),
    *((one, "spatial_scales", (0.25,), "one spatial scale per level, got 1 for 2") for one in LEVELLED),
    *((one, "canonical_level", bad, "canonical_level must be a") for one in LEVELLED
      for bad in (1e9, -1e9, None, "4", NAN, HUGE)),
    *((one, "canonical_size", bad, "canonical_size must be a") for one in LEVELLED
      for bad in (0, -1, None, "4", NAN, INF)),
    *((one, "features", [], "expected 1 to 8 feature levels, got 0") for one in LEVELLED),
    *((one, "features", LEVELS * 5, "expected 1 to 8 feature levels, got 10") for one in LEVELLED),
    *((one, "features", [LEVELS[0], LEVELS[1][:, :3]], "level 1 must be [N, C, H, W] with level 0's N and C")
      for one in LEVELLED),
    *((one, "features", [LEVELS[0], LEVELS[1][:1]], "level 1 must be [N, C, H, W] with level 0's N and C")
      for one in LEVELLED),
    *((one, "features", [LEVELS[0], LEVELS[1].half()], "level 1 must be torch.float32 like level 0")
      for one in LEVELLED),
    *((one, "features", [LEVELS[0], LEVELS[1].to("meta")], "level 1 must be on cpu like") for one in LEVELLED),
    *(("multi_level_roi_align", "semantic_scale", bad, "semantic_scale must be a") for bad in (0, -1, NAN, INF, None)),
    *(("multi_level_roi_align", "semantic_grid", bad, "semantic_grid must be an integer")
      for bad in (0, 1.5, None, 2**40)),
    ("roi_align", "boxes", [torch.rand(1, 4)] * 3,
     "boxes must be at most one tensor per image of an input [N, C, H, W], got 3 for [2"),
    ("roi_align", "boxes", [[1, 2, 3, 4]] * 2, "boxes[0] must be a tensor, got list"),
    ("roi_align", "boxes", [torch.rand(1, 4), torch.rand(4)], "boxes must be a list of [L, 4], got [4]"),
    ("conv3x3_relu", "x", MAPS[:, :0], "x must have channels and pixels, got [2, 0, 5, 5]"),
    ("conv3x3_relu", "weight", W3[:0], "weight must not be empty, got [0, 8, 3, 3]"),
    ("conv3x3_relu", "weight", W3[:, :0], "weight must not be empty, got [8, 0, 3, 3]"),
    ("conv3x3_relu", "packed", 3, "packed must be a packed_convolution.Packed or None, got int"),
    ("conv3x3_relu", "count", [1, 0], "count must be a tensor, got list"),
    ("mask_flow", "m", MAPS[:, :, :0], "m must have channels and pixels, got [2, 8, 0, 5]"),
    ("mask_predict", "x", MAPS[:, :, :, :0], "x must have channels and pixels, got [2, 8, 5, 0]"),
    ("mask_predict", "labels", LABELS == 0, "labels must be [2] integers (int32 or int64), got [2] torch.bool"),
    *(("semantic_merge", "level", bad, "level must be an integer") for bad in (None, "1", 1.0, True, 2, -1, HUGE)),
    ("semantic_merge", "features", [], "expected 1 to 8 features with a weight and a bias each, got 0, 2 and 2"),
    ("mask_branch", "heads", None, "heads must be a list or a tuple, got NoneType"),
    ("mask_branch", "heads", [], "heads must hold at least one MaskHeadWeights, got none"),
    ("mask_branch", "heads", HEAD, "heads[0] must be MaskHeadWeights, got tuple"),
    ("mask_branch", "heads", [torch.nn.Conv2d(8, 8, 3)], "heads[0] must be MaskHeadWeights, got Conv2d"),
    ("mask_branch", "heads", [HEAD._replace(convolutions=None)], "heads[0].convolutions must be a list or a tuple"),
    ("mask_branch", "heads", [HEAD._replace(convolutions=(W3, B))],
     "heads[0].convolutions must be a pair of weight and bias"),
    ("mask_branch", "heads", [HEAD._replace(logits=None)],
     "heads[0].logits must be a pair of weight and bias, got NoneType"),
    ("mask_branch", "heads", [HEAD._replace(upsample=(UP, None))],
     "the bias of heads[0].upsample must be a tensor, got NoneType"),
    ("mask_branch", "heads", [HEAD._replace(packed=(1,))],
     "heads[0].packed must hold packed_convolution.Packed, got int"),
    *(("mask_branch", "averaged", bad, "averaged must ") for bad in (0, "a", [], [1], [-1], [0.0], [None], [True])),
    *((one, "method", bad, "method must be 'linear' or 'gaussian', got ") for one in ("soft_nms", "soft_nms_padded")
      for bad in (None, "Linear", 1, np.array([1, 2]), ["linear"])),
    ("detections", "score_average", np.array([1, 2]), "score_average must be 'logits' or 'probabilities', got array"),
    *(("propose", "anchors", bad, "anchors of level 0 must be [A, 4] finite numbers with A = 3") for bad in
      ([3], [[1, 2, 3]], [None], ["abc"], [[[NAN] * 4] * 3], [[[HUGE] * 4] * 3])),
    *((one, "image_sizes", SIZES.bool(), "image_sizes must be numbers of pixels, got torch.bool")
      for one in ("refine", "detections", "propose")),
    *((one, "iou_threshold", True, "iou_threshold must be a number, got True")
      for one in ("nms", "detections", "propose")),
]  # fmt: skip


@pytest.mark.parametrize("operator", GOOD)
def test_numbers_words_and_lists_of_another_kind_are_told_alike(operator):
    for _, name, bad, wanted in (one for one in NUMBERS if one[0] == operator):
        native, reference = (str(said(operator, {name: bad}, backend)) for backend in ("cpp", "reference"))
        assert wanted in native and "\n" not in native and len(native) < 300, native
        assert native == reference


def test_every_operator_has_a_door_here():
    functions = {name for name in ops.__all__ if callable(getattr(ops, name)) and name.islower()}
    assert functions - {"mask_head_weights", "use_backend"} == GOOD.keys() | DATA
    for operator, arguments in GOOD.items():
        for backend in ("cpp", "reference"):
            with ops.use_backend(backend):
                assert getattr(ops, operator)(**arguments) is not None


def test_no_head_is_made_of_what_is_no_module():
    for bad, shown in ((None, "None"), (3, "3"), (torch.nn.Conv2d, "<class")):
        with pytest.raises(TypeError, match=f"modules must be torch modules, got {shown}"):
            ops.mask_head_weights(bad)


def test_maps_without_pixels_give_zeros():
    for empty in (torch.ones(1, 2, 0, 4), torch.ones(1, 2, 4, 0)):
        for backend in ("cpp", "reference"):
            with ops.use_backend(backend):
                assert torch.equal(ops.roi_align(empty, ROIS[:1], 3, 0.25), torch.zeros(1, 2, 3, 3))


def test_other_libraries_numbers_pass():
    plain = ops.roi_align(LEVELS[0], ROIS, (3, 2), 0.25, 2, True)
    for size in (np.array([3, 2]), torch.tensor([3, 2]), [np.int64(3), 2], torch.Size([3, 2])):
        assert torch.equal(ops.roi_align(LEVELS[0], ROIS, size, np.float32(0.25), np.int32(2), np.bool_(True)), plain)
    assert torch.equal(ops.roi_align(LEVELS[0], ROIS, (3, 2), 0.25, torch.tensor(2), 1), plain)
    kept = ops.nms(BOXES[0], SCORES[0], 0.5)
    assert torch.equal(ops.nms(BOXES[0], SCORES[0], np.float64(0.5)), kept)
    for backend in ("cpp", "reference"):
        with ops.use_backend(backend):
            assert len(ops.nms(BOXES[0], SCORES[0], 10**400)) == 5
    assert _arguments.real("x", -(10**400)) == -(2.0**1000)


def test_a_backend_that_is_none(monkeypatch):
    for bad in ("nonsense", None, 3, np.array([1, 2])):
        with pytest.raises(ValueError, match=r"^unknown backend .*: expected one of cpp, cuda, triton, reference\.$"):
            with ops.use_backend(bad):
                pass
    monkeypatch.setattr(_backend, "_from_environment", "nonsense")
    with pytest.raises(
        UserError, match=r"^HTC_FAST_BACKEND=nonsense names no backend: set it to cpp or cuda or triton or"
    ):
        ops.nms(BOXES[0], SCORES[0], 0.5)


@pytest.mark.parametrize(
    "operator", ["roi_align", "multi_level_roi_align", "conv3x3_relu", "mask_flow", "semantic_merge"]
)
def test_a_compiled_program_comes_through(operator):
    compiled = torch.compile(
        lambda given: getattr(ops, operator)(**given), backend="aot_eager", fullgraph=True, dynamic=True
    )
    assert torch.allclose(compiled(GOOD[operator]), getattr(ops, operator)(**GOOD[operator]), atol=1e-5)
