"""NMS where only a GPU can show it: captured in a graph, on other streams and threads, a million boxes."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from htc_fast import ops
from tests.ops.backends import CUDA, ON_GPU, TRITON, columns, run_without_waiting
from tests.ops.nms_cases import draw

ON = pytest.mark.parametrize("column", columns("batched_nms_padded", ON_GPU))


@ON
def test_padded_in_a_graph_without_waiting(column):
    boxes, scores, idxs = (one.cuda() for one in draw(2, 500, 3))
    with ops.use_backend(column.backend):
        run = lambda: ops.batched_nms_padded(boxes, scores, idxs, 0.5, 100)  # noqa: E731
        run()
        run_without_waiting(run)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found, counts = run()
        boxes.add_(3)
        scores.copy_(scores.flip(1))
        graph.replay()
        wanted, wanted_counts = run()
    assert torch.equal(found, wanted) and torch.equal(counts, wanted_counts)


@pytest.mark.parametrize("column", columns("soft_nms_padded", (CUDA,)))
@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_soft_in_a_graph_without_waiting(method, column):
    boxes, scores, idxs = column.give(draw(3, 900, 3, spread=200))
    run = lambda: ops.soft_nms_padded(boxes, scores, idxs, method=method, max_output=100)  # noqa: E731
    run()
    run_without_waiting(run)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    scores.copy_(scores.flip(1))
    graph.replay()
    with ops.use_backend("cpp"):
        wanted = ops.soft_nms_padded(boxes.cpu(), scores.cpu(), idxs.cpu(), method=method, max_output=100)
    assert all(torch.equal(one.cpu(), other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("column", columns("batched_nms", (CUDA,)))
def test_boxes_at_an_odd_address_and_not_side_by_side(column):
    boxes, scores, idxs = (one[0].cuda() for one in draw(1, 300, 3))
    wanted, soft = ops.batched_nms(boxes, scores, idxs, 0.5), ops.soft_nms(boxes, scores, idxs)
    odd = torch.cat([boxes.new_zeros(1), boxes.flatten()])[1:].view(300, 4)
    wide = torch.cat([boxes, scores[:, None]], dim=1)
    for given in (odd, wide[:, :4]):
        assert torch.equal(ops.batched_nms(given, wide[:, 4], idxs, 0.5), wanted)
        assert torch.equal(ops.soft_nms(given, wide[:, 4], idxs)[0], soft[0])


@ON
def test_a_million_boxes_need_no_matrix(column):
    count = 1_000_000
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(1, count, 2, generator=generator) * 4000
    boxes = torch.cat([corner, corner + 30], dim=2)
    scores, idxs = torch.rand(1, count, generator=generator), torch.randint(0, 80, (1, count), generator=generator)
    torch.cuda.reset_peak_memory_stats()
    with ops.use_backend(column.backend):
        found, kept = ops.batched_nms_padded(boxes.cuda(), scores.cuda(), idxs.cuda(), 0.5, 1000)
    assert torch.cuda.max_memory_allocated() < 1 << 30
    with ops.use_backend("cpp"):
        wanted, _ = ops.batched_nms_padded(boxes, scores, idxs, 0.5, 1000)
    assert kept.item() == 1000 and torch.equal(found.cpu(), wanted)


@ON
def test_threads_on_streams_of_their_own(column):
    problems = [draw(2, 400 + 100 * seed, 5, seed) for seed in range(6)]
    with ops.use_backend("cpp"):
        wanted = [ops.batched_nms_padded(*one, 0.5, 300)[0] for one in problems]

    def work(problem):
        with torch.cuda.stream(torch.cuda.Stream()), ops.use_backend(column.backend):
            given = [one.cuda() for one in problem]
            found = [ops.batched_nms_padded(*given, 0.5, 300)[0] for _ in range(10)]
            return [one.cpu() for one in found]

    with ThreadPoolExecutor(6) as pool:
        for found, one in zip(pool.map(work, problems), wanted):
            assert all(torch.equal(again, one) for again in found)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("column", columns("batched_nms", (CUDA,)))
def test_tensors_of_another_device_than_the_current_one(column):
    boxes, scores, idxs = (one[0] for one in draw(1, 300, 3))
    wanted = ops.batched_nms(boxes, scores, idxs, 0.5)
    with torch.cuda.device(0):
        found = ops.batched_nms(boxes.to("cuda:1"), scores.to("cuda:1"), idxs.to("cuda:1"), 0.5)
    assert found.device.index == 1 and torch.equal(found.cpu(), wanted)


@pytest.mark.parametrize("column", columns("batched_nms", ON_GPU))
@pytest.mark.parametrize("count, classes", [(0, 1), (1, 1), (300, 1), (5000, 80)])
def test_ragged(count, classes, column):
    boxes, scores, idxs = (one[0] for one in draw(1, count, classes, spread=300))
    with ops.use_backend("cpp"):
        wanted = ops.batched_nms(boxes, scores, idxs, 0.5)
    assert column.call("batched_nms", boxes, scores, idxs, 0.5).tolist() == wanted.tolist()


@pytest.mark.parametrize("column", columns("batched_nms_padded", (TRITON,)))
@pytest.mark.parametrize("most", [100, 1000])
def test_graph_without_waiting(most, column):
    boxes, scores, idxs = column.give(draw(4, 2000, 5, spread=100))

    def call():
        return ops.batched_nms_padded(boxes, scores, idxs, 0.5, most, 0.1)

    def capture():
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            return graph, call()

    with ops.use_backend("triton"):
        want = call()
        graph, captured = run_without_waiting(capture)
        captured[0].zero_()
        graph.replay()
    assert torch.equal(captured[0], want[0]) and torch.equal(captured[1], want[1])


@pytest.mark.parametrize("column", columns("batched_nms", (TRITON,)))
@pytest.mark.parametrize("classes", [1, 80])
def test_a_million_ragged_boxes(classes, column):
    count, generator = 1_000_000, torch.Generator("cuda").manual_seed(0)
    corner = torch.rand(count, 2, device="cuda", generator=generator) * 20_000
    boxes = torch.cat([corner, corner + 20], dim=1)
    scores = torch.rand(count, device="cuda", generator=generator)
    with ops.use_backend("triton"):
        kept = ops.batched_nms(boxes, scores, torch.arange(count, device="cuda") % classes, 0.5)
    assert count // 3 < len(kept) <= count and torch.cuda.max_memory_allocated() < 4 << 30
