"""NMS in Triton against the reference: on the GPU if there is one, in Triton's interpreter otherwise."""

import subprocess
import sys

import pytest
import torch

from htc_fast import ops

pytest.importorskip("triton")
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
pytestmark = pytest.mark.filterwarnings("ignore:invalid value")


def draw(images: int, count: int, classes: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(images, count, 2, generator=generator) * 100
    size = torch.rand(images, count, 2, generator=generator) * 40 + 1
    # Few distinct scores, so that ties happen; whole coordinates, so that IoUs hit the threshold exactly.
    scores = torch.randint(0, max(2, count // 2), (images, count), generator=generator) / count
    idxs = torch.randint(-1, classes - 1, (images, count), generator=generator)
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=2).round()
    return boxes.to(DEVICE), scores.to(DEVICE), idxs.to(DEVICE)


@pytest.fixture(params=["one chunk", "many chunks"])
def chunks(request, monkeypatch):
    from htc_fast.ops.triton import nms, nms_matrix

    if request.param == "many chunks":
        monkeypatch.setattr(nms_matrix, "MATRIX_BYTES", 1)  # four tiles of 64 boxes at a time
    monkeypatch.setattr(nms, "WALKED", 20)


@pytest.mark.parametrize(
    "images, count, classes", [(1, 1, 1), (2, 64, 1), (1, 65, 2), (2, 300, 1), (1, 330, 3), (1, 400, 50), (1, 520, 2)]
)
@pytest.mark.parametrize("most", [10, 33, 1000])
def test_equals_reference(chunks, images, count, classes, most):
    boxes, scores, idxs = draw(images, count, classes)
    got, counts = both("batched_nms_padded", boxes, scores, idxs, 0.5, most, 0.1)
    assert got.shape == (images, most) and (got[:, int(counts.max()) :] == -1).all()


def both(name: str, *arguments):
    """The operator's result in Triton, once it equals the reference's."""
    results = []
    for backend in ("triton", "reference"):
        with ops.use_backend(backend):
            results.append(getattr(ops, name)(*arguments))
    got, want = results
    pairs = zip(got, want) if isinstance(got, tuple) else [(got, want)]
    assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in pairs)
    return got


@pytest.mark.parametrize("threshold", [-0.1, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("most", [20, 300])
def test_thresholds(chunks, threshold, most):
    both("batched_nms_padded", *draw(1, 300, 2, seed=1), threshold, most, -float("inf"))


@pytest.mark.parametrize("most", [0, 20, 300])
def test_broken_boxes_and_scores(chunks, most):
    boxes, scores, idxs = draw(2, 300, 2)
    boxes[0, 3, 0], boxes[1, 5, 2], scores[0, 7], scores[1, 9], scores[1, 2] = (
        torch.nan, torch.inf, torch.nan, torch.inf, -torch.inf)  # fmt: skip
    scores[0, 100:] = 0
    kept, _ = both("batched_nms_padded", boxes, scores, idxs, 0.5, most, 0.0)
    assert not {3, 7} & set(kept[0].tolist()) and not {5, 2} & set(kept[1].tolist())


def test_all_the_same_box(chunks):
    boxes = torch.tensor([0.0, 0, 8, 8], device=DEVICE).expand(1, 300, 4)
    scores, idxs = torch.full((1, 300), 0.5, device=DEVICE), torch.arange(300, device=DEVICE)[None] // 150
    kept, counts = both("batched_nms_padded", boxes, scores, idxs, 0.5, 100, 0.0)
    assert counts.tolist() == [2] and kept[0, :2].tolist() == [0, 150]


def test_chain_needs_every_round(chunks):
    # Each box overlaps only its neighbours: every second one stays, and each decision waits for the one before.
    left = torch.arange(130.0, device=DEVICE) * 4
    boxes = torch.stack([left, left * 0, left + 10, left * 0 + 10], dim=1)[None]
    scores = torch.linspace(1, 0.5, 130, device=DEVICE)[None]
    kept, _ = both("batched_nms_padded", boxes, scores, torch.zeros_like(scores, dtype=torch.int64), 0.4, 130, 0.0)
    assert kept[0, :65].tolist() == list(range(0, 130, 2))


@pytest.mark.parametrize("count", [0, 1, 300])
def test_ragged_functions(count):
    boxes, scores, idxs = (one[0] for one in draw(1, count, 4))
    both("nms", boxes, scores, 0.5)
    both("batched_nms", boxes, scores, idxs, 0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_dtypes_and_strides(dtype):
    boxes, scores, idxs = (one[0] for one in draw(1, 120, 2))
    boxes, scores = boxes.to(dtype).t().contiguous().t(), scores.to(dtype)
    both("batched_nms", boxes, scores, idxs.int(), 0.5)


def test_no_images():
    kept, counts = both("batched_nms_padded", *draw(0, 10, 2), 0.5, 7, 0.0)
    assert kept.shape == (0, 7) and counts.shape == (0,)


def test_opcheck_compile_export():
    boxes, scores, idxs = draw(2, 70, 2)
    namespace = torch.ops.htc_fast_triton
    torch.library.opcheck(namespace.batched_nms_padded.default, (boxes, scores, idxs, 0.5, 30, 0.1))
    torch.library.opcheck(namespace.batched_nms.default, (boxes[0], scores[0], idxs[0], 0.5))

    class Keep(torch.nn.Module):
        def forward(self, boxes, scores, idxs):
            return ops.batched_nms_padded(boxes, scores, idxs, 0.5, 30, 0.1)

    with ops.use_backend("triton"):
        want = Keep()(boxes, scores, idxs)
        compiled = torch.compile(Keep(), backend="aot_eager", fullgraph=True)(boxes, scores, idxs)
        exported = torch.export.export(Keep(), (boxes, scores, idxs)).module()(boxes, scores, idxs)
    for got in (compiled, exported):
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


WITHOUT_TRITON = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "triton" or name.startswith("triton."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
if sys.argv[1] == "absent":
    sys.meta_path.insert(0, Absent())
import torch
from htc_fast import ops
assert not any(name.startswith("htc_fast.ops.triton.roi") for name in sys.modules)
with ops.use_backend("triton"):
    try:
        ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except RuntimeError as error:
        print(error)
"""


@pytest.mark.parametrize("state, sentence", [("absent", "has no 'triton' backend"), ("there", "needs cuda tensors")])
def test_importing_needs_no_triton(state, sentence):
    environment = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "", "HTC_FAST_BACKEND": ""}
    command = [sys.executable, "-c", WITHOUT_TRITON, state]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0 and sentence in result.stdout, result.stdout + result.stderr


@pytest.mark.skipif(not CUDA, reason="needs a GPU: the interpreter has no streams or graphs")
@pytest.mark.parametrize("most", [100, 1000])
def test_graph_without_synchronisation(most):
    boxes, scores, idxs = draw(4, 2000, 5)

    def call():
        return ops.batched_nms_padded(boxes, scores, idxs, 0.5, most, 0.1)

    with ops.use_backend("triton"):
        want = call()
        torch.cuda.set_sync_debug_mode("error")
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        captured[0].zero_()
        graph.replay()
    assert torch.equal(captured[0], want[0]) and torch.equal(captured[1], want[1])


@pytest.mark.skipif(not CUDA, reason="a million boxes take the interpreter hours")
@pytest.mark.parametrize("classes", [1, 80])
def test_a_million_boxes(classes):
    count, generator = 1_000_000, torch.Generator(DEVICE).manual_seed(0)
    corner = torch.rand(count, 2, device=DEVICE, generator=generator) * 20_000
    boxes = torch.cat([corner, corner + 20], dim=1)
    scores = torch.rand(count, device=DEVICE, generator=generator)
    with ops.use_backend("triton"):
        kept = ops.batched_nms(boxes, scores, torch.arange(count, device=DEVICE) % classes, 0.5)
    assert count // 3 < len(kept) <= count and torch.cuda.max_memory_allocated() < 4 << 30
