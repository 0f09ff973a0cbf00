"""What a detector is made of. Frozen: a variant is a copy with other values (`zoo.py` names them)."""

import unicodedata
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from htc_fast.errors import UserError, check_sides, check_train_sizes, short
from htc_fast.models.fields import check_fields

CHOICES = {
    "norm": ("none", "syncbn"),
    "neck": ("fpn", "pafpn"),
    "semantic": ("none", "loss", "box", "mask", "both"),
    "box_head": ("2fc", "4conv1fc"),
    "roi_pooling": ("roi_align", "pr_roi_pool"),
    "score_average": ("logits", "probabilities"),
    "box_norm": ("none", "syncbn", "layernorm"),
    "box_loss": ("smooth_l1", "giou"),
    "class_loss": ("cross_entropy", "seesaw"),
}


@dataclass(frozen=True)
class RPN:
    """Region proposals; anchors have one size per level, anchor_scale times its stride."""

    guided: bool = False  # anchors are predicted, one at each place, instead of fixed ones (guided anchoring)
    anchor_scale: float = 8.0
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    whole_anchors: bool = False  # of whole pixels, in steps of the image's size over the map's, as torchvision has them
    allowed_border: float = 0.0  # training uses anchors inside the image; negative: all of them
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    low_quality_iou: float = 0.3
    samples: int = 256
    positive_fraction: float = 0.5
    nms_iou: float = 0.7
    train_proposals_per_level: int = 2000
    train_proposals: int = 2000
    proposals_per_level: int = 1000
    proposals: int = 1000

    def __post_init__(self):
        check_fields(self, "rpn_")


@dataclass(frozen=True)
class Cascade:
    """What differs between stages, side by side."""

    match_iou: tuple[float, ...] = (0.5, 0.6, 0.7)
    loss_weight: tuple[float, ...] = (1.0, 0.5, 0.25)  # the paper's alpha
    delta_std: tuple[tuple[float, ...], ...] = (
        (0.1, 0.1, 0.2, 0.2),
        (0.05, 0.05, 0.1, 0.1),
        (0.033, 0.033, 0.067, 0.067),
    )

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class Model:
    """A whole detector."""

    name: str
    backbone: str = "resnet50"  # fishnet150, or any timm model with features at strides 4, 8, 16 and 32
    pretrained: bool = False  # ImageNet weights, through timm
    frozen_stages: int = 1  # the stem and this many stages get no gradient
    norm_eval: bool = True  # the backbone's batch norms keep their running statistics
    stride_in_1x1: bool = False  # residual blocks halve in their first convolution, as the original ResNets do
    dcn: tuple[int, ...] = ()  # stages of the backbone, 2 to 5, whose 3x3 convolutions are deformable
    sac: tuple[int, ...] = ()  # stages, 2 to 5, whose 3x3 convolutions are switchable atrous ones (DetectoRS)
    drop_path: float = 0.0  # stochastic depth of the backbone, at its last block
    norm: str = "none"  # syncbn: batch norms, of all processes' batches, in backbone, pyramid and heads
    neck: str = "fpn"  # pafpn: with a way from fine to coarse levels behind the pyramid
    fpn_steps: int = 1  # 2: recursive feature pyramid, whose maps go through the backbone again (DetectoRS)
    aspp: bool = False  # atrous spatial pyramid pooling behind the pyramid
    num_classes: int = 80
    channels: int = 256
    rpn: RPN = field(default_factory=RPN)
    stages: Cascade = field(default_factory=Cascade)
    interleaved: bool = True  # masks are trained on boxes refined by their own stage
    information_flow: bool = True  # each mask head starts from the previous one's features
    semantic: str = "both"  # none | loss (auxiliary) | fused into box, mask or both
    gcn: bool = False  # the semantic branch's 1x1 are pairs of long convolutions (global convolutional network)
    semantic_classes: int = 183
    semantic_loss_weight: float = 1.0  # the paper's beta
    class_agnostic: bool = True  # one box regression for all classes
    box_head: str = "2fc"  # 4conv1fc: four 3x3 convolutions and one fully connected layer instead of two
    box_channels: int = 1024
    box_norm: str = "none"  # syncbn or layernorm behind the box heads' convolutions alone
    box_loss: str = "smooth_l1"  # giou: of decoded boxes (generalized intersection over union)
    box_loss_weight: float = 1.0
    class_loss: str = "cross_entropy"  # seesaw: for long tails, with a branch for objectness
    sample_consistency: bool = False  # one mask head, trained on the last stage's samples (SCNet, as the next three)
    feature_relay: bool = False  # the last box head's features are added to the masks'
    global_context: bool = False  # what is in the whole image, learnt as many labels, is added to every RoI's features
    global_context_loss_weight: float = 3.0
    residual_heads: bool = False  # mask head and semantic branch of residual pairs of convolutions, six and two
    adaptive_pooling: bool = False  # RoIs are pooled from all levels, of which the largest values count (PANet)
    mask_fc: bool = False  # a fully connected branch adds its mask to every class's (PANet)
    low_quality_match: bool = True
    roi_pooling: str = "roi_align"  # pr_roi_pool: the exact mean over every bin
    roi_aligned: bool = True  # RoIAlign shifts by half a pixel
    roi_samples: int = 0  # of RoIAlign, per bin and axis; 0: one per pixel
    samples: int = 512
    positive_fraction: float = 0.25
    score_average: str = "logits"  # what the stages' ensemble averages: logits, or probabilities as detectron2 does
    score_threshold: float = 0.001
    nms_iou: float = 0.5
    soft_nms: bool = False  # scores of boxes that overlap better ones decay, linearly from nms_iou on
    detections: int = 100
    test_stage: int | None = None  # 1, 2, 3: that stage alone; None: the ensemble
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)  # RGB, 0-255
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    class_names: tuple[str, ...] = ()  # by label; without them COCO's for 80 classes, else numbers
    category_ids: tuple[int | str | None, ...] = ()  # by label, of the data set that it was trained on
    image_size: tuple[int, int] | None = None  # (short side, limit of the long side) of the pictures in training
    train_sizes: tuple[int, int, int] | None = None  # training draws the short side from first to second; long at most

    def __post_init__(self):
        for name, kind in (("rpn", RPN), ("stages", Cascade)):
            if not isinstance(getattr(self, name), kind):
                raise UserError(
                    f"{name} must be a models.config.{kind.__name__}, got {type(getattr(self, name)).__name__}."
                )
        check_fields(self)
        for name in ("dcn", "sac"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))
        # An accent may be stored in two ways, and is one.
        object.__setattr__(self, "class_names", tuple(unicodedata.normalize("NFC", one) for one in self.class_names))
        count = len(self.stages.match_iou)
        if isinstance(self.category_ids, list):
            object.__setattr__(self, "category_ids", tuple(self.category_ids))
        if not isinstance(self.category_ids, tuple):
            raise UserError(f"category_ids must be a tuple, got {short(self.category_ids)}.")
        if self.image_size is not None:
            object.__setattr__(self, "image_size", check_sides("image_size", self.image_size))
        if self.train_sizes is not None:
            object.__setattr__(self, "train_sizes", check_train_sizes("train_sizes", self.train_sizes))
        for name in ("class_names", "category_ids"):
            if len(getattr(self, name)) not in (0, self.num_classes):
                found = len(getattr(self, name))
                raise UserError(f"{name} must have one entry per class, got {found} for {self.num_classes} classes.")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"{name} must be one of {', '.join(choices)}, got {short(getattr(self, name))}.")
        if len(self.stages.loss_weight) < count or len(self.stages.delta_std) < count:
            raise UserError(f"{count} stages (match_iou) need as many loss weights and delta stds.")
        if self.test_stage is not None and not 1 <= self.test_stage <= count:
            raise UserError(f"test_stage must be None or 1 to {count}, got {self.test_stage!r}.")

    @property
    def last_stage(self) -> int:
        """The stage, from 0, that a test ends with."""
        return (self.test_stage or len(self.stages.match_iou)) - 1


def as_dict(config: Model) -> dict:
    """Plain values, for JSON."""
    return asdict(config)


def from_dict(values: dict) -> Model:
    """The inverse of `as_dict`, also after a trip through JSON; unknown fields are ignored."""
    known = {entry.name for entry in fields(Model)}
    values = {key: as_tuples(value) for key, value in values.items() if key in known}
    for name, kind in (("rpn", RPN), ("stages", Cascade)):
        if isinstance(values.get(name), dict):
            inner = {entry.name for entry in fields(kind)}
            values[name] = kind(**{key: as_tuples(value) for key, value in values[name].items() if key in inner})
    return Model(**values)


def as_tuples(value: Any) -> Any:
    """Lists, at any depth, as tuples."""
    return tuple(as_tuples(one) for one in value) if isinstance(value, (list, tuple)) else value
