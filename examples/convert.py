"""Another library's checkpoint as one file of ours, and what it finds in a picture; --small: a small picture."""

import argparse
from pathlib import Path

import torch
import torchvision

import htc_fast
from htc_fast.commands import entry
from htc_fast.convert import ConvertRun, convert
from htc_fast.data import make_sample_dataset

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--small", action="store_true")
SMALL = options.parse_args().small
THEIRS = Path("runs/convert/maskrcnn_resnet50_fpn.pth")  # or mmdetection's, or detectron2's


def main() -> None:
    # With weights="DEFAULT" these are torchvision's own for COCO; without network they are made up.
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    THEIRS.parent.mkdir(parents=True, exist_ok=True)
    torch.save(theirs.state_dict(), THEIRS)

    # The same as python -m htc_fast.convert FILE --model mask_rcnn_r50: it says what it found and what it set.
    ours = convert(ConvertRun(file=THEIRS, model="mask_rcnn_r50"))
    model = htc_fast.load(ours)
    folder = make_sample_dataset("runs/example-data", **({"train": 6, "val": 2} if SMALL else {}))
    picture = sorted((folder / "val2017").iterdir())[0]
    [found] = model.predict(picture, size=(96, 160) if SMALL else None)
    print(f"{picture.name}: {len(found)} objects of {model.config.num_classes} classes")


entry.run(main)  # a missing file is one sentence
