"""A detector in a folder or in a repository of the Hugging Face Hub: its weights, and a card that says what it is."""

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from htc_fast.errors import UserError, shown
from htc_fast.inference.card import card
from htc_fast.models.htc import HTC
from htc_fast.models.weights import hub
from htc_fast.models.weights.save import weights_bytes

CARD = "README.md"


def save(
    model: HTC,
    folder: str | Path,
    *,
    license: str | None = None,
    tags: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
) -> Path:
    """Write model.safetensors, with all that `load` needs, and a model card into a folder.

    folder   made where it is not there; an earlier file of the same name is replaced
    license  for the card: the Hub's word for it, such as "apache-2.0"; None: the card names none
    tags     for the card
    metrics  for the card: name and value, such as {"mask AP": 38.3}
    returns  path of the weights
    raises   UserError if the folder cannot be written to
    """
    folder = Path(folder)
    about = card(model.config, str(folder), license=license, tags=tags, metrics=metrics)
    _write(folder / CARD, about.encode())
    return _write(folder / hub.FILE, weights_bytes(model))


def push_to_hub(
    model: HTC,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    message: str = "A detector made with htc_fast",
    license: str | None = None,
    tags: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
) -> str:
    """Upload a detector to the Hugging Face Hub: model.safetensors, and README.md with its card.

    repository  "owner/name"; made where it is not there
    private     whether a repository that is made is to be private
    revision    branch, made where it is not there; None: main
    token       None: that of the environment's HF_TOKEN, or of `hf auth login`
    message     of the commit
    license     for the card, as tags and metrics: see `save`
    returns     what `load` and `weights=` take: "hf-hub:owner/name" or "hf-hub:owner/name@revision"
    raises      UserError if huggingface_hub is not installed, nobody is logged in, or the Hub refuses
    """
    if not isinstance(repository, str) or repository.removeprefix(hub.PREFIX).count("/") != 1 or "@" in repository:
        raise UserError(f'push_to_hub takes the name of a repository, "owner/name", got {shown(repository)}.')
    repository = repository.removeprefix(hub.PREFIX)
    source = f"{hub.PREFIX}{repository}" + (f"@{revision}" if revision else "")
    about = card(model.config, source, license=license, tags=tags, metrics=metrics)
    api = hub.library().HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder) / CARD, about.encode())
        _write(Path(folder) / hub.FILE, weights_bytes(model))
        # Its network layer has errors of its own, which differ between versions.
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            if revision:
                api.create_branch(repository, branch=revision, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, revision=revision, commit_message=message)
        except Exception as error:
            raise hub.refused(error, repository, revision or "") from error
    return source


def _write(path: Path, content: bytes) -> Path:
    """Write a file so that its name never holds half of it.

    raises  UserError
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError(f"cannot write {path} ({error.strerror}): make room or choose another folder.") from None
    return path
