"""`python -m htc_fast.profile`: where the time goes, part by part, beside this device's limit and the paper's table."""

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from tqdm import tqdm

from htc_fast.commands import entry
from htc_fast.commands.options import parse
from htc_fast.commands.output import check_writable
from htc_fast.errors import UserError
from htc_fast.profiling import chart, report
from htc_fast.profiling.run import INTERRUPTED, ProfileRun, profile

ABOUT = "Measure every part of the paper's detectors, beside what this device could do at best."


@dataclass(frozen=True)
class WrittenProfile(ProfileRun):
    """A profile, and where it is written."""

    out: Annotated[Path, "folder for profile.json and profile.png"] = Path("runs/profile")

    def __post_init__(self):
        super().__post_init__()
        if self.out.is_file():
            raise UserError(f"--out {self.out} is a file: choose another name.")


def main() -> int:
    """Measure, print, write."""
    run = parse(WrittenProfile, "profile", ABOUT)
    check_writable(run.out)
    if run.trace is not None:
        check_writable(run.trace.parent)
    with progress() as say:
        result = profile(run, say, note=partial(tqdm.write, file=sys.stderr))
    if result["rows"]:
        print(f"{report.text(result)}\n\n{report.bottlenecks(result)}\n")
        write(result, run.out, "profile_train" if run.train else "profile")
    return entry.INTERRUPTED if INTERRUPTED in result["setting"]["changed"] else 2 * (not result["rows"])


@contextmanager
def progress() -> Iterator[Callable[[str], object]]:
    """Says where it is: in one line that is written over on a terminal, in one each elsewhere."""
    began = time.monotonic()

    def line(what: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {what}", file=sys.stderr, flush=True)

    with tqdm(bar_format="[{elapsed}] {desc}", leave=False, disable=None) as bar:
        yield line if bar.disable else bar.set_description_str


def write(result: dict, folder: Path, name: str) -> None:
    """The profile as JSON and as a picture; the latter not where matplotlib is missing."""
    numbers = folder / f"{name}.json"
    numbers.write_text(json.dumps(result, indent=1) + "\n")
    if importlib.util.find_spec("matplotlib") is None:
        print(numbers)
        print("no picture was drawn: pip install matplotlib", file=sys.stderr)
    else:
        print(f"{numbers} and {chart.draw(result, folder / f'{name}.png')}")


if __name__ == "__main__":
    entry.run(main)
