"""What evaluate, predict and export ask alike: which weights, which size, which device."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from htc_fast.data.pictures import image_limits
from htc_fast.detector import Detector, load
from htc_fast.device import autocast
from htc_fast.errors import LONGEST_SIDE, MOST_DETECTIONS, MOST_PICTURES, UserError, check_count, few, say_once, settle
from htc_fast.inference.onnx.session import OnnxDetector
from htc_fast.inference.optimize import Optimized, optimized
from htc_fast.inference.predict import at_stage
from htc_fast.inference.tiles import Tiling
from htc_fast.inference.views import SIDES, Views, sizes_of

Predicting = Detector | Views | OnnxDetector
Ready = Predicting | Optimized  # in the form and precision asked for
WEIGHTS = "checkpoint: ours, mmdetection's, torchvision's or detectron2's; hf-hub:owner/name; with --model, coco"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A detector from a file.

    raises  UserError naming the option that makes no sense
    """

    weights: Any  # a path or name, or several: each command says which
    model: Annotated[str | None, "name of the network, where the file does not say it: see htc_fast.list_models()"] = (
        None
    )
    image_size: Annotated[tuple[int, ...] | None, "short side and, optionally, longest long side", "PX"] = None
    batch_size: int = 1
    device: Annotated[str | None, "cpu, cuda, cuda:1; by default a GPU if there is one"] = None
    detections: Annotated[int | None, "at most so many objects in a picture (default: the model's own, 100)", "N"] = (
        None
    )

    def __post_init__(self) -> None:
        settle(self)
        check_count("--batch-size", self.batch_size, most=MOST_PICTURES)
        if self.detections is not None:
            check_count("--detections", self.detections, most=MOST_DETECTIONS)

    def detector(self, weights: Path, device: str | None = None, several: bool = False) -> Detector:
        """The detector of a file, on its device; of several, --model names those that do not say it."""
        name, otherwise = (None, self.model) if several else (self.model, None)
        model = load(weights, name=name, device=device or self.device, otherwise=otherwise)
        if self.detections is not None:
            model.config = replace(model.config, detections=self.detections)
        return model


@dataclass(frozen=True, kw_only=True)
class Inference(Network):
    """A detector, or several that look together, and how they compute."""

    weights: Annotated[
        tuple[Path, ...], f"{WEIGHTS}; an exported .onnx file; several checkpoints: detectors that decide together"
    ]
    workers: Annotated[int, "threads that read pictures (default: 1 on a CPU, up to 8 on a GPU)"] = 0
    optimize: Annotated[
        bool, "fold and fuse the network first; on a GPU, one graph per size, but none for --tta or several --weights"
    ] = False
    amp: Annotated[bool, "compute in bf16 where that is safe and the device can"] = False
    tta: Annotated[bool, "look at each picture in several sizes, mirrored too, one picture at a time"] = False
    tta_sides: Annotated[tuple[int, ...], "short sides of --tta, the long ones half as long again at most", "PX"] = (
        SIDES
    )
    tta_flip: Annotated[bool, "whether --tta looks at mirrored pictures too"] = True
    tile: Annotated[int | None, "cut pictures into tiles of this side, each resized as a picture is", "PX"] = None
    overlap: Annotated[float, "share of a side that neighbouring tiles have in common"] = Tiling.overlap

    def __post_init__(self) -> None:
        if isinstance(self.weights, (str, Path)):
            object.__setattr__(self, "weights", (self.weights,))
        super().__post_init__()
        check_count("--workers", self.workers, least=0)
        if not self.weights:
            raise UserError("--weights takes at least one checkpoint, got none.")
        if self.image_size is not None:
            image_limits(self.image_size)
        for side in self.tta_sides:
            check_count("--tta-sides", side, least=32, most=LONGEST_SIDE * 2 // 3)
        if not self.tta_sides:
            raise UserError("--tta-sides takes at least one side in pixels, got none.")
        if self.tta and self.image_size is not None:
            raise UserError("--tta has sizes of its own: leave out --image-size, or choose them with --tta-sides.")
        if not self.tta and (self.tta_sides != SIDES or not self.tta_flip):
            raise UserError("--tta-sides and --tta-flip say how --tta looks: give --tta too, or leave them out.")
        if self.tiling is None and self.overlap != Tiling.overlap:
            raise UserError("--overlap is that of tiles: give --tile too, or leave it out.")

    @property
    def tiling(self) -> Tiling | None:
        """How pictures are cut; None: they are not."""
        return None if self.tile is None else Tiling(self.tile, self.overlap)

    @property
    def size(self) -> tuple[int, int] | None:
        """(short side, limit of the long side); None: the model's own, or those of --tta."""
        return None if self.image_size is None else image_limits(self.image_size)

    def load(self, device: str | None = None) -> Predicting:
        """The detector, on its device; several, or with several views, as one."""
        if any(one.suffix.lower() == ".onnx" for one in self.weights):
            return self._exported()
        models = [self.detector(one, device, several=len(self.weights) > 1) for one in self.weights]
        if len(models) == 1 and not self.tta:
            return models[0]
        if self.batch_size > 1:
            say_once("with --tta or several --weights pictures are taken one by one, whatever --batch-size says.")
        return Views(models, sizes_of(self.tta_sides) if self.tta else None, self.tta and self.tta_flip)

    def _exported(self) -> OnnxDetector:
        """raises  UserError for what a file cannot do otherwise than it was exported"""
        asked = {
            "several --weights": len(self.weights) > 1,
            "--model": self.model is not None,
            "--image-size": self.image_size is not None,
            "--detections": self.detections is not None,
            "--device": self.device not in (None, "cpu"),
            **{f"--{name}": getattr(self, name) for name in ("optimize", "amp", "tta")},
        }
        if wrong := few(name for name, given in asked.items() if given):
            raise UserError(f"an ONNX file detects on a processor, as it was exported, so leave out {wrong}.")
        return OnnxDetector(self.weights[0])

    @contextlib.contextmanager
    def ready(self, model: Predicting, stage: int | None) -> Iterator[Ready]:
        """The model in the form and precision asked for; within, it detects with one stage alone or with all (None)."""
        device = next(model.parameters()).device
        form = self._optimized(model) if self.optimize and not isinstance(model, OnnxDetector) else model
        if isinstance(model, OnnxDetector):
            own = model.config.test_stage
            if stage not in (None, own):
                raise UserError(f"an ONNX file keeps the stages it was exported with: export it with --stage {stage}.")
            stage = own
        with at_stage(form, stage), autocast(device, self.amp and not self.optimize):
            yield form

    def _optimized(self, model: Detector | Views) -> Optimized | Views:
        if isinstance(model, Views):
            return model.optimized(self.amp)
        return optimized(model, self.size, self.batch_size, self.amp)


def stages_of(model: Predicting) -> int:
    """How many stages the detector has; of several, the least that one has."""
    models = model.models if isinstance(model, Views) else [model]
    return min(len(one.config.stages.match_iou) for one in models)
