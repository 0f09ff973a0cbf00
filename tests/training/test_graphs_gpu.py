"""--graphs on a GPU: the same training."""

import pytest
import torch

from htc_fast.training import graphs
from htc_fast.training.batches import Batches
from htc_fast.training.distributed import World
from htc_fast.training.loop import Loop
from tests.ops.backends import exact_products, needs_gpu
from tests.training.tiny import Pictures, collate, tiny_model, tiny_recipe

pytestmark = needs_gpu


def of_several_shapes(samples):
    """As many places for ground truth as the first picture has, and two more."""
    return collate(samples, 3 + len(samples[0][1]))


def a_loop(folder, **options):
    batches, world = Batches(Pictures(), of_several_shapes, 2, World()), World(device=torch.device("cuda"))
    return Loop(tiny_model(), batches, tiny_recipe(iterations=10, **options), folder, world)


def trained(loop):
    """Weights after ten steps of four shapes, loss terms of each step, and the loop."""
    found, update = [], loop.update

    def watched(batches):
        terms, seen = update(batches)
        found.append(torch.stack(list(terms.values())).cpu())
        return terms, seen

    loop.update = watched
    with exact_products():
        loop.run()
    return {name: one.detach().cpu() for name, one in loop.model.state_dict().items()}, torch.stack(found), loop


def apart(found, want):
    """The weights that ended elsewhere, beside how far they moved."""
    start = tiny_model().state_dict()
    far = {name: (found[name].double() - one.double()).norm() for name, one in want.items()}
    moved = {name: (one.double() - start[name].double()).norm() for name, one in want.items()}
    return [name for name, one in want.items() if far[name] > 0.1 * moved[name] + 1e-3 * one.double().norm() + 1e-6]


@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "optimizer": "adamw", "clip": 1.0}, {"amp": True}])
def test_on_a_gpu_training_is_the_same(tmp_path, options):
    want, losses, _ = trained(a_loop(tmp_path / "plain", **options))
    found, others, loop = trained(a_loop(tmp_path / "graphs", graphs=True, **options))
    assert len(loop.learn.made) > 1 and not loop.learn.off
    loose = 0.05 if options.get("amp") else 5e-3
    torch.testing.assert_close(others, losses, rtol=loose, atol=loose)
    assert apart(found, want) == []


def test_on_a_gpu_graphs_that_were_dropped_are_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "MOST", 1)
    captures, captured = [], graphs.Captured

    def counted(*given):
        captures.append(len(captures))
        return captured(*given)

    monkeypatch.setattr(graphs, "Captured", counted)
    want, losses, _ = trained(a_loop(tmp_path / "plain"))
    found, others, loop = trained(a_loop(tmp_path / "graphs", graphs=True))
    assert len(loop.learn.made) == 1 and len(captures) > 1 and not loop.learn.off
    torch.testing.assert_close(others, losses, rtol=5e-3, atol=5e-3)
    assert apart(found, want) == []


def test_on_a_gpu_a_capture_that_fails_leaves_training_as_it_was(tmp_path):
    want, losses, _ = trained(a_loop(tmp_path / "plain"))
    loop = a_loop(tmp_path / "graphs", graphs=True)
    learn = loop.learn.learn

    def waits(images, *others):
        if torch.cuda.is_current_stream_capturing():
            images.sum().item()
        return learn(images, *others)

    loop.learn.learn = waits
    with pytest.warns(UserWarning, match="without CUDA graphs from here on"):
        found, others, _ = trained(loop)
    assert loop.learn.off and not loop.learn.made
    torch.testing.assert_close(others, losses, rtol=5e-3, atol=5e-3)
    assert apart(found, want) == []
