"""What an ablation is told: a training run's options, for all of its models alike, and which tables it makes."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from htc_fast.ablation.tables import TABLES, chosen
from htc_fast.errors import UserError, check_count
from htc_fast.training import TrainingRun

# What makes one variant of the tables another one: set for all, it would make them the same.
VARIED = {"interleaved", "information_flow", "semantic", "semantic_loss_weight", "class_agnostic", "test_stage"}
VARIED |= {"stages", "match_iou", "loss_weight", "delta_std"}
MOST_JOBS = 64


@dataclass(frozen=True)
class AblationRun(TrainingRun):
    """Everything that an ablation is made of. The defaults are the paper's recipe; `small` is for a laptop.

    raises  UserError naming the option that makes no sense
    """

    GROUPS: ClassVar = {"tables": "tables", **TrainingRun.GROUPS}
    # Each model and seed has its own; an ablation always goes on where it stopped, by the paper's recipe or the small.
    HIDDEN: ClassVar = (
        "model",
        "recipe",
        "seed",
        "resume",
        "evaluate_every",
        "keep",
        "patience",
        "min_delta",
        "dry_run",
    )

    tables: Annotated[tuple[int, ...], "the paper's tables to make"] = tuple(TABLES)
    seeds: Annotated[int, "runs of each model, which differ in order, initial values and sampling"] = 3
    jobs: Annotated[int, "runs side by side, each in a process with its share of the CPU's threads"] = 1
    val_limit: Annotated[int | None, "score on the first N held-out pictures alone", "N"] = None
    full: Annotated[bool, "the paper's network and recipe instead of the small ones"] = False
    out: Annotated[Path | str | None, "folder for runs/, results.json, tables.md and ablation.png"] = "runs/ablation"

    @classmethod
    def small(cls, **changes: Any) -> "AblationRun":
        """Every part of the network, with fewer channels and proposals; a run takes a core two or three minutes.

        changes  other fields
        """
        sample = TrainingRun.sample(iterations=240, epochs=20.0, crop=160, lr=5e-4, warmup=20)
        run = cls(**{one.name: getattr(sample, one.name) for one in fields(TrainingRun) if one.name != "out"})
        run = replace(run, set={**sample.set, "channels": 64})
        if changes.get("jitter", "none") != "none":
            # Which draws sizes and cuts itself.
            run = replace(run, scales=(1.0, 1.0), crop=None)
        return replace(run, **changes)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recipe != "paper":
            raise UserError(
                f"recipe must be paper in an ablation, whose models differ in one thing at a time, got {self.recipe}: "
                "set the options that you want, such as jitter or ema."
            )
        if self.batch_size == "auto":
            raise UserError("--batch-size auto may differ from run to run, which then do not compare: give a number.")
        chosen(self.tables)
        check_count("--seeds", self.seeds, most=1000)
        check_count("--jobs", self.jobs, most=MOST_JOBS)
        if self.val_limit is not None:
            check_count("--val-limit", self.val_limit)
        for name in VARIED & self.set.keys():
            raise UserError(f"--set {name} is not to be set: the tables vary it.")
        if str(self.semantic) == "none":
            raise UserError("--semantic none leaves the semantic branch out, which the tables vary: try derive.")
        if self.out is None:
            raise UserError("an ablation needs a folder to go on in: give --out.")

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path(str(self.out))

    def training(self, model: str, seed: int, out: Path) -> TrainingRun:
        """The run of one model and seed, which goes on where it stopped."""
        own = {field.name: getattr(self, field.name) for field in fields(TrainingRun)}
        own |= {"model": model, "seed": seed, "out": out, "resume": (out / "checkpoints").exists()}
        return TrainingRun(**{**own, "evaluate_every": 0, "keep": 1, "patience": None, "dry_run": False})
