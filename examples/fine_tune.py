"""What train.py left, fine-tuned on data of one's own in COCO's format, here of two classes; --small: two steps."""

import argparse
import json
from pathlib import Path

import htc_fast
from htc_fast.commands import entry
from htc_fast.data import make_sample_dataset
from htc_fast.training import Trainer, TrainingRun

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--small", action="store_true")
SMALL = options.parse_args().small
WEIGHTS = "runs/example/model.safetensors"  # or "coco", with model="htc_r50": its authors' weights
OWN = Path("runs/own-data")  # train2017/, val2017/ and annotations/instances_*.json, as any tool writes them


def two_classes(folder: Path) -> None:
    """Leave only the objects of two classes."""
    for path in folder.glob("annotations/instances_*.json"):
        found = json.loads(path.read_text())
        found["categories"] = found["categories"][:2]
        found["annotations"] = [one for one in found["annotations"] if one["category_id"] in (1, 2)]
        path.write_text(json.dumps(found))


def main() -> None:
    two_classes(make_sample_dataset(OWN, seed=1, train=6 if SMALL else 40, val=2 if SMALL else 10))
    start = htc_fast.load(WEIGHTS).config
    changes = {"iterations": 2, "image_size": (96, 96), "save_every": 0} if SMALL else {"epochs": 10}
    # The last layers are new, all else starts from the weights; the recipe has what few pictures need.
    like = {"backbone": start.backbone, "set": {"channels": start.channels, "box_channels": start.box_channels}}
    given = {"data": OWN, "out": "runs/tuned", "weights": WEIGHTS, "model": start.name, **like, **changes}
    names = Trainer(TrainingRun.from_recipe("small-data", **given)).run().config.class_names
    print(f"{', '.join(names)}: runs/tuned/model.safetensors")


if __name__ == "__main__":  # processes that load pictures import this file
    entry.run(main)
