"""Whole detectors on 800×1333 pictures. Weights are random: every place for a detection is filled, so the work is the
most there is, and it does not depend on them."""

import torch

import htc_fast
from benchmarks.cases import select
from htc_fast.device import autocast
from htc_fast.inference.predict import stream
from htc_fast.profiling.paper import counted

TINY = dict(
    backbone="test_resnet",
    channels=16,
    box_channels=32,
    num_classes=3,
    semantic_classes=5,
    rpn_proposals=30,
    rpn_proposals_per_level=50,
    detections=8,
)
MODES = ("eager", "optimized")
CUDNN = ", cuDNN's choice measured"


def picture(draw, images: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised and padded, and its size."""
    height, width = (64, 96) if draw.tiny else (800, 1344)
    size = [height, width - (width == 1344) * 11]
    return draw.normal(images, 3, height, width), torch.tensor([size] * images, device=draw.device)


def options(draw) -> dict:
    return TINY if draw.tiny else {}


def network(name: str, draw):
    torch.manual_seed(0)
    return htc_fast.create_model(name, **options(draw)).eval().to(draw.device)


def prepared(name: str, draw, mode: str, dtype: torch.dtype, size: tuple[int, int], images: int):
    """A model in one of its modes."""
    model = network(name, draw)
    return model if mode == "eager" else htc_fast.optimize(model, size, images, dtype)


def run(compare, draw, name: str, mode: str, dtype: torch.dtype, images: int = 1, others: dict | None = None) -> None:
    """One row: ours in a mode and dtype, from pixels on the device to detections on it, beside others."""
    inputs, sizes = picture(draw, images)
    size = tuple(inputs.shape[2:])
    made = prepared(name, draw, mode, dtype, size, images)
    needs = counted(name, size, images, **options(draw)).values()

    def call():
        with autocast(draw.device, mode == "eager" and dtype == torch.bfloat16):
            return made.detect(inputs, sizes)

    exact = scores(name, draw, images)
    limit = {
        "gflop": sum(need.flop for need in needs) / 1e9,
        "gigabytes": sum(need.moved for need in needs) / 1e9 * torch.finfo(dtype).bits / 32,
    }
    about = {"backend": backend(draw), "verify": lambda found: plausible(exact, found, dtype), "pictures": images}
    many = "" if images == 1 else f", {images} pictures"
    calls = {"htc_fast": call, **(others or {})}
    compare(f"{name}, {mode}{many}", calls, counts_too, dtype=dtype, **limit, **about)


def backend(draw) -> str:
    return "cpp, oneDNN" if draw.device.type == "cpu" else "cuda, triton, cuDNN"


KNOWN: dict[tuple, torch.Tensor] = {}


def scores(name: str, draw, images: int) -> torch.Tensor:
    """Of the plain model in float32, best first; kept, as it takes long."""
    key = name, images, draw.tiny, str(draw.device)
    if key not in KNOWN:
        KNOWN[key] = network(name, draw).detect(*picture(draw, images)).scores
    return KNOWN[key]


def plausible(exact: torch.Tensor, found, dtype: torch.dtype) -> None:
    """Every place is filled, with the scores of the plain model."""
    assert (found.count == exact.shape[1]).all(), f"{found.count.tolist()} detections of {exact.shape[1]}"
    near = 1e-3 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(found.scores.float(), exact, rtol=near, atol=near / 10)


def counts_too(ours, other, who):
    """Other networks have other weights: they must find as many."""
    # torchvision drops boxes without area, and detectron2 those below its threshold.
    counts = other if isinstance(other, list) else [other]
    limits = ours if isinstance(ours, list) else ours.count.tolist()
    assert all(0.9 * limit <= count <= limit for count, limit in zip(counts, limits)), f"{who}: {counts}"


def predict(compare, draw, name: str, mode: str, dtype: torch.dtype, batch: int, others) -> None:
    """One row: from pixels in the host's memory to run lengths there, batch after batch, reading ahead.

    others  pixels [H, W, 3] uint8, batch, how many pictures -> who -> callable
    """
    size = draw.size((800, 1333))
    count = batch * (8 if draw.device.type == "cuda" else 1)
    pixels = (draw.normal(*size, 3, scale=50) + 128).clamp(0, 255).byte().cpu().numpy()
    padded = tuple(side + -side % 32 for side in size)
    made = prepared(name, draw, mode.removesuffix(CUDNN), dtype, padded, batch)
    filled = network(name, draw).config.detections

    def call() -> list[int]:
        with autocast(draw.device, mode == "eager" and dtype == torch.bfloat16):
            return [len(found) for _, found in stream(made, count, lambda _: pixels, size=size, batch_size=batch)]

    def verify(counts: list[int]) -> None:
        assert counts == [filled] * count, f"{counts} instances, {filled} of each picture expected"

    case = f"{name}, {mode}, pixels to run lengths in batches of {batch}"
    about = {"backend": backend(draw), "verify": verify, "pictures": count}
    compare(case, {"htc_fast": call, **others(pixels, batch, count)}, counts_too, dtype=dtype, **about)


def variants(*names: str, modes: tuple[str, ...] = MODES, quick: bool = False) -> list:
    """Each in both modes and dtypes; of the first those modes are usual, all else only with --full."""
    found = [(name, mode, dtype) for name in names for dtype in ("float32", "bfloat16") for mode in MODES]
    usual = [one for one in found if one[0] == names[0] and one[1] in modes]
    return select(usual, usual if quick else [], found)
