"""A model card: what somebody who finds a detector on the Hugging Face Hub should know of it, as Markdown."""

import json
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from htc_fast.data.classes import classes_of
from htc_fast.errors import UserError, shown
from htc_fast.models.config import Model

MOST_CLASSES = 100  # that are listed
TAGS = ("htc_fast", "instance-segmentation", "object-detection")
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def card(
    config: Model,
    source: str,
    *,
    license: str | None = None,
    tags: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
) -> str:
    """README.md of a detector.

    source   what `htc_fast.load` takes
    license  the Hub's word for it, such as "apache-2.0"; None: the card names none
    tags     besides those that every detector has
    metrics  name and value, such as {"mask AP": 38.3}
    raises   UserError for a value of another kind
    """
    _check(license, tags, metrics)
    head = {"library_name": "htc_fast", "pipeline_tag": "image-segmentation"}
    front = [f"{key}: {value}" for key, value in head.items()]
    front += [f"license: {json.dumps(license)}"] if license is not None else []
    front += ["tags:", *(f"- {json.dumps(one)}" for one in dict.fromkeys((*TAGS, config.name, *tags)))]
    return "\n".join(["---", *front, "---", "", *_body(config, source, license, metrics or {})]) + "\n"


def _check(license: Any, tags: Any, metrics: Any) -> None:
    """raises  UserError"""
    if not isinstance(license, str | None):
        raise UserError(f'license takes the Hub\'s word for one, such as "apache-2.0", got {shown(license)}.')
    if isinstance(tags, str) or not isinstance(tags, Sequence) or not all(isinstance(one, str) for one in tags):
        raise UserError(f"tags takes a list of text, got {shown(tags)}.")
    found = {} if metrics is None else metrics
    numbers = isinstance(found, Mapping) and all(
        isinstance(name, str) and isinstance(value, Real) and not isinstance(value, bool)
        for name, value in found.items()
    )
    if not numbers:
        raise UserError(f'metrics takes numbers by name, such as {{"mask AP": 38.3}}, got {shown(metrics)}.')


def _body(config: Model, source: str, license: str | None, metrics: Mapping[str, float]) -> list[str]:
    names = [plain(str(name)) for name in classes_of(config)[0]]
    more = f" and {len(names) - MOST_CLASSES} more" if len(names) > MOST_CLASSES else ""
    size = config.image_size
    lines = [
        f"# {plain(config.name)}",
        "",
        "A detector for instance segmentation, made with htc_fast.",
        "",
        "| | |",
        "|---|---|",
        f"| model | {plain(config.name)}, backbone {plain(config.backbone)} |",
        f"| size of pictures | {_size(size)} |",
        f"| classes | {len(names)} |",
        f"| licence | {plain(license) if license is not None else 'not stated: ask its owner'} |",
        *(f"| {plain(name)} | {float(value):g} |" for name, value in metrics.items()),
        "",
        "## How to load",
        "",
        "```python",
        "import htc_fast",
        "",
        f"model = htc_fast.load({json.dumps(source, ensure_ascii=False)})",
        'found = model.predict("picture.jpg")',
        "```",
        "",
        "## Classes",
        "",
        ", ".join(names[:MOST_CLASSES]) + more,
    ]
    return lines


def _size(size: tuple[int, int] | None) -> str:
    return "not stated" if size is None else f"short side {size[0]} pixels, long side at most {size[1]}"


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))
