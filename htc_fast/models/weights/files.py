"""Which file is meant, and what it is where it is no checkpoint: a folder, a pointer, a web page, another format."""

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from htc_fast.errors import UserError, few, short

SUFFIXES = (".safetensors", ".pth", ".pt", ".pkl", ".bin", ".ckpt")
# What a run or a hub leaves in a folder under a name that says which file is the model.
USUAL = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
EXPECTED = "expected a .pth, .pkl or .safetensors file of weights"
FOR_ONNX = f"{EXPECTED} (predict and evaluate take a file that export wrote, named .onnx)"
# How a file begins, what it then is, and what to do: first what may lie in place of any file.
ANYWHERE = (
    (rb"version https://git-lfs", "a Git LFS pointer instead of the file it points to", "fetch that with git lfs pull"),
    (rb"\s*<(!doctype|html|head)", "a web page, probably an error in place of the download", "download it again"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|\x28\xb5\x2f\xfd|Rar!", "a compressed file", "unpack it first"),
)
KINDS = (
    *ANYWHERE,
    (rb"\s*<\?xml", "an XML file, probably an error in place of the download", "download it again"),
    (rb"\x89HDF", "an HDF5 file, as Keras writes", EXPECTED),
    (rb"GGUF", "a GGUF file", EXPECTED),
    (rb"....TFL3", "a TensorFlow Lite model", EXPECTED),
    (rb"\x89PNG|\xff\xd8\xff", "a picture", EXPECTED),
    (rb"\x08[\x01-\x14]", "an ONNX model, which has lost the names that weights are found by", FOR_ONNX),
)


def found(path: Path) -> Path:
    """The file itself, or the one that is meant where a folder is named.

    raises  UserError if there is none, or more than one could be meant
    """
    if path.is_file():
        return path
    if not path.is_dir():
        advice = "download it first" if re.match(r"\w+:/", str(path)) else "check the path"
        raise UserError(f"there is no weights file {path}: {advice}.")
    usual = [path / name for name in USUAL if (path / name).is_file()]
    inside = sorted(one for depth in ("*", "*/*") for one in path.glob(depth) if one.suffix in SUFFIXES)
    if usual or len(inside) == 1:
        return (usual or inside)[0]
    if any(path.glob("*.distcp")):
        raise UserError(
            f"{path} is a distributed checkpoint: make one file of it with "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save."
        )
    there = few(one.relative_to(path) for one in inside)
    raise UserError(f"{path} is a folder: name one of its files ({there or 'none is of weights'}).")


def instead(head: bytes, kinds: Sequence[tuple[bytes, str, str]] = ANYWHERE) -> str | None:
    """What a file is by its first bytes, and what to do, where it is none of what it should be."""
    known = (kind for kind in kinds if re.match(kind[0], head, re.IGNORECASE | re.DOTALL))
    return next((f"{what}: {advice}" for _, what, advice in known), None)


def check_kind(path: Path) -> None:
    """See that a file may be a checkpoint.

    raises  UserError saying what it is instead
    """
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        raise UserError(f"{path} is empty: save or download it again.")
    if what := instead(head, KINDS):
        raise UserError(f"{path} is {what}.")
    if head.startswith(b"PK"):
        _check_archive(path)


def _check_archive(path: Path) -> None:
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError):
        raise UserError(f"{path} is damaged (its table of contents is missing): copy or download it again.") from None
    if any(name.endswith("constants.pkl") for name in names):
        what = "a TorchScript program"
    elif any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        what = "an exported program (.pt2)"
    elif not any(name.endswith("data.pkl") for name in names):
        what = f"a zip archive of {few(names, most=3) or 'nothing'}"
    else:
        return
    raise UserError(f"{path} is {what}, no checkpoint: save the model's state_dict, or unpack the archive it lies in.")


def shards(path: Path) -> list[Path]:
    """The files that an index such as model.safetensors.index.json names; the file itself if it is no index.

    raises  UserError if the index cannot be read, or one of the files is not beside it
    """
    if path.suffix != ".json":
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{path} is no index of a checkpoint's files: {EXPECTED}.") from None
    for name in names or [""]:
        if not isinstance(name, str) or Path(name).name != name or not (path.parent / name).is_file():
            raise UserError(f"{path} names {short(name)}, which is not beside it: copy all of the checkpoint's files.")
    return [path.parent / name for name in names]
