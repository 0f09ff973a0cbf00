"""What a training run is told: one value per question, for Python and for the command line."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from htc_fast.data.pictures import image_limits
from htc_fast.device import MOST_THREADS
from htc_fast.errors import (
    UserError,
    check_count,
    check_score,
    check_train_sizes,
    choose,
    option,
    settle,
    short,
)
from htc_fast.models import zoo
from htc_fast.models.config import as_tuples
from htc_fast.models.weights import source
from htc_fast.training import presets
from htc_fast.training.limits import check_numbers
from htc_fast.training.loggers import check_loggers
from htc_fast.training.optimizer import OPTIMIZERS, Schedule, scaled_rate
from htc_fast.training.recipe import Recipe

PICTURES = 2  # in a batch, where nothing else is said
# What `set` leaves alone, and who decides it.
DECIDED = {"name": "--model", "pretrained": "--pretrained", "image_size": "--image-size"}
DECIDED |= {"train_sizes": "--train-sizes"}
DECIDED |= dict.fromkeys(("num_classes", "semantic_classes", "class_names", "category_ids"), "the data")


@presets.filling
@dataclass(frozen=True)
class TrainingRun:
    """Everything that a training run is made of. The defaults are the paper's recipe; `sample` ends in minutes.

    With another `recipe`, what is not given is as `presets` has it; a copy with other values keeps all the rest.

    raises  UserError naming the option that makes no sense
    """

    GROUPS: ClassVar = {"data": "data", "model": "model", "recipe": "recipe", "out": "run"}
    # torchrun takes --log for one of its own, wherever it stands.
    ALIASES: ClassVar = {"log": "--logger"}

    data: Annotated[
        Path | str | None, "folder of COCO, YOLO, labelme, Pascal VOC, VIA or label maps, or its data.yaml", "ROOT"
    ] = None
    train_json: Annotated[Path | str | None, "annotation file to train on, instead of the one in ROOT"] = None
    train_images: Annotated[Path | str | None, "folder of its pictures"] = None
    val_json: Annotated[Path | str | None, "annotation file to evaluate on"] = None
    val_images: Annotated[Path | str | None, "folder of its pictures"] = None
    semantic: Annotated[Path | str | None, "COCO-Stuff folder, panoptic JSON or its PNGs; derive: of the masks"] = None
    keep_empty: Annotated[bool, "train on pictures without instances, and on tiny ones, too"] = False
    image_size: Annotated[
        tuple[int, ...] | None,
        "short side and, optionally, longest long side; by default as the model's name says, else 800 1333",
        "PX",
    ] = None
    scales: Annotated[tuple[float, float], "random factor on the size in training", "LOW HIGH"] = (1.0, 1.0)
    train_sizes: Annotated[
        tuple[int, int, int] | None,
        "short side drawn from LOW to HIGH in training, long side at most LONG; by default as the model's name says",
        "LOW HIGH LONG",
    ] = None
    crop: Annotated[int | None, "train on random squares of this many pixels, cut after resizing", "PX"] = None
    tile: Annotated[
        int | None, "train on random windows of this side, cut before resizing; evaluate in tiles of it", "PX"
    ] = None
    flip: Annotated[Literal["none", "horizontal", "both"], "random flips in training"] = "horizontal"
    turn: Annotated[bool, "random quarter turns in training"] = False
    jitter: Annotated[
        Literal["none", "standard", "large"],
        "size drawn from 0.8 to 1.25 (standard) or 0.1 to 2.0 (large) of --image-size, then cut or padded to it",
    ] = "none"
    copy_paste: Annotated[float, "share of pictures that get objects of another one pasted in", "SHARE"] = 0.0
    repeat: Annotated[
        float, "pictures of classes in less than this share of them are repeated; LVIS: 0.001", "SHARE"
    ] = 0.0
    workers: Annotated[int | None, "processes that load pictures; 0: load in the training process"] = None

    model: Annotated[str, "name of the network: see htc_fast.list_models()"] = "htc_r50"
    weights: Annotated[
        Path | str | None,
        "start from this checkpoint: ours, mmdetection's, torchvision's or detectron2's; hf-hub:owner/name; or coco, "
        "the model's public one",
    ] = None
    backbone: Annotated[str | None, "any timm model with features at strides 4 to 32"] = None
    pretrained: Annotated[bool, "ImageNet weights for the backbone"] = True
    set: Annotated[dict[str, Any], "fields of the model's configuration", "FIELD=VALUE"] = field(default_factory=dict)

    recipe: Annotated[
        Literal["paper", "strong", "small-data"],
        "paper: the values shown here; strong: longer, with what was published since; small-data: to fine-tune on few "
        "pictures; what is given beside it wins (default: paper)",
    ] = "paper"
    epochs: Annotated[float, "passes over the training pictures"] = 20.0
    iterations: Annotated[int | None, "end after this many steps, if that is sooner"] = None
    max_minutes: Annotated[
        float | None, "end within this time, evaluation included; the schedule fits itself to it"
    ] = None
    batch_size: Annotated[
        int | Literal["auto"], "pictures per process and batch; auto: as many as fit into the GPU's memory"
    ] = PICTURES
    accumulate: Annotated[int, "batches per step"] = 1
    lr: Annotated[float | None, "learning rate; by default 0.02 for 16 pictures in a step, adamw: 1e-4"] = None
    schedule: Annotated[Literal["step", "cosine"], "step: a tenth after each of --steps"] = "step"
    steps: Annotated[tuple[float, ...], "shares of the run after which the rate is a tenth", "SHARE"] = Schedule.steps
    warmup: Annotated[int, "iterations of linear warm-up"] = 500
    optimizer: Annotated[str, "sgd or adamw"] = "sgd"
    weight_decay: float = 1e-4
    no_decay: Annotated[bool, "no weight decay on norms and biases"] = False
    layer_decay: Annotated[float, "rate of each backbone layer over that of the next; 1: all alike"] = 1.0
    ema: Annotated[float, "decay of an average of the weights, which is what is evaluated and kept; 0: none"] = 0.0
    clip: Annotated[float | None, "largest norm of the gradient", "NORM"] = None
    amp: Annotated[bool, "compute in bf16 where that is safe and the device can"] = False
    checkpoint_backbone: Annotated[bool, "compute the backbone twice instead of keeping its activations"] = False
    compile: Annotated[bool, "torch.compile for the layers; same gradients, slower to start"] = False
    graphs: Annotated[bool, "replay steps as CUDA graphs, one per shape of the batch; on one GPU"] = False
    seed: int = 0

    out: Annotated[
        Path | str | None,
        "folder for checkpoints, metrics, curves and pictures; by default a new one: runs/train, runs/train-2, …",
    ] = None
    resume: Annotated[bool, "go on from the newest checkpoint in --out"] = False
    evaluate_every: Annotated[int, "0: only at the end", "EPOCHS"] = 1
    patience: Annotated[int | None, "end after so many evaluations in a row without a better mask AP", "N"] = None
    min_delta: Annotated[float, "how much above the best so far a mask AP is better, for --patience"] = 0.001
    save_every: Annotated[int, "0: only at evaluations and at the end", "ITERATIONS"] = 1000
    keep: Annotated[int, "checkpoints kept"] = 3
    log: Annotated[tuple[str, ...], "tensorboard, wandb, mlflow, or none", "LOGGER"] = ("tensorboard",)
    dry_run: Annotated[bool, "try one step of everything, say how long and how much it will take, leave nothing"] = (
        False
    )
    device: Annotated[str | None, "cpu, cuda, cuda:1; by default a GPU if there is one"] = None
    threads: Annotated[int | None, "CPU threads (default: as many as cores are free)"] = None

    @classmethod
    def from_recipe(cls, recipe: str = "paper", **changes: Any) -> "TrainingRun":
        """A run by a named recipe: `TrainingRun.from_recipe("strong", data=root, epochs=24)`.

        recipe   paper, strong or small-data; see `presets`
        changes  other fields, which win over the recipe's; those in `set` are added to the recipe's
        """
        return cls(**presets.filled({"recipe": recipe, **changes}))

    @classmethod
    def sample(cls, **changes: Any) -> "TrainingRun":
        """A run of under five minutes: every part of the network is there, with fewer channels and proposals.

        changes  other fields, those in `set` beside the sample's; a length that is asked for (epochs, iterations) is
                 kept, however long it takes; of a `recipe`, all counts but what makes it long; jitter takes the place
                 of the sample's sizes and crops
        """
        small = {
            "channels": 96,
            "box_channels": 256,
            "samples": 64,
            "rpn_samples": 128,
            "rpn_train_proposals_per_level": 300,
            "rpn_train_proposals": 200,
            "rpn_proposals_per_level": 300,
            "rpn_proposals": 150,
        }
        values = dict(
            backbone="tf_efficientnet_lite0",
            image_size=(256, 256),
            scales=(0.8, 1.25),
            crop=256,
            epochs=4.0,
            # Half a minute less than is promised: to start Python takes its time too.
            max_minutes=None if changes.keys() & {"epochs", "iterations"} else 4.5,
            # AdamW forgives a short warm-up: after 400 steps mask AP50 0.63, SGD 0.44 at 0.005 and nothing at 0.02.
            optimizer="adamw",
            lr=3e-4,
            weight_decay=0.05,
            schedule="cosine",
            warmup=50,
            clip=10.0,
            amp=True,
            evaluate_every=2,
        )
        short_run = presets.of_short_run({**values, **changes}, changes)
        if {**short_run, **changes}.get("jitter", "none") != "none":
            # Which draws sizes and cuts itself.
            values |= {"scales": (1.0, 1.0), "crop": None}
        own = {**small, **short_run.get("set", {})}
        asked = changes.get("set", {})
        return cls(**{**values, **short_run, **changes, "set": {**own, **asked} if isinstance(asked, dict) else asked})

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(self, "set", {name: as_tuples(value) for name, value in self.set.items()})
        if self.threads is not None:
            check_count("--threads", self.threads, most=MOST_THREADS)
        choose(self.model, zoo.list_models(), "model")
        if self.image_size is None:
            object.__setattr__(self, "image_size", presets.size_of(self.model))
        source.check(self.weights, self.model)
        choose(self.optimizer, OPTIMIZERS, "optimizer")
        check_numbers(self)
        check_loggers(self.log)
        if self.patience is not None and not self.evaluate_every:
            raise UserError("--patience counts evaluations in between: give --evaluate-every 1 or more, or leave it.")
        if self.checkpoint_backbone and (self.graphs or self.compile):
            reason = (
                "--graphs replays what was captured, which cannot draw the same random numbers twice, as "
                "--checkpoint-backbone has to"
                if self.graphs
                else "--compile chooses itself what the backbone computes twice, so --checkpoint-backbone is not for it"
            )
            raise UserError(f"{reason}: leave out one of them.")
        if not 0 < self.scales[0] <= self.scales[1] < math.inf:
            raise UserError(f"--scales takes two factors, the smaller first, got {self.scales[0]} {self.scales[1]}.")
        for name in ("copy_paste", "repeat"):
            check_score(option(name), getattr(self, name))
        if self.jitter != "none" and (self.scales != (1.0, 1.0) or self.crop or self.train_sizes):
            raise UserError(
                f"--jitter {self.jitter} draws sizes and cuts pictures to squares of --image-size itself: leave out "
                "--scales, --crop and --train-sizes, or give --jitter none."
            )
        if not all(0 < one < math.inf for one in self.steps) or list(self.steps) != sorted(self.steps):
            raise UserError(f"--steps takes shares of the run above 0, the smaller first, got {short(self.steps)}.")
        if self.schedule == "cosine" and self.steps != Schedule.steps:
            raise UserError(
                "--steps belong to --schedule step, and cosine has none: give --schedule step, or leave --steps."
            )
        if self.train_sizes is not None:
            object.__setattr__(self, "train_sizes", check_train_sizes("--train-sizes", self.train_sizes))
        if (self.train_json is None) != (self.train_images is None) and self.data is None:
            raise UserError(
                "--train-json and --train-images belong together: give both, or --data with the root folder."
            )
        for name in DECIDED.keys() & self.set.keys():
            raise UserError(f"--set {name} is not to be set: {DECIDED[name]} decides it.")
        _ = self.size  # refused where it is none

    @property
    def size(self) -> tuple[int, int]:
        """Short side and limit of the long side of pictures in evaluations, and of those in training unless drawn."""
        return image_limits(self.image_size or presets.size_of(self.model))

    @property
    def on_sample(self) -> bool:
        """Whether no data is named, so that the sample pictures serve."""
        return self.data is None and self.train_json is None

    def plan(self, processes: int = 1) -> Recipe:
        """How long and how fast, for so many processes."""
        images = (PICTURES if self.batch_size == "auto" else self.batch_size) * self.accumulate * processes
        rate = scaled_rate(images, self.optimizer) if self.lr is None else self.lr
        return Recipe(
            schedule=Schedule(rate, self.schedule, self.steps, self.warmup),
            epochs=self.epochs,
            iterations=self.iterations,
            minutes=self.max_minutes,
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            accumulate=self.accumulate,
            amp=self.amp,
            graphs=self.graphs,
            clip=self.clip,
            no_decay=self.no_decay,
            layer_decay=self.layer_decay,
            ema=self.ema,
            evaluate_every=self.evaluate_every,
            save_every=self.save_every,
            keep=self.keep,
            seed=self.seed,
            patience=self.patience,
            min_delta=self.min_delta,
        )
