"""Where a run goes, and that it has the place to itself."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from htc_fast.errors import UserError
from htc_fast.training import best, checkpoint
from htc_fast.training.distributed import World
from htc_fast.training.report import writing
from htc_fast.training.run import TrainingRun


def choose_folder(run: TrainingRun, world: World) -> Path:
    """Where the run goes: --out, or the next free default folder; with --resume the last one used.

    raises  UserError if another run left results there or is writing to it, or if nobody can
    """
    folder = Path(run.out) if run.out else Path("runs") / ("sample" if run.on_sample else "train")
    numbered = [folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, 10_000))]
    _check_place(folder)
    # One process looks, as the look of one makes a folder look taken to another.
    free = next(number for number, each in enumerate(numbered) if not _taken(each)) if world.is_main else 0
    free = int(world.max(free))
    if run.out is None:
        folder = numbered[max(free - 1, 0) if run.resume else free]
    if (run.out is not None or run.resume) and world.any(world.is_main and _in_use(folder)):
        raise _taken_by_another(folder)
    left = _left(folder)
    if left and not run.resume:
        raise UserError(f"{folder} holds a run already: go on with --resume, or give another --out.")
    if left and left.is_file() and not checkpoint.whole(folder / "checkpoints"):
        start = f", with --weights {left} to start from that" if left.suffix == ".safetensors" else ""
        raise UserError(
            f"{folder} holds {left.name} of a run, but none of its checkpoints, so there is nothing to resume, and a "
            f"new run would write over it: give another --out{start}."
        )
    return folder


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
            raise _taken_by_another(folder)
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


def _left(folder: Path) -> Path | None:
    """The first of what a run left there, its results before its checkpoints."""
    names = ("model.safetensors", best.WEIGHTS, best.ABOUT, "checkpoints")
    return next((folder / name for name in names if (folder / name).exists()), None)


def _taken(folder: Path) -> bool:
    """Whether a run left something there, or has begun and will."""
    return _left(folder) is not None or _in_use(folder)


def _in_use(folder: Path) -> bool:
    """Whether a run is going on there."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        return not _lock(handle)
    finally:
        os.close(handle)


def _taken_by_another(folder: Path) -> UserError:
    return UserError(f"another run is writing to {folder}: wait for its end, or choose another folder (--out).")


def _check_place(folder: Path) -> None:
    """Hours of training must not end at a folder that cannot be written.

    raises  UserError if it cannot
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    reason = None if there.is_dir() else "is a file"
    if reason is None:
        # Rights do not tell: the leading user has all of them, also where the system takes no files.
        try:
            tempfile.TemporaryFile(dir=there).close()
        except OSError as error:
            reason = f"may not be written ({error.strerror})"
    if reason is not None:
        raise UserError(f"results cannot go to {folder}, as {there} {reason}: choose another --out.")
