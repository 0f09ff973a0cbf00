"""Which file a path means, and one sentence for each thing that is no checkpoint."""

import gzip
import json
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from htc_fast.errors import UserError
from htc_fast.models.weights.load import read

STATE = {"rpn.conv.weight": torch.arange(4.0), "rpn.conv.bias": torch.full((2,), 7.0)}
PK = b"PK\x03\x04"


def equal(path):
    found = read(path).tensors
    return found.keys() == STATE.keys() and all(torch.equal(found[key], value) for key, value in STATE.items())


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        (
            "a.pth",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n",
            "is a Git LFS pointer .* git lfs pull",
        ),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("a.pth", b"<!DOCTYPE html><html>404</html>", "is a web page"),
        ("a.pth", b"\n <html>404</html>", "is a web page"),
        ("a.pth", b"<?xml version='1.0'?><Error/>", "is an XML file"),
        ("a.pth", b"", "is empty"),
        ("a.pth", PK, "its table of contents is missing"),
        ("a.pth.gz", gzip.compress(b"x", mtime=0), "is a compressed file: unpack it first"),
        ("a.h5", b"\x89HDF\r\n\x1a\n....", "is an HDF5 file"),
        ("a.onnx", b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:", "is an ONNX model"),
        ("a.tflite", b"\x1c\x00\x00\x00TFL3....", "is a TensorFlow Lite model"),
        ("a.png", b"\x89PNG\r\n\x1a\n....", "is a picture"),
        ("a.json", b'{"images": []}', "is no index of a checkpoint's files"),
        ("a.json", b'{"weight_map": {}}', "which is not beside it"),
        ("a.json", b'{"weight_map": {"x": "../a.pth"}}', r"names '../a.pth', which is not beside it"),
        ("a.json", b'{"weight_map": {"x": 3}}', "names 3, which is not beside it"),
        ("config.py", b"_base_ = ['x']\nmodel = dict()", "is no PyTorch checkpoint or is damaged"),
        ("a.pth", b"12345678", "is no PyTorch checkpoint or is damaged"),
        ("a.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "is not a whole safetensors file"),
        ("a.pkl", pickle.dumps([1, "text", None]), "holds no tensors by name"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read(tmp_path / name)


@pytest.mark.filterwarnings("ignore")
def test_programs_and_archives(tmp_path):
    layer = torch.nn.Linear(2, 2)
    torch.jit.save(torch.jit.trace(layer, torch.zeros(1, 2)), tmp_path / "a.pt")
    torch.export.save(torch.export.export(layer, (torch.zeros(1, 2),)), tmp_path / "a.pt2")
    np.savez(tmp_path / "a.npz", weight=np.ones(2))
    torch.save(STATE, tmp_path / "inner.pth")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "inner.pth", "inner.pth")
    for name, sentence in (
        ("a.pt", "is a TorchScript program"),
        ("a.pt2", "is an exported program"),
        ("a.npz", r"is a zip archive of weight.npy"),
        ("a.zip", r"is a zip archive of inner.pth.*unpack"),
    ):
        with pytest.raises(UserError, match=sentence):
            read(tmp_path / name)


def test_an_archive_of_an_odd_version(tmp_path):
    torch.save(STATE, tmp_path / "odd.pth")
    content = (tmp_path / "odd.pth").read_bytes()
    place = content.index(b"PK\x01\x02") + 6  # of the version needed to read the first entry
    (tmp_path / "odd.pth").write_bytes(content[:place] + b"\xff\x00" + content[place + 2 :])
    with pytest.raises(UserError, match="is damaged"):
        read(tmp_path / "odd.pth")


@pytest.mark.parametrize("form", ["zip", "old", "pickle", "safetensors"])
def test_a_file_cut_anywhere(tmp_path, form):
    path = tmp_path / "whole"
    if form == "safetensors":
        safetensors.torch.save_file(STATE, path)
    elif form == "pickle":
        path.write_bytes(pickle.dumps(STATE))
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=form == "zip")
    assert equal(path)
    content = path.read_bytes()
    for length in sorted({*range(0, len(content), 37), len(content) - 1}):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(UserError, match=r"damaged|empty|not a whole"):
            read(tmp_path / "cut")


def test_a_url_is_no_path():
    with pytest.raises(UserError, match=r"there is no weights file .*: download it first"):
        read("https://download.example/model.pth")


def test_folders(tmp_path):
    with pytest.raises(UserError, match=r"is a folder: name one of its files \(none is of weights"):
        read(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    torch.save(STATE, tmp_path / "checkpoints" / "12.pth")
    (tmp_path / "metrics.json").write_text("{}")
    assert equal(tmp_path)
    torch.save({}, tmp_path / "best.pth")
    with pytest.raises(UserError, match=r"name one of its files .best.pth, checkpoints.12.pth"):
        read(tmp_path)
    safetensors.torch.save_file(STATE, tmp_path / "model.safetensors")
    assert equal(tmp_path)
    (tmp_path / "sharded").mkdir()
    (tmp_path / "sharded" / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(UserError, match="is a distributed checkpoint"):
        read(tmp_path / "sharded")


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_shards(tmp_path, form):
    names = {key: f"part-{number}.{form}" for number, key in enumerate(STATE)}
    for key, name in names.items():
        save = safetensors.torch.save_file if form == "safetensors" else torch.save
        save({key: STATE[key]}, tmp_path / name)
    index = tmp_path / ("model.safetensors.index.json" if form == "safetensors" else "pytorch_model.bin.index.json")
    index.write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": names}))
    assert equal(index) and equal(tmp_path)
    (tmp_path / names["rpn.conv.bias"]).unlink()
    with pytest.raises(UserError, match=rf"names 'part-1.{form}', which is not beside it: copy all"):
        read(index)


def test_the_state_of_a_run_is_not_its_weights(tmp_path):
    torch.save({"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, tmp_path / "000120.state")
    with pytest.raises(UserError, match=r"holds no tensors by name.*name 000120.safetensors beside it"):
        read(tmp_path / "000120.state")
