"""RoIAlign in Triton against the reference: on the GPU if there is one, in Triton's interpreter otherwise."""

import threading

import pytest
import torch

from htc_fast import ops

pytest.importorskip("triton")
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
NAN, INF = float("nan"), float("inf")
BOXES = [[0, 0.0, 0, 50, 40], [1, -20, -10, 25, 30], [1, 60, 40, 75, 60], [0, 3, 3, 40.5, 60], [1, 20, 20, 20, 20]]
BROKEN = [[0, NAN, 0, 9, 9], [1, 0, 0, INF, 9], [1, 0, -INF, 3, 3], [0, 1, 1, 9, 9]]
LARGE = [[0, 0, 0, 500, 500], [1, 0, 0, 120, 200]]


def maps(channels: int, *sides: tuple[int, int], images: int = 2, dtype=torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(len(sides) + channels)
    drawn = [torch.randn(images, h, w, channels, generator=generator).permute(0, 3, 1, 2) for h, w in sides]
    return [one.to(DEVICE, dtype) for one in drawn]


def case(features, rois=BOXES, size=(2, 3), ratio=0, aligned=True, semantic=None, grid=4):
    rois = torch.tensor(rois, device=DEVICE) if len(rois) else torch.zeros(0, 5, device=DEVICE)
    scales = [1 / 4 / 2**level for level in range(len(features))]
    options = {"sampling_ratio": ratio, "aligned": aligned, "semantic": semantic, "semantic_grid": grid}
    return features, rois, size, scales, options


def sliced(channels: int) -> list[torch.Tensor]:
    wide = torch.randn(2, channels, 22, 50, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    return [wide[:, :, 1:21, 3:45:2], maps(channels, (12, 14))[0][:, :, 1:11, 2:]]


CASES = {
    "four levels": lambda: case(maps(16, (20, 24), (10, 12), (5, 6), (3, 3)), BOXES + LARGE),
    "no boxes": lambda: case(maps(8, (6, 5)), []),
    "outside": lambda: case(maps(8, (6, 5)), [[0, -90.0, -90, -50, -60], [1, 24, 28, 90, 90], [0, -4.0, -4, 22, 26]]),
    "not finite": lambda: case(maps(8, (9, 9)), BROKEN),
    "one channel": lambda: case(maps(1, (20, 17))),
    "33 channels": lambda: case(maps(33, (10, 12), (5, 6)), BOXES[:3]),
    "non-contiguous": lambda: case(sliced(5)),
    "unaligned, ratio 2": lambda: case(maps(6, (15, 17)), ratio=2, aligned=False),
    "sparse samples": lambda: case(maps(6, (15, 17)), ratio=1, size=(1, 2)),
    "many samples": lambda: case(maps(6, (15, 17)), ratio=11, size=(2, 2)),
    "beyond every border": lambda: case(maps(6, (9, 7)), [[0, -300.0, -200, 400, 350]], size=(2, 2)),
    "two blocks of bins": lambda: case(maps(4, (20, 20)), BOXES[:2], size=(1, 11)),
    "inside out": lambda: case(maps(4, (20, 20)), [[0, 60.0, 50, 20, 10]], ratio=2),
    "boxes per image": lambda: case(maps(4, (20, 20)), [[b[1:] for b in BOXES[:2]], [b[1:] for b in BOXES[2:4]]]),
    "semantic": lambda: case(maps(8, (16, 18), (8, 9)), BOXES[:4], semantic=maps(8, (8, 9))[0], size=(2, 2)),
    "semantic, uneven": lambda: case(maps(8, (16, 18)), BOXES[:3], semantic=maps(8, (8, 9))[0], size=(3, 4), grid=5),
    "semantic, same grid": lambda: case(maps(8, (16, 18)), BOXES[:3], semantic=maps(8, (8, 9))[0], size=(2, 2), grid=2),
    "half": lambda: case(maps(24, (20, 17), dtype=torch.float16)),
    "bfloat16": lambda: case(maps(24, (20, 17), dtype=torch.bfloat16)),
}  # fmt: skip


def run(backend: str, features, rois, size, scales, options):
    """Output, and gradients of all maps."""
    leaves = [one.detach().requires_grad_() for one in features]
    semantic = options["semantic"]
    semantic = None if semantic is None else semantic.detach().requires_grad_()
    with ops.use_backend(backend):
        out = ops.multi_level_roi_align(leaves, rois, size, scales, **{**options, "semantic": semantic})
    weights = torch.arange(out.numel(), device=DEVICE).remainder(7).sub(3).view(out.shape).to(out.dtype)
    wanted = [*leaves, *([] if semantic is None else [semantic])]
    grads = torch.autograd.grad(out, wanted, weights, allow_unused=True)
    return out, [torch.zeros_like(one) if g is None else g for one, g in zip(wanted, grads)]


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("name", CASES)
def test_equals_reference(name):
    if name == "bfloat16" and not CUDA:
        pytest.skip("Triton's interpreter gets bfloat16 wrong")
    arguments = CASES[name]()
    out, grads = run("triton", *arguments)
    want, want_grads = run("reference", *arguments)
    # 16-bit results are sums in float32, rounded once; the reference's order of sums differs.
    tolerance = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[out.dtype]
    assert out.dtype == want.dtype and out.isfinite().all()
    torch.testing.assert_close(out, want, rtol=tolerance, atol=tolerance)
    for got, expected in zip(grads, want_grads):
        assert got.dtype == expected.dtype and got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=4 * tolerance)
    if out.numel() and out.shape[1] > 1:
        assert out.stride(1) == 1


def test_single_map_has_torchvisions_defaults():
    torchvision = pytest.importorskip("torchvision")
    (feature,), rois, _, _, _ = case(maps(4, (20, 20)))
    with ops.use_backend("triton"):
        got = ops.roi_align(feature, rois, 2, 0.25)
    torch.testing.assert_close(got, torchvision.ops.roi_align(feature, rois, 2, 0.25), rtol=1e-5, atol=1e-5)


def test_rows_of_no_image_give_zeros():
    features, _, size, scales, options = case(maps(4, (9, 9)))
    rois = torch.tensor([[image, 0, 0, 20, 20] for image in (2, -1, NAN, 1)], device=DEVICE)
    out, (grad,) = run("triton", features, rois, size, scales, options)
    assert not out[:3].any() and out[3].abs().sum() > 0 and not grad[0].any() and grad[1].abs().sum() > 0


@pytest.mark.parametrize("name", ["33 channels", "semantic, uneven", "sparse samples", "not finite"])
def test_scattered_gradient_equals_gathered(name):
    features, rois, size, scales, options = CASES[name]()
    everything = [*features, *([] if options["semantic"] is None else [options["semantic"]])]
    sizes = [2, *(side for one in everything for side in one.shape[2:])]
    grad = torch.randn(len(rois), features[0].shape[1], *size, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    ratio, has_semantic, grid = options["sampling_ratio"], options["semantic"] is not None, options["semantic_grid"]
    arguments = (grad, rois, sizes, scales, ratio, True, 56.0, has_semantic, 1 / 8, grid)
    backward = torch.ops.htc_fast_triton.multi_level_roi_align_backward
    gathered, scattered = backward(*arguments), backward(*arguments, deterministic=False)
    for one, other in zip(gathered, scattered):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)
    for one, again in zip(gathered, backward(*arguments)):
        assert torch.equal(one, again)


def test_a_huge_box_costs_no_more_than_its_map():
    features, _, size, scales, options = case(maps(4, (9, 9)))
    rois = torch.tensor([[0, -1e9, -1e9, 1e9, 1e9], [1, 0, 0, 1e29, 20]], device=DEVICE)
    out, grads = run("triton", features, rois, size, scales, options)
    assert out.isfinite().all() and grads[0].isfinite().all()


def test_opcheck_compile_export():
    features, rois, size, scales, _ = case(maps(4, (9, 9), (5, 5)), BOXES[:2], size=(2, 2))
    leaves = [one.requires_grad_() for one in features]
    operator = torch.ops.htc_fast_triton.multi_level_roi_align.default
    torch.library.opcheck(operator, (leaves, rois, *size, scales, 0, True, 56.0, None, 0.125, 14))

    class Pool(torch.nn.Module):
        def forward(self, fine, coarse, rois):
            return ops.multi_level_roi_align([fine, coarse], rois, size, scales)

    with ops.use_backend("triton"):
        want = Pool()(*leaves, rois)
        got = torch.compile(Pool(), backend="aot_eager", fullgraph=True)(*leaves, rois)
        torch.testing.assert_close(got, want)
        for one, other in zip(*(torch.autograd.grad(x.square().sum(), leaves) for x in (got, want))):
            torch.testing.assert_close(one, other)
        exported = torch.export.export(Pool(), (*(one.detach() for one in leaves), rois))
    torch.testing.assert_close(exported.module()(*leaves, rois), want)


def test_what_it_cannot_do_is_said():
    features, rois, size, scales, _ = case(maps(4, (9, 9)), BOXES[:1])
    with ops.use_backend("triton"), pytest.raises(TypeError, match="float64"):
        ops.multi_level_roi_align([features[0].double()], rois, size, scales)


def test_second_derivative():
    features, rois, size, scales, _ = case(maps(4, (9, 9)), BOXES[:3])
    leaves = [one.requires_grad_() for one in features]
    found = {}
    for backend in ("triton", "reference"):
        with ops.use_backend(backend):
            out = ops.multi_level_roi_align(leaves, rois, size, scales)
        slopes = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        found[backend] = torch.autograd.grad(sum(one.square().sum() for one in slopes), leaves)
    for one, other in zip(*found.values()):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not CUDA, reason="needs a GPU: the interpreter has no streams, graphs or threads")
def test_graph_and_threads():
    features, rois, size, scales, options = CASES["four levels"]()
    features = [one.detach() for one in features]

    def call():
        return ops.multi_level_roi_align(features, rois, size, scales, **options)

    with ops.use_backend("triton"):
        want, stream = call(), torch.cuda.Stream()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = call()
        captured.zero_()
        graph.replay()
        assert torch.equal(captured, want)
    results = [None] * 8

    def work(i: int) -> None:
        with ops.use_backend("triton"):
            results[i] = call()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert all(torch.equal(one, want) for one in results)
