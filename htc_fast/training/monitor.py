"""Looking at losses without making the device wait: averages for the log, an alarm for what is not finite."""

import contextlib
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from htc_fast.errors import UserError


class Window:
    """Loss terms and speed since the last row of the log."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        """Forget what was counted."""
        self.terms: dict[str, Tensor] = {}
        self.steps = self.images = 0
        self.started = time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time within does not count."""
        began = time.monotonic()
        yield
        self.started += time.monotonic() - began

    def add(self, terms: dict[str, Tensor], images: int) -> None:
        """Count one step."""
        for name, value in terms.items():
            self.terms[name] = self.terms[name] + value if name in self.terms else value
        self.steps += 1
        self.images += images

    def flush(self) -> dict[str, float]:
        """Mean terms, their sum "loss" and images per second; the window starts anew."""
        values = (torch.stack(list(self.terms.values())) / self.steps).tolist()
        numbers = {
            "loss": sum(values),
            **dict(zip(self.terms, values, strict=True)),
            "images_per_second": self.images / max(time.monotonic() - self.started, 1e-9),
        }
        self.restart()
        return numbers


class Alarm:
    """Raises when a loss term is not finite: at once on the CPU, a step later on a device that runs ahead."""

    def __init__(self):
        self.pending: tuple | None = None

    def look(self, terms: dict[str, Tensor], iteration: int, images: list[str]) -> None:
        """Inspect a step's terms (or, on a GPU, the step before's).

        raises  UserError naming the term, its value and the images
        """
        values = torch.stack(list(terms.values())).detach()
        if values.device.type == "cpu":
            _inspect(values, list(terms), iteration, images)
            return
        self.settle()
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        self.pending = (copied, host, list(terms), iteration, images)

    def settle(self) -> None:
        """Inspect what has not been looked at yet."""
        if self.pending is not None:
            copied, *seen = self.pending
            self.pending = None
            copied.synchronize()
            _inspect(*seen)


def _inspect(values: Tensor, names: list[str], iteration: int, images: list[str]) -> None:
    read = zip(names, values.tolist(), strict=True)
    bad = [f"{name} = {value}" for name, value in read if not math.isfinite(value)]
    if bad:
        raise UserError(
            f"loss is not finite at iteration {iteration}: {', '.join(bad)}, on {', '.join(images)}: "
            "the last good checkpoint is kept; check these images, or lower --lr or set --clip."
        )


def check_weights(model: nn.Module, iteration: int) -> None:
    """Refuse weights that are not finite, so that no such checkpoint is ever written.

    raises  UserError naming the first of them
    """
    names, tensors = zip(*model.named_parameters(), strict=True)
    finite = torch.stack([tensor.detach().isfinite().all() for tensor in tensors]).tolist()
    if not all(finite):
        raise UserError(
            f"the weights are not finite after iteration {iteration} (first: {names[finite.index(False)]}): "
            "the last good checkpoint is kept; lower --lr or set --clip."
        )
