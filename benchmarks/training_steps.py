"""A process of benchmarks.training_cpu, which takes a step whenever it is told to, with the htc_fast in PYTHONPATH.

Run by its path: it takes nothing from its own tree, and of htc_fast what older revisions have, too. Every line that it
reads is a step, and every line that it writes the seconds of the step's parts; the first one says the batch's size.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

WORKS = "sample", "htc_r50"
RATE = 1e-5  # small enough for losses to stay what they are
WARM = {"sample": 40, "htc_r50": 2}  # steps in which oneDNN compiles its kernels
FEWER = {"sample": 1, "htc_r50": 2}  # times fewer steps


def prepared(work: str, mode: str, dtype: str, tiny: bool, folder: str) -> tuple[Callable[[], dict[str, float]], int]:
    """A step of the run's own loop, warm, which returns the seconds of its parts; and the batch's size."""
    import torch

    from htc_fast.data.sample import make_sample_dataset
    from htc_fast.profiling.detect import measured
    from htc_fast.training import Trainer, TrainingRun
    from htc_fast.training.optimizer import set_rate

    common: dict[str, Any] = {"device": "cpu", "compile": mode == "compiled", "amp": dtype == "bfloat16"}
    if tiny:
        common |= {"pretrained": False, "image_size": (64, 96)}
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
    return lambda: measured(step, torch.device("cpu"), 1)[0], loop.batches.batch_size


if __name__ == "__main__":
    work, mode, dtype, *tiny = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        timed, batch = prepared(work, mode, dtype, bool(tiny), folder)
        print(json.dumps(batch), flush=True)
        for _ in sys.stdin:
            print(json.dumps(timed()), flush=True)
