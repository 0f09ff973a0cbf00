"""Kernels with bulk copies (TMA) are compared with torch once each, and one that differs is not used."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from htc_fast import ops
from tests.ops.backends import INTERPRETED, columns
from tests.ops.matrix_cases import compare, draw

pytest.importorskip("triton")
from htc_fast.ops.triton import matrix, tma
from htc_fast.ops.triton.epilogue import ALL, COUNTED, LABELLED, PLAIN, RELU
from htc_fast.ops.triton.tiles import Device, Tile

pytestmark = columns("conv3x3_relu", (INTERPRETED,))[0].marks
TILE, CPU = Tile(64, 64, 64, 8, 3, (2, 2, 16)), torch.device("cpu")
copy = tma.tma_product


def variant(**change) -> tma.Variant:
    usual = {"dtype": torch.float16, "precision": "tf32", "tile": TILE, "turned": False, "epilogue": RELU,
             "has_extra": True, "wanted": ALL}  # fmt: skip
    return tma.Variant(**(usual | change))


VARIANTS = {
    "residual": {},
    "turned": {"turned": True, "epilogue": PLAIN, "has_extra": False},
    "counted": {"wanted": COUNTED, "has_extra": False},
    "labelled and turned": {"wanted": LABELLED, "turned": True, "epilogue": PLAIN, "has_extra": False},
    "tf32": {"dtype": torch.float32, "tile": Tile(64, 64, 32, 8, 2, (1, 4, 16))},
    "another box": {"tile": Tile(64, 32, 64, 4, 3, (1, 8, 8))},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_agrees_with_torch(name):
    assert tma._agrees(CPU, variant(**VARIANTS[name]))


@pytest.mark.parametrize("name", ["residual", "turned"])
@pytest.mark.parametrize("fault", ["a tap", "an output", "the border", "NaN"])
def test_faults_are_seen(name, fault, monkeypatch):
    def broken(x, weight, out, *rest):
        if fault == "a tap":
            weight = weight.clone()
            weight[..., 0, 2] = weight[..., 2, 0]
        copy(x, weight, out, *rest)
        if fault == "an output":
            out[:, -1] = 0
        if fault == "the border":
            out[..., -1] = out[..., 0]
        if fault == "NaN":
            out[0, 0, 0, 0] = torch.nan

    monkeypatch.setattr(tma, "tma_product", broken)
    assert not tma._agrees(CPU, variant(**VARIANTS[name]))


def fails_turned(*given):
    copy(*given)
    if given[4]:
        given[2].mul_(2)


def raises_turned(*given):
    if given[4]:
        raise RuntimeError("the driver knows no such box")
    copy(*given)


@pytest.mark.parametrize(("broken", "said"), [(fails_turned, "differ from torch's"), (raises_turned, "no such box")])
def test_one_kernel_that_fails_is_gathered_and_the_others_are_not(broken, said, monkeypatch):
    launched, searches = [], []
    for module in (matrix, tma):
        launch = module.launch
        put = lambda kernel, *some, launch=launch, **more: (  # noqa: E731
            launched.append(kernel.fn.__name__),
            launch(kernel, *some, **more),
        )
        monkeypatch.setattr(module, "launch", put)
        monkeypatch.setattr(module, "tma_product", broken)
    monkeypatch.setattr(tma, "_agreeing", {})
    monkeypatch.setattr(matrix, "device_of", lambda x: Device("none", 1, 232448, tma=True))
    choose = lambda x, taps, outputs, run, tma, extra: (searches.append(run), TILE if tma else Tile(64, 64))[1]  # noqa: E731
    monkeypatch.setattr(matrix, "tile_for", choose)
    given = [draw(2, 64, 3, 5), draw(64, 64, 3, 3, scale=0.1), draw(64)]
    with pytest.warns(UserWarning, match=said) as told:
        compare(ops.conv3x3_relu, given, INTERPRETED, torch.float16)
    assert len(told) == 1 and "turned=True" in str(told[0].message)
    launched.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # looked at once, told once
        compare(ops.conv3x3_relu, given, INTERPRETED, torch.float16)
    assert [name for name in launched if name != "gate_kernel"][:2] == ["tma_kernel", "product_kernel"]
    assert sorted(tma._agreeing.values()) == [False, True]
    with pytest.raises(RuntimeError, match="gives other results than torch"):
        searches[-2](TILE)  # a search for the fastest tile leaves it out


@pytest.mark.parametrize(("capturing", "mode"), [(True, 0), (False, 2)])
def test_nothing_is_looked_at_where_waiting_is_an_error(capturing, mode, monkeypatch):
    monkeypatch.setattr(tma, "_agreeing", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: mode)
    x = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.float16)
    assert not tma.trusted(x, TILE, False, RELU, False, ALL) and not tma._agreeing
    tma._agreeing[0, variant(has_extra=False)] = True
    assert tma.trusted(x, TILE, False, RELU, False, ALL)
