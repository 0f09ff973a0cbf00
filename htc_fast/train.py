"""`python -m htc_fast.train`: train a detector on a COCO-format data set, or, with no data named, on the sample."""

import time

import htc_fast
from htc_fast.commands import entry
from htc_fast.commands.options import given
from htc_fast.training import Trainer, TrainingRun, distributed

ABOUT = "Train Hybrid Task Cascade. With no data named, a small one is trained on sample pictures."


def main() -> int:
    """Train, as the options say."""
    found = given(TrainingRun, "train", ABOUT)
    named = found.keys() & {"data", "train_json"}
    run = TrainingRun.from_recipe(**found) if named else TrainingRun.sample(**found)
    try:
        trainer = Trainer(run, spent=time.monotonic() - htc_fast.BEGAN)
        trainer.run()
    finally:
        distributed.stop()
    return entry.INTERRUPTED if trainer.loop.stopping else 0


if __name__ == "__main__":
    entry.run(main)
