"""Both forms of masks answer alike."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htc_fast.data.numbered import bitmap, covered, extents, laid_over, owners, select, visible_area
from tests.data.forms import assert_same, box_of, layered, plain, sample_of

# An L, a bar that it overlaps, and nothing.
MASKS = [
    [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]],
    [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]],
    [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
]


def both(masks, **more):
    sample = sample_of(masks, **more)
    return sample, layered(sample)


def test_what_is_seen_of_instances():
    for sample in both(MASKS):
        assert visible_area(sample).tolist() == [5, 3, 0]
        assert extents(sample).tolist() == [[0, 0, 3, 3], [1, 2, 4, 3], [0, 0, 0, 0]]
        assert bitmap(sample, 1).tolist() == torch.tensor(MASKS[1]).bool().tolist()
        assert covered(sample).int().tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
        # The bar is the smaller one.
        assert owners(sample).tolist() == [[0, -1, -1, -1], [0, -1, -1, -1], [0, 1, 1, 1], [-1, -1, -1, -1]]


def test_layers_of_the_example():
    sample = layered(sample_of(MASKS))
    assert sample["numbers"].tolist() == [7, 5, 3]
    assert plain(sample["masks"]).tolist() == [
        [[7, 0, 0, 0], [7, 0, 0, 0], [7, 7, 7, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 5, 5, 5], [0, 0, 0, 0]],
    ]


def test_a_layer_without_instances_goes():
    kept = select(layered(sample_of(MASKS)), torch.tensor([False, True, True]))
    assert plain(kept["masks"]).tolist() == [[[0, 0, 0, 0], [0, 0, 0, 0], [0, 5, 5, 5], [0, 0, 0, 0]]]
    assert kept["numbers"].tolist() == [5, 3] and kept["labels"].tolist() == [1, 2]
    assert select(kept, torch.tensor([False, False]))["masks"].shape == (0, 4, 4)


def test_laid_over():
    over = torch.zeros(1, 4, 4, dtype=torch.uint8)
    over[0, 1:3, 1:3] = 1
    rows, layers = (laid_over(below, above) for below, above in zip(both(MASKS), both(over)))
    assert plain(rows["masks"]).tolist() == [
        [[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]],
    ]
    assert layers["numbers"].tolist() == [7, 5, 3, 8]
    assert plain(layers["masks"]).tolist() == [
        [[7, 0, 0, 0], [7, 8, 8, 0], [7, 8, 8, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 5], [0, 0, 0, 0]],
    ]


@st.composite
def masks_of(draw, size=(5, 6), most=5):
    seed, count = draw(st.integers(0, 2**32)), draw(st.integers(0, most))
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(count, 1, 1, generator=generator)
    return (torch.rand(count, *size, generator=generator) < share).to(torch.uint8)


@settings(deadline=None)
@given(masks_of(), masks_of(), st.integers(0, 31))
def test_forms_agree(masks, others, chosen):
    rows, layers = both(masks)
    assert torch.equal(visible_area(rows), masks.sum(dim=(1, 2))) and torch.equal(extents(rows), rows["boxes"])
    for ask in (visible_area, extents, covered, owners):
        assert torch.equal(ask(rows), ask(layers)) and ask(rows).dtype == ask(layers).dtype, ask
    keep = torch.tensor([chosen >> i & 1 for i in range(len(masks))], dtype=torch.bool)
    assert torch.equal(plain(select(rows, keep)["masks"]), masks[keep])
    assert_same(select(rows, keep), select(layers, keep))
    above = both(others)
    together = laid_over(rows, above[0])
    assert torch.equal(plain(together["masks"]), torch.cat([masks * ~others.any(dim=0).bool(), others]))
    assert_same(together, laid_over(layers, above[1]))
    # Of the instances at a pixel the smallest owns it, of equal ones the later.
    areas = [int(mask.sum()) for mask in masks]
    for (y, x), row in zip([(y, x) for y in range(5) for x in range(6)], owners(rows).flatten().tolist()):
        there = [(areas[i], -i) for i in range(len(masks)) if masks[i, y, x]]
        assert row == (-min(there)[1] if there else -1)
    assert all(torch.equal(box, box_of(mask)) for box, mask in zip(extents(layers), masks))
