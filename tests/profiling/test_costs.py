"""Operations and bytes: by hand for single operators, the specification's sum for the whole detector."""

import pytest
import torch
import torch.nn.functional as F
import torchvision

from htc_fast import ops
from htc_fast.models.deformable import sampled_convolution
from htc_fast.models.sac import SwitchableConv2d
from htc_fast.profiling import costs
from htc_fast.profiling.costs import cost
from htc_fast.profiling.limits import TITAN_XP
from htc_fast.profiling.meters import CostMeter
from htc_fast.profiling.paper import counted, published
from htc_fast.ranges import part, watching

# The specification's table, 800 x 1344: GFLOP of HTC R-50, all classes' mask logits included.
SPECIFIED = {
    "backbone": 175.2,
    "FPN": 121.8,
    "RPN head": 106.29,
    "semantic": 92.6 - 5.88,  # the 1x1 of P4 to P6 at their own sizes, not at stride 8
    "box stage 1": 30.53,
    "box stage 2": 30.53,
    "box stage 3": 30.53,
}
ALL_CLASSES = 3 * 2 * 100 * 28 * 28 * 256 * 79 / 1e9  # logits that are left out as nobody reads them


def count(call) -> dict:
    with CostMeter() as meter, watching(meter):
        call()
    return meter.needs


def totals(call) -> tuple[float, float]:
    needs = count(call).values()
    return sum(one.flop for one in needs), sum(one.moved for one in needs)


def test_a_convolution():
    x, weight, bias = torch.randn(2, 8, 10, 12), torch.randn(16, 8, 3, 3), torch.randn(16)
    flop, moved = totals(lambda: F.conv2d(x, weight, bias, padding=1))
    assert flop == 2 * (2 * 16 * 10 * 12) * 8 * 9
    assert moved == 4 * (x.numel() + weight.numel() + 16 + 2 * 16 * 10 * 12)


def test_groups_stride_and_the_other_way_round():
    x = torch.randn(1, 8, 10, 12)
    assert totals(lambda: F.conv2d(x, torch.randn(16, 2, 3, 3), stride=2, padding=1, groups=4))[0] == 2 * 16 * 30 * 18
    assert totals(lambda: F.conv_transpose2d(x, torch.randn(8, 4, 2, 2), stride=2))[0] == 2 * 8 * 120 * 4 * 4


@pytest.mark.parametrize("own", [False, True], ids=["torchvision's", "sampled"])
def test_a_deformable_convolution_samples_before_it_multiplies(own):
    x, weight, offset = torch.randn(2, 64, 6, 5), torch.randn(8, 16, 3, 3), torch.randn(2, 18, 3, 3)
    run = sampled_convolution if own else torchvision.ops.deform_conv2d
    given = (x, offset, weight, None, (2, 2), (1, 1), (1, 1))
    least = 2 * 9 * (64 * 9 * costs.SAMPLE + 2 * weight.numel())  # of 2 maps of 9 pixels
    flop = totals(lambda: run(*given))[0]
    assert flop == pytest.approx(least, rel=0.05 if own else 0)  # ours also counts how it finds its points
    if not own:
        tensors = [one.requires_grad_() for one in given[:3]]
        assert totals(lambda: run(*tensors, *given[3:]).sum().backward())[0] == pytest.approx(3 * least, rel=0.01)


def test_a_switchable_convolution_is_two_deformable_ones_and_what_decides():
    made, x = SwitchableConv2d(torch.nn.Conv2d(64, 32, 3, 2, 1, bias=False)), torch.randn(2, 64, 8, 12)
    outputs = 2 * 4 * 6
    taps = 2 * (outputs * 9 * 64 * (costs.SAMPLE + 2 * 32))
    decisions = outputs * 2 * 64 * (2 * 18 * 9 + 1) + 25 * x.numel()
    contexts = 2 * 2 * (64 * 64 + 32 * 32)
    flop = totals(lambda: made(x))[0]
    # Sums with the contexts, the blend, and the weight's standardisation come to a few hundredths.
    assert taps + decisions + contexts < flop < 1.05 * (taps + decisions + contexts)


def test_means_of_windows_and_mirrored_borders():
    x = torch.randn(2, 4, 10, 12)
    assert totals(lambda: F.avg_pool2d(x, 5, stride=1)) == (25 * 2 * 4 * 6 * 8, x.nbytes + 4 * 2 * 4 * 6 * 8)
    assert totals(lambda: F.pad(x, (2, 2, 2, 2), mode="reflect")) == (0, 0)


def test_activations_and_norms_are_part_of_their_layer():
    x = torch.randn(1, 8, 10, 12)
    assert totals(lambda: F.relu(x))[1] == 0
    assert totals(lambda: F.batch_norm(x, torch.zeros(8), torch.ones(8)))[1] == 0
    assert totals(lambda: x + x.clone())[1] == x.nbytes


def test_backward_is_counted_twice_the_forward():
    x, weight = torch.randn(1, 8, 10, 12, requires_grad=True), torch.randn(16, 8, 3, 3, requires_grad=True)
    forward = totals(lambda: F.conv2d(x, weight, padding=1))[0]
    both = totals(lambda: F.conv2d(x, weight, padding=1).sum().backward())[0]
    assert both == pytest.approx(3 * forward, rel=0.01)


def test_roi_align_reads_one_sample_per_pixel_of_a_bin():
    features = [torch.randn(1, 4, 64 // s, 64 // s) for s in (1, 2)]
    rois = torch.tensor([[0, 0.0, 0.0, 56.0, 56.0]])  # 14 x 14 pixels of stride 4, so 2 x 2 samples per bin
    flop, moved = totals(lambda: ops.multi_level_roi_align(features, rois, 7, [1 / 4, 1 / 8]))
    taps = (14 * 14, 7 * 7)  # 56 pixels are canonical_size / 4: the first level, or the second from there on
    assert flop in [8 * 4 * count for count in taps]
    assert moved < sum(one.nbytes for one in features) and moved > 4 * 49 * 4


def test_pr_roi_pool_reads_every_pixel_that_reaches_into_a_bin():
    features = [torch.randn(1, 8, side, side, requires_grad=True) for side in (64, 32)]
    rois = torch.tensor([[[8.0, 8, 40, 24], [0, 0, 128, 112]]])  # 8 x 4 pixels of the first map, 16 x 14 of the second
    pool = lambda: ops.pr_roi_pool(features, rois, (2, 4), (1 / 4, 1 / 8))  # noqa: E731
    once = 2 * 8 * ((8 + 2 * 4) * (4 + 2 * 2) + (16 + 2 * 4) * (14 + 2 * 2))
    assert totals(pool)[0] == once
    out = pool()
    backward = [one.flop for one in count(lambda: torch.autograd.grad(out.sum(), features)).values()]
    assert once < sum(backward) < once + 2 * out.numel()  # and the sum, with its own


def test_torchvision_s_roi_align_too():
    x, rois = torch.randn(1, 4, 32, 32), torch.tensor([[0, 0.0, 0.0, 14.0, 14.0]])
    assert totals(lambda: torchvision.ops.roi_align(x, rois, 7, 1.0, 2))[0] == 8 * 4 * 49 * 4


@pytest.mark.parametrize("flows", [[False, True], [False, False]])
def test_mask_heads_in_one_call_are_told_apart(flows):
    """The fused operator's count is the sum of the layers it stands for."""
    torch.manual_seed(0)
    heads, x, labels = [], torch.randn(5, 6, 14, 14), torch.arange(5)
    for flow in flows:
        layers = tuple((torch.randn(6, 6, 3, 3), torch.zeros(6)) for _ in range(4))
        into = (torch.randn(6, 6, 1, 1), torch.zeros(6)) if flow else None
        up, last = (torch.randn(6, 6, 2, 2), torch.zeros(6)), (torch.randn(9, 6, 1, 1), torch.zeros(9))
        heads.append(ops.MaskHeadWeights(layers, up, last, into))
    apart = count(lambda: ops.mask_branch(x, labels, heads))
    layers = [[*([head.flow] if head.flow else []), *head.convolutions, head.upsample, head.logits] for head in heads]
    tensors = [one for head in layers for layer in head for one in layer]
    operator = torch.ops.htc_fast_triton.mask_branch.default
    fused = cost(operator, (x, labels, tensors, [4, 4], flows, [0, 1]), {}, torch.empty(5, 28, 28))
    assert [one.stage for one in fused] == [1, 2]
    for number, one in enumerate(fused, 1):
        # Of six channels, activations and the sigmoid are two hundredths.
        assert one.flop == pytest.approx(apart[f"mask stage {number}"].flop, rel=0.03)


@pytest.fixture(scope="module")
def htc():
    return counted("htc_r50")


def test_the_whole_detector_is_the_specification_s(htc):
    total = sum(need.flop for need in htc.values()) / 1e9
    assert total + ALL_CLASSES == pytest.approx(911.4, rel=0.01)
    for name, gflop in SPECIFIED.items():
        assert htc[name].flop / 1e9 == pytest.approx(gflop, rel=0.01), name
    masks = sum(need.flop for name, need in htc.items() if name.startswith("mask")) / 1e9
    assert masks + ALL_CLASSES == pytest.approx(323.4, rel=0.01)


def test_a_recursion_s_second_pass_is_the_first_and_what_feeds_it(htc):
    found, pixels = counted("detectors_htc_r50_rfp"), (100 * 168, 50 * 84, 25 * 42)
    feedback = sum(2 * 256 * width * count for width, count in zip((512, 1024, 2048), pixels))
    context = sum(pixels) * 2 * 256 * 64 * (1 + 9 + 9)
    gate = 2 * 256 * (200 * 336 + sum(pixels))
    # The first pass's weights are standardised too.
    assert found["backbone"].flop == pytest.approx(2 * htc["backbone"].flop + feedback, rel=0.003)
    assert found["FPN"].flop == pytest.approx(2 * htc["FPN"].flop + context + gate, rel=0.003)
    rest = [sum(need.flop for name, need in one.items() if name not in ("backbone", "FPN")) for one in (found, htc)]
    assert rest[0] == rest[1]


def test_the_paper_s_share_of_its_card(htc):
    assert sum(need.seconds(TITAN_XP) for need in htc.values()) == pytest.approx(0.0761, rel=0.04)
    assert published("htc_r50")["share"] == pytest.approx(0.19, abs=0.01)
    assert published("htc_r50_nosem") is None


def test_what_runs_between_parts_is_the_rest():
    def call():
        with part("backbone"):
            torch.mm(torch.ones(2, 3), torch.ones(3, 4))
        torch.mm(torch.ones(5, 3), torch.ones(3, 4))

    needs = count(call)
    assert needs["backbone"].flop == 48 and needs["rest"].flop == 120


def test_semantic_merge_multiplies_where_there_are_fewer_pixels():
    levels = [torch.randn(1, 16, side, side) for side in (16, 8, 4)]
    weights, biases = [torch.randn(16, 16, 1, 1)] * 3, [torch.randn(16)] * 3
    with CostMeter() as meter, watching(meter), torch.no_grad():
        ops.semantic_merge(levels, weights, biases)
    samples = 2 * 64 * 16 * costs.SAMPLE  # of the largest before its product and of the smallest after it
    assert sum(need.flop for need in meter.needs.values()) == (64 + 64 + 16) * 2 * 16 * 16 + samples
    triton = costs.OWN["semantic_merge"](levels, weights, biases, 1)
    assert triton == (64 + 64 + 16) * 2 * 16 * 16 + 3 * 64 * 16 * costs.SAMPLE
