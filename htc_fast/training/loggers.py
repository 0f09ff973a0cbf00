"""Callbacks that hand a run's numbers to TensorBoard, Weights & Biases and MLflow, under the same names in each.

W&B and MLflow take where to and as whom from their own environment variables. A run that is resumed goes on in the
same run there: its name stands in a file of the run's folder.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from htc_fast.errors import UserError, choose, say_once
from htc_fast.training.callbacks import Callback


class Logger(Callback):
    """A callback for which losses and AP are numbers with names: train/loss, val/mask_AP."""

    def on_step(self, iteration: int, numbers: dict[str, float]) -> None:
        """As `Callback`."""
        self.log(iteration, {f"train/{name}": value for name, value in numbers.items()})

    def on_evaluation(self, iteration: int, numbers: dict[str, float]) -> None:
        """As `Callback`."""
        self.log(iteration, {f"val/{name}": value for name, value in numbers.items()})

    def log(self, iteration: int, numbers: dict[str, float]) -> None:
        """Keep some numbers of an iteration."""


class TensorBoard(Logger):
    """Event files in the run's folder, in tensorboard/; those of a killed run beyond its checkpoint are not shown."""

    def __init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.make = SummaryWriter

    def on_start(self, folder: Path, iteration: int, settings: dict[str, Any]) -> None:
        """As `Callback`."""
        self.board = self.make(str(folder / "tensorboard"), purge_step=iteration + 1 if iteration else None)

    def log(self, iteration: int, numbers: dict[str, float]) -> None:
        """As `Logger`."""
        for name, value in numbers.items():
            self.board.add_scalar(name, value, iteration)

    def on_end(self, iteration: int) -> None:
        """As `Callback`."""
        self.board.close()

    def on_error(self, iteration: int, error: BaseException) -> None:
        """As `Callback`."""
        self.board.close()


class WandB(Logger):
    """A run of Weights & Biases, named like the folder, which its local files lie in.

    options  of wandb.init, which win over ours: project, entity, mode, tags, …
    raises   UserError where wandb is not installed
    """

    def __init__(self, **options: Any):
        try:
            import wandb
        except ImportError:
            raise UserError("to log to Weights & Biases takes its package: pip install wandb.") from None
        self.wandb, self.options = wandb, options

    def on_start(self, folder: Path, iteration: int, settings: dict[str, Any]) -> None:
        """As `Callback`."""
        ours = {"project": os.environ.get("WANDB_PROJECT", "htc_fast"), "name": folder.name, "dir": str(folder)}
        known = _known(folder / "wandb.id", iteration)
        ours |= {"id": known, "resume": "allow"} if known else {}
        self.run = self.wandb.init(**{**ours, "config": settings, **self.options})
        (folder / "wandb.id").write_text(self.run.id)
        # Steps of W&B's own only rise, and a resumed run may take some a second time.
        self.run.define_metric("*", step_metric="iteration")

    def log(self, iteration: int, numbers: dict[str, float]) -> None:
        """As `Logger`."""
        self.run.log({"iteration": iteration, **numbers})

    def on_end(self, iteration: int) -> None:
        """As `Callback`."""
        self.run.finish()

    def on_error(self, iteration: int, error: BaseException) -> None:
        """As `Callback`."""
        self.run.finish(exit_code=1)


class MLflow(Logger):
    """A run of MLflow, named like the folder, with the settings as its parameters; inside the active run, if any.

    raises  UserError where mlflow is not installed
    """

    def __init__(self) -> None:
        try:
            import mlflow
        except ImportError:
            raise UserError("to log to MLflow takes its package: pip install mlflow, or mlflow-skinny.") from None
        self.mlflow = mlflow

    def on_start(self, folder: Path, iteration: int, settings: dict[str, Any]) -> None:
        """As `Callback`."""
        known, inside = _known(folder / "mlflow.id", iteration), self.mlflow.active_run() is not None
        run = self.mlflow.start_run(run_id=known, run_name=None if known else folder.name, nested=inside)
        self.run = run.info.run_id
        (folder / "mlflow.id").write_text(self.run)
        if not known:  # a parameter keeps its first value
            self.mlflow.log_params(settings)

    def log(self, iteration: int, numbers: dict[str, float]) -> None:
        """As `Logger`."""
        self.mlflow.log_metrics(numbers, step=iteration)

    def on_end(self, iteration: int) -> None:
        """As `Callback`."""
        self.mlflow.end_run("FINISHED")

    def on_error(self, iteration: int, error: BaseException) -> None:
        """As `Callback`."""
        self.mlflow.end_run("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")


LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


def check_loggers(names: Iterable[str]) -> tuple[str, ...]:
    """Names of loggers, each once; "none" is none of them.

    raises  UserError for another name, or "none" beside one
    """
    found = tuple(dict.fromkeys(choose(name, [*LOGGERS, "none"], "logger") for name in names))
    if "none" in found and len(found) > 1:
        raise UserError(f"--log none is for no logger at all, got {' '.join(found)}: leave out none, or the others.")
    return () if found == ("none",) else found


def make_loggers(names: Iterable[str]) -> list[Logger]:
    """raises  UserError where the package of one is missing, but for TensorBoard's, whose lack is said"""
    made = []
    for name in names:
        try:
            made.append(LOGGERS[name]())
        except ImportError:
            say_once("tensorboard is not installed, so metrics go to CSV only (pip install tensorboard).")
    return made


def _known(path: Path, iteration: int) -> str | None:
    """The other side's name of a run that goes on."""
    return path.read_text().strip() or None if iteration and path.exists() else None
