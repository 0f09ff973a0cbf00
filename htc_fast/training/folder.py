"""Where a run goes, and that it has the place to itself."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from htc_fast.errors import UserError
from htc_fast.training.distributed import World
from htc_fast.training.report import writing
from htc_fast.training.run import TrainingRun


def choose_folder(run: TrainingRun, world: World) -> Path:
    """Where the run goes: --out, or the next free default folder; with --resume the last one used.

    raises  UserError if --out holds another run
    """
    folder = Path(run.out) if run.out else Path("runs") / ("sample" if run.on_sample else "train")
    numbered = [folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, 10_000))]
    _check_place(folder)
    # One process looks, as the look of one makes a folder look taken to another.
    free = next(number for number, each in enumerate(numbered) if not _taken(each)) if world.is_main else 0
    free = int(world.max(free))
    if run.out is not None:
        if (folder / "checkpoints").is_dir() and not run.resume:
            raise UserError(f"{folder} holds a run already: go on with --resume, or give another --out.")
        return folder
    return numbered[max(free - 1, 0) if run.resume else free]


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a folder, made where it is missing, for one run: two would write into each other's files.

    raises  UserError if another run is going on there, or if it cannot be made
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not _lock(handle):
            raise UserError(f"another run is writing to {folder}: wait for its end, or choose another folder (--out).")
        yield
    finally:
        # Not only closed: processes that load pictures hold the same handle.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _lock(handle: int) -> bool:
    """Whether the folder is ours now; also where the file system knows no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _taken(folder: Path) -> bool:
    """Whether a run left checkpoints there, or has begun and will."""
    if not folder.is_dir():
        return False
    if (folder / "checkpoints").is_dir():
        return True
    handle = os.open(folder, os.O_RDONLY)
    try:
        return not _lock(handle)
    finally:
        os.close(handle)


def _check_place(folder: Path) -> None:
    """Hours of training must not end at a folder that cannot be written.

    raises  UserError if it cannot
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "may not be written" if there.is_dir() else "is a file"
        raise UserError(f"results cannot go to {folder}, as {there} {reason}: choose another --out.")
