"""What evaluate, predict and export ask alike: which weights, which size, which device."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from htc_fast.data.pictures import image_limits
from htc_fast.detector import Detector, load
from htc_fast.device import autocast
from htc_fast.errors import MOST_DETECTIONS, MOST_PICTURES, check_count, settle
from htc_fast.inference.optimize import Optimized, optimized
from htc_fast.inference.predict import at_stage


@dataclass(frozen=True, kw_only=True)
class Network:
    """A detector from a file.

    raises  UserError naming the option that makes no sense
    """

    weights: Annotated[Path, "checkpoint: ours, mmdetection's, torchvision's or detectron2's"]
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

    def load(self, device: str | None = None) -> Detector:
        """The detector, on its device."""
        model = load(self.weights, name=self.model, device=device or self.device)
        if self.detections is not None:
            model.config = replace(model.config, detections=self.detections)
        return model


@dataclass(frozen=True, kw_only=True)
class Inference(Network):
    """A detector, and how it computes."""

    workers: Annotated[int, "threads that read pictures (default: 1 on a CPU, up to 8 on a GPU)"] = 0
    optimize: Annotated[bool, "fold and fuse the network first; on a GPU, one graph per size"] = False
    amp: Annotated[bool, "compute in bf16 where that is safe and the device can"] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("--workers", self.workers, least=0)
        if self.image_size is not None:
            image_limits(self.image_size)

    @property
    def size(self) -> tuple[int, int] | None:
        """(short side, limit of the long side); None: the model's own."""
        return None if self.image_size is None else image_limits(self.image_size)

    @contextlib.contextmanager
    def ready(self, model: Detector, stage: int | None) -> Iterator[Detector | Optimized]:
        """The model in the form and precision asked for; within, it detects with one stage alone or with all (None)."""
        device = next(model.parameters()).device
        form = optimized(model, self.size, self.batch_size, self.amp) if self.optimize else model
        with at_stage(form, stage), autocast(device, self.amp and not self.optimize):
            yield form
