"""Public checkpoints by name: "coco", "coco-20e", …, downloaded once into torch.hub's folder.

`public.json` has addresses, the first digits of each file's SHA-256 and the AP that its authors report. It was written
from mmdetection's metafiles and tables, and has only files of exactly our architectures (style "pytorch"). A file is
kept whole and checked or not at all, and is read by `load.read`, which runs none of its code.
"""

import contextlib
import difflib
import fcntl
import hashlib
import http.client
import json
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError

import torch

from htc_fast.errors import UserError, choose, few, short
from htc_fast.models import zoo

BEST = "coco"  # of a model's checkpoints, the one with the highest mask AP
NAME = re.compile(r"coco[\w-]*", re.IGNORECASE)
PATIENCE = 60.0  # seconds without a word from the server
# What breaks a transfer off, by whatever name the network's layers have for it.
BROKEN = (URLError, ConnectionError, TimeoutError, http.client.HTTPException)


@dataclass(frozen=True)
class Checkpoint:
    """A file that its authors publish.

    sha256           the first digits
    box_ap, mask_ap  on COCO's val2017, as `source` reports them
    num_classes      foreground classes: COCO's
    """

    address: str
    sha256: str
    epochs: int
    box_ap: float
    mask_ap: float
    source: str
    num_classes: int = 80

    @property
    def path(self) -> Path:
        """Where the file lies, or is to lie: torch.hub's folder, which TORCH_HOME moves."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.address.rsplit("/", 1)[-1]


def _table() -> dict[str, dict[str, Checkpoint]]:
    content = json.loads(Path(__file__).with_name("public.json").read_text())
    return {model: {name: Checkpoint(**one) for name, one in files.items()} for model, files in content.items()}


PUBLISHED = _table()  # by the model's name and the checkpoint's


def is_name(weights: str | Path) -> bool:
    """Whether that asks for a public checkpoint: files come before names, and so do folders, but `coco` is for data."""
    name = str(weights)
    is_known = name == BEST or any(name in files for files in PUBLISHED.values())
    there = os.path.isfile(name) if is_known else os.path.exists(name)
    return NAME.fullmatch(name) is not None and not there


def find(weights: str | Path, model: str | None) -> Checkpoint:
    """The checkpoint of that name, of that model.

    raises  UserError if there is none, saying which there are, or no such model
    """
    name = str(weights)
    if model is None:
        raise UserError(
            f"weights {short(name)} are published for many models: name one with --model (in Python: name=), "
            "such as htc_r50."
        )
    if choose(model, zoo.MODELS, "model") not in PUBLISHED:
        near = difflib.get_close_matches(model, PUBLISHED, n=3, cutoff=0.4) or list(PUBLISHED)
        raise UserError(
            f"nobody publishes weights of {model} for COCO: name a file, train it, "
            f"or take a model that has some, such as {few(near, most=3)}."
        )
    files = PUBLISHED[model]
    if name == BEST:
        return max(files.values(), key=lambda one: one.mask_ap)
    if name not in files:
        near = difflib.get_close_matches(name.lower(), [BEST, *files], n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else "choose one of these."
        raise UserError(
            f"{model} has no public weights {short(name)}, but {', '.join(files)}, and {BEST} for the best: {hint}"
        )
    return files[name]


def fetch(found: Checkpoint) -> Path:
    """The checkpoint's file, downloaded with a bar where it is not there yet; one that is there needs no network.

    raises  UserError if it cannot be had, is another one by its hash, or cannot be kept; nothing is left behind
    """
    path = found.path
    if not path.is_file():
        with _alone(path.parent):
            if not path.is_file():
                _download(found, path)
                return path
    digest = hash_of(path)
    if not digest.startswith(found.sha256):
        raise UserError(
            f"{path} has the hash {digest[: len(found.sha256)]} instead of {found.sha256}, so it is damaged or another "
            "file: delete it, and it is downloaded again."
        )
    return path


def hash_of(path: Path) -> str:
    """SHA-256 of a file.

    raises  UserError if it cannot be read
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): see to its rights, or delete it.") from None
    return digest.hexdigest()


def _download(found: Checkpoint, path: Path) -> None:
    """torch.hub writes beside `path`, checks the hash, and then gives the file its name."""
    by_hand = f"download {found.address} in another way and put it at {path}"
    shows = os.environ.get("RANK", "0") == "0"
    before = socket.getdefaulttimeout()
    try:
        # torch.hub has no limit of its own, and a server that falls silent would be waited for without end.
        socket.setdefaulttimeout(PATIENCE)
        torch.hub.download_url_to_file(found.address, str(path), hash_prefix=found.sha256, progress=shows)
    except HTTPError as error:
        raise UserError(f"the server answers {error.code} ({error.reason}): try again later, or {by_hand}.") from None
    except BROKEN as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise UserError(f"the download failed ({reason}): see to the network, or {by_hand}.") from None
    except RuntimeError as error:
        if "hash" not in str(error):
            raise
        raise UserError(
            f"what came from {found.address} does not have the hash {found.sha256} (the transfer broke off, or the "
            f"file is another one now) and was removed: try again, or {by_hand}."
        ) from None
    except OSError as error:
        raise _unwritable(path.parent, error) from None
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make the folder and keep other processes out of it meanwhile, so that several of one run download once.

    raises  UserError if it cannot be written to
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        # Where a file system has no locks, each process downloads for itself, which is as right.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write to {folder} ({error.strerror or error}): make room or get the right to, or name another folder "
        "in the environment's TORCH_HOME."
    )
