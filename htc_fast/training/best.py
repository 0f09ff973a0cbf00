"""The best weights of a run so far, by mask AP on its own held-out pictures."""

import json
from pathlib import Path

from htc_fast.models.htc import HTC
from htc_fast.training import checkpoint

SCORE = "mask_AP"
WEIGHTS, ABOUT = "best.safetensors", "best.json"


def keep_best(
    folder: Path, model: HTC, iteration: int, numbers: dict[str, float], held_out: str | None, first: bool
) -> str:
    """Write weights and scores where they are better than those that this run left in its folder.

    held_out  what the held-out pictures are; scores on others do not compare
    first     whether this run has left nothing yet, so that what is there is another's
    returns   a sentence where scores do not compare, else an empty one
    """
    then, said = None if first else _read(folder / ABOUT), ""
    if then is not None and then.get("held_out", held_out) != held_out:
        said = (
            f"{WEIGHTS} of so far (mask AP {then[SCORE]:.3f} on other held-out pictures) does not compare: it is "
            "written anew."
        )
        then = None
    if then is None or numbers[SCORE] > then[SCORE]:
        checkpoint.write_whole(folder / WEIGHTS, checkpoint.weights_bytes(model))
        about = {"iteration": iteration, "held_out": held_out, **numbers}
        checkpoint.write_whole(folder / ABOUT, json.dumps(about).encode())
    return said


def _read(path: Path) -> dict | None:
    """None where there are no such scores, or none that can be read."""
    try:
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) and isinstance(found[SCORE], (int, float)) else None
    except (OSError, ValueError, KeyError):
        return None
