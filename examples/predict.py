"""Find objects in pictures with what train.py left, and draw them; --small: one picture, as the network is."""

import argparse
from pathlib import Path

import htc_fast
from htc_fast.commands import entry
from htc_fast.data.draw import draw

WEIGHTS = "runs/example/model.safetensors"  # or another library's file, with name="mask_rcnn_r50"
PICTURES = Path("runs/example-data/val2017")
OUT = Path("runs/example/found")

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--small", action="store_true")
SMALL = options.parse_args().small


def main() -> None:
    model = htc_fast.load(WEIGHTS)  # on a GPU if there is one
    if not SMALL:
        model = htc_fast.optimize(model, image_size=(256, 416))

    pictures = sorted(PICTURES.iterdir())[: 1 if SMALL else 6]
    OUT.mkdir(parents=True, exist_ok=True)
    for path, found in zip(pictures, model.predict(pictures, score_threshold=0.3)):
        for i in range(len(found)):
            x1, y1, x2, y2 = found.boxes[i].tolist()
            print(f"{path.name}: {found.name(i)} {found.scores[i]:.2f} at {x1:.0f} {y1:.0f} {x2:.0f} {y2:.0f}")
        draw(path, found).save(OUT / f"{path.stem}.png")
    print(f"{len(pictures)} pictures drawn: {OUT}")


entry.run(main)  # a missing file is one sentence
