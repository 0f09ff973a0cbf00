"""The switched modules laid out for a GPU: the same maps, and as far as a trace shows, no launch for a sum or ReLU."""

import pytest
import torch

from htc_fast.inference.layout import prepare
from htc_fast.inference.necks import FusedFPN, FusedGCN, fuse_necks
from htc_fast.models.gcn import GCN
from tests.inference.test_layout import CPU, GPU, LOW, launched
from tests.inference.test_optimize import assert_equal, detector, images
from tests.models.test_modules import ALL
from tests.models.test_pafpn import maps, shaken
from tests.models.test_zoo import SIZES


def test_what_is_laid_out_for_a_gpu_detects_the_same_on_a_cpu():
    model = detector("htc_r50", **ALL)
    for part in (model.pafpn, model.aspp, model.semantic_head):
        shaken(part)
    want = model.detect(images(), SIZES)
    for device in (CPU, GPU):
        assert_equal(prepare(model, torch.float32, device).detect(images(), SIZES), want)


@pytest.mark.parametrize("dtype", [torch.float32, *LOW])
@torch.no_grad()
def test_their_maps(dtype):
    """As near to float32 as rounding allows, whichever device they were laid out for, and inputs stay as they were."""
    model = detector("htc_r50", channels=16, **ALL)
    for part in (model.pafpn, model.aspp, model.semantic_head):
        shaken(part)
    levels = [one.contiguous(memory_format=torch.channels_last) for one in maps(16)]
    bounds = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
    for device in (CPU, GPU):
        made = prepare(model, dtype, device)
        for part, own in ((model.pafpn, made.pafpn), (model.aspp, made.aspp)):
            wanted, found = part(levels), own([one.to(dtype).clone() for one in levels])
            for one, other in zip(found, wanted, strict=True):
                assert one.dtype == dtype and one.shape == other.shape
                assert (one.float() - other).norm() <= bounds[dtype] * other.norm()
        merged, want = made.semantic_head.merge([one.to(dtype) for one in levels]), model.semantic_head.merge(levels)
        assert merged.dtype == dtype and (merged.float() - want).norm() <= bounds[dtype] * want.norm()


@torch.no_grad()
def test_the_base_of_the_pyramid_is_the_one_that_every_detector_has():
    model = detector("htc_r50", **ALL)
    made = prepare(model, torch.float32)
    assert type(made.fpn) is FusedFPN
    for one, other in zip(made.extract(images()), model.extract(images()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(one, GCN) for one in made.modules())
    assert sum(isinstance(one, FusedGCN) for one in made.modules()) == 5


def test_where_there_are_none_nothing_changes():
    model = detector("cascade_mask_r50")
    before = [one for name, one in model.named_modules() if name and not name.startswith("fpn")]
    fuse_necks(model, gpu=False)
    after = [one for name, one in model.named_modules() if name and not name.startswith("fpn")]
    assert len(before) == len(after) > 30 and all(map(lambda a, b: a is b, before, after))


@torch.no_grad()
def test_sums_and_relus_take_no_launch(monkeypatch):
    made = prepare(detector("htc_r50", backbone="resnet18", **ALL), torch.bfloat16, GPU)
    parts = launched(made, monkeypatch)
    found, semantic = parts["FPN"], parts["semantic"]
    # The pyramid's 1 + 4, two at each of three steps back up, five scales at each of four levels.
    assert found["convolution"] == 5 + 6 + 20 and found["lateral"] == 3
    assert not {"aten.relu", "aten.relu_"} & found.keys() and found["aten.add"] == 4  # the mean's share of the last 1x1
    assert semantic["convolution"] == 5 * 4 + 1 and "aten.relu_" not in semantic
    assert semantic["aten.add"] == 4  # of five levels
