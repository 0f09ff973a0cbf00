"""Find objects in pictures with what train.py left, and draw them."""

import sys
from pathlib import Path

import htc_fast
from htc_fast.inference.draw import draw

SMALL = "--small" in sys.argv
WEIGHTS = "runs/example/model.safetensors"  # or another library's file, with name="mask_rcnn_r50"
PICTURES = sorted(Path("runs/example-data/val2017").iterdir())[: 1 if SMALL else 6]
OUT = Path("runs/example/found")

model = htc_fast.load(WEIGHTS)  # on a GPU if there is one
if not SMALL:
    model = htc_fast.optimize(model, image_size=(256, 416))

OUT.mkdir(exist_ok=True)
for path, found in zip(PICTURES, model.predict(PICTURES, score_threshold=0.3)):
    for i in range(len(found)):
        x1, y1, x2, y2 = found.boxes[i].tolist()
        print(f"{path.name}: {found.name(i)} {found.scores[i]:.2f} at {x1:.0f} {y1:.0f} {x2:.0f} {y2:.0f}")
    draw(path, found).save(OUT / f"{path.stem}.png")
print(f"{len(PICTURES)} pictures drawn: {OUT}")
