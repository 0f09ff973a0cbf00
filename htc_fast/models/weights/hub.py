"""Detectors in repositories of the Hugging Face Hub: weights="hf-hub:owner/name", or hf-hub:owner/name@revision.

huggingface_hub does the transfers, keeps the files, and knows who is logged in; it is imported at first use.
"""

from pathlib import Path
from types import ModuleType

from htc_fast.errors import UserError, short

PREFIX = "hf-hub:"
FILE = "model.safetensors"
EXPECTED = f"{PREFIX}owner/name or {PREFIX}owner/name@revision"


def is_name(weights: str | Path) -> bool:
    """Whether that names a repository of the Hub."""
    return str(weights).startswith(PREFIX)


def fetch(weights: str | Path) -> Path:
    """The weights' file of a repository, from huggingface_hub's own cache where it is there already.

    raises  UserError if there is no such repository, revision or file, or none can be had
    """
    repository, _, revision = str(weights).removeprefix(PREFIX).partition("@")
    hub = library()
    if repository.count("/") != 1:
        raise UserError(
            f"{short(str(weights))} names no repository of the Hub: expected {PREFIX}owner/name[@revision]."
        )
    try:
        return Path(hub.hf_hub_download(repository, FILE, revision=revision or None))
    # Its network layer has errors of its own, which differ between versions.
    except Exception as error:
        raise refused(error, repository, revision) from error


def library() -> ModuleType:
    """huggingface_hub.

    raises  UserError if it is not installed
    """
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError:
        raise UserError(f"{PREFIX}… needs huggingface_hub: pip install huggingface_hub.") from None
    return huggingface_hub


def refused(error: Exception, repository: str, revision: str = "") -> UserError:
    """What to say of an error of huggingface_hub's."""
    kinds = library().errors
    at = f"{repository}@{revision}" if revision else repository
    login = "log in with `hf auth login` or set the environment's HF_TOKEN"
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, kinds.OfflineModeIsEnabled):
        sentence = f"the environment's HF_HUB_OFFLINE is set, so nothing is sent to {at}: unset it, or use save()."
    elif isinstance(error, kinds.LocalEntryNotFoundError):
        offline = library().constants.HF_HUB_OFFLINE
        why = "the environment's HF_HUB_OFFLINE is set" if offline else "the Hub cannot be reached"
        sentence = (
            f"{at} is not in huggingface_hub's cache, and {why}: get {FILE} of https://huggingface.co/{repository} in "
            "another way and give its path instead."
        )
    elif isinstance(error, kinds.GatedRepoError):
        sentence = f"{repository} is gated: ask for access at https://huggingface.co/{repository}, then {login}."
    elif isinstance(error, kinds.RepositoryNotFoundError):
        sentence = f"there is no repository {repository} on the Hub, or it is private: check the name, or {login}."
    elif isinstance(error, kinds.RevisionNotFoundError):
        sentence = f"{repository} has no revision {revision}: name a branch, a tag or a commit of it."
    elif isinstance(error, kinds.EntryNotFoundError):
        sentence = f"{at} has no {FILE}, so push_to_hub did not make it: download its file and give the path instead."
    elif isinstance(error, kinds.HFValidationError):
        sentence = f"{short(at)} names no repository of the Hub ({first}): expected {EXPECTED}."
    elif isinstance(error, kinds.LocalTokenNotFoundError) or status in (401, 403):
        sentence = f"the Hub does not let you into {repository}: {login}."
    elif isinstance(error, OSError) and error.filename is not None:
        sentence = (
            f"cannot read or write {error.filename} ({error.strerror}): make room or get the right to, or name another "
            "folder in the environment's HF_HOME."
        )
    else:
        sentence = f"the Hub did not do as asked with {at} ({first}): see to the network, or try again later."
    return UserError(sentence)
