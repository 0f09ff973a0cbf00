"""--batch-size auto: as many pictures as a GPU's memory holds, found by steps on the largest ones."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from htc_fast.data.coco import CocoDataset
from htc_fast.data.loader import Collate
from htc_fast.detector import Detector
from htc_fast.device import autocast, out_of_memory
from htc_fast.errors import UserError
from htc_fast.training import checkpoint
from htc_fast.training.distributed import World
from htc_fast.training.largest import largest_batch
from htc_fast.training.optimizer import make_optimizer
from htc_fast.training.run import PICTURES, TrainingRun
from htc_fast.training.step import Step, fetch, learn

MARGIN = 0.9  # of the memory that is free at first: other pictures, fragments, evaluations
GRAPHED = 0.5  # of that, where graphs take up to as much again


class Memory:
    """A device's memory, in bytes."""

    def __init__(self, device: torch.device):
        self.device = device

    @property
    def free(self) -> int:
        """What this process may have, with what it has already."""
        return torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device)

    def forget(self) -> None:
        """Start the peak anew."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def peak(self) -> int:
        """The most that was held since."""
        return torch.cuda.max_memory_reserved(self.device)


def memory_of(device: torch.device) -> Memory | None:
    """None for a CPU, whose memory has no end that could be tried without harm."""
    return Memory(device) if device.type == "cuda" else None


def settled(run: TrainingRun, folder: Path, model: Detector, train: CocoDataset, world: World) -> TrainingRun:
    """The run with a number in place of "auto".

    A run that is resumed keeps the number that it had. All processes come to the same, the smallest of theirs.

    raises  UserError where no picture fits
    """
    if run.batch_size != "auto":
        return run
    memory, said = memory_of(world.device), ""
    found = int(world.max(_before(folder) or 0)) if run.resume else 0
    if found:
        said = f"--batch-size auto: {found} pictures, as this run had before."
    elif memory is None:
        found, said = PICTURES, f"--batch-size auto is for GPUs: on a CPU it is {PICTURES}, as by default."
    else:
        found, said = _tried(run, model, train, world, memory)
    if world.is_main:
        print(said, file=sys.stderr)
    return replace(run, batch_size=found)


def search(fits: Callable[[int], bool], most: int) -> int:
    """The largest of 1, 2, 3, 4, 6, 8, 12, … that fits, and is at most that; 0 where not even 1 does.

    fits  count -> whether it does; asked for growing powers of two until one does not, then for that between
    """
    found = 0
    while (count := max(2 * found, 1)) <= most and fits(count):
        found = count
    between = 3 * found // 2
    return between if found > 1 and between <= most and fits(between) else found


def _tried(run: TrainingRun, model: Detector, train: CocoDataset, world: World, memory: Memory) -> tuple[int, str]:
    """The number, and a sentence on it."""
    free = memory.free
    weights = sum(one.numel() * one.element_size() for one in model.parameters() if one.requires_grad)
    # What the steps below do without: an average of the weights, and the gradients on their way to other processes.
    spare = weights * ((run.ema > 0) + (world.size > 1))
    limit = free * MARGIN * (GRAPHED if run.graphs else 1.0) - spare
    peaks: dict[int, float] = {}

    def fits(count: int) -> bool:
        peaks[count] = step(count)
        return not world.any(peaks[count] > limit)

    kept = {name: one.detach().cpu().clone() for name, one in model.state_dict().items()}
    with torch.random.fork_rng(devices=[world.device] if world.device.type == "cuda" else []):
        step = _steps(run, model, train, world, memory)
        found = search(fits, max(1, -(-len(train) // world.size)))
    model.load_state_dict(kept)
    model.zero_grad(set_to_none=True)
    memory.forget()
    room = f"{limit / 2**30:.1f} of {free / 2**30:.1f} GB"
    if not found:
        raise UserError(
            f"--batch-size auto: not even one of the largest pictures trains in {room}: lower --image-size, or use "
            "--amp or --checkpoint-backbone."
        )
    return found, f"--batch-size auto: {found} pictures, which take {peaks[found] / 2**30:.1f} GB of at most {room}."


def _steps(
    run: TrainingRun, model: Detector, train: CocoDataset, world: World, memory: Memory
) -> Callable[[int], float]:
    """Batch size -> bytes at the peak of a step, infinite where there were too few; no process waits for another."""
    model.to(world.device).to(memory_format=torch.channels_last)
    model.train()
    optimizer = make_optimizer(model, run.optimizer, 0.0, run.weight_decay)
    collate = Collate(model.config.mean, model.config.std)
    for one in model.parameters():
        one.grad = torch.zeros_like(one) if one.requires_grad else None
    optimizer.step()  # which makes its memory

    def step(count: int) -> float:
        memory.forget()
        try:
            images, sizes, targets, _ = fetch(
                iter([largest_batch(train, run.copy_paste, collate, count)]), world.device
            )
            learn(Step(model), partial(autocast, world.device, run.amp), images, sizes, targets, 1)
            optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return math.inf
        finally:
            optimizer.zero_grad()
        return memory.peak

    return step


def _before(folder: Path) -> int | None:
    """The batch size of the run in a folder; None where there is none to be read, which going on says."""
    for weights in checkpoint.whole(folder / "checkpoints")[-1:]:
        try:
            state = torch.load(weights.with_suffix(".state"), map_location="cpu", weights_only=True, mmap=True)
            return int(state["about"]["batch_size"])
        except Exception:  # whatever a damaged file leads to
            return None
    return None
