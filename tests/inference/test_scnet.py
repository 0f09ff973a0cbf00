"""SCNet made ready for inference, exported, seen in several views, and counted."""

import pytest
import torch

from htc_fast.inference import optimize
from htc_fast.inference.export import export_detect, waits
from htc_fast.inference.layout import prepare
from htc_fast.inference.predict import at_stage
from htc_fast.inference.scnet import ChannelsLastRelay, FusedPair
from htc_fast.models.scnet import Relay, ResidualPair
from htc_fast.profiling.paper import counted
from tests.inference.test_optimize import assert_equal, detector, images
from tests.models.test_zoo import SIZES, tiny

WIDE = {"backbone": "resnet18", "channels": 64, "detections": 4}  # enough for Winograd
NORMS = {"norm": "syncbn", "box_head": "4conv1fc", "norm_eval": False}
ONE = {"sample_consistency": True}
VARIANTS = {
    "norms": ("scnet_r50", NORMS),
    "one mask head": ("cascade_mask_r50", ONE),
    "global context and residual heads of a flow": ("htc_r50", {"global_context": True, "residual_heads": True}),
    "of all levels": (
        "cascade_mask_r50",
        {**ONE, "feature_relay": True, "global_context": True, "adaptive_pooling": True, "mask_fc": True},
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_optimized_it_detects_the_same(variant):
    name, options = VARIANTS[variant]
    model = detector(name, **options)
    want = model.detect(images(), SIZES)
    fast = optimize(model, (64, 96), 2, torch.float32)
    assert_equal(fast.detect(images(), SIZES), want)
    assert not [one for one in fast.network.modules() if isinstance(one, (ResidualPair, Relay))]
    assert_equal(prepare(model, torch.float32, torch.device("cuda")).detect(images(), SIZES), want)
    low = optimize(model, (64, 96), 2, torch.bfloat16)
    parts = (low.network.context_head, low.network.relay, low.network.mask_heads)
    assert {one.dtype for part in parts if part is not None for one in part.parameters()} == {torch.bfloat16}
    found = low.detect(images(), SIZES)
    assert found.masks.isfinite().all()
    torch.testing.assert_close(found.scores, want.scores, rtol=0.05, atol=0.02)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_parts_are_the_plain_ones(dtype):
    torch.manual_seed(0)
    pair, relay = ResidualPair(32).to(dtype), Relay(24, 32).to(dtype)
    x = torch.randn(3, 32, 14, 14, dtype=dtype).contiguous(memory_format=torch.channels_last)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.05}
    kept, want = x.clone(), pair(x)
    torch.testing.assert_close(FusedPair(pair, overwrites=False).to(dtype)(x), want, **tolerance)
    assert torch.equal(x, kept)  # nobody else's maps are written to
    hidden = torch.randn(5, 24, dtype=dtype)
    want = relay(hidden)
    found = ChannelsLastRelay(relay)(hidden)
    torch.testing.assert_close(found, want, **tolerance)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_packed_weights_are_used_where_they_pay():
    model = detector("scnet_r50", **WIDE)
    fast = optimize(model, (64, 96), 2, torch.float32)
    assert_equal(fast.detect(images(), SIZES), model.detect(images(), SIZES))
    pairs = [one for one in fast.network.modules() if isinstance(one, FusedPair)]
    assert len(pairs) == 6 + 2 + 2 and [one.second.overwrites for one in pairs].count(False) == 3
    assert len({(one.first.packed is None, one.second.packed is None) for one in pairs}) == 1


def test_the_exported_graph_never_waits():
    name, options = VARIANTS["of all levels"]
    model = tiny(name, **options).eval()
    program = export_detect(model, (64, 96))
    assert waits(program) == []
    found, want = program.module()(images(1), SIZES[:1]), model.detect(images(1), SIZES[:1])
    assert torch.equal(found["labels"], want.labels) and want.count.item() > 0
    torch.testing.assert_close(found["masks"], want.masks, rtol=1e-4, atol=1e-4)


def test_an_optimized_stage_alone():
    model = detector("scnet_r50")
    fast = optimize(model, (64, 96), 2, torch.float32)
    with at_stage(model, 1):
        want = model.detect(images(), SIZES)
    with at_stage(fast, 1):
        assert_equal(fast.detect(images(), SIZES), want)


def test_what_it_costs_is_counted_part_by_part():
    """800 x 1344, 100 detections; by hand from the layers' sizes."""
    needs = {name: one.flop / 1e9 for name, one in counted("scnet_r50").items()}
    plain = {name: one.flop / 1e9 for name, one in counted("htc_r50").items()}
    pixels, conv = 100 * 14 * 14, 2 * 256 * 256 * 9 / 1e9
    assert needs["context"] == pytest.approx(4 * 13 * 21 * conv, rel=0.01)
    masks = 12 * pixels * conv + pixels * 2 * 256 * 256 * 4 / 1e9 + 4 * pixels * 2 * 256 / 1e9
    assert needs["mask stage 1"] == pytest.approx(masks, rel=0.01)
    assert not {"mask stage 2", "mask stage 3"} & needs.keys()
    layers = 2 * 100 * (12_544 * 1024 + 1024 * 1024 + 1024 * 12_544) / 1e9
    assert layers < needs["feature relay"] < 1.2 * layers  # and its RoIAlign
    assert needs["semantic"] == pytest.approx(plain["semantic"], rel=0.01)
    for t in (1, 2, 3):
        assert needs[f"box stage {t}"] == pytest.approx(plain[f"box stage {t}"], rel=0.01)
