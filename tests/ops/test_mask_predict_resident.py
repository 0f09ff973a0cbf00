"""mask_predict of one class by programs that keep a corner's weights: when they do, and what they make."""

from dataclasses import replace

import pytest
import torch

from htc_fast import ops
from htc_fast.ops.reference.mask_predict import mask_predict as reference
from tests.ops.backends import INTERPRETING
from tests.ops.matrix_cases import compare, draw, on_triton

if not INTERPRETING and not torch.cuda.is_available():
    pytest.skip("needs Triton's interpreter or a GPU", allow_module_level=True)

from htc_fast.ops.triton import mask_predict, mask_predict_resident, tiles
from htc_fast.ops.triton.mask_predict_resident import plan_for

H100 = tiles.Device("none", 132, 232448, True)
SHAPES = {
    "plain": (5, 32, 64, 14, 14),
    "odd channels": (3, 19, 33, 9, 11),
    "a map just as large as a tile": (4, 16, 32, 8, 8),
    "less than a tile": (1, 16, 32, 8, 9),
}


def leaves(count, channels, outputs, height, width, classes=5):
    up = [draw(channels, outputs, 2, 2, scale=0.2), draw(outputs)]
    return [draw(count, channels, height, width), *up, draw(classes, outputs, 1, 1, scale=0.3), draw(classes)]


@pytest.fixture(params=[12, 16], ids=["3 strips", "4 strips"])
def taken(monkeypatch, request):
    """Launches of the kernel, on a device that lets every program do several tiles."""
    taken, call = [], mask_predict_resident.predict_class_resident

    def noted(*given):
        taken.append(given)
        call(*given)

    monkeypatch.setattr(mask_predict, "predict_class_resident", noted)
    monkeypatch.setattr(mask_predict, "device_of", lambda x: tiles.Device("none", request.param, 232448))
    return taken


@pytest.mark.parametrize("column", on_triton("mask_predict"))
@pytest.mark.parametrize("name", SHAPES)
def test_equals_reference(name, column, taken):
    given = leaves(*SHAPES[name])
    labels = torch.arange(len(given[0]), device=column.device) * 7 % len(given[4])
    compare(lambda *some: ops.mask_predict(*some, labels), given, column, torch.float16)
    assert taken


@pytest.mark.parametrize("column", on_triton("mask_predict"))
@pytest.mark.parametrize(
    "labels", [[-1, 2, 5, 1, 2**40, -(2**40)], [-1] * 6, [1, 0, -1, -1, -1, -1]], ids=["mixed", "none", "few"]
)
def test_labels_that_are_no_class_give_zeros(labels, column, taken):
    given = [one.to(column.device, torch.float16) for one in leaves(6, 16, 32, 9, 9)]
    labels = torch.tensor(labels, device=column.device)
    given[0][(labels < 0) | (labels >= 5)] = torch.nan
    with ops.use_backend(column.backend):
        found = ops.mask_predict(*given, labels)
    wanted = reference(*(one.float().nan_to_num() for one in given), labels)
    torch.testing.assert_close(found.float(), wanted, rtol=4e-3, atol=4e-3 * wanted.abs().amax().item())
    assert taken


@pytest.mark.parametrize("column", on_triton("mask_predict"))
def test_means_are_set_and_added_to(column, taken):
    given = [one.to(column.device, torch.float16) for one in leaves(4, 16, 32, 9, 9)]
    labels = torch.tensor([3, 1, -1, -1], device=column.device)
    wanted = reference(*(one.float() for one in given), labels).sigmoid() / 2
    wanted[2:] = 0
    out = torch.full((4, 18, 18), torch.nan, device=column.device)
    for mean, times in ((1, 1), (2, 2)):
        mask_predict.predict_class(*given[:3], *given[3:], labels, out, mean, 0.5)
        torch.testing.assert_close(out, times * wanted, rtol=2e-3, atol=2e-3)
    assert len(taken) == 2


def test_it_is_planned_where_weights_and_tiles_fit():
    x = torch.empty(100, 256, 14, 14, dtype=torch.bfloat16)
    plan = plan_for(x, 256, H100)
    assert plan is not None and (plan.strips, plan.stages) == (33, 3)
    small = plan_for(x[:1], 256, H100)
    assert small is not None and small.strips == 4
    for other in (x.float(), x[:, :, :7, :7]):
        assert plan_for(other, 256, H100) is None
    assert plan_for(x, 512, H100) is None and plan_for(x, 256, tiles.AHEAD) is None
    assert plan_for(x, 256, replace(H100, resident=False)) is None
