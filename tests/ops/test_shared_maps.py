"""One gradient buffer for all RoIAligns of a map: the gradients are those without, whatever else is done with them."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from htc_fast import ops
from htc_fast.ops._shared_maps import shared_maps

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
ADDED, WRITTEN = (f"htc_fast::multi_level_roi_align_{name}" for name in ("add_backward", "backward"))


def drawn(dtype=torch.float32, channels=24):
    """Four levels and a semantic map, and boxes of every level."""
    generator = torch.Generator().manual_seed(0)
    sides = [(32, 48), (16, 24), (8, 12), (4, 6), (16, 24)]
    maps = [torch.randn(2, channels, *side, generator=generator).to(dtype) for side in sides]
    maps = [one.contiguous(memory_format=torch.channels_last).requires_grad_() for one in maps]
    boxes = torch.rand(2, 40, 4, generator=generator) * torch.tensor([120.0, 80, 180, 120])
    boxes[..., 2:] += boxes[..., :2] + 1
    boxes[:, :5] = torch.tensor([-300.0, -300, 500, 500])
    return maps, boxes


def heads(maps, boxes):
    """What a cascade makes of its maps: one number per head."""
    *features, semantic = maps
    found = [ops.multi_level_roi_align(features, boxes, size, SCALES, semantic=semantic) for size in (7, 14, 7)]
    found.append(ops.multi_level_roi_align(features, boxes, 7, SCALES))
    found.append(ops.multi_level_roi_align(features[1:], boxes, 3, SCALES[1:]))
    found.append(features[0])
    return [one.square().float().sum() for one in found]


def of(function):
    """What it returns, and how often a RoIAlign added to buffers and how often it wrote whole gradients."""
    with torch.autograd.profiler.profile() as seen:
        result = function()
    counts = {one.key: one.count for one in seen.key_averages()}
    return result, (counts.get(ADDED, 0), counts.get(WRITTEN, 0))


def gradients(maps, boxes, wrap, number=slice(None), **options):
    return torch.autograd.grad(sum(heads(wrap(maps), boxes)[number]), maps, allow_unused=True, **options)


@pytest.mark.parametrize("dtype, error", [(torch.float32, 3e-6), (torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("number", [slice(None), slice(1, 2), slice(3, 5), slice(5, None)])
def test_gradients_are_those_without_it(number, dtype, error):
    maps, boxes = drawn(dtype)
    wanted, plain = of(lambda: gradients(maps, boxes, list, number))
    found, counts = of(lambda: gradients(maps, boxes, shared_maps, number))
    assert counts == (plain[1], 0) and plain[0] == 0
    for one, other, given in zip(found, wanted, maps):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == given.dtype and one.stride() == other.stride()
            torch.testing.assert_close(one, other, rtol=error, atol=error * float(other.abs().max()))
    exact = gradients([one.detach().double().requires_grad_() for one in maps], boxes, list, number)
    if dtype == torch.bfloat16 and number == slice(None):  # added up in float32, it is nearer to the truth
        errors = [sum(float((a - b).square().sum()) for a, b in zip(some, exact)) for some in (found, wanted)]
        assert errors[0] < errors[1]


def test_one_roi_align_gives_the_same_bits():
    maps, boxes = drawn()
    for one, other in zip(*(gradients(maps, boxes, wrap, slice(0, 1)) for wrap in (list, shared_maps))):
        assert torch.equal(one, other)


def test_again_and_again_with_the_graph_kept_and_after_a_pass_that_broke_off():
    maps, boxes = drawn()
    loss = sum(heads(shared_maps(maps), boxes))
    first = torch.autograd.grad(loss, maps, retain_graph=True)

    def broken(grad):
        raise ValueError("broken off")

    parts = heads(again := shared_maps(maps), boxes)
    handle = again[0].grad_fn.register_prehook(broken)  # after all RoIAligns added, before the sums are taken
    with pytest.raises(ValueError, match="broken off"):
        torch.autograd.grad(sum(parts), maps, retain_graph=True)
    handle.remove()
    for grads in (torch.autograd.grad(loss, maps), torch.autograd.grad(sum(parts), maps)):
        assert all(torch.equal(one, other) for one, other in zip(grads, first))


def test_second_derivatives_go_around_the_buffers():
    maps, boxes = drawn(torch.float64, 4)

    def second(wrap):
        slopes = gradients(maps, boxes, wrap, create_graph=True)
        return torch.autograd.grad(sum(one.square().sum() for one in slopes), maps)

    (found, counts), wanted = of(lambda: second(shared_maps)), second(list)
    assert counts == (5, 5)  # the second pass, with no third to come, adds again
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_heads(reentrant):
    maps, boxes = drawn()
    wanted = gradients(maps, boxes, list)

    def head(*given):
        return sum(heads(given, boxes))

    checkpoint(head, *shared_maps(maps), use_reentrant=reentrant).backward()
    for one, other in zip(maps, wanted):
        torch.testing.assert_close(one.grad, other, rtol=3e-6, atol=3e-6 * float(other.abs().max()))


def test_compiled_transformed_and_with_compiled_autograd():
    maps, boxes = drawn()
    wanted = gradients(maps, boxes, list)

    def loss(*given):
        return sum(heads(shared_maps(given), boxes))

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(compiled_autograd=True):
        whole = torch.compile(lambda *given: torch.autograd.grad(loss(*given), given), backend="eager")
        both = whole(*maps)
    for found in (torch.autograd.grad(compiled(*maps), maps), both):
        for one, other in zip(found, wanted):
            torch.testing.assert_close(one, other, rtol=3e-6, atol=3e-6 * float(other.abs().max()))
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        maps[0].grad = None
        loss(*maps).backward()
    torch.testing.assert_close(maps[0].grad, wanted[0], rtol=3e-6, atol=3e-6 * float(wanted[0].abs().max()))


def test_nothing_is_put_in_where_nothing_is_gained():
    maps, boxes = drawn()
    plain = [one.detach() for one in maps]
    assert all(one is other for one, other in zip(shared_maps([*plain, None]), [*plain, None]))
    with torch.no_grad():
        assert all(one is other for one, other in zip(shared_maps(maps), maps))
    with forward_ad.dual_level():
        assert all(one is other for one, other in zip(shared_maps(maps), maps))
    *found, none = shared_maps([*maps, None])
    assert none is None and all(one.grad_fn is not None for one in found)
    boxes = boxes[:, 4:7]  # the reference takes its time
    with ops.use_backend("reference"):
        result, counts = of(lambda: gradients(maps, boxes, shared_maps))
    assert counts == (0, 0)
    for one, other in zip(result, gradients(maps, boxes, list)):
        one = torch.zeros_like(other) if one is None else one  # of levels that no box reads
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_maps_of_two_groups_write_whole_gradients():
    maps, boxes = drawn()
    mixed, counts = of(lambda: gradients(maps, boxes, lambda given: [*shared_maps(given[:2]), *given[2:]]))
    assert counts == (0, 5)
    for one, other in zip(mixed, gradients(maps, boxes, list)):
        assert torch.equal(one, other)


def test_opcheck():
    maps, boxes = drawn()
    sums = [torch.zeros_like(one) for one in maps]
    grad = torch.randn(80, 24, 7, 7)
    arguments = list(SCALES), 0, True, 56.0, True, 1 / 8, 14
    operator = torch.ops.htc_fast.multi_level_roi_align_add_backward.default
    torch.library.opcheck(operator, (sums, grad, boxes, *arguments), test_utils=("test_schema", "test_faketensor"))
    with pytest.raises(RuntimeError, match="sums must be channels-last"):
        operator([one.contiguous() for one in sums], grad, boxes, *arguments)
