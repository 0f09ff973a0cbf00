"""Named ranges: the paper's words where somebody looks, and nothing at all where nobody does."""

import importlib.util
import timeit

import pytest
import torch

from htc_fast import ranges
from htc_fast.inference.export import export_detect
from htc_fast.ranges import part, watching
from tests.models.test_zoo import SIZES, tiny

INFERENCE = (
    "backbone, FPN, semantic, RPN head, proposals, box stage 1, box stage 2, box stage 3, detections, mask "
    "RoIAlign, mask stages, mask stage 1, mask stage 2, mask stage 3"
).split(", ")


class Heard:
    def __init__(self):
        self.begun, self.ended = [], []

    def begin(self, name):
        self.begun.append(name)

    def end(self, name):
        self.ended.append(name)


def detect(model):
    torch.manual_seed(1)
    return model.detect(torch.randn(2, 3, 64, 96), SIZES)


def test_every_part_is_told_and_results_stay():
    model, heard = tiny("htc_r50").eval(), Heard()
    want = detect(model)
    with watching(heard):
        found = detect(model)
    assert set(heard.begun) == set(INFERENCE) and sorted(heard.begun) == sorted(heard.ended)
    for name, value in vars(want).items():
        assert torch.equal(getattr(found, name), value)


def test_parts_that_a_model_lacks_are_not_named():
    heard = Heard()
    with watching(heard):
        detect(tiny("mask_rcnn_r50").eval())
    missing = {"semantic", "box stage 2", "box stage 3", "mask stage 2", "mask stage 3"}
    assert set(heard.begun) == set(INFERENCE) - missing


def test_torch_s_profiler_shows_them():
    model = tiny("htc_r50").eval()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        detect(model)
    assert set(INFERENCE) <= {event.key for event in recorded.key_averages()}


def test_off_there_is_one_object_that_does_nothing():
    assert not ranges.on() and part("backbone") is part("FPN") is ranges._OFF
    # Twenty of them in an image of a second: below a thousandth of a promille.
    assert min(timeit.repeat(lambda: part("backbone"), number=1000, repeat=5)) / 1000 < 20e-6


def test_an_error_inside_ends_the_part():
    heard = Heard()
    with pytest.raises(KeyError), watching(heard), part("backbone"):
        raise KeyError
    assert heard.ended == ["backbone"] and not ranges.on()


@pytest.mark.slow
@pytest.mark.parametrize("watched", [False, True])
def test_exported_and_compiled_graphs_have_none(watched):
    model = tiny("htc_r50").eval()
    seen = []

    def look(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    def stage(x):
        with part("backbone"):
            return x.sin() + 1

    with watching(Heard()) if watched else torch.no_grad():
        program = export_detect(model, (64, 96))
        torch.compile(stage, backend=look, fullgraph=True)(torch.ones(3))
    graphs = [one.graph for one in program.graph_module.modules() if isinstance(one, torch.fx.GraphModule)]
    names = [str(node.target) for graph in graphs for node in graph.nodes]
    assert len(names) > 100 and seen
    assert not [name for name in names + seen if "record_function" in name or "profiler" in name]


@pytest.mark.parametrize("value, found", [("1", "_Range"), ("0", "nullcontext"), ("off", "nullcontext")])
def test_the_environment_turns_them_on(monkeypatch, value, found):
    monkeypatch.setenv("HTC_FAST_RANGES", value)
    spec = importlib.util.spec_from_file_location("ranges_anew", ranges.__file__)
    anew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anew)
    assert anew.on() == (value == "1") and type(anew.part("FPN")).__name__ == found
