"""A module in the place of `mmcv._ext`: before and after mmcv is imported, once, and back. No mmcv is needed here."""

import importlib
import inspect
import pkgutil
import sys
import types

import pytest
import torch

from htc_fast.integrations import mmcv as ours

OPS = """
import importlib
ext_module = importlib.import_module("mmcv._ext")
for name in ("nms", "tin_shift_forward"):
    assert hasattr(ext_module, name)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package called mmcv whose operators fetch their extension as mmcv's do."""
    before = {name: one for name, one in sys.modules.items() if name.split(".")[0] == "mmcv"}
    for name in before:
        del sys.modules[name]
    (tmp_path / "mmcv" / "ops").mkdir(parents=True)
    (tmp_path / "mmcv" / "__init__.py").write_text("")
    (tmp_path / "mmcv" / "ops" / "__init__.py").write_text("from .nms import ext_module as same")
    (tmp_path / "mmcv" / "ops" / "nms.py").write_text(OPS)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "mmcv"
    for name in [name for name in sys.modules if name.split(".")[0] == "mmcv"]:
        del sys.modules[name]
    sys.modules.update(before)


def ops_module():
    return importlib.import_module("mmcv.ops.nms")


def test_before_mmcv_is_imported(package):
    extension = ours.install()
    assert ops_module().ext_module is extension is sys.modules["mmcv._ext"]
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]])
    kept = ops_module().ext_module.nms(boxes, torch.tensor([0.5, 0.9, 0.1]), iou_threshold=0.5, offset=0)
    assert kept.tolist() == [1, 2]


def test_after_mmcv_is_imported_and_failed(package):
    with pytest.raises(ModuleNotFoundError, match=r"mmcv\._ext"):
        ops_module()
    extension = ours.install()
    assert ops_module().ext_module is extension is sys.modules["mmcv"]._ext


def test_a_second_call_changes_nothing(package):
    assert ours.install() is ours.install() is ours.install(force=True)


def test_how_mmcv_looks_whether_it_has_operators(package):
    assert importlib.util.find_spec("mmcv._ext") is None
    ours.install()
    assert importlib.util.find_spec("mmcv._ext") is not None
    assert pkgutil.resolve_name("mmcv._ext:get_compiler_version")().startswith("none (htc_fast's operators")


def test_back(package):
    ours.install()
    ours.uninstall()
    assert "mmcv._ext" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        ops_module()
    ours.uninstall()
    assert "mmcv._ext" not in sys.modules


def test_what_is_missing_says_so(package):
    operator = ours.install().tin_shift_forward
    assert operator.__name__ == "tin_shift_forward"
    with pytest.raises(
        RuntimeError, match=r"operator tin_shift_forward is not among the 32 that .*: configure .*, or build mmcv"
    ):
        operator(torch.zeros(1), shift=2)
    with pytest.raises(AttributeError, match="has no attribute __path__"):
        ours.install().__path__  # noqa: B018


def compiled(monkeypatch):
    """An extension that is there: its numbers, and an operator that is missing in ours."""
    real = types.ModuleType("mmcv._ext")
    real.nms, real.tin_shift_forward = lambda *_, **__: "theirs", lambda *_: "shifted"
    monkeypatch.setitem(sys.modules, "mmcv._ext", real)
    return real


def test_a_compiled_extension_is_left_alone(package, monkeypatch):
    real = compiled(monkeypatch)
    with pytest.raises(RuntimeError, match=r"compiled extension is loaded already, .*install\(force=True\)"):
        ours.install()
    assert sys.modules["mmcv._ext"] is real
    ours.uninstall()
    assert sys.modules["mmcv._ext"] is real


def test_ours_in_the_place_of_a_compiled_extension(package, monkeypatch):
    real = compiled(monkeypatch)
    assert ops_module().ext_module is real
    extension = ours.install(force=True)
    assert ops_module().ext_module is extension
    assert extension.nms is ours.OPERATORS["nms"] and extension.tin_shift_forward() == "shifted"
    ours.uninstall()
    assert ops_module().ext_module is real is sys.modules["mmcv._ext"]


def test_without_mmcv(monkeypatch):
    monkeypatch.setitem(sys.modules, "mmcv", None)
    monkeypatch.delitem(sys.modules, "mmcv._ext", raising=False)
    with pytest.raises(ModuleNotFoundError, match="mmcv is not installed: pip install onedl-mmcv"):
        ours.install()
    assert "mmcv._ext" not in sys.modules


def test_every_operator_says_what_it_fills():
    assert len(ours.OPERATORS) == 32
    for name, operator in ours.OPERATORS.items():
        assert operator.__name__ == name and inspect.getdoc(operator), name
