"""What a run says and leaves: one progress line, metrics as CSV, curves as a picture, and all of it to callbacks."""

import contextlib
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from htc_fast.errors import UserError
from htc_fast.training.callbacks import Callback, Callbacks
from htc_fast.training.checkpoint import remedy
from htc_fast.training.metrics import EVALUATIONS, LOSSES, SHOWN, append_row, drop_rows_after
from htc_fast.training.plots import draw_curves


class Report:
    """The leading process's record of a run, in a folder.

    folder     where the CSV files and `curves.png` go
    iteration  where the run starts; rows from a killed run that lie beyond it are dropped
    callbacks  that are told of what is recorded, from `start` on
    """

    def __init__(self, folder: Path, iteration: int = 0, callbacks: Sequence[Callback] = ()):
        self.folder = folder
        self.started = time.monotonic()
        self.first_share: float | None = None
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name in (LOSSES, EVALUATIONS):
                drop_rows_after(folder / name, iteration)
        self.line = tqdm(total=1.0, bar_format="{percentage:3.0f}%|{bar:10}| {desc}", dynamic_ncols=True)
        self.iteration, self.callbacks = iteration, Callbacks(callbacks, self.say)

    def start(self, settings: dict[str, Any]) -> None:
        """Tell the callbacks that the run begins, with which settings.

        raises  UserError naming the callback that could not start
        """
        self.callbacks.start(self.folder, self.iteration, settings)

    def losses(self, iteration: int, share: float, epoch: int, numbers: dict[str, float]) -> None:
        """Add one row of loss terms, rate, speed and memory, and show the run's state in the one line."""
        self._write(LOSSES, iteration, numbers)
        self._progress(share, epoch, iteration, numbers)
        self.callbacks.tell("on_step", iteration, numbers)

    def evaluation(self, iteration: int, numbers: dict[str, float]) -> None:
        """Add one row of AP values and redraw the curves."""
        self._write(EVALUATIONS, iteration, numbers)
        shown = [f"{name} {numbers[name]:.3f}" for name in SHOWN if name in numbers]
        self.say(f"iteration {iteration}: {', '.join(shown)}")
        self.draw()
        self.callbacks.tell("on_evaluation", iteration, numbers)

    def _progress(self, share: float, epoch: int, iteration: int, numbers: dict[str, float]) -> None:
        """Epoch is the one that this step was in, from 1."""
        if self.first_share is None:
            self.first_share, self.started = share, time.monotonic()
        done = share - self.first_share
        left = (time.monotonic() - self.started) / done * (1 - share) if done > 0 else 0.0
        text = [
            f"epoch {epoch} it {iteration}",
            f"loss {numbers['loss']:.2f} ({short_terms(numbers)})",
            f"{numbers['images_per_second']:.2f} img/s",
            f"{numbers['memory_mb'] / 1024:.1f} GB",
            f"{int(left) // 60}:{int(left) % 60:02d} left",
        ]
        self.line.n = min(share, 1.0)
        self.line.set_description_str(" · ".join(text), refresh=False)
        self.line.refresh()

    def say(self, sentence: str) -> None:
        """Print a line above the progress line."""
        self.line.write(sentence)

    def draw(self) -> None:
        """Draw the curves so far."""
        with writing(self.folder / "curves.png"):
            draw_curves(self.folder / LOSSES, self.folder / EVALUATIONS, self.folder / "curves.png")

    def close(self, iteration: int = 0, error: BaseException | None = None) -> None:
        """Draw the curves, close the files, and tell the callbacks how it ended: None, at the run's end."""
        self.line.close()
        # What ended the run is said already; a full disk here would hide it.
        try:
            with contextlib.suppress(OSError, UserError):
                if (self.folder / LOSSES).exists():
                    self.draw()
        finally:  # also where a second Ctrl-C ends the drawing
            if error is None:
                self.callbacks.tell("on_end", iteration)
            else:
                self.callbacks.tell("on_error", iteration, error)

    def _write(self, name: str, iteration: int, numbers: dict[str, float]) -> None:
        with writing(self.folder / name):
            append_row(self.folder / name, iteration, numbers)


def short_terms(numbers: dict[str, float]) -> str:
    """The loss terms in few characters: rpn class/box, guided anchors' location/shape, semantic, global context, then
    each stage's class/box/mask, and the mask that is of all stages."""
    parts = [f"rpn {numbers['rpn_class']:.2f}/{numbers['rpn_box']:.2f}"]
    if "rpn_location" in numbers:
        parts.append(f"anchors {numbers['rpn_location']:.2f}/{numbers['rpn_shape']:.2f}")
    if "semantic" in numbers:
        parts.append(f"sem {numbers['semantic']:.2f}")
    if "global_context" in numbers:
        parts.append(f"context {numbers['global_context']:.2f}")
    t = 1
    while f"stage{t}_class" in numbers:
        names = (f"stage{t}_{kind}" for kind in ("class", "box", "mask"))
        stage = [f"{numbers[name]:.2f}" for name in names if name in numbers]
        parts.append(f"s{t} {'/'.join(stage)}")
        t += 1
    if "mask" in numbers:
        parts.append(f"mask {numbers['mask']:.2f}")
    return " ".join(parts)


def memory_mb(device: torch.device) -> float:
    """Peak memory: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever the system refuses within is one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}): {remedy(path)}") from None
