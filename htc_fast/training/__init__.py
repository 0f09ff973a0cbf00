"""Training: a run as one frozen dataclass, and the trainer that carries it out."""

from htc_fast.training.callbacks import Callback
from htc_fast.training.run import TrainingRun
from htc_fast.training.trainer import Trainer

__all__ = ["Callback", "Trainer", "TrainingRun"]
