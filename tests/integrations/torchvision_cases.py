"""torchvision's detectors with made-up weights that tell boxes apart, small pictures, and how results are compared."""

import functools

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.ops import FrozenBatchNorm2d

TWO_STAGES = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
)
ONE_STAGE = (
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)
MODELS = TWO_STAGES + ONE_STAGE
CLASSES = 4


@torch.no_grad()
def made(name: str) -> nn.Module:
    """The model in eval, of 128 pixels where its size is free."""
    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "num_classes": 2 if "keypoint" in name else CLASSES}
    if "ssd" not in name:
        options |= {"min_size": 128, "max_size": 160}
    if name in TWO_STAGES:
        options |= {"box_score_thresh": 0.02, "rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_test": 60}
        options |= {"rpn_pre_nms_top_n_train": 200, "rpn_post_nms_top_n_train": 60, "box_detections_per_img": 20}
    else:
        options |= {"score_thresh": 0.02, "detections_per_img": 30, "topk_candidates": 60}
    model = getattr(detection, name)(**options).eval()
    for one in model.modules():
        if isinstance(one, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            one.running_mean.normal_(0, 0.1)
            one.running_var.uniform_(0.8, 1.2)
            one.weight.uniform_(0.6, 0.9)
            one.bias.normal_(0, 0.1)
    _spread(model)
    return model


def _spread(model: nn.Module) -> None:
    """Make the last layers' outputs differ from place to place, so that no two scores are nearly one."""
    sizes = {"cls_logits": 1.0, "cls_score": 2.0, "bbox_pred": 0.3, "bbox_reg": 0.3, "bbox_ctrness": 1.0}
    sizes |= {"classification_head": 1.0, "regression_head": 0.3}
    found, hooks = {}, []

    def note(size: float, module: nn.Module, given: tuple, out: Tensor) -> None:
        found.setdefault(module, size / out.std())

    for name, one in model.named_modules():
        size = next((value for key, value in sizes.items() if key in name), None)
        last = isinstance(one, nn.Linear) or (isinstance(one, nn.Conv2d) and one.groups == 1)
        if size is not None and last and ".conv." not in name:
            hooks.append(one.register_forward_hook(functools.partial(note, size)))
    model(pictures())
    for hook in hooks:
        hook.remove()
    for one, factor in found.items():
        one.weight.mul_(factor)
        if one.bias is not None:
            one.bias.zero_()


def pictures(count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(3, 120, 150, generator=generator), torch.rand(3, 100, 90, generator=generator)][:count]


def targets() -> list[dict[str, Tensor]]:
    """Of `pictures`."""
    boxes = [torch.tensor([[10.0, 20, 70, 90], [60, 30, 140, 110]]), torch.tensor([[5.0, 10, 60, 80]])]
    found = []
    for one, picture in zip(boxes, pictures()):
        masks = torch.zeros(len(one), *picture.shape[1:], dtype=torch.uint8)
        for mask, (x0, y0, x1, y1) in zip(masks, one.int().tolist()):
            mask[y0:y1, x0 : (x0 + x1) // 2] = 1
        middle = (one[:, :2] + one[:, 2:]) / 2
        points = torch.cat([middle, torch.ones(len(one), 1)], dim=1)[:, None].expand(-1, 17, -1).clone()
        labels = torch.ones(len(one), dtype=torch.int64)
        found.append({"boxes": one, "labels": labels, "masks": masks, "keypoints": points})
    return found


def step(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses and gradients of one training step."""
    model.train().zero_grad()
    torch.manual_seed(3)
    losses = model(pictures(), targets())
    sum(losses.values()).backward()
    return losses, {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def paired(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """`found` in the order of `wanted`, whose scores may be equal: by score and label, then by the nearest box."""
    distance = (found["boxes"][None] - wanted["boxes"][:, None]).abs().amax(dim=2)
    distance = distance + 1e4 * (found["labels"][None] != wanted["labels"][:, None])
    distance = distance + 1e4 * (found["scores"][None] - wanted["scores"][:, None]).abs()
    order = distance.argmin(dim=1)
    assert len(order.unique()) == len(found["boxes"]) == len(order), "two detections have one counterpart"
    return {name: one[order] for name, one in found.items()}
