"""Batches in an order that depends on the seed alone, so that any position can be found again.

A sample's augmentation is drawn from (seed, epoch, index), and differs where the sample comes again in an epoch:
workers, batch size and interruptions change nothing.
"""

import math
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from htc_fast.training.distributed import World

FINE = 2**20


class Samples(Protocol):
    """index -> sample, of so many."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Batches:
    """Endless batches for one process.

    dataset     index -> sample
    collate     list of samples -> (images, image_sizes, targets, names)
    batch_size  images per batch of this process
    groups      one number per sample; a batch never mixes groups (orientation: less padding); None: one group
    repeats     how often each sample comes in an epoch, on average over epochs: 1 or more; None: once
    """

    def __init__(
        self,
        dataset: Samples,
        collate: Callable,
        batch_size: int,
        world: World | None = None,
        groups: Sequence[int] | None = None,
        seed: int = 0,
        workers: int = 0,
        repeats: Sequence[float] | None = None,
    ):
        self.dataset, self.collate, self.batch_size = dataset, collate, batch_size
        self.world = world or World()
        self.groups = torch.as_tensor([0] * len(dataset) if groups is None else list(groups))
        self.seed, self.workers = seed, workers
        # As multiples of 2^-20: their sums are exact in any order, so that every epoch comes to the same one.
        self.repeats = None if repeats is None else (torch.tensor(repeats, dtype=torch.float64) * FINE).round() / FINE
        self.length = len(self.plan(0))

    def __len__(self) -> int:
        return self.length

    def plan(self, epoch: int) -> list[list[int]]:
        """This process's batches of an epoch, as sample indices; the same number in every epoch and process."""
        return [[key % len(self.dataset) for key in batch] for batch in self.keys(epoch)]

    def keys(self, epoch: int) -> list[list[int]]:
        """The plan, in which the n-th repetition of a sample is its index + n * len(dataset)."""
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch, 0))
        order = torch.randperm(len(self.groups), generator=generator)
        batches = []
        for group in self.groups.unique().tolist():
            found, slots = self._repeated(order[self.groups[order] == group], generator)
            members = found.tolist()
            # The last batch is filled from the group's beginning, as often as it takes.
            while len(members) < slots:
                members += members[: slots - len(members)]
            batches += [members[i : i + self.batch_size] for i in range(0, len(members), self.batch_size)]
        shuffled = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        # As many for every process, also where there are fewer batches than processes.
        missing = -len(shuffled) % self.world.size
        shuffled += [shuffled[i % len(batches)] for i in range(missing)]
        return shuffled[self.world.rank :: self.world.size]

    def _repeated(self, members: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
        """A group's keys in an epoch, and how many there are to be, filled up to whole batches.

        Factors are rounded up or down at random, each by its fraction; along their sums, so that together they are
        off by less than 1, and epochs have one length. LVIS rounds each by itself, and its epochs differ.
        """
        total = float(len(members))
        if self.repeats is not None:
            sums = self.repeats[members].cumsum(0)
            total = float(sums[-1])
            ends = (sums + torch.randint(0, FINE, (), generator=generator) / FINE).floor().long()
            counts = ends.diff(prepend=ends.new_zeros(1))
            members = members.repeat_interleave(counts)
            again = torch.arange(len(members)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
            members = (members + again * len(self.groups))[torch.randperm(len(members), generator=generator)]
        return members, -(-math.ceil(total) // self.batch_size) * self.batch_size

    def stream(self, epoch: int = 0, skip: int = 0) -> Iterator:
        """Batches from a position on, through all following epochs."""
        return iter(
            DataLoader(
                _Drawn(self.dataset, self.seed),
                batch_sampler=_Keys(self, epoch, skip),
                collate_fn=self.collate,
                num_workers=self.workers,
                pin_memory=self.world.device.type == "cuda",
                worker_init_fn=_quiet_worker if self.workers else None,
                persistent_workers=self.workers > 0,
            )
        )


class _Keys:
    """An endless batch sampler of (epoch, key)."""

    def __init__(self, batches: Batches, epoch: int, skip: int):
        self.batches, self.epoch, self.skip = batches, epoch, skip

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, skip = self.epoch, self.skip
        while True:
            for batch in self.batches.keys(epoch)[skip:]:
                yield [(epoch, key) for key in batch]
            epoch, skip = epoch + 1, 0


class _Drawn(Dataset):
    """A data set whose augmentations are drawn from (seed, epoch, key)."""

    def __init__(self, dataset: Samples, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        seed = _mix(self.seed, *key)
        outside = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            # A GPU's generators, which draw nothing here, would take some milliseconds.
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            try:
                return self.dataset[key[1] % len(self.dataset)]
            finally:
                random.setstate(outside[0])
                np.random.set_state(outside[1])


def _mix(seed: int, epoch: int, index: int) -> int:
    return ((seed * 1_000_003 + epoch) * 1_000_003 + index) % 2**63


def _quiet_worker(worker: int) -> None:
    """Ctrl-C is the main process's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
