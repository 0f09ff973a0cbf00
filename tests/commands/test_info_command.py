"""`python -m htc_fast.info` tells what is there, what is used and what to do, with and without the native library."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from htc_fast import info, ops
from htc_fast.ops import _backend, _fastest, _native

NAMES = set(ops.__all__) - {"use_backend", "MaskHeadWeights", "MergedTiles", "mask_head_weights"}


def test_report_names_every_operator_and_version():
    report = info.everything()
    assert set(report["operators"]) == NAMES
    assert {row["cpu"] for row in report["operators"].values()} == {"cpp"}
    assert report["versions"]["torch"] and report["versions"]["htc_fast"]
    assert report["native"]["instruction_set"] in report["native"]["instruction_sets"]
    text = info.text(report)
    assert all(name in text for name in NAMES) and "To do" in text
    json.dumps(report)


@pytest.mark.parametrize("onednn, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_what_was_measured_is_said(monkeypatch, onednn, dtype):
    monkeypatch.setattr(_fastest, "_found", [_fastest.Fastest(onednn, dtype)])
    report = info.everything()
    name, own = str(dtype)[6:], "MKL" if torch.backends.mkl.is_available() else "torch"
    by = "oneDNN" if onednn else own
    assert report["measured"] == {"dtype": name, "float32_products": by}
    assert f"measured: optimize() takes {name}, in float32 {by}'s products" in info.text(report)


def test_without_the_native_library_it_says_how_to_build_it(monkeypatch):
    monkeypatch.setattr(_native, "_failure", "htc_fast's native library is missing: gone; build it.")
    report = info.everything()
    assert report["native"] == {"loaded": False, "problem": _native.problem()}
    assert {name for name, row in report["operators"].items() if row["cpu"]} == _backend.from_torch
    assert report["advice"][0] == _native.problem()
    assert "To do\n  * htc_fast's native library is missing" in info.text(report)


def test_a_library_older_than_the_python_code_counts_as_missing(monkeypatch):
    monkeypatch.setattr(_native, "_failure", None)
    assert _native.fits("not_there")  # a schema may be given to it
    with pytest.raises(ImportError, match=r"older than its Python code .*not_there.*pip install -e"):
        _native.require()


def test_a_forced_backend_is_reported(monkeypatch):
    monkeypatch.setenv("HTC_FAST_BACKEND", "reference")
    monkeypatch.setattr(_backend, "_from_environment", "reference")
    report = info.everything()
    assert {row["cpu"] for row in report["operators"].values()} == {"reference"}
    assert any("HTC_FAST_BACKEND=reference" in line for line in report["advice"])


def test_switches_that_are_none_are_reported(monkeypatch):
    monkeypatch.setenv("HTC_FAST_RANGES", "yes")
    monkeypatch.setenv("HTC_FAST_AUTOTUNE", "1")
    told = [line for line in info.everything()["advice"] if "HTC_FAST" in line]
    assert told == ["HTC_FAST_RANGES=yes has no effect: 1 turns it on, 0 or nothing off."]


@pytest.mark.parametrize(
    "device, built, answer",
    [
        ((9, 0), ["80-real", "90-real"], "sm_90"),
        ((8, 9), ["80-real"], "sm_80"),
        ((8, 0), ["86-real"], None),
        ((10, 3), ["90a-real", "100-real", "120"], "sm_100"),
        ((12, 1), ["120"], "sm_120"),
        ((13, 0), ["90-real", "120"], "PTX"),
        ((9, 0), ["120"], None),
        ((9, 0), ["80-real", "80-virtual"], "PTX"),
        ((9, 0), ["90a-real"], "sm_90a"),
        ((10, 0), [], None),
    ],
)
def test_which_built_kernels_reach_a_gpu(device, built, answer):
    assert info.reach(*device, built) == answer


def test_a_gpu_that_nothing_was_compiled_for(monkeypatch):
    properties = SimpleNamespace(major=7, minor=5, name="Old", total_memory=16 << 30)
    monkeypatch.setattr(info.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(info.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(info.torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(_native, "cuda_operators", frozenset({"htc_fast::batched_nms"}))
    monkeypatch.setattr(info, "architectures", lambda: ["80-real", "120"])
    report = info.everything()
    assert report["gpus"] == [{"name": "Old", "architecture": "sm_75", "memory_gib": 16.0, "built": None}]
    assert any("TORCH_CUDA_ARCH_LIST=7.5" in line for line in report["advice"])
    assert "cuda:0  Old, sm_75, 16.0 GiB" in info.text(report)


def test_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["info", "--json"])
    assert info.main() == 0
    assert set(json.loads(capsys.readouterr().out)["operators"]) == NAMES


@pytest.mark.parametrize("cuda, hint", [(None, "install a CUDA build of torch"), ("13.0", "driver too old")])
def test_a_driver_without_a_visible_gpu(monkeypatch, tmp_path, cuda, hint):
    monkeypatch.setattr(info, "DRIVER", tmp_path)
    monkeypatch.setattr(info.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(info.torch.version, "cuda", cuda)
    assert any(hint in line for line in info.advice())
