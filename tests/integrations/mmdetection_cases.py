"""mmdetection's own models from its own configurations, made small, and sample pictures for them."""

from pathlib import Path

import mmdet
import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData, PixelData

from htc_fast.data.scenes import CLASSES, STUFF, Composer

CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
FILES = {
    "htc": "htc/htc_r50_fpn_1x_coco.py",
    "htc_without_semantic": "htc/htc-without-semantic_r50_fpn_1x_coco.py",
    "cascade_mask_rcnn": "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py",
    "mask_rcnn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "scnet": "scnet/scnet_r50_fpn_1x_coco.py",
    "detectors": "detectors/detectors_htc-r50_1x_coco.py",
    "retinanet": "retinanet/retinanet_r50_fpn_1x_coco.py",
}
# What a configuration says -> what stands there in a small one.
SMALL = {
    "num_classes": {80: len(CLASSES), 183: len(CLASSES) + len(STUFF)},
    "fc_out_channels": {1024: 64},
    "nms_pre": {1000: 60, 2000: 60},
    "max_per_img": {1000: 40, 2000: 40, 100: 20},
    "num": {512: 32, 256: 64},
    "score_thr": {0.001: 0.0, 0.05: 0.0},
    "stacked_convs": {4: 2},
    "init_cfg": {},
    "pretrained": {},
}
LAST = (
    "rpn_cls",
    "rpn_reg",
    "fc_cls",
    "fc_reg",
    "retina_cls",
    "retina_reg",
    "conv_logits",
    "lateral_convs",
    "offset",
    "weight_diff",
    "rfp_conv",
)
CHANNELS = ("in_channels", "out_channels", "feat_channels", "conv_out_channels", "out_conv_channels")


def small(config, inside_backbone: bool = False):
    """A copy of a configuration with fewer channels, proposals and classes, and nothing to download."""
    if isinstance(config, (list, tuple)):
        return type(config)(small(one, inside_backbone) for one in config)
    if not isinstance(config, dict):
        return config
    made = {}
    for key, value in config.items():
        value = small(value, inside_backbone or key in ("backbone", "rfp_backbone"))
        if key in CHANNELS and not inside_backbone:
            value = {256: 32, 1024: 64}.get(value, value) if isinstance(value, int) else value
        elif key in SMALL and not isinstance(value, (dict, list, tuple)):
            value = SMALL[key].get(value, value)
        if key == "init_cfg" and isinstance(value, dict) and value.get("type") == "Pretrained":
            continue
        made[key] = value
    if made.get("type") in ("ResNet", "DetectoRS_ResNet"):
        made["base_channels"] = 16
        if "stage_with_sac" in made:  # deformable ones take seconds where there are many
            made["stage_with_sac"] = (False, False, False, True)
    if made.get("type") in ("FPN", "RFP"):
        made["in_channels"] = [64, 128, 256, 512]
    return made


def build(name: str, seed: int = 0, **changes):
    """One of FILES with made-up weights, in eval mode; changes go into its test_cfg's rcnn part."""
    register_all_modules()
    config = ConfigDict(small(Config.fromfile(str(CONFIGS / FILES[name])).model.to_dict()))
    if name == "retinanet":
        config["neck"]["num_outs"] = 5
    config["test_cfg"].get("rcnn", config["test_cfg"]).update(changes)
    model = MODELS.build(config)
    fill(model, seed)
    return model.eval()


def fill(model: torch.nn.Module, seed: int) -> None:
    """Weights by the order of their names: features of usual size, scores that differ, boxes that move a little."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.empty(tensor.shape).uniform_(low, high, generator=generator)

    with torch.no_grad():
        for name, one in sorted([*model.named_parameters(), *model.named_buffers()]):
            if not one.is_floating_point() or name.startswith("data_preprocessor") or "loss" in name:
                continue
            if name.endswith(("weight_gamma", "weight_beta")):  # DetectoRS's standardized weights
                one.copy_(draw(one, 0.06, 0.1) if name.endswith("gamma") else draw(one, -0.01, 0.01))
            elif one.dim() > 1:
                one.copy_(torch.randn(one.shape, generator=generator) * (2 / one[0].numel()) ** 0.5)
            elif name.endswith(("running_mean", "bias")):
                one.copy_(draw(one, -0.05, 0.05))
            elif name.endswith(("weight", "running_var")):
                one.copy_(draw(one, 0.5, 1.0))
            if ".bn3." in name:
                one.mul_(0.3)
            if one.dim() > 1 and any(part in name for part in LAST):
                one.mul_(0.2)


def pictures(count: int = 2) -> dict:
    """What a loader of mmdetection's gives: scenes of the sample data, every second pixel, 128 to 160 of a side."""
    composer, inputs, samples = Composer(), [], []
    for number in range(count):
        scene = composer.compose(np.random.default_rng([0, 0, number]), held_out=False)
        masks = scene.masks[:, ::2, ::2]
        seen = masks.reshape(len(masks), -1).sum(1) > 20
        masks, labels = masks[seen], np.array(scene.labels)[seen]
        shape, sample = masks.shape[1:], DetDataSample()
        boxes = [[(axis := np.flatnonzero(m.any(a)))[0], axis[-1] + 1] for m in masks for a in (0, 1)]
        boxes = torch.tensor(np.array(boxes, dtype=np.float32).reshape(-1, 2, 2)).transpose(1, 2).reshape(-1, 4)
        sample.set_metainfo(
            {"img_shape": shape, "ori_shape": shape, "scale_factor": (1.0, 1.0), "batch_input_shape": shape}
        )
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.tensor(labels), masks=BitmapMasks(masks.astype(np.uint8), *shape)
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(scene.semantic[None, ::2, ::2].copy()).long())
        inputs.append(torch.from_numpy(scene.pixels[::2, ::2].copy()).permute(2, 0, 1))
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


@torch.no_grad()
def predict(model, data: dict) -> list[InstanceData]:
    """One InstanceData a picture."""
    return [one.pred_instances for one in model.eval().test_step(data)]


def train(model, data: dict, steps: int = 10) -> list[dict[str, float]]:
    """Every loss of every step, and their sum as "loss"; sampling draws from the step's number."""
    import copy

    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.001, momentum=0.9)
    found = []
    for step in range(steps):
        torch.manual_seed(step)
        np.random.seed(step)
        given = model.data_preprocessor(copy.deepcopy(data), training=True)
        total, parts = model.parse_losses(model(**given, mode="loss"))
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        found.append({key: float(value) for key, value in parts.items()})
    return found
