"""propose, backend x named case: the reference's proposals in its order, and on a GPU the bits of C++."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from htc_fast import ops
from htc_fast.ops.reference.boxes import LARGEST_CHANGE
from tests.ops import backends
from tests.ops.backends import CPP, CUDA, EMULATED, INTERPRETED, ON_CPU, REFERENCE, TRITON, cases, columns
from tests.ops.propose_cases import CASES, PYRAMID, Case, Inputs
from tests.simt import emulator

OPERATOR = "propose"
BUT_REFERENCE = (CPP, EMULATED, CUDA, INTERPRETED, TRITON)
NAMES = {name.replace(" ", "_"): name for name in CASES}
WATCHED = backends.emulated_only(
    NAMES,
    asan="one_pixel fewer_than_wanted an_empty_level other_counts eight_levels several_blocks two_batches nchw float16"
    " bfloat16",
    race="pyramid an_empty_level several_blocks several_blocks_alike many_tiles two_batches bfloat16",
)
TOO_LONG = "more_than_a_batch", "a_batch_of_ties"
QUICK = ["pyramid", "an_empty_level"]
pytestmark = pytest.mark.filterwarnings("ignore:invalid value")  # of Triton's interpreter


def unless(name: str, column) -> str | None:
    if column == INTERPRETED and name in TOO_LONG:
        return "Triton's interpreter would take half a minute"
    return backends.watched_only(WATCHED)(name, column)


def check(column, inputs: Inputs, **options) -> tuple:
    """The column's proposals, those of the reference."""
    options = inputs.options() | options
    boxes, scores, valid = found = column.call(OPERATOR, *inputs.arguments(), **options)
    like = CPP if column == REFERENCE else REFERENCE
    wanted = like.call(OPERATOR, *inputs.arguments(), **options)
    assert valid.dtype == torch.bool and boxes.dtype == scores.dtype == torch.float32
    assert same(column, inputs, found, wanted, **options)
    return found


def same(column, inputs: Inputs, found, wanted, **options) -> bool:
    rounding = max(1e-4, furthest(inputs, **options) * 2**-21)  # of an exponential two ulp off, and of the edge itself
    return all(backends.alike(column, *pair, rounding) for pair in zip(found, wanted, strict=True))


def furthest(inputs: Inputs, delta_std=(1.0, 1.0, 1.0, 1.0), **_) -> float:
    """How far an edge may lie from its centre, in pixels, before boxes are clipped."""
    sides = [torch.as_tensor(one).abs().max() for one in inputs.anchors]
    moves = [one.float().nan_to_num().abs().max() * max(delta_std) for one in inputs.deltas if one.numel()]
    return float(max(sides) * torch.stack(moves).max().clamp(max=LARGEST_CHANGE).exp()) if moves else 0.0


@pytest.mark.parametrize("name, column", cases(OPERATOR, NAMES, backends.ALL, unless, QUICK))
def test_named(name, column):
    case = CASES[NAMES[name]]
    boxes, scores, valid = check(column, Inputs(case))
    assert boxes.shape == (case.images, case.limit, 4) and scores.shape == valid.shape == boxes.shape[:2]
    assert (boxes[~valid] == 0).all() and (scores[~valid] == 0).all()
    assert (scores[:, 1:] <= scores[:, :-1]).all() and (valid[:, :-1] >= valid[:, 1:]).all()


@pytest.mark.parametrize("column", columns(OPERATOR, BUT_REFERENCE))
def test_what_is_not_finite(column):
    inputs = Inputs(Case(((9, 11), (5, 6)), 80, 90, images=2))
    for name, maps in (("logits", inputs.objectness), ("deltas", inputs.deltas)):
        for at, value in enumerate((torch.nan, torch.inf, -torch.inf)):
            maps[0][0, at, 2:4, 3:5] = value
            maps[1][1, :, 1 + at] = value if name == "deltas" or at == 0 else 5.0
    boxes, scores, valid = check(column, inputs)
    assert boxes.isfinite().all() and scores.isfinite().all() and valid.any()
    inputs.objectness[0][:] = inputs.objectness[1][:] = torch.inf
    assert not check(column, inputs)[2].any()


@pytest.mark.parametrize("column", columns(OPERATOR))
def test_ties_go_by_level_row_column_anchor(column):
    """Boxes far smaller than their strides overlap nothing: all stay, in their order."""
    small = [[-1.0 - a, -1.0, 1.0 + a, 1.0] for a in (0, 1)]
    maps = [torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 2, 2)]
    maps[1][0, 1, 0, 1] = 1.0
    deltas = [torch.zeros(1, 8, *one.shape[2:]) for one in maps]
    found = column.call(OPERATOR, maps, deltas, [(8, 16), 64.0], torch.tensor([[99, 99]]), [small, small],
                        per_level=20, limit=40, iou_threshold=0.9)  # fmt: skip
    boxes, scores, valid = (one[0] for one in found)
    fine = [(16 * x, 8 * y, a) for y in range(3) for x in range(4) for a in (0, 1)]
    coarse = [(64 * x, 64 * y, a) for y in range(2) for x in range(2) for a in (0, 1)]
    order = [coarse[3], *fine[:20], *coarse[:3], *coarse[4:]]
    wanted = torch.tensor([[x - 1.0 - a, y - 1.0, x + 1.0 + a, y + 1.0] for x, y, a in order]).clamp(min=0)
    assert torch.equal(boxes[: len(wanted)], wanted)
    assert valid.tolist() == [True] * len(wanted) + [False] * (40 - len(wanted))
    assert scores[0].item() == pytest.approx(torch.tensor(1.0).sigmoid().item()) and (scores[1:28] == 0.5).all()


@pytest.mark.parametrize("column", columns(OPERATOR, BUT_REFERENCE))
def test_options(column):
    inputs = Inputs(Case(PYRAMID, 60, 100, images=2))
    std = (0.1, 0.2, 0.7, 1.3)
    boxes, _, valid = check(column, inputs, min_size=20.0, delta_std=std, iou_threshold=0.4)
    assert ((boxes[..., 2:] - boxes[..., :2])[valid] > 20).all()
    inputs.image_sizes = torch.tensor([[50.5, 60.25], [0.0, 80.0]])
    boxes, _, valid = check(column, inputs)
    assert boxes[0, :, 2].max() == 60.25 and boxes[0, :, 3].max() == 50.5 and not valid[1].any()
    inputs.image_sizes = inputs.image_sizes.int()
    inputs.strides = [(4, 5), (8.5, 9), (16, 17)]
    inputs.deltas = [one * 100 for one in inputs.deltas]  # sides change by 62.5 at most
    assert check(column, inputs, iou_threshold=0.0)[2].any()


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, CUDA, TRITON)))
def test_anchors_may_be_tensors_of_the_cpu(column):
    inputs = Inputs(CASES["pyramid"])
    *maps, numbers = column.give(inputs.arguments())
    tensors = [torch.tensor(one) for one in numbers]
    with ops.use_backend(column.backend):
        found, wanted = (ops.propose(*maps, one, **inputs.options()) for one in (tensors, numbers))
        assert all(map(torch.equal, found, wanted)) and found[2].any()
        with pytest.raises(ValueError, match=r"on the CPU, got meta: give \.tolist\(\)"):
            ops.propose(*maps, [one.to("meta") for one in tensors], **inputs.options())


@pytest.mark.parametrize("column", columns(OPERATOR, ON_CPU))
@pytest.mark.parametrize("images", [1, 2])
def test_torchvision_finds_the_same(images, column):
    """Its region proposal network on the same maps, with its anchors: rounded, in whole steps."""
    rpn = pytest.importorskip("torchvision.models.detection.rpn")
    inputs = Inputs(Case(((25, 34), (13, 17), (7, 9)), 120, 90, images=images))
    generator = rpn.AnchorGenerator(((32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 3)
    logits = torch.linspace(-3, 3, sum(one.numel() for one in inputs.objectness))  # its topk orders no equal ones
    logits = logits[torch.randperm(len(logits), generator=torch.Generator().manual_seed(0))]
    parts = logits.split([one.numel() for one in inputs.objectness])
    given = [part.view(one.shape) for part, one in zip(parts, inputs.objectness)], inputs.deltas
    network = rpn.RegionProposalNetwork(generator, lambda _: given, 0.7, 0.3, 256, 0.5, {"testing": 120},
                                    {"testing": 90}, 0.7).eval()  # fmt: skip
    sizes, whole = inputs.image_sizes, (100, 136)
    features = {str(i): torch.zeros(images, 1, *one.shape[2:]) for i, one in enumerate(inputs.objectness)}
    wanted, _ = network(rpn.ImageList(torch.zeros(images, 3, *whole), [tuple(one) for one in sizes.tolist()]), features)
    steps = [(whole[0] // one.shape[2], whole[1] // one.shape[3]) for one in inputs.objectness]
    boxes, _, valid = column.call(OPERATOR, *given, steps, sizes, generator.cell_anchors, per_level=120, limit=90)
    assert valid.sum(dim=1).tolist() == [len(one) for one in wanted] and valid[:, 30].all()
    for ours, mask, theirs in zip(boxes, valid, wanted):
        torch.testing.assert_close(ours[mask], theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, CUDA)))
def test_no_gradient_and_no_input_is_changed(column):
    inputs = Inputs(CASES["pyramid"])
    before = [one.clone() for one in (*inputs.objectness, *inputs.deltas)]
    inputs.objectness = [one.requires_grad_() for one in inputs.objectness]
    assert not any(one.requires_grad for one in check(column, inputs))
    assert all(map(torch.equal, before, (*inputs.objectness, *inputs.deltas)))


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
def test_order_of_threads_does_not_matter(column):
    inputs, results = Inputs(Case(((40, 61), (20, 30)), 100, 120, images=2)), []
    for seed in (0, 1, 2):
        emulator.set_seed(seed)
        results.append(column.call(OPERATOR, *inputs.arguments(), **inputs.options())[0])
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
@settings(max_examples=emulator.examples(60), deadline=None, derandomize=True,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(
    levels=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=4),
    images=st.integers(0, 2), anchors=st.integers(1, 5), per_level=st.integers(0, 300), limit=st.integers(0, 200),
    memory=st.sampled_from(["view", "nchw", "turned"]), seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))  # fmt: skip
def test_drawn(column, levels, images, anchors, per_level, limit, memory, seed, dtype):
    emulator.set_seed(seed % 4)
    case = Case(tuple(levels), per_level, limit, images, (anchors,), memory, dtype)
    check(column, Inputs(case, seed))


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, INTERPRETED, CUDA, TRITON)))
def test_opcheck_compile_export(column):
    inputs = Inputs(CASES["pyramid"])
    objectness, deltas, strides, sizes, anchors = column.give(inputs.arguments())
    flat = [value for level in anchors for row in level for value in row]
    library = torch.ops.htc_fast_triton if column.backend == "triton" else torch.ops.htc_fast
    arguments = objectness, deltas, sizes, flat, [one for one in strides for _ in (0, 1)], 50, 60, 0.7, 0.0, [1.0] * 4
    torch.library.opcheck(library.propose.default, arguments)
    torch.compiler.reset()  # else the graph of the column before, which no guard tells from this one's

    class Propose(torch.nn.Module):
        def forward(self, objectness, deltas, sizes):
            return ops.propose(objectness, deltas, strides, sizes, anchors, per_level=50, limit=60)

    with ops.use_backend(column.backend):
        want = Propose()(objectness, deltas, sizes)
        compiled = torch.compile(Propose(), backend="aot_eager", fullgraph=True)(objectness, deltas, sizes)
        exported = torch.export.export(Propose(), (objectness, deltas, sizes)).module()(objectness, deltas, sizes)
    assert same(column, inputs, compiled, want) and same(column, inputs, exported, want)


def changed(**values) -> dict:
    names = "objectness", "deltas", "strides", "image_sizes", "anchors"
    return dict(zip(names, Inputs(Case(((4, 5), (2, 3)), 10, 10)).arguments())) | values


WRONG = {
    "no levels": ({"objectness": [], "deltas": []}, ValueError, "1 to 8 levels"),
    "deltas of one level": ({"deltas": [torch.zeros(1, 12, 4, 5)]}, ValueError, "as many of deltas"),
    "other deltas": ({"deltas": [torch.zeros(1, 12, 4, 5)] * 2}, ValueError, r"level 1 must be \[N, 4A, h, w\]"),
    "whole numbers": ({"objectness": [torch.zeros(1, 3, 4, 5).long()] * 2}, TypeError, "objectness must be float"),
    "two types": ({"deltas": [torch.zeros(1, 12, 4, 5), torch.zeros(1, 12, 2, 3).half()]}, TypeError, "all maps"),
    "flat maps": ({"objectness": [torch.zeros(3, 4, 5)] * 2}, ValueError, r"\[N, A, h, w\]"),
    "sizes of two": ({"image_sizes": torch.zeros(2, 2)}, ValueError, r"image_sizes must be \[N, 2\]"),
    "one stride": ({"strides": [4]}, ValueError, "strides must be one per level"),
    "no stride": ({"strides": [4, 0]}, ValueError, "strides must be positive"),
    "anchors of one level": ({"anchors": [[[0, 0, 1, 1]]]}, ValueError, "anchors must be given for every level"),
    "two anchors": ({"anchors": [[[0, 0, 1, 1]] * 2] * 2}, ValueError, "A = 3"),
    "no anchors' numbers": ({"anchors": [[[0, 0, 1, torch.nan]] * 3] * 2}, ValueError, "finite numbers"),
    "per_level": ({"per_level": -1}, ValueError, "must not be negative"),
    "min_size": ({"min_size": -1.0}, ValueError, "min_size must not be negative"),
    "delta_std": ({"delta_std": (1.0,)}, ValueError, "4 numbers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors(name):
    values, kind, message = WRONG[name]
    with pytest.raises(kind, match=message):
        ops.propose(**changed(**values))


def test_more_anchors_than_there_is_room_for():
    maps = torch.zeros(1, 129, 1, 1), torch.zeros(1, 516, 1, 1)
    with pytest.raises(ValueError, match="at most 128"):
        ops.propose([maps[0]], [maps[1]], [4], torch.tensor([[9, 9]]), [[[0, 0, 1, 1]] * 129])
