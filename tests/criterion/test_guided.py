"""What guided anchors learn, against the definition: place by place, object by object."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision

from htc_fast.criterion.guided import bounded_iou_loss, location_loss, location_targets
from htc_fast.criterion.losses import losses
from htc_fast.criterion.rpn import rpn_losses
from htc_fast.criterion.terms import divide
from htc_fast.models.structures import Targets
from tests.criterion.test_family_losses import draw, encode, priority, targets
from tests.models.test_family import SIZES, STRIDES
from tests.models.test_guided_rpn import SIDES, guided_anchors
from tests.models.test_zoo import tiny

TERMS = ("rpn_class", "rpn_box", "rpn_location", "rpn_shape")


def region(box, share, stride):
    """Rows and columns, both ends included, of a box's central share, in pixels of a level."""
    cut = (1 - share) / 2
    x1, y1, x2, y2 = (one / stride for one in box)
    low = (1 - cut) * x1 + cut * x2, (1 - cut) * y1 + cut * y2
    high = cut * x1 + (1 - cut) * x2, cut * y1 + (1 - cut) * y2
    (x1, y1), (x2, y2) = (map(round, end) for end in (low, high))
    return {(y, x) for y in range(y1, y2 + 1) for x in range(x1, x2 + 1)}


def wanted_places(truth, sides, smallest=32):
    """Per level a target of 0 or 1 and a weight for every place, both [h, w]."""
    goals = [torch.zeros(side) for side in sides]
    weights = [torch.full(side, 0.1) for side in sides]
    levels = []
    for box in truth.tolist():
        side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        levels.append(min(max(math.floor(math.log2(side) - math.log2(smallest) + 0.5), 0), len(sides) - 1))
    for number, (goal, weight, stride) in enumerate(zip(goals, weights, STRIDES)):
        for y in range(goal.shape[0]):
            for x in range(goal.shape[1]):
                for box, level in zip(truth.tolist(), levels):
                    if abs(level - number) == 1 and (y, x) in region(box, 0.5, stride):
                        weight[y, x] = 0
                for box, level in zip(truth.tolist(), levels):
                    if level == number and (y, x) in region(box, 0.5, stride):
                        weight[y, x] = 0
                        if (y, x) in region(box, 0.2, stride):
                            goal[y, x] = weight[y, x] = 1
    return goals, weights


def inside(boxes, border, size):
    if border < 0:
        padded = [-(-side // 32) * 32 for side in size]
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        return (middle[:, 0] < padded[1]) & (middle[:, 1] < padded[0])
    low = (boxes[:, :2] >= -border).all(1)
    return low & (boxes[:, 2] < size[1] + border) & (boxes[:, 3] < size[0] + border)


def assign(iou, counted):
    """By overlaps [places, objects]: index of the object, -1 for background, -2 for neither."""
    assigned = torch.full((len(iou),), -2)
    for k in counted.nonzero()[:, 0].tolist():
        assigned[k] = -1 if iou.shape[1] == 0 or iou[k].max() < 0.3 else -2
        if iou.shape[1] and iou[k].max() >= 0.7:
            assigned[k] = iou[k].argmax()
    for g in range(iou.shape[1]):
        top = iou[counted, g].max()
        if top >= 0.3:
            assigned[counted & (iou[:, g] == top)] = g
    return assigned


def approximations(side, stride):
    """[9, h * w, 4]: three sizes of three ratios around every place."""
    found = []
    for octave in range(3):
        for ratio in (0.5, 1.0, 2.0):
            whole = 8 * stride * 2 ** (octave / 3)
            w, h = whole / math.sqrt(ratio), whole * math.sqrt(ratio)
            found.append(
                [
                    [x * stride - w / 2, y * stride - h / 2, x * stride + w / 2, y * stride + h / 2]
                    for y in range(side[0])
                    for x in range(side[1])
                ]
            )
    return torch.tensor(found)


def bounded(box, goal):
    """The loss of one anchor and its object, from coordinates."""
    total = 0.0
    for axis in (0, 1):
        size, wanted = box[axis + 2] - box[axis], goal[axis + 2] - goal[axis]
        off = abs((goal[axis] + goal[axis + 2]) / 2 - (box[axis] + box[axis + 2]) / 2)
        best = max((wanted - 2 * off) / (wanted + 2 * off + 1e-3), torch.tensor(0.0))
        for lost in (1 - best, 1 - min(wanted / (size + 1e-3), size / (wanted + 1e-3))):
            total = total + (0.5 * lost**2 / 0.2 if lost < 0.2 else lost - 0.1)
    return total


def definition(config, outputs, truths):
    """Sums and counts of all four losses."""
    locations, shapes, objectness, deltas = outputs
    sums, counts = dict.fromkeys(TERMS, 0.0), dict.fromkeys(TERMS, 0)
    sides = [tuple(one.shape[2:]) for one in shapes]
    rough = torch.cat([approximations(side, stride) for side, stride in zip(sides, STRIDES)], dim=1)
    for n, truth in enumerate(truths):
        for level, goal, weight in zip(locations, *wanted_places(truth, sides)):
            for logit, wanted, one in zip(level[n, 0].flatten(), goal.flatten(), weight.flatten()):
                right = logit.sigmoid() if wanted else 1 - logit.sigmoid()
                sums["rpn_location"] -= one * (0.25 if wanted else 0.75) * (1 - right) ** 2 * right.log()
            counts["rpn_location"] += goal.numel() / 200

        size = SIZES[n].tolist()
        anchors = torch.cat([guided_anchors(one[n], stride) for one, stride in zip(shapes, STRIDES)])
        places = torch.stack([inside(one, config.allowed_border, size) for one in rough]).any(0)
        iou = torch.stack([torchvision.ops.box_iou(one, truth) for one in rough]).amax(0)
        assigned = assign(iou, places)
        positives, negatives = draw(assigned, config.samples, 0.5)
        counts["rpn_shape"] += len(positives) + len(negatives)
        flat = torch.cat([one[n].flatten(1).T for one in shapes])
        middle = (rough[0, :, :2] + rough[0, :, 2:]) / 2
        side = torch.cat([torch.full((h * w,), 8.0 * stride) for (h, w), stride in zip(sides, STRIDES)])
        for k in positives:
            half = side[k] * (0.14 * flat[k]).exp() / 2
            sums["rpn_shape"] += bounded(torch.cat([middle[k] - half, middle[k] + half]), truth[assigned[k]])

        if config.allowed_border >= 0:
            places = places & inside(anchors, config.allowed_border, size)
        assigned = assign(torchvision.ops.box_iou(anchors, truth), places)
        positives, negatives = draw(assigned, config.samples, 0.5)
        scores = torch.cat([one[n].flatten() for one in objectness])
        moves = torch.cat([one[n].flatten(1).T for one in deltas])
        for name in ("rpn_class", "rpn_box"):
            counts[name] += len(positives) + len(negatives)
        for k in positives:
            sums["rpn_class"] -= F.logsigmoid(scores[k])
            goal = encode(anchors[k : k + 1], truth[assigned[k]][None], (0.07, 0.07, 0.11, 0.11))
            sums["rpn_box"] += F.smooth_l1_loss(moves[k], goal[0], beta=1.0, reduction="sum")
        for k in negatives:
            sums["rpn_class"] -= F.logsigmoid(-scores[k])
    return {name: sums[name] / max(counts[name], 1) for name in TERMS}


def network(**options):
    model = tiny("htc_r50_ga", rpn_samples=40, rpn_train_proposals=30, **options)
    for one, factor in ((model.rpn.objectness, 100), (model.rpn.shape, 100), (model.rpn.deltas, 100)):
        one.weight.data *= factor
    return model


def images():
    return torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("border", [-1.0, 16.0])
def test_losses_and_gradients_are_the_definition_s(border):
    model = network(rpn_allowed_border=border)
    found = losses(model, images(), SIZES, targets(), priority)
    assert list(found)[:4] == list(TERMS)
    given = targets()
    truths = [boxes[labels >= 0] for boxes, labels in zip(given.boxes, given.labels)]
    want = definition(model.config.rpn, model.rpn(model.extract(images())), truths)
    weights = list(model.rpn.parameters())
    for name in TERMS:
        assert want[name] > 0
        torch.testing.assert_close(found[name], want[name], rtol=1e-4, atol=1e-6)
        pair = (
            torch.autograd.grad(one, weights, retain_graph=True, allow_unused=True) for one in (found[name], want[name])
        )
        for one, other in zip(*pair, strict=True):
            other = None if other is None or not other.any() else other
            assert other is not None or one is None or not one.any()
            if other is not None:
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_places_by_hand():
    """One object of 32 pixels: the first level, whose stride is 4; the second one ignores its middle half."""
    boxes, valid = torch.tensor([[[16.0, 8.0, 48.0, 40.0], [0.0, 0.0, 0.0, 0.0]]]), torch.tensor([[True, False]])
    (positive, weight), (none, beside), (_, away), *_ = location_targets(boxes, valid, SIDES, 32.0)
    # x from 4 to 12 and y from 2 to 10: the central fifth is 7.2 to 8.8 and 5.2 to 6.8, the half 6 to 10 and 4 to 8.
    assert positive[0].nonzero().tolist() == [[y, x] for y in (5, 6, 7) for x in (7, 8, 9)]
    assert (weight[0] == 0).sum() == 5 * 5 - 9 and (weight[0] == 0.1).sum() == 16 * 24 - 25
    # On the next one 3 to 5 and 2 to 4.
    assert (beside[0] == 0).nonzero().tolist() == [[y, x] for y in (2, 3, 4) for x in (3, 4, 5)]
    assert not none.any() and (away == 0.1).all()


@pytest.mark.parametrize("seed", range(4))
def test_places_of_many_objects(seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, 9, 2, generator=generator) * torch.tensor([60.0, 40.0])
    far = corner + 4 + 4 ** (torch.rand(2, 9, 2, generator=generator) * 2.5)
    boxes = torch.cat([corner, torch.minimum(far, torch.tensor([96.0, 64.0]))], dim=2)
    valid = torch.rand(2, 9, generator=generator) < 0.7
    found = location_targets(boxes, valid, SIDES, 8.0)
    for n in range(2):
        goals, weights = wanted_places(boxes[n, valid[n]], SIDES, 8)
        assert sum(int(one.sum()) for one in goals) > 0
        for (positive, weight), goal, want in zip(found, goals, weights, strict=True):
            assert torch.equal(weight[n], want) and torch.equal(positive[n][want > 0], goal[want > 0] > 0)


def test_bounded_iou_loss_by_hand():
    same = torch.tensor([10.0, 10.0, 30.0, 50.0])
    assert bounded_iou_loss(same, same) < 1e-6
    # The centre 5 of 20 pixels off (IoU at most 10 / 30), half as wide again (20 / 30), else the same.
    box = torch.tensor([10.0, 10.0, 40.0, 50.0])
    assert bounded_iou_loss(box, same).item() == pytest.approx(2 / 3 - 0.1 + 1 / 3 - 0.1, abs=1e-4)
    # A height that is 9 / 10 of the wanted one is within the smooth part.
    box = torch.tensor([10.0, 12.0, 30.0, 48.0])
    assert bounded_iou_loss(box, same).item() == pytest.approx(0.5 * 0.1**2 / 0.2, abs=1e-4)


def test_without_objects():
    model, empty = network(), targets()
    empty.labels[:] = -1
    for given in (empty, Targets(empty.boxes[:, :0], empty.labels[:, :0], empty.masks[:, :0], empty.semantic)):
        found = losses(model, images(), SIZES, given, priority)
        assert found["rpn_box"] == 0 and found["rpn_shape"] == 0
        assert found["rpn_class"] > 0 and 0 < found["rpn_location"]
        sum(found.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_batch_is_the_sum_of_its_images():
    """So that several processes, which add sums and counts, equal one with all images."""
    model, given = network(), targets()
    features = model.extract(images())
    parts = []
    for some in (slice(0, 1), slice(1, 3), slice(0, 3)):
        own = Targets(given.boxes[some], given.labels[some], given.masks[some])
        outputs = model.rpn([one[some] for one in features])
        parts.append(rpn_losses(model.rpn, outputs, SIZES[some], own, priority, None))
    for name in TERMS:
        first, rest, whole = (one[name] for one in parts)
        torch.testing.assert_close(first.total + rest.total, whole.total, rtol=1e-4, atol=1e-6)
        assert first.count + rest.count == whole.count


def test_places_are_counted_in_two_hundreds():
    config = network().config.rpn
    nowhere = Targets(torch.zeros(2, 1, 4), torch.full((2, 1), -1), torch.zeros(2, 1, 8, 8))
    term = location_loss(config, [torch.zeros(2, 1, *side) for side in SIDES], nowhere)
    places = 2 * sum(h * w for h, w in SIDES)
    # 0.1 * 0.75 * (1 / 2) ** 2 * log 2 each.
    want = places * 0.1 * 0.75 * 0.25 * math.log(2) / (places / 200)
    assert divide({"rpn_location": term})["rpn_location"].item() == pytest.approx(want, rel=1e-5)


def test_training_proposes_from_every_place():
    model, seen = network(), []
    model.rpn.location.bias.data.fill_(-20.0)
    propose = model.rpn.propose
    model.rpn.propose = lambda *inputs, **options: seen.append(propose(*inputs, **options)) or seen[-1]
    losses(model, images(), SIZES, targets(), priority)
    assert seen[0][2].all() and model.eval().detect(images(), SIZES).count.sum() == 0


def test_in_bf16():
    model = network()
    with torch.autocast("cpu", torch.bfloat16):
        low = losses(model, images(), SIZES, targets(), priority)
    full = losses(model, images(), SIZES, targets(), priority)
    sum(low.values()).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.rpn.parameters())
    for name in ("rpn_location", "rpn_class"):
        torch.testing.assert_close(low[name], full[name], rtol=0.1, atol=0.02)
