"""NMS and the mask operators on a GPU against the reference on the CPU."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from htc_fast import ops
from htc_fast.ops import _backend, _native


def need(op: str, backend: str) -> None:
    if backend not in _backend.available.get(op, ()) or (
        backend == "cuda" and f"htc_fast::{op}" not in _native.cuda_operators
    ):
        pytest.skip(f"{op} has no {backend} backend here")


def draw(images: int, count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(images, count, 2, generator=generator) * 300
    size = torch.rand(images, count, 2, generator=generator) * 80 + 1
    # Rounded scores: ties must be broken by index.
    scores = (torch.rand(images, count, generator=generator) * 200).round() / 200
    idxs = torch.randint(0, classes, (images, count), generator=generator)
    return torch.cat([centre - size / 2, centre + size / 2], dim=2), scores, idxs


CASES = [
    (1, 1, 1, 5),
    (2, 63, 1, 100),
    (3, 64, 3, 10),
    (2, 65, 80, 100),
    (5, 1000, 1, 1000),
    (1, 3000, 80, 100),
    (2, 2049, 5, 2000),
]


@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("images, count, classes, most", CASES)
def test_padded(images, count, classes, most, backend):
    need("batched_nms_padded", backend)
    boxes, scores, idxs = draw(images, count, classes)
    boxes[0, count // 2] = float("nan")
    with ops.use_backend("reference"):
        wanted, counts = ops.batched_nms_padded(boxes, scores, idxs, 0.5, most, 0.05)
    with ops.use_backend(backend):
        found, found_counts = ops.batched_nms_padded(boxes.cuda(), scores.cuda(), idxs.cuda(), 0.5, most, 0.05)
    assert found_counts.tolist() == counts.tolist() and torch.equal(found.cpu(), wanted)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("count, classes", [(0, 1), (1, 1), (300, 1), (5000, 80)])
def test_ragged(count, classes, backend):
    need("batched_nms", backend)
    boxes, scores, idxs = (one[0] for one in draw(1, count, classes))
    with ops.use_backend("cpp"):
        wanted = ops.batched_nms(boxes, scores, idxs, 0.5)
    with ops.use_backend(backend):
        found = ops.batched_nms(boxes.cuda(), scores.cuda(), idxs.cuda(), 0.5)
    assert found.tolist() == wanted.tolist()


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_padded_in_a_graph_without_waiting(backend):
    need("batched_nms_padded", backend)
    boxes, scores, idxs = (one.cuda() for one in draw(2, 500, 3))
    with ops.use_backend(backend):
        run = lambda: ops.batched_nms_padded(boxes, scores, idxs, 0.5, 100)  # noqa: E731
        run()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        run()
        torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found, counts = run()
        boxes.add_(3)
        scores.copy_(scores.flip(1))
        graph.replay()
        wanted, wanted_counts = run()
    assert torch.equal(found, wanted) and torch.equal(counts, wanted_counts)


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize(
    "count, classes, most", [(0, 1, 10), (1, 1, 10), (700, 1, 100), (700, 80, 700), (5000, 80, 300)]
)
def test_soft(count, classes, most, method):
    need("soft_nms", "cuda")
    boxes, scores, idxs = (one[0] for one in draw(1, count, classes))
    wanted, decayed = ops.soft_nms(boxes, scores, idxs, method=method, max_output=most)
    found, found_decayed = ops.soft_nms(boxes.cuda(), scores.cuda(), idxs.cuda(), method=method, max_output=most)
    # Scores that decay to the same but for rounding may change places.
    torch.testing.assert_close(found_decayed.cpu(), decayed, rtol=1e-5, atol=1e-6)
    assert sum(a == b for a, b in zip(found.tolist(), wanted.tolist())) >= 0.98 * len(wanted)


def mask_inputs(count: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(count, 28, 28, generator=generator)
    corner = torch.rand(count, 2, generator=generator) * 300 - 30
    return masks, torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 150], dim=1)


def test_paste_masks():
    need("paste_masks", "cuda")
    masks, boxes = mask_inputs()
    wanted = ops.paste_masks(masks, boxes, (240, 320))
    assert torch.equal(ops.paste_masks(masks.cuda(), boxes.cuda(), (240, 320)).cpu(), wanted)


def test_encode_masks():
    need("encode_masks", "cuda")
    masks, boxes = mask_inputs()
    assert ops.encode_masks(masks.cuda(), boxes.cuda(), (240, 320)) == ops.encode_masks(masks, boxes, (240, 320))


def test_detect_never_waits():
    pytest.importorskip("timm")
    from htc_fast.models import htc, zoo

    model = htc.HTC(zoo.config("htc_r50", pretrained=False)).cuda().eval().to(memory_format=torch.channels_last)
    images = torch.randn(1, 3, 320, 448, device="cuda").contiguous(memory_format=torch.channels_last)
    sizes = torch.tensor([[310, 440]], device="cuda")
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        model.detect(images, sizes)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = model.detect(images, sizes)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert found.boxes.shape == (1, 100, 4)


def test_boxes_at_an_odd_address_and_not_side_by_side():
    need("batched_nms", "cuda")
    boxes, scores, idxs = (one[0].cuda() for one in draw(1, 300, 3))
    wanted, soft = ops.batched_nms(boxes, scores, idxs, 0.5), ops.soft_nms(boxes, scores, idxs)
    odd = torch.cat([boxes.new_zeros(1), boxes.flatten()])[1:].view(300, 4)
    wide = torch.cat([boxes, scores[:, None]], dim=1)
    for given in (odd, wide[:, :4]):
        assert torch.equal(ops.batched_nms(given, wide[:, 4], idxs, 0.5), wanted)
        assert torch.equal(ops.soft_nms(given, wide[:, 4], idxs)[0], soft[0])


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_a_million_boxes_need_no_matrix(backend):
    need("batched_nms_padded", backend)
    count = 1_000_000
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(1, count, 2, generator=generator) * 4000
    boxes = torch.cat([corner, corner + 30], dim=2)
    scores, idxs = torch.rand(1, count, generator=generator), torch.randint(0, 80, (1, count), generator=generator)
    torch.cuda.reset_peak_memory_stats()
    with ops.use_backend(backend):
        found, kept = ops.batched_nms_padded(boxes.cuda(), scores.cuda(), idxs.cuda(), 0.5, 1000)
    assert torch.cuda.max_memory_allocated() < 1 << 30
    with ops.use_backend("cpp"):
        wanted, _ = ops.batched_nms_padded(boxes, scores, idxs, 0.5, 1000)
    assert kept.item() == 1000 and torch.equal(found.cpu(), wanted)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_threads_on_streams_of_their_own(backend):
    need("batched_nms_padded", backend)
    problems = [draw(2, 400 + 100 * seed, 5, seed) for seed in range(6)]
    with ops.use_backend("cpp"):
        wanted = [ops.batched_nms_padded(*one, 0.5, 300)[0] for one in problems]

    def work(problem):
        with torch.cuda.stream(torch.cuda.Stream()), ops.use_backend(backend):
            given = [one.cuda() for one in problem]
            found = [ops.batched_nms_padded(*given, 0.5, 300)[0] for _ in range(10)]
            return [one.cpu() for one in found]

    with ThreadPoolExecutor(6) as pool:
        for found, one in zip(pool.map(work, problems), wanted):
            assert all(torch.equal(again, one) for again in found)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_of_another_device_than_the_current_one():
    need("batched_nms", "cuda")
    boxes, scores, idxs = (one[0] for one in draw(1, 300, 3))
    wanted = ops.batched_nms(boxes, scores, idxs, 0.5)
    with torch.cuda.device(0):
        found = ops.batched_nms(boxes.to("cuda:1"), scores.to("cuda:1"), idxs.to("cuda:1"), 0.5)
    assert found.device.index == 1 and torch.equal(found.cpu(), wanted)


def test_paste_masks_is_captured():
    need("paste_masks", "cuda")
    masks, boxes = (one.cuda() for one in mask_inputs())
    ops.paste_masks(masks, boxes, (240, 320))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = ops.paste_masks(masks, boxes, (240, 320))
    boxes.add_(4)
    graph.replay()
    assert torch.equal(found, ops.paste_masks(masks, boxes, (240, 320)))
