"""paste_masks, backend x named case: every pixel as the reference has it, and as grid_sample does."""

import pytest
import torch
from torch.nn import functional as F

from htc_fast import ops
from tests.ops.backends import CPP, CUDA, EMULATED, NATIVE, REFERENCE, cases, columns, emulated_only, watched_only
from tests.ops.mask_cases import CASES, EMPTY, KINDS, THRESHOLDS, draw, drawn, errors, strange
from tests.simt import emulator

OPERATOR = "paste_masks"
BUT_REFERENCE = (CPP, EMULATED, CUDA)
WATCHED = emulated_only(
    CASES,
    asan="usual one_cell flat_masks tall_masks wide_image tall_image one_pixel no_masks no_pixels no_columns many",
    race="usual flat_masks many tall_image",
)


def check(column, masks, boxes, image, threshold: float = 0.5) -> None:
    wanted = REFERENCE.call(OPERATOR, masks, boxes, image, threshold)
    assert torch.equal(column.call(OPERATOR, masks, boxes, image, threshold), wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name, column", cases(OPERATOR, CASES, BUT_REFERENCE, watched_only(WATCHED)))
def test_named(name, column, kind):
    check(column, *draw(*CASES[name], kind=kind), CASES[name][2])


@pytest.mark.parametrize("column", columns(OPERATOR, NATIVE))
def test_equals_grid_sample(column):
    masks, boxes = draw(40)
    height, width = 120, 170
    y = (torch.arange(height) + 0.5 - boxes[:, 1:2]) / (boxes[:, 3:] - boxes[:, 1:2]) * 2 - 1
    x = (torch.arange(width) + 0.5 - boxes[:, 0:1]) / (boxes[:, 2:3] - boxes[:, 0:1]) * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=3)
    value = F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
    got = column.call(OPERATOR, masks, boxes, (height, width))
    clear = (value - 0.5).abs() > 1e-5
    assert clear.float().mean() > 0.999 and got.any()
    assert torch.equal(got[clear], (value >= 0.5)[clear])


@pytest.mark.parametrize("column", columns(OPERATOR, BUT_REFERENCE))
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_thresholds(threshold, column):
    check(column, *draw(3, (14, 20), (40, 50), 1, "noise"), (40, 50), threshold)


@pytest.mark.parametrize("column", columns(OPERATOR, BUT_REFERENCE))
@pytest.mark.parametrize("masks", ["ones", "nan"])
def test_strange_boxes(masks, column):
    check(column, *strange(masks), (30, 40))


@pytest.mark.parametrize("column", columns(OPERATOR, NATIVE))
def test_boxes_without_pixels_are_empty(column):
    assert not column.call(OPERATOR, torch.ones(len(EMPTY), 14, 20), torch.tensor(EMPTY), (30, 40)).any()


@pytest.mark.parametrize("column", columns(OPERATOR, NATIVE))
def test_whole_image(column):
    boxes = torch.tensor([[-400.0, -300, 500, 400], [10, 5, 20, 25]])
    pasted = column.call(OPERATOR, torch.ones(2, 28, 28), boxes, (37, 53))
    assert pasted[0].all() and pasted[1].sum() == 200 and pasted[1, 5:25, 10:20].all()


@pytest.mark.parametrize("column", columns(OPERATOR, NATIVE))
def test_nothing_to_do(column):
    assert column.call(OPERATOR, *draw(0), (9, 7)).shape == (0, 9, 7)


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
def test_order_of_threads_does_not_matter(column):
    problem, results = draw(3, (28, 28), (60, 200), 2), []
    for seed in (0, 1, 2):
        emulator.set_seed(seed)
        results.append(column.call(OPERATOR, *problem, (60, 200)))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, EMULATED)))
@drawn
def test_drawn(column, size, image, seed, threshold, kind):
    if column == EMULATED:
        emulator.set_seed(seed % 4)
    check(column, *draw(3, size, image, seed, kind), image, threshold)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    masks, boxes = draw(6)
    want = ops.paste_masks(masks.to(dtype).float(), boxes, (120, 170))
    assert torch.equal(ops.paste_masks(masks.to(dtype), boxes, (120, 170)), want)


def test_strides():
    masks, boxes = draw(6)
    strided = masks.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(ops.paste_masks(strided, boxes, (120, 170)), ops.paste_masks(masks, boxes, (120, 170)))


def test_opcheck_compile_and_export():
    masks, boxes = draw(5)
    torch.library.opcheck(torch.ops.htc_fast.paste_masks.default, (masks, boxes, 120, 170, 0.5))
    want = ops.paste_masks(masks, boxes, (120, 170))
    compiled = torch.compile(lambda m, b: ~ops.paste_masks(m, b, (120, 170)), backend="eager", fullgraph=True)
    assert torch.equal(~compiled(masks, boxes), want)

    class Paste(torch.nn.Module):
        def forward(self, masks, boxes):
            return ops.paste_masks(masks, boxes, (120, 170))

    assert torch.equal(torch.export.export(Paste(), (masks, boxes)).module()(masks, boxes), want)


@pytest.mark.parametrize("column", columns(OPERATOR, (CUDA,)))
def test_captured_in_a_graph(column):
    masks, boxes = column.give(draw(20, image=(240, 320)))
    ops.paste_masks(masks, boxes, (240, 320))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = ops.paste_masks(masks, boxes, (240, 320))
    boxes.add_(4)
    graph.replay()
    assert torch.equal(found, ops.paste_masks(masks, boxes, (240, 320)))


@pytest.mark.parametrize(
    "call, error, said", errors(ops.paste_masks), ids=lambda one: one if isinstance(one, str) else ""
)
def test_errors(call, error, said):
    with pytest.raises(error, match=said):
        call()
