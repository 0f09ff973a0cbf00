"""Losses of a stage's boxes: GIoU of decoded boxes and SmoothL1 against torchvision's, sample by sample."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou_loss

from htc_fast.criterion.box_losses import box_losses, giou_loss
from htc_fast.criterion.sampling import Sample
from htc_fast.models import zoo
from htc_fast.models.geometry import decode_boxes, encode_boxes
from htc_fast.models.structures import Targets
from htc_fast.ops.reference import boxes as plain
from tests.criterion.test_family_losses import targets
from tests.models.test_family import SIZES
from tests.models.test_zoo import tiny

STD = (0.05, 0.05, 0.1, 0.1)
SHARES = (1.0, 0.5, 0.25)


def some_boxes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60
    return torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=generator) * 40], dim=1)


@pytest.mark.parametrize(
    "box, gt, expected",
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 0.0),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 - 1 / 7 + 2 / 9),
        ((0, 0, 1, 1), (3, 0, 4, 1), 1 + 2 / 4),  # apart: the hull is four, the union two
        ((0, 0, 4, 4), (1, 1, 3, 3), 1 - 4 / 16),
    ],
)
def test_giou_of_known_boxes(box, gt, expected):
    found = giou_loss(torch.tensor(box, dtype=torch.float32), torch.tensor(gt, dtype=torch.float32))
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_giou_is_torchvision_s():
    boxes, gt = some_boxes(500), some_boxes(500, seed=1)
    torch.testing.assert_close(giou_loss(boxes, gt), generalized_box_iou_loss(boxes, gt), rtol=1e-5, atol=1e-5)


def test_gradient_of_giou_through_the_decoding():
    boxes, gt = some_boxes(12).double(), some_boxes(12, seed=1).double()
    deltas = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda moves: giou_loss(decode_boxes(moves, boxes, STD), gt), (deltas,))


def test_boxes_are_decoded_as_a_cascade_moves_them_but_for_the_clipping():
    boxes, deltas = some_boxes(40), 8 * torch.randn(40, 4, generator=torch.Generator().manual_seed(2))
    deltas[0, 2:], deltas[1, 2:] = 1e30, -1e30
    found = decode_boxes(deltas, boxes, STD)
    torch.testing.assert_close(found, plain.decode_boxes(deltas, boxes, STD, None), rtol=1e-5, atol=1e-3)
    assert (found[:, :2] < 0).any()
    width = (boxes[:2, 2] - boxes[:2, 0]) * torch.tensor([62.5, 1 / 62.5])
    torch.testing.assert_close(found[:2, 2] - found[:2, 0], width, rtol=1e-4, atol=1e-4)
    gt = some_boxes(40, seed=1)
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, gt, STD), boxes, STD), gt, rtol=1e-4, atol=1e-3)


def drawn_samples():
    """Two images: three positives, a negative and padding; then two negatives, without any object."""
    positive = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    valid = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]).bool()
    gt = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    truth = Targets(torch.zeros(2, 2, 4), torch.tensor([[2, 0], [-1, -1]]), torch.zeros(2, 2, 8, 8, dtype=torch.uint8))
    truth.boxes[0] = some_boxes(2, seed=5)
    boxes = torch.zeros(2, 5, 4)
    boxes[valid] = some_boxes(6, seed=6)
    return Sample(torch.zeros(2, 5, dtype=torch.int64), positive, valid, gt), truth, boxes


def losses_of(deltas, t=1, **fields):
    drawn, truth, boxes = drawn_samples()
    config = zoo.config("htc_r50", num_classes=3, loss_weight=SHARES, **fields)
    model = SimpleNamespace(config=config, training=True)
    return box_losses(model, t, torch.zeros(2, 5, 4), deltas, boxes, drawn, truth)


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("kind", ["giou", "smooth_l1"])
def test_they_are_the_definition(kind, by_class):
    _, truth, boxes = drawn_samples()
    deltas = torch.randn(2, 5, 12 if by_class else 4, generator=torch.Generator().manual_seed(3)).requires_grad_()
    term = losses_of(deltas, box_loss=kind, box_loss_weight=10.0, class_agnostic=not by_class)["stage2_box"]
    total = 0.0
    for place, gt in enumerate((1, 0, 1)):  # the positives, all of the first image
        label = int(truth.labels[0, gt])
        own = deltas[0, place, 4 * label : 4 * label + 4] if by_class else deltas[0, place]
        box, goal = boxes[0, place], truth.boxes[0, gt]
        side, goal_side = box[2:] - box[:2], goal[2:] - goal[:2]
        moves = own * torch.tensor(STD)
        if kind == "giou":
            centre, half = (box[:2] + box[2:]) / 2 + side * moves[:2], side * moves[2:].exp() / 2
            total = total + generalized_box_iou_loss(torch.cat([centre - half, centre + half]), goal)
        else:
            shift = ((goal[:2] + goal[2:]) / 2 - (box[:2] + box[2:]) / 2) / side
            wanted = torch.cat([shift, (goal_side / side).log()]) / torch.tensor(STD)
            total = total + F.smooth_l1_loss(own, wanted, reduction="sum")
    assert term.count == 6
    torch.testing.assert_close(term.total, 0.5 * 10 * total, rtol=1e-4, atol=1e-4)
    found, wanted = (torch.autograd.grad(one, deltas)[0] for one in (term.total, 5 * total))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert found.abs().sum() > 0


def test_what_is_no_positive_has_no_gradient_whatever_it_holds():
    deltas = torch.zeros(2, 5, 4)
    deltas[0, 3:], deltas[1] = torch.nan, torch.inf
    deltas.requires_grad_()
    term = losses_of(deltas, box_loss="giou")["stage2_box"].total
    (gradient,) = torch.autograd.grad(term, deltas)
    assert term.isfinite() and gradient[0, :3].any(dim=1).all()
    assert not gradient[0, 3:].any() and not gradient[1].any()


def test_positives_far_away_or_without_size_have_finite_gradients():
    # Far beyond what sides may change by, in one image; of an object without any size.
    deltas = torch.tensor([[4e4, -4e4, 9e9, -9e9], [0.0, 0.0, -9e9, -9e9], [-2e3, 5e5, 1e3, 0.0]]).requires_grad_()
    boxes = torch.tensor([[0.0, 0, 9, 9], [5, 5, 5, 5], [3, 3, 3, 60]])
    for gt in (boxes, torch.zeros(3, 4), torch.tensor([[1.0, 1, 1000, 800]]).expand(3, -1)):
        found = giou_loss(decode_boxes(deltas, boxes, STD), gt)
        (gradient,) = torch.autograd.grad(found.sum(), deltas)
        assert found.isfinite().all() and gradient.isfinite().all() and (found >= -1e-6).all() and (found <= 2).all()


def test_boxes_without_overlap_find_their_objects():
    boxes, gt = torch.tensor([[0.0, 0, 10, 20], [60, 60, 70, 75]]), torch.tensor([[30.0, 40, 60, 60], [30, 30, 55, 58]])
    deltas = torch.zeros(2, 4, requires_grad=True)
    optimizer = torch.optim.Adam([deltas], lr=0.3)
    begun = giou_loss(decode_boxes(deltas, boxes, STD), gt)
    for _ in range(400):
        optimizer.zero_grad()
        giou_loss(decode_boxes(deltas, boxes, STD), gt).sum().backward()
        optimizer.step()
    ended = giou_loss(decode_boxes(deltas, boxes, STD), gt)
    assert (begun > 1.2).all() and (ended < 0.1).all()


@pytest.mark.parametrize("name", ["htc_r50", "cascade_mask_r50", "mask_rcnn_r50_interleaved", "panet_r50"])
def test_every_kind_of_detector_learns_by_it(name):
    given, images, terms = targets(), torch.randn(3, 3, 64, 96), {}
    for weight in (1.0, 10.0):
        torch.manual_seed(0)
        fields = {"samples": 24, "rpn_train_proposals": 60, "box_loss": "giou", "box_loss_weight": weight}
        model = tiny(name, **fields).train()
        terms[weight] = model.losses(images, SIZES, given, sampler)
    sum(terms[10.0].values()).backward()
    assert all(head.deltas.weight.grad.abs().sum() > 0 for head in model.box_heads)
    assert all(one.grad.isfinite().all() for one in model.parameters() if one.grad is not None)
    for key, value in terms[1.0].items():
        torch.testing.assert_close(terms[10.0][key], value * (10 if key[:5] == "stage" and "box" in key else 1))
    assert terms[1.0]["stage1_box"] > 0


def sampler(assigned, generator=None):
    """No randomness: earlier candidates first."""
    return -torch.arange(assigned.shape[1], dtype=torch.float32).expand(assigned.shape)
