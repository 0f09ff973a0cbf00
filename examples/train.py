"""Train from Python, on sample pictures that come with a package; --small: two steps, to see that all is in place."""

import argparse

from htc_fast.commands import entry
from htc_fast.data import make_sample_dataset
from htc_fast.training import Trainer, TrainingRun

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--small", action="store_true")
SMALL = options.parse_args().small


def main() -> None:
    # Any folder in COCO's format will do; this one is made on the spot.
    data = make_sample_dataset("runs/example-data", **({"train": 6, "val": 2} if SMALL else {}))
    changes = {"iterations": 2, "image_size": (96, 96), "crop": 96, "save_every": 0} if SMALL else {"epochs": 4}
    # A field for every option of `python -m htc_fast.train`; TrainingRun(data=…) alone is the paper's recipe.
    run = TrainingRun.sample(data=data, out="runs/example", **changes)
    trainer = Trainer(run)
    model = trainer.run()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, in {trainer.loop.folder}")


if __name__ == "__main__":  # processes that load pictures import this file
    entry.run(main)
