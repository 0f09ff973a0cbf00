"""Box and mask AP of what train.py left, of each stage of the cascade and of all together."""

import argparse

import htc_fast
from htc_fast.commands import entry
from htc_fast.data import CocoDataset
from htc_fast.evaluation import evaluate
from htc_fast.inference.predict import at_stage

argparse.ArgumentParser(description=__doc__).parse_args()


def main() -> None:
    model = htc_fast.load("runs/example/model.safetensors")
    held_out = CocoDataset("runs/example-data", "val")

    for stage in (1, 2, 3, None):
        with at_stage(model, stage):
            scores = evaluate(model, held_out)
        name = f"stage {stage}" if stage else "ensemble"
        print(f"{name}: box AP {scores['box_AP']:.3f}, mask AP {scores['mask_AP']:.3f}, AP50 {scores['mask_AP50']:.3f}")


entry.run(main)  # a missing file is one sentence
