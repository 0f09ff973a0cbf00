"""`python -m htc_fast.ablate`: the paper's Tables 2 to 6 on any data set, with spreads, beside the paper's."""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from htc_fast.ablation import picture, report
from htc_fast.ablation.run import AblationRun
from htc_fast.ablation.runs import ablate, progress
from htc_fast.commands import entry
from htc_fast.commands.options import changed, given
from htc_fast.commands.output import check_writable, write_json
from htc_fast.training.interrupts import heard

ABOUT = "The paper's ablations (Tables 2 to 6) on any COCO-format data set; what is done already is not done again."


def main() -> int:
    """Train and test what is missing, then print and write the tables."""
    run = options()
    check_writable(run.folder)
    result: dict[str, Any] | None = None
    stopped = False
    try:
        with heard(stop):
            for result in ablate(run, progress):
                write_json(run.folder / "results.json", result)
    except KeyboardInterrupt:
        stopped = True
        progress("stopped: what is done is kept, and the same command goes on from there.")
    finally:
        if result is not None and result["runs"]:
            write(run, result)
    return entry.INTERRUPTED if stopped else 0


def options(words: Sequence[str] | None = None) -> AblationRun:
    """The run that a command line asks for: the small recipe, or with --full the paper's, changed as it says."""
    found = given(AblationRun, "ablate", ABOUT, words)
    base = (
        AblationRun()
        if found.pop("full", False)
        else AblationRun.small(**{name: found[name] for name in found.keys() & {"jitter"}})
    )
    if "epochs" in found and "iterations" not in found:
        base = replace(base, iterations=None)
    return changed(base, found)


def stop() -> None:
    """A wish to stop between two runs; a run that is going on hears it itself, and saves."""
    raise KeyboardInterrupt


def write(run: AblationRun, result: dict[str, Any]) -> None:
    """The tables as text and as a picture; the latter not where matplotlib is missing."""
    text = report.markdown(result)
    (run.folder / "tables.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    files = [str(run.folder / name) for name in ("results.json", "tables.md")]
    if importlib.util.find_spec("matplotlib") is None:
        progress("no picture was drawn: pip install matplotlib")
    else:
        files.append(str(picture.draw(result, run.folder / "ablation.png")))
    progress(f"written: {', '.join(files)}")


if __name__ == "__main__":
    entry.run(main)
