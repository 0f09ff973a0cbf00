"""CUDA graphs per shape, without a GPU: the order of waits, whose results they are, what goes when, and what fails."""

import pytest
import torch

from htc_fast.inference import graphs
from htc_fast.models.structures import Detections
from tests.inference.fake_cuda import Cuda

CPU = torch.device("cpu")


def detect(images, image_sizes):
    """Something of every value that goes in."""
    sums = images.double().sum(dim=(2, 3)).float()
    return Detections(sums, sums + 1, image_sizes.clone(), images[:, :, :2, :2].clone(), image_sizes[:, 0].int())


@pytest.fixture
def cuda(monkeypatch):
    made = Cuda().install(monkeypatch)
    captured = graphs.Captured._capture

    def capture(self, function, shape):
        captured(self, function, shape)
        self.graph.found = lambda: self.found
        self.graph.again = lambda: function(self.images, self.image_sizes)

    monkeypatch.setattr(graphs.Captured, "_capture", capture)
    return made


def buckets(limit=8, function=detect):
    return graphs.graph_buckets(function, CPU, pixels=2 * 64 * 96, images=2, limit=limit)


def pictures(height, width, count=1, seed=0):
    torch.manual_seed(seed)
    return torch.randn(count, 3, height, width), torch.tensor([[height - 3, width]] * count)


def assert_same(found, want):
    for one, other in zip(vars(found).values(), vars(want).values(), strict=True):
        assert torch.equal(one, other)


def test_results_are_those_of_the_function_and_the_caller_s_own(cuda):
    made, kept = buckets(), []
    for seed, shape in enumerate([(64, 96), (96, 64), (64, 96), (32, 32), (64, 96)]):
        inputs = pictures(*shape, count=1 + seed % 2, seed=seed)
        kept.append((made(*inputs), detect(*inputs)))
    for found, want in kept:  # after later replays wrote the same inputs and outputs
        assert_same(found, want)
    assert sum(entry[0] == "capture" for entry in cuda.log) == len(made.made) == 3
    assert all(one.images.is_contiguous(memory_format=torch.channels_last) for one in made.made.values())


def test_every_replay_waits_for_the_one_before_whichever_graph_that_was(cuda):
    made, streams = buckets(), ("caller", "another", "caller", "third")
    for seed, name in enumerate(streams):
        cuda.current.name = name
        made(*pictures(*((64, 96), (96, 64))[seed % 2], seed=seed))
    order = [entry for entry in cuda.log if entry[0] in ("wait", "replay", "record") and entry[1] != "own"]
    for number, name in enumerate(streams):
        waits, replay, record = order[3 * number : 3 * number + 3]
        assert waits == ("wait", name, number or None) and replay == ("replay", name)
        assert record == ("record", name, number + 1)


def test_captures_have_one_stream_one_pool_and_the_model_s_device(cuda):
    made = buckets()
    for shape in ((64, 96), (96, 64), (64, 64)):
        made(*pictures(*shape))
    assert [entry for entry in cuda.log if entry[0] == "capture"] == [("capture", 1, "own", "thread_local", CPU)] * 3
    # Before a capture the inputs' last reader is waited for, and after it the caller waits for the warm-up.
    assert cuda.log.count(("wait stream", "own", "caller")) == cuda.log.count(("wait stream", "caller", "own")) == 3
    assert cuda.current.name == "caller"


def test_a_graph_goes_only_when_its_last_replay_has_ended(cuda):
    made = buckets(limit=2)
    for shape in ((64, 96), (96, 64)):
        made(*pictures(*shape))
    assert not [entry for entry in cuda.log if entry[0] == "settle"]
    made(*pictures(64, 64))
    at = cuda.log.index(("settle", 2))
    assert ("capture", 1, "own", "thread_local", CPU) in cuda.log[at:] and list(made.made) == [(1, 96, 64), (1, 64, 64)]


def test_a_pool_ends_with_its_last_graph(cuda):
    made = buckets(limit=1)
    for number, shape in enumerate([(64, 96), (96, 64), (64, 96)], start=1):
        assert_same(made(*pictures(*shape)), detect(*pictures(*shape)))
        assert [entry for entry in cuda.log if entry[0] == "capture"][-1][1] == number
    assert cuda.log.count(("empty",)) == 2 and ("synchronize", CPU) in cuda.log


def test_without_memory_the_others_go_first(cuda):
    made = buckets()
    made(*pictures(64, 96))
    cuda.fails = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")]
    assert_same(made(*pictures(96, 64)), detect(*pictures(96, 64)))
    assert list(made.made) == [(1, 96, 64)] and ("empty",) in cuda.log
    cuda.fails = [RuntimeError("CUDNN_STATUS_ALLOC_FAILED")] * 2
    with pytest.raises(torch.OutOfMemoryError, match="2 images of 64 x 96: lower batch_size"):
        made(*pictures(64, 96, count=2))
    assert not made.made and cuda.current.name == "caller"
    assert_same(made(*pictures(64, 96)), detect(*pictures(64, 96)))


def test_memory_that_ran_out_inside_a_capture_that_cannot_be_ended(cuda):
    hidden = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    hidden.__context__ = torch.OutOfMemoryError("CUDA out of memory.")
    cuda.fails = [hidden]
    with pytest.raises(torch.OutOfMemoryError, match="1 image of 64 x 96: lower the image size"):
        buckets()(*pictures(64, 96))


def test_a_capture_that_somebody_ended_is_tried_again(cuda):
    cuda.fails = [RuntimeError("CUDA error: operation not permitted when stream is capturing")]
    made = buckets()
    assert_same(made(*pictures(64, 96)), detect(*pictures(64, 96)))
    assert isinstance(made.made[1, 64, 96], graphs.Captured) and cuda.current.name == "caller"


def test_what_cannot_be_captured_runs_as_it_is_and_says_so(cuda):
    cuda.fails = [RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")] * 2
    made = buckets()
    with pytest.warns(UserWarning, match="64 x 96 run without a CUDA graph: CUDA error: operation not permitted"):
        found = made(*pictures(64, 96))
    assert_same(found, detect(*pictures(64, 96)))
    assert cuda.current.name == "caller" and made.made[1, 64, 96] is detect
