"""The semantic branch beside RPN and proposals: forked and joined where a stream is offered, and nowhere else."""

import pytest
import torch

from htc_fast.inference import graphs
from htc_fast.models.branches import beside, offering
from tests.inference.fake_cuda import Cuda
from tests.models.test_zoo import tiny

CPU = torch.device("cpu")


def test_without_an_offer_work_runs_where_it_stands(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *some: pytest.fail("a CPU has no streams"))
    order = []
    later = beside(lambda: order.append("work") or 7)
    order.append("what follows")
    assert later() == 7 and order == ["work", "what follows"]


def test_a_compiled_network_has_one_branch():
    def network(x):
        later = beside(lambda: x * 2)
        return x + 1, later()

    with offering("no stream"):
        found = torch.compile(network, backend="eager", fullgraph=True)(torch.ones(2))
    assert torch.equal(torch.stack(found), torch.full((2, 2), 2.0))


def test_work_is_between_fork_and_join_and_the_offer_ends(monkeypatch):
    cuda = Cuda().install(monkeypatch)
    main, side = cuda.new_stream(), cuda.new_stream()
    cuda.current = main
    with offering(side):
        later = beside(lambda: cuda.log.append(("work", torch.cuda.current_stream().name)) or 7)
        cuda.log.append(("what follows", torch.cuda.current_stream().name))
        assert later() == 7
    forked, joined = ("wait stream", "side", "own"), ("wait stream", "own", "side")
    assert cuda.log == [forked, ("work", "side"), ("what follows", "own"), joined]
    assert beside(lambda: 8)() == 8 and len(cuda.log) == 4


def test_work_that_fails_leaves_the_main_stream_current(monkeypatch):
    cuda = Cuda().install(monkeypatch)
    cuda.current = main = cuda.new_stream()
    with pytest.raises(ZeroDivisionError), offering(cuda.new_stream()):
        beside(lambda: 1 / 0)
    assert cuda.current is main and beside(lambda: 8)() == 8


@torch.no_grad()
@pytest.mark.parametrize("name", ["htc_r50", "htc_r50_nosem"])
def test_a_captured_detector_forks_before_rpn_and_joins_behind_the_proposals(name, monkeypatch):
    model = tiny(name).eval()
    torch.manual_seed(0)
    given = torch.randn(1, 3, 64, 96), torch.tensor([[64, 96]])
    wanted, cuda = model.detect(*given), Cuda().install(monkeypatch)
    parts = {part: getattr(model, part) for part in ("semantic", "box_stage")}
    for part, call in parts.items():
        monkeypatch.setattr(model, part, lambda *some, part=part, call=call, **more: (
            cuda.log.append((part, cuda.current.name)), call(*some, **more))[1])  # fmt: skip
    model.rpn.register_forward_pre_hook(lambda *some: cuda.log.append(("rpn", cuda.current.name)))
    shared = graphs.Shared(CPU, 64 * 96, 1)
    graphs.Captured(model.detect, (1, 64, 96), shared)
    forked, joined = ("wait stream", "side", "own"), ("wait stream", "own", "side")
    steps = [entry for entry in cuda.log if entry[0] != "capture"][2:-1]  # the graph's own waits around them
    one = [forked, ("semantic", "side"), ("rpn", "own"), joined, *[("box_stage", "own")] * len(model.box_heads)]
    assert steps == one * (graphs.Captured.WARM_UP + 1)
    with offering(shared.side):
        found = model.detect(*given)
    assert all(torch.equal(one, other) for one, other in zip(vars(found).values(), vars(wanted).values(), strict=True))
