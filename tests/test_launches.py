"""What the optimised detector would launch on a GPU: traced without one, within tests/budget_launches.json."""

import json

import pytest
import torch

from scripts import launch_check, launch_recorder
from tests.simt import emulator

pytestmark = pytest.mark.skipif(emulator.why_not() is not None, reason=str(emulator.why_not()))


@pytest.fixture(scope="module")
def parts():
    pytest.importorskip("triton")
    return launch_check.trace()


def counted(call) -> dict[str, int]:
    """What one call launches, by name."""
    with launch_recorder.pretending(), launch_recorder.Recorder() as recorder:
        call(torch.empty(1, 64, 8, 8, device="cuda"))
    found = [launch_check.launches(one) for one in recorder.calls]
    return {name: len(moved) for one in found for name, moved in one.items()}


def test_what_counts_as_a_launch():
    weight = torch.empty(8, 64, 1, 1, device="meta")
    assert counted(lambda x: x.permute(0, 2, 3, 1).flatten(1)) == {"aten::clone": 1}
    assert counted(lambda x: x[:, 1:].unflatten(1, (7, 9)).transpose(0, 1)) == {}
    assert counted(lambda x: torch.empty_like(x)) == {}
    assert counted(lambda x: x.relu_()) == {"aten::relu_": 1}
    bias = lambda x: x.new_empty(8)  # noqa: E731
    convolution = lambda x, *rest: torch.conv2d(x, x.new_empty(weight.shape), *rest)  # noqa: E731
    assert counted(lambda x: convolution(x)) == {"aten::convolution": 1}
    assert counted(lambda x: convolution(x, bias(x))) == {"aten::convolution": 1, "bias": 1}


def test_the_whole_detector_is_few_launches(parts):
    assert launch_check.total(parts) <= 200
    assert parts["proposals"].launches <= 12
    assert parts["detections"].launches <= 6
    for stage in ("box stage 1", "box stage 2"):
        refining = {name: count for name, count in parts[stage].operators.items() if "refine" in name}
        assert list(refining.values()) == [1]


def test_every_part_is_within_its_budget(parts):
    assert launch_check.compare(parts, json.loads(launch_check.BUDGET.read_text())["now"]) == []


def test_what_grows_is_told():
    part = launch_check.Part(launches=3, megabytes=10.0)
    budget = {"FPN": {"launches": 2, "megabytes": 8.0}, "gone": {"launches": 1, "megabytes": 1.0}}
    wrong = launch_check.compare({"FPN": part, "new": part}, budget)
    assert wrong == [
        "gone is in the budget and no part of the detector",
        "FPN launches 3, the budget is 2",
        "FPN moves 10.0 MB, the budget is 8.0",
        "new has no budget: run python -m scripts.launch_check --update and look at the change",
    ]
