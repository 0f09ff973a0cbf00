"""Five small pictures and the polygons in them, which every export under exports/ is made of."""

import numpy as np
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 48, 64
CLASSES = ["cat", "dog"]
# Corners lie on pixels' edges, so that shares of the picture and percent come back as they were.
OBJECTS = {
    "a": [("cat", [4, 4, 24, 4, 24, 20, 4, 20]), ("dog", [32, 8, 56, 8, 56, 40, 44, 40, 44, 24, 32, 24])],
    "b": [("dog", [8, 12, 40, 12, 40, 36, 8, 36])],
    "c": [("cat", [10, 6, 50, 6, 30, 42]), ("cat", [0, 30, 8, 30, 8, 48, 0, 48])],
    "d": [],
    "e": [("cat", [16, 16, 32, 16, 32, 40, 16, 40]), ("dog", [40, 2, 62, 2, 62, 30, 40, 30])],
}


def bitmap(*polygons):
    """uint8 [48, 64]: what pycocotools makes of polygons."""
    rles = coco_mask.frPyObjects([list(map(float, one)) for one in polygons], HEIGHT, WIDTH)
    return coco_mask.decode([coco_mask.merge(rles)])[..., 0]


def pixels(name):
    """A picture, uint8 [48, 64, 3]: its objects are lighter than what is behind them."""
    found = np.full((HEIGHT, WIDTH, 3), 40 + 10 * "abcde".index(name), dtype=np.uint8)
    for label, polygon in OBJECTS[name]:
        found[bitmap(polygon) > 0] = (220, 120, 60) if label == "cat" else (90, 160, 230)
    return found


def truth():
    """Picture -> [(class, uint8 [48, 64])]."""
    return {name: [(label, bitmap(polygon)) for label, polygon in objects] for name, objects in OBJECTS.items()}
