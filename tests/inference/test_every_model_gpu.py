"""Every kind of network on a GPU: it finds what it finds on the CPU, learns the same, and waits for nothing."""

import copy
import math

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
        assert math.isclose(float(found[key]), float(one), rel_tol=0.02, abs_tol=1e-3), key
    grads = {key: one.grad for key, one in model.named_parameters()}
    for key, one in other.named_parameters():
        assert (one.grad is None) == (grads[key] is None), key
    mine, theirs = (
        torch.stack([one.grad.double().norm().cpu() for one in net.parameters() if one.grad is not None])
        for net in (other, model)
    )
    assert (mine / theirs.clamp(min=1e-6) - 1).abs()[theirs > 1e-3 * theirs.max()].median() < 0.01


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


def test_the_step_of_several_processes_is_that_of_one(tmp_path):
    """Batch norms over all processes, by NCCL; with one GPU there is one process."""
    import torch.distributed as dist

    model = tiny("htc_r50_dcn_syncbn", rpn_train_proposals=60, samples=32).train().cuda()
    alone = copy.deepcopy(model)
    given = torch.randn(3, 3, 64, 96).cuda(), test_family.SIZES.cuda(), targets().to("cuda")
    with exact_products():
        want = losses(alone, *given, priority)
        dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
        try:
            wrapped = torch.nn.parallel.DistributedDataParallel(_Losses(model), device_ids=[0])
            found = wrapped(*given)
            sum(found.values()).backward()
        finally:
            dist.destroy_process_group()
    for key, one in want.items():
        torch.testing.assert_close(found[key], one, rtol=1e-4, atol=1e-5)


class _Losses(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *given):
        return losses(self.model, *given, priority)
