"""The matrix unit's end of a mask head beside the definition, at sizes that no tile divides; where there is one."""

import pytest
import torch

from htc_fast import ops
from htc_fast.ops import amx
from htc_fast.ops.reference.mask_predict import mask_predict as reference
from tests.ops.matrix_cases import draw
from tests.ops.test_amx import NONE

pytestmark = pytest.mark.skipif(not amx._ready(), reason=NONE)
# maps, C, O, classes, height, width
CASES = {
    "mask head": (3, 256, 256, 80, 14, 14),
    "odd sides": (5, 96, 64, 7, 5, 7),
    "one pixel": (1, 32, 32, 1, 1, 1),
    "maps within a tile": (9, 64, 96, 4, 3, 2),
    "whole blocks": (2, 32, 64, 3, 8, 8),
}


def inputs(case):
    count, channels, outputs, classes, height, width = CASES[case]
    up = draw(channels, outputs, 2, 2, scale=channels**-0.5), draw(outputs)
    last = draw(classes, outputs, 1, 1, scale=outputs**-0.5), draw(classes)
    labels = (torch.arange(count) * 5 + 2) % (classes + 2) - 1
    return [one.bfloat16() for one in (draw(count, channels, height, width), *up, *last)], labels


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@torch.no_grad()
def test_rounds_once(case, layout):
    (x, up_weight, *rest), labels = inputs(case)
    x, up_weight = x.contiguous(memory_format=layout), up_weight.contiguous(memory_format=layout)
    found = ops.mask_predict(x, up_weight, *rest, labels)
    want = reference(*(one.double() for one in (x, up_weight, *rest)), labels)
    assert found.dtype == torch.bfloat16 and found.shape == want.shape
    torch.testing.assert_close(found.double(), want, rtol=2**-8, atol=1e-5)


@torch.no_grad()
def test_it_is_taken_where_nothing_looks_on(monkeypatch):
    given, labels = inputs("odd sides")
    taken = []
    monkeypatch.setattr(amx, "mask_predict", lambda *some: taken.append(some[0].dtype) or some[0])
    ops.mask_predict(*given, labels)
    with torch.autocast("cpu", torch.bfloat16):
        ops.mask_predict(*(one.float() for one in given), labels)
    assert taken == [torch.bfloat16] * 2
    ops.mask_predict(*(one.float() for one in given), labels)
    ops.mask_predict(*given)
    ops.mask_predict(given[0][:0], *given[1:], labels[:0])
    with torch.enable_grad():
        ops.mask_predict(*given, labels)
    odd = [given[0], given[1][:, :33], given[2][:33], given[3][:, :33], given[4]]
    ops.mask_predict(*odd, labels)
    assert len(taken) == 2


@torch.no_grad()
def test_no_class_gives_zeros_and_not_a_number_stays_with_its_pixel():
    given, labels = inputs("odd sides")
    given[0][:2, 3, 2, 4] = torch.nan
    labels[0], labels[1] = 2**40, 6
    found = ops.mask_predict(*given, labels)
    assert not found[0].any()
    assert found[1, 4:6, 8:10].isnan().all() and found.isnan().sum() == 4


@torch.no_grad()
def test_the_number_of_threads_does_not_matter():
    given, labels = inputs("mask head")
    threads = torch.get_num_threads()
    several = ops.mask_predict(*given, labels)
    try:
        torch.set_num_threads(1)
        assert torch.equal(ops.mask_predict(*given, labels), several)
    finally:
        torch.set_num_threads(threads)


def test_errors():
    (x, up_weight, up_bias, weight, bias), labels = inputs("odd sides")
    for wrong in (x.float(), x[:, :64], x[:0]):
        with pytest.raises(RuntimeError, match="amx_mask_predict: x must be"):
            amx.mask_predict(wrong, up_weight, up_bias, weight, bias, labels[: len(wrong)])
    with pytest.raises(RuntimeError, match="amx_mask_predict: up_bias must be"):
        amx.mask_predict(x, up_weight, up_bias[:5], weight, bias, labels)


def test_operator_keeps_torch_s_rules():
    (x, up_weight, up_bias, weight, bias), _ = inputs("odd sides")
    own, added = weight.flatten(1)[:1].float().expand(len(x), -1), bias[:1].expand(len(x))
    given = x, up_weight.flatten().contiguous(), up_bias, own, added
    torch.library.opcheck(torch.ops.htc_fast.amx_mask_predict.default, given)
