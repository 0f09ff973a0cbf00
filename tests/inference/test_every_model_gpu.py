"""Every kind of network on a GPU: it finds what it finds on the CPU, learns the same, and waits for nothing."""

import copy
import math
from collections import Counter

import numpy as np
import pytest
import torch

from htc_fast.criterion.losses import losses
from htc_fast.inference import Views, optimize
from tests.criterion.test_family_losses import priority, targets
from tests.inference.test_every_model import KINDS
from tests.inference.test_optimize import detector, images
from tests.models import test_family
from tests.models.test_zoo import SIZES, tiny
from tests.ops.backends import exact_products, needs_gpu, run_without_waiting

pytestmark = needs_gpu


def alike(found, want, tolerance=1e-3):
    """Rounding may swap neighbours in the order of scores, and which of two near-equal boxes stays."""
    assert torch.equal(found.count.cpu(), want.count.cpu()) and want.count.min() > 0
    torch.testing.assert_close(found.scores.cpu(), want.scores.cpu(), rtol=tolerance, atol=tolerance)
    same = found.labels.cpu() == want.labels.cpu()
    assert same.float().mean() >= 0.75
    near = (found.boxes.cpu() - want.boxes.cpu()).abs().amax(dim=2)[same] < 0.05
    assert near.float().mean() >= 0.75


@pytest.mark.parametrize("name", KINDS)
def test_detections_are_the_cpu_s(name):
    model = detector(name)
    want = model.detect(images(), SIZES)
    model, given = model.cuda(), (images().cuda(), SIZES.cuda())
    with exact_products():
        eager = model.detect(*given)
        alike(eager, want)
        fast = optimize(model, (64, 96), batch_size=2, dtype=torch.float32)
        for _ in range(2):  # the capture, and a replay
            alike(fast.detect(*given), eager)
    assert run_without_waiting(lambda: model.detect(*given)).count.min() > 0
    assert run_without_waiting(lambda: fast.detect(*given)).count.min() > 0


@pytest.mark.parametrize("name", KINDS)
def test_sixteen_bits_find_much_the_same(name):
    model = detector(name).cuda()
    want = model.detect(images().cuda(), SIZES.cuda())
    fast = optimize(model, (64, 96), batch_size=2)
    found = fast.detect(images().cuda(), SIZES.cuda())
    assert torch.equal(found.count, want.count) and found.masks.isfinite().all()
    torch.testing.assert_close(found.scores, want.scores, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("name", KINDS)
def test_losses_and_gradients_are_the_cpu_s(name):
    model = tiny(name, rpn_train_proposals_per_level=100, rpn_train_proposals=60, samples=32).train()
    torch.manual_seed(2)
    pictures, sizes = torch.randn(3, 3, 64, 96), test_family.SIZES
    other = copy.deepcopy(model).cuda()
    want = losses(model, pictures, sizes, targets(), priority)
    sum(want.values()).backward()
    on_gpu = pictures.cuda(), sizes.cuda(), targets().to("cuda")
    with exact_products():
        found = losses(other, *on_gpu, priority)
        sum(found.values()).backward()
        run_without_waiting(lambda: losses(other, *on_gpu, priority))
    assert found.keys() == want.keys()
    for key, one in want.items():
        assert math.isclose(found[key].item(), one.item(), rel_tol=0.02, abs_tol=1e-3), key
    assert [key for key, one in other.named_parameters() if one.grad is None] == [
        key for key, one in model.named_parameters() if one.grad is None
    ]
    far = {part: one for part, one in distances(other, model).items() if one > 0.3}
    assert far == {}


def distances(one, other):
    """Part of a network -> how far apart the gradients of its weights are, beside their length."""
    apart, length = Counter(), Counter()
    for (key, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        if theirs.grad is not None:
            part = key.split(".")[0]
            apart[part] += float((mine.grad.double().cpu() - theirs.grad.double().cpu()).square().sum())
            length[part] += float(theirs.grad.double().square().sum())
    return {part: (apart[part] / max(length[part], 1e-12)) ** 0.5 for part in length}


@pytest.mark.parametrize("name", ["htc_r50", "htc_r50_ga", "htc_winner"])
def test_views_on_a_gpu_are_the_cpu_s(name):
    model = tiny(name, image_size=(64, 96)).eval()
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    sizes = [(64, 96), (100, 130)]
    (want,) = Views(copy.deepcopy(model), sizes).predict([picture], score_threshold=0.0)
    with exact_products():
        (found,) = Views(model.cuda(), sizes).predict([picture], score_threshold=0.0)
    assert len(found) == len(want) > 2
    torch.testing.assert_close(found.scores.cpu(), want.scores.cpu(), rtol=1e-3, atol=1e-3)


def test_a_process_that_has_joined_others_steps_as_one_alone(tmp_path):
    """By NCCL; with one GPU there is one process, so that no norm has another's rows to count."""
    import torch.distributed as dist

    model = tiny("htc_r50_dcn_syncbn", rpn_train_proposals=60, samples=32).train().cuda()
    alone = copy.deepcopy(model)
    given = torch.randn(3, 3, 64, 96).cuda(), test_family.SIZES.cuda(), targets().to("cuda")
    with exact_products():
        want = losses(alone, *given, priority)
        sum(want.values()).backward()
        dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
        try:
            wrapped = torch.nn.parallel.DistributedDataParallel(_Losses(model), device_ids=[0])
            found = wrapped(*given)
            sum(found.values()).backward()
        finally:
            dist.destroy_process_group()
    for key, one in want.items():
        torch.testing.assert_close(found[key], one, rtol=1e-4, atol=1e-5)
    assert {part: one for part, one in distances(model, alone).items() if one > 0.05} == {}


class _Losses(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *given):
        return losses(self.model, *given, priority)
