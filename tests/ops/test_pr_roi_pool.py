"""pr_roi_pool, backend x named case: outputs and all gradients against the reference in float32."""

from dataclasses import replace

import pytest
import torch
from hypothesis import strategies as st

from htc_fast import ops
from tests.ops.backends import CUDA, EMULATED, NATIVE, cases, columns, emulated_only, run_without_waiting, watched_only
from tests.ops.pr_roi_pool_cases import BOXES_TOLERANCE, CASES, PreciseInputs
from tests.ops.roi_cases import NAN, TOLERANCE, draw_case, drawn
from tests.simt import emulator

OPERATOR = "pr_roi_pool"
WATCHED = emulated_only(
    CASES,
    asan="half brain_odd wide odd one_channel nchw sliced batched five_levels tiny_maps strange one_bin "
    "many_bins no_boxes small_every_border small_odd",
    race="brain nchw_half odd tiny_maps same_place many_bins more_bins small_levels small_two_blocks small_batched "
    "small_sliced",
)


def check(inputs: PreciseInputs, column) -> list:
    out, grads, boxes = inputs.precise()
    found, found_grads = inputs.run(column)
    tolerances = [*[TOLERANCE[inputs.case.dtype]] * (1 + len(grads)), BOXES_TOLERANCE]
    for one, wanted, tolerance in zip([found, *found_grads], [out, *grads, boxes], tolerances, strict=True):
        size = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
        torch.testing.assert_close(one.float(), wanted, rtol=tolerance, atol=tolerance * size)
    return [found, *found_grads]


@pytest.mark.parametrize("name, column", cases(OPERATOR, CASES, NATIVE, watched_only(WATCHED)))
def test_named(name, column):
    inputs = PreciseInputs(CASES[name])
    found = check(inputs, column)
    if column == CUDA:
        out, grads = inputs.run(column)
        assert all(torch.equal(a, b) for a, b in zip(found, [out, *grads])), "it is not deterministic"


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED, CUDA)))
@pytest.mark.parametrize("image", [-1.0, 2.0, 1e30, NAN, float("-inf")])
def test_images_that_are_not_there_give_zeros(image, column):
    inputs = PreciseInputs(replace(CASES["plain"], count=3))
    inputs.rois[1, 0] = image
    out, (*grads, boxes) = inputs.run(column)
    assert (out[1] == 0).all() and (boxes[1] == 0).all() and (out[0] != 0).any() and (boxes[0] != 0).any()
    alone = PreciseInputs(replace(CASES["plain"], count=3))
    alone.rois, alone.grad = inputs.rois[[0, 2]], inputs.grad[[0, 2]]
    assert all(torch.equal(found, wanted) for found, wanted in zip(grads, alone.run(column)[1]))


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
def test_an_infinite_pixel_stays_in_its_bins(column):
    inputs = PreciseInputs(replace(CASES["plain"], count=6))
    clean = inputs.pool(column, inputs.maps)
    inputs.maps[0][:, :, :4, :4] = float("inf")
    found = inputs.pool(column, inputs.maps)
    assert not torch.isnan(found).all() and torch.equal(found[found.isfinite()], clean[found.isfinite()])


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
def test_order_of_threads_does_not_matter(column):
    inputs, results = PreciseInputs(replace(CASES["plain"], channels=8)), []
    for seed in (0, 1, 2):
        emulator.set_seed(seed)
        out, grads = inputs.run(column)
        results.append([out, *grads])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.slow
@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
@drawn
def test_drawn(column, data):
    case = draw_case(data)
    emulator.set_seed(data.draw(st.integers(0, 5)))
    check(PreciseInputs(case), column)


class OnDevice:
    def __init__(self, column) -> None:
        self.inputs, self.column = PreciseInputs(CASES["plain"]), column
        self.inputs.maps, self.inputs.rois, self.inputs.grad = column.give(
            (self.inputs.maps, self.inputs.rois, self.inputs.grad)
        )

    def run(self) -> list:
        """As PreciseInputs.run, on tensors that are on the GPU and stay there."""
        with ops.use_backend(self.column.backend):
            maps = [map.detach().requires_grad_() for map in self.inputs.maps]
            rois, case = self.inputs.rois.detach().requires_grad_(), self.inputs.case
            out = ops.pr_roi_pool(maps, rois, case.size, self.inputs.scales, aligned=case.aligned)
            return [out.detach(), *torch.autograd.grad(out, [*maps, rois], self.inputs.grad)]


@pytest.mark.parametrize("column", columns(OPERATOR, (CUDA,)))
def test_captured_in_a_graph(column):
    problem = OnDevice(column)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        problem.run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = problem.run()
    problem.inputs.rois[:, 1:] += 5
    for map in problem.inputs.maps:
        map.mul_(0.5)
    graph.replay()
    assert all(torch.equal(one, other) for one, other in zip(found, problem.run(), strict=True))


@pytest.mark.parametrize("column", columns(OPERATOR, (CUDA,)))
def test_on_another_stream_without_waiting(column):
    problem = OnDevice(column)

    def elsewhere():
        with torch.cuda.stream(torch.cuda.Stream()):
            return problem.run()

    wanted, found = problem.run(), run_without_waiting(elsewhere)
    torch.cuda.synchronize()
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
