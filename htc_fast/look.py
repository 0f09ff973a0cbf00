"""`python -m htc_fast.look DATA`: what is in a data set, and what is wrong with it, as a page and as JSON."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tqdm import tqdm

from htc_fast.commands import entry
from htc_fast.commands.options import parse
from htc_fast.commands.output import check_kept, check_writable, writing
from htc_fast.data import CocoDataset
from htc_fast.data.folders.find import splits_in
from htc_fast.errors import UserError, check_count, few, noted
from htc_fast.pages.dataset import write_page

ABOUT = "Look at a data set before it is trained on: counts, sizes, problems, pictures with their masks."
AS_IT_IS: dict[str, Any] = {"semantic": "none", "keep_empty": True, "complete": False}


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is looked at, and where the page goes.

    raises  UserError naming the option that makes no sense
    """

    POSITIONAL: ClassVar = "data"

    data: Annotated[tuple[Path, ...], "folder of pictures and annotations, or a file that describes it", "DATA"] = ()
    split: Annotated[str | None, "one split alone (default: all that are there)"] = None
    annotations: Annotated[Path | None, "annotation file, instead of those in DATA"] = None
    images: Annotated[Path | None, "folder of its pictures"] = None
    pictures: Annotated[int, "pictures shown; 0: none, and no examples", "N"] = 12
    out: Annotated[Path, "folder of index.html and look.json", "DIR"] = Path("look")

    def __post_init__(self) -> None:
        check_count("--pictures", self.pictures, least=0, most=500)
        if len(self.data) > 1:
            raise UserError(f"one data set at a time: got {few(map(str, self.data))}.")
        if not self.data and self.annotations is None:
            raise UserError("there is nothing to look at: name a folder, or a file with --annotations.")


def main() -> int:
    """Look, write the page, and say what was found."""
    look(parse(Look, "look", ABOUT))
    return 0


def look(run: Look) -> dict:
    """Look at a data set, and write index.html and look.json.

    returns  what look.json holds
    """
    with noted() as said:
        datasets = open_splits(run)
    for dataset in datasets.values():
        check_kept(dataset.path, run.out, ["index.html", "look.json"])
    check_writable(run.out)
    total = 2 * sum(len(dataset) for dataset in datasets.values())
    name = str(run.data[0] if run.data else run.annotations)
    with _bar(total) as bar, writing(run.out):
        content = write_page(datasets, run.out, title=name, said=said, pictures=run.pictures, seen=bar.update)
    for split, numbers in content["splits"].items():
        print(f"{split}: {_counted(numbers['pictures'], 'picture')}, {_counted(numbers['objects'], 'object')}")
    for sentence in content["problems"] + content["advice"]:
        print(sentence)
    print(run.out / "index.html")
    return content


def open_splits(run: Look) -> dict[str, CocoDataset]:
    """The data sets by the names of their splits."""
    if run.annotations is not None:
        name = run.split or run.annotations.stem.removeprefix("instances_")
        root = run.data[0] if run.data else None
        split = run.split or "train"
        return {name: CocoDataset(root, split, annotations=run.annotations, images=run.images, **AS_IT_IS)}
    root = run.data[0]
    names = splits_in(root) if run.split is None else [run.split]
    return {name: CocoDataset(root, name, images=run.images, **AS_IT_IS) for name in names}


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


@contextmanager
def _bar(total: int) -> Iterator[tqdm]:
    with tqdm(total=total, desc="looking", unit="img", leave=False, disable=None, file=sys.stderr) as bar:
        yield bar


if __name__ == "__main__":
    entry.run(main)
