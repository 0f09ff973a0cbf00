"""The whole detector on a GPU: no waits, graphs per shape, and pictures to instances as on the CPU."""

import contextlib
import copy
import threading

import numpy as np
import pytest
import torch

from htc_fast.criterion.losses import losses
from htc_fast.inference import graphs, optimize
from htc_fast.inference.graphs import Captured
from htc_fast.inference.predict import predict
from htc_fast.models import zoo
from htc_fast.models.htc import HTC
from htc_fast.models.structures import Targets
from tests.models.test_zoo import tiny
from tests.ops.backends import exact_products, needs_gpu, run_without_waiting

pytestmark = needs_gpu
SIZES = [(64, 96), (96, 64), (64, 64)]


@pytest.fixture
def exact():
    """fp32 sums as on the CPU."""
    with exact_products():
        yield


@pytest.fixture
def no_waits():
    """A function that runs a call and fails where the host would wait for the device."""

    def run(call):
        call()  # first use may compile and allocate
        return run_without_waiting(call)

    return run


def inputs(height, width, count=1, seed=0):
    torch.manual_seed(seed)
    return torch.randn(count, 3, height, width).cuda(), torch.tensor([[height, width]] * count).cuda()


def assert_equal(found, want, tolerance):
    assert torch.equal(found.labels.cpu(), want.labels.cpu()) and want.count.min() > 0
    for name in ("boxes", "scores", "masks"):
        torch.testing.assert_close(
            getattr(found, name).cpu(), getattr(want, name).cpu(), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("name", ["htc_r50", "htc_r50_nosem", "mask_rcnn_r50"])
def test_detect_does_not_wait(name, no_waits):
    model = tiny(name).eval().cuda()
    images, sizes = inputs(64, 96, count=2)
    assert no_waits(lambda: model.detect(images, sizes)).count.min() > 0
    fast = optimize(model, (64, 96), 2, torch.bfloat16)
    assert no_waits(lambda: fast.detect(images, sizes)).count.min() > 0


def test_the_paper_s_model_does_not_wait(no_waits):
    model = HTC(zoo.config("htc_r50", pretrained=False)).cuda().eval().to(memory_format=torch.channels_last)
    images, sizes = inputs(320, 448)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        found = no_waits(lambda: model.detect(images, sizes - 8))
    assert found.boxes.shape == (1, 100, 4)


def test_losses_do_not_wait(no_waits):
    model = tiny("htc_r50").cuda().train()
    images, sizes = inputs(64, 96, count=2)
    boxes = torch.tensor([[[5.0, 5, 40, 50], [30, 10, 90, 60]]] * 2).cuda()
    masks = torch.zeros(2, 2, 64, 96, dtype=torch.uint8).cuda()
    masks[:, :, 10:40, 20:50] = 1
    labels, semantic = torch.tensor([[0, 2]] * 2).cuda(), torch.zeros(2, 8, 12, dtype=torch.int64).cuda()
    generator = torch.Generator("cuda")
    found = no_waits(lambda: losses(model, images, sizes, Targets(boxes, labels, masks, semantic), generator=generator))
    assert all(value.isfinite().all() for value in found.values())


def test_a_graph_per_shape_finds_what_the_detector_finds(exact):
    model = tiny("htc_r50").eval().cuda()
    fast = optimize(model, (64, 96), 1, torch.float32)
    for seed in (0, 1):
        for height, width in SIZES:
            images, sizes = inputs(height, width, seed=seed)
            assert_equal(fast.detect(images, sizes), model.detect(images, sizes), 1e-4)
    assert len(fast.buckets.made) == len(SIZES)
    assert all(isinstance(one, Captured) for one in fast.buckets.made.values())
    fast.buckets.limit = 1
    images, sizes = inputs(32, 64)
    assert_equal(fast.detect(images, sizes), model.detect(images, sizes), 1e-4)
    assert len(fast.buckets.made) == 1


def test_a_graph_of_two_branches_finds_what_one_branch_finds(exact, monkeypatch):
    model = tiny("htc_r50").eval().cuda()
    forked = optimize(model, (64, 96), 1, torch.float32)
    given = [inputs(*SIZES[seed % len(SIZES)], seed=seed) for seed in range(9)]
    found = [forked.detect(*one) for one in given]
    monkeypatch.setattr(graphs, "offering", lambda stream: contextlib.nullcontext())
    single = optimize(model, (64, 96), 1, torch.float32)
    for one, images_and_sizes in zip(found, given):
        for value, expected in zip(vars(one).values(), vars(single.detect(*images_and_sizes)).values(), strict=True):
            assert torch.equal(value, expected)


def test_results_of_an_earlier_call_stay(exact):
    fast = optimize(tiny("htc_r50").eval().cuda(), (64, 96), 1, torch.float32)
    first = fast.detect(*inputs(64, 96, seed=0))
    before = copy.deepcopy(first)
    fast.detect(*inputs(64, 96, seed=1))
    assert torch.equal(first.boxes, before.boxes) and torch.equal(first.masks, before.masks)


def test_threads_on_streams_of_their_own_do_not_share_memory(exact):
    model = tiny("htc_r50").eval().cuda()
    fast = optimize(model, (64, 96), 1, torch.float32)
    given = [inputs(*SIZES[seed % len(SIZES)], seed=seed) for seed in range(6)]
    wanted, found = [model.detect(*one) for one in given], {}
    torch.cuda.synchronize()

    def work(index):
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                found[index] = fast.detect(*given[index])
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(given))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for index, want in enumerate(wanted):
        assert_equal(found[index], want, 1e-4)


def test_memory_that_runs_out_leaves_the_model_usable():
    fast = optimize(tiny("htc_r50").eval().cuda(), (64, 96), 1, torch.float32)
    first = fast.detect(*inputs(64, 96))
    detect, calls = fast.network.detect, []

    def hungry(*given):
        calls.append(torch.cuda.is_current_stream_capturing())
        return torch.empty(1 << 50, device="cuda") if len(calls) > 3 else detect(*given)

    fast.network.detect = hungry  # runs out inside the capture, behind the warm-up
    with pytest.raises(torch.OutOfMemoryError, match="1 image of 96 x 64"):
        fast.detect(*inputs(96, 64))
    assert any(calls)
    del fast.network.detect
    again = fast.detect(*inputs(64, 96))
    assert torch.equal(again.count, first.count)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_on_the_second_gpu_while_the_first_is_current(exact):
    model = tiny("htc_r50").eval().to("cuda:1")
    fast = optimize(model, (64, 96), 1, torch.float32)
    given = [one.to("cuda:1") for one in inputs(64, 96)]
    assert_equal(fast.detect(*given), model.detect(*given), 1e-4)
    assert isinstance(next(iter(fast.buckets.made.values())), Captured)


@pytest.mark.parametrize("optimized", [False, True])
def test_pictures_give_what_they_give_on_the_cpu(exact, optimized):
    draw = np.random.default_rng(0)
    pictures = [
        draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((60, 100), (90, 50), (60, 100), (40, 40))
    ]
    model = tiny("htc_r50").eval()
    options = {"size": (64, 96), "batch_size": 2, "score_threshold": 0.0}
    wanted = predict(model, pictures, **options)
    device = copy.deepcopy(model).cuda()
    found = predict(optimize(device, (64, 96), 2, torch.float32) if optimized else device, pictures, **options)
    for one, other in zip(found, wanted, strict=True):
        assert one.size == other.size and len(one) == len(other) > 0
        # The GPU's resize rounds some pixels the other way.
        torch.testing.assert_close(one.scores, other.scores, rtol=0.05, atol=0.01)
