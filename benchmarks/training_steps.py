"""What benchmarks.training_cpu times in a process of its own, with the htc_fast that stands first in PYTHONPATH.

Run by its path: it takes nothing from its own tree, and of htc_fast what older revisions have, too.
"""

import json
import sys
import tempfile
from dataclasses import replace
from typing import Any

WORKS = "sample", "htc_r50"
RATE = 1e-5  # small enough for losses to stay what they are
WARM = {"sample": 40, "htc_r50": 2}  # steps in which oneDNN compiles its kernels
FEWER = {"sample": 1, "htc_r50": 2}  # times fewer steps


def measured(work: str, mode: str, dtype: str, steps: int, tiny: bool) -> dict[str, Any]:
    """Seconds of each step of the run's own loop, and milliseconds by part of the one in the middle."""
    import torch

    from htc_fast.data.sample import make_sample_dataset
    from htc_fast.profiling.detect import measured as timed
    from htc_fast.profiling.meters import median_round
    from htc_fast.training import Trainer, TrainingRun
    from htc_fast.training.optimizer import set_rate

    common: dict[str, Any] = {"device": "cpu", "compile": mode == "compiled", "amp": dtype == "bfloat16"}
    if tiny:
        common |= {"pretrained": False, "image_size": (64, 96)}
    with tempfile.TemporaryDirectory() as folder:
        if work == "sample":
            run = TrainingRun.sample(out=folder, **common)
        else:
            common = {"image_size": (800, 1333), "pretrained": False} | common
            run = TrainingRun(model=work, data=make_sample_dataset(), workers=0, batch_size=1, out=folder, **common)
        loop = Trainer(run).loop
        loop.model.train()
        set_rate(loop.optimizer, RATE)
        stream = loop.batches.stream()

        def step() -> None:
            loop.update(stream)
            loop.at = replace(loop.at, iteration=loop.at.iteration + 1)

        for _ in range(1 if tiny else WARM[work]):
            step()
        rounds = timed(step, torch.device("cpu"), max(1, steps // FEWER[work]))
    parts = {name: round(seconds * 1e3, 1) for name, seconds in median_round(rounds).items()}
    seconds = [sum(one.values()) for one in rounds]
    return {"seconds": seconds, "batch": loop.batches.batch_size, "dtype": dtype, "parts ms": parts}


if __name__ == "__main__":
    work, mode, dtype, steps, *tiny = sys.argv[1:]
    print(json.dumps(measured(work, mode, dtype, int(steps), bool(tiny))))
