"""Whole detectors on one 800×1333 picture. Weights are random: every place for a detection is filled, so the work is
the most there is, and it does not depend on them."""

import torch

import htc_fast
from benchmarks.cases import full
from benchmarks.rivals import needs
from htc_fast.device import autocast
from htc_fast.profiling.paper import counted

TINY = {"backbone": "test_resnet", "channels": 16, "box_channels": 32, "num_classes": 3, "semantic_classes": 5,
        "rpn_proposals": 30, "rpn_proposals_per_level": 50, "detections": 8}  # fmt: skip
MODES = ("eager", "optimized")


def picture(draw, images: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised and padded, and its size."""
    height, width = (64, 96) if draw.tiny else (800, 1344)
    size = [height, width - (width == 1344) * 11]
    return draw.normal(images, 3, height, width), torch.tensor([size] * images, device=draw.device)


def network(name: str, draw):
    torch.manual_seed(0)
    return htc_fast.create_model(name, **(TINY if draw.tiny else {})).eval().to(draw.device)


def run(compare, draw, name: str, mode: str, dtype: torch.dtype, images: int = 1, others: dict | None = None) -> None:
    """One row: ours in a mode and dtype, beside others."""
    model = network(name, draw)
    inputs, sizes = picture(draw, images)
    made = model if mode == "eager" else htc_fast.optimize(model, tuple(inputs.shape[2:]), images, dtype)
    needs_of = counted(name, tuple(inputs.shape[2:]), images, **(TINY if draw.tiny else {})).values()

    def call():
        with autocast(draw.device, mode == "eager" and dtype == torch.bfloat16):
            return made.detect(inputs, sizes)

    many = "" if images == 1 else f", {images} pictures"
    compare(f"{name}, {mode}{many}", {"htc_fast": call, **(others or {})}, counts_too, dtype=dtype,
            gflop=sum(need.flop for need in needs_of) / 1e9,
            gigabytes=sum(need.moved for need in needs_of) / 1e9 * torch.finfo(dtype).bits / 32,
            backend="cpp, oneDNN" if draw.device.type == "cpu" else "cuda, triton, cuDNN",
            verify=lambda found: plausible(scores(name, draw, images), found, dtype))  # fmt: skip


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
    assert all(0.9 * limit <= count <= limit for count, limit in zip(counts, ours.count.tolist())), f"{who}: {counts}"


@needs("torchvision")
def torchvision_mask_rcnn(draw, dtype: torch.dtype, version: str = "maskrcnn_resnet50_fpn"):
    """Counts of its detections; resizing is its own and does nothing here."""
    from torchvision.models import detection

    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "num_classes": 81, "box_score_thresh": 0.0}
    inputs, sizes = picture(draw)
    height, width = sizes[0].tolist()
    model = getattr(detection, version)(**options, min_size=height, max_size=width).eval().to(draw.device)
    model.roi_heads.detections_per_img = TINY["detections"] if draw.tiny else 100

    @torch.no_grad()
    def call():
        with autocast(draw.device, dtype == torch.bfloat16):
            return [len(one["masks"]) for one in model([inputs[0, :, :height, :width]])]

    return call


@needs("mmdet", "mmcv")
def mmdetection(draw, config: str):
    """Its network of the same name, with random weights."""
    from mmdet.apis import DetInferencer

    made = DetInferencer(config, weights=None, device=str(draw.device), show_progress=False)
    pixels = torch.zeros(800, 1333, 3, dtype=torch.uint8).numpy()

    def call():
        return [len(one["scores"]) for one in made([pixels], return_datasamples=False)["predictions"]]

    return call


@needs("detectron2")
def detectron2(draw, config: str):
    """A network of its zoo, with random weights."""
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    settings = model_zoo.get_config(config)
    settings.MODEL.DEVICE, settings.MODEL.ROI_HEADS.SCORE_THRESH_TEST = str(draw.device), 0.0
    model = build_model(settings).eval()
    pixels = {"image": torch.zeros(3, 800, 1333), "height": 800, "width": 1333}

    @torch.no_grad()
    def call():
        return [len(one["instances"]) for one in model([pixels])]

    return call


def variants(*names: str, modes: tuple[str, ...] = MODES):
    """Each in both modes and dtypes; of the first those modes are usual, all else only with --full."""
    found = [(name, mode, dtype) for name in names for dtype in ("float32", "bfloat16") for mode in MODES]
    return [one if one[0] == names[0] and one[1] in modes else full(*one) for one in found]
