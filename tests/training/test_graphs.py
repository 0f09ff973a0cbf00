"""--graphs: which steps are captured, and what becomes of a capture that fails."""

import warnings

import pytest
import torch

from htc_fast import UserError
from htc_fast.ablation.run import AblationRun
from htc_fast.ablation.runs import ablate
from htc_fast.models.structures import Targets
from htc_fast.training import Trainer, TrainingRun, graphs
from htc_fast.training.distributed import World
from htc_fast.training.graphs import Graphs
from htc_fast.training.loop import Loop
from tests.training.tiny import tiny_batches, tiny_model, tiny_recipe


class Played:
    """A graph on a CPU: what it captured is computed from the places where its inputs lie."""

    def __init__(self, learn, inputs, count, stream, pool):
        self.learn, self.inputs, self.count = learn, inputs, count

    def __call__(self, given):
        for name, one in given.items():
            self.inputs[name].copy_(one)
        values = dict(self.inputs)
        return self.learn(values.pop("images"), values.pop("sizes"), Targets(**values), self.count)


@pytest.fixture
def played(monkeypatch):
    """Makes `Graphs` of a function, on a CPU; what was called is written down: how wide, how many batches."""
    calls = []

    def learn(images, sizes, targets, count):
        calls.append((images.shape[3], count))
        sums = (one.double().sum() for one in (images, sizes, targets.boxes, targets.labels, targets.masks))
        return {"sum": sum(sums) + (0 if targets.semantic is None else targets.semantic.sum())}

    monkeypatch.setattr(graphs, "Captured", Played)
    for name in ("Stream", "graph_pool_handle", "synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(graphs, "check_graphs", lambda world: None)
    made = Graphs(learn, World())
    made.calls = calls
    return made


def batch(width, slots=8, seed=0, semantic=True):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(2, slots, 4, generator=generator)
    masks = torch.randint(0, 2, (2, slots, 64, width), generator=generator, dtype=torch.uint8)
    maps = torch.randint(0, 5, (2, 8, width // 8), generator=generator) if semantic else None
    images = torch.randn(2, 3, 64, width, generator=generator)
    return (
        images,
        torch.tensor([[64, width]] * 2),
        Targets(boxes, torch.zeros(2, slots, dtype=torch.int64), masks, maps),
    )


def test_the_second_step_of_a_shape_is_captured_and_sees_each_batch(played):
    for seed, (width, slots) in enumerate([(96, 8), (64, 8), (96, 8), (96, 16), (64, 8), (96, 8), (96, 16)]):
        given = batch(width, slots, seed)
        wanted = played.learn(*given, 1)["sum"]
        assert torch.equal(played(*given, 1)["sum"], wanted)
    assert [key[1][1][3] for key in played.made] == [64, 96, 96] and not played.off


def test_semantic_maps_and_shares_are_shapes_of_their_own(played):
    for semantic, count in [(True, 1), (False, 1), (True, 2), (True, 1)]:
        given = batch(64, semantic=semantic)
        assert torch.equal(played(*given, count)["sum"], played.learn(*given, count)["sum"])
    assert len(played.made) == 1 and len(played.seen) == 3


def test_only_so_many_graphs_are_kept(played):
    played.most = 2
    for width in (32, 32, 64, 64, 32, 96, 96):
        played(*batch(width), 1)
    assert [key[1][1][3] for key in played.made] == [32, 96]


@pytest.mark.parametrize("error", [RuntimeError("not permitted while capturing"), torch.OutOfMemoryError("no more")])
def test_a_capture_that_fails_is_said_and_training_goes_on(played, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(graphs, "Captured", fails)
    played(*batch(64), 1)
    with pytest.warns(UserWarning, match="without CUDA graphs from here on: (not permitted|not enough memory)"):
        played(*batch(64), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = played(*batch(64, seed=3), 1)["sum"]
    assert torch.equal(found, played.learn(*batch(64, seed=3), 1)["sum"]) and played.off and not played.made


def test_pictures_of_another_type_have_a_place_of_their_own(played):
    for dtype in (torch.float32, torch.float32, torch.float64, torch.float64):
        images, *rest = batch(64)
        given = images.to(dtype) * 1.1, *rest
        assert torch.equal(played(*given, 1)["sum"], played.learn(*given, 1)["sum"])
    assert len(played.made) == 2


def test_a_cpu_and_several_processes_are_refused(tmp_path):
    refused = pytest.raises(UserError, match="--graphs is for one process on a GPU, not for 1 on a cpu: leave it out")
    with refused:
        Trainer(TrainingRun.sample(graphs=True, device="cpu", out=tmp_path))
    with refused:
        Loop(tiny_model(), tiny_batches(), tiny_recipe(graphs=True), tmp_path)
    with refused:
        list(ablate(AblationRun.small(graphs=True, device="cpu", out=tmp_path / "ablation"), print))
    assert not (tmp_path / "ablation").exists()
    with pytest.raises(UserError, match="not for 2 on a cuda"):
        graphs.check_graphs(World(size=2, device=torch.device("cuda")))
