"""Seesaw Loss against its formulas, class by class; what is counted; and what it does for rare classes."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from htc_fast.criterion.box_losses import box_losses
from htc_fast.criterion.seesaw import count, seesaw_error, seesaw_terms
from htc_fast.models.seesaw import SeesawClassifier
from tests.criterion.test_box_losses import drawn_samples, sampler
from tests.criterion.test_family_losses import targets
from tests.models.test_family import SIZES
from tests.models.test_zoo import tiny

COUNTS = torch.tensor([1000, 40, 0, 40, 1])


def formula(logits, label, counts):
    """-log of the own class's exponential over all others', which are weighed by both factors."""
    shares = logits.detach().softmax(0).tolist()
    others = 0.0
    for j, many in enumerate(counts.tolist()):
        factor = 1.0
        if j != label:
            ratio = max(many, 1) / max(int(counts[label]), 1)
            mitigation = ratio**0.8 if ratio < 1 else 1.0
            lead = shares[j] / max(shares[label], 0.01)
            factor = mitigation * (lead**2 if lead > 1 else 1.0)
        others = others + factor * logits[j].exp()
    return -(logits[label].exp() / others).log()


@pytest.mark.parametrize("spread", [0.1, 2.0, 6.0])
def test_it_is_the_formula(spread):
    logits = spread * torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    labels = torch.arange(40) % 5
    if spread == 6.0:  # the least score counts for some
        assert (logits.softmax(1).gather(1, labels[:, None]) < 0.01).any()
    found = seesaw_error(logits, labels, COUNTS)
    wanted = torch.stack([formula(row, int(label), COUNTS) for row, label in zip(logits, labels)])
    torch.testing.assert_close(found, wanted)
    ours, theirs = (torch.autograd.grad(one.sum(), logits)[0] for one in (found, wanted))
    torch.testing.assert_close(ours, theirs)


def test_without_a_tail_or_mistakes_it_is_cross_entropy():
    logits, labels = torch.randn(6, 5), torch.arange(6) % 5
    sure = logits + 5 * F.one_hot(labels, 5)
    torch.testing.assert_close(
        seesaw_error(sure, labels, COUNTS.new_full((5,), 7)), F.cross_entropy(sure, labels, reduction="none")
    )


def test_known_factors():
    # Equal scores: of two classes of 100 and 1 samples, the rare one weighs 100^-0.8 for the frequent one's samples.
    found = seesaw_error(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([100, 1]))
    assert found.tolist() == pytest.approx([math.log(1 + 100**-0.8), math.log(2)], rel=1e-5)
    # Scores of 0.2 and 0.8: the wrong class is four times as sure, and weighs 16 times as much.
    logits = torch.tensor([[0.2, 0.8]]).log()
    assert seesaw_error(logits, torch.tensor([0]), torch.tensor([3, 3])).item() == pytest.approx(math.log(1 + 16 * 4))
    assert seesaw_error(logits, torch.tensor([1]), torch.tensor([3, 3])).item() == pytest.approx(-math.log(0.8))


@pytest.mark.parametrize("most", [3, 5, None])
def test_terms_of_a_batch(most):
    drawn, truth, _ = drawn_samples()
    labels = truth.labels.gather(1, drawn.gt)
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(2))
    logits[~drawn.valid] = 1e4  # padding
    logits.requires_grad_()
    classes, objects = seesaw_terms(logits, labels, drawn, COUNTS, most)
    torch.testing.assert_close(
        classes, sum(formula(logits[0, place, :5], label, COUNTS) for place, label in ((0, 0), (1, 2), (2, 0)))
    )
    error = 0.0
    for n, place, found in ((0, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 1), (1, 0, 1), (1, 1, 1)):
        error = error - logits[n, place, 5:].log_softmax(0)[found]
    torch.testing.assert_close(objects, error)
    (gradient,) = torch.autograd.grad(classes + objects, logits)
    assert not gradient[~drawn.valid].any() and not gradient[0, 3, :5].any() and gradient[0, 3, 5:].all()


def test_both_are_divided_by_all_samples():
    drawn, truth, boxes = drawn_samples()
    model = tiny("htc_r50", class_loss="seesaw", loss_weight=(1.0, 0.5, 0.25)).train()
    logits = torch.randn(2, 5, 5)
    terms = box_losses(model, 1, logits, torch.zeros(2, 5, 4), boxes, drawn, truth)
    counts = model.box_heads[1].classes.counts
    assert counts.tolist() == [2, 0, 1] and model.box_heads[0].classes.counts.tolist() == [0, 0, 0]
    classes, objects = seesaw_terms(logits, truth.labels.gather(1, drawn.gt), drawn, counts)
    assert terms["stage2_class"].count == terms["stage2_objectness"].count == 6
    torch.testing.assert_close(terms["stage2_class"].total, 0.5 * classes)
    torch.testing.assert_close(terms["stage2_objectness"].total, 0.5 * objects)


def test_samples_are_counted_in_place():
    classifier = SeesawClassifier(4, 3)
    memory = classifier.counts.data_ptr()
    labels, positive = torch.tensor([[0, 2, 2, -1], [1, 2, 0, 0]]), torch.tensor([[1, 1, 1, 0], [0, 1, 0, 0]]).bool()
    count(classifier, labels, positive)
    assert classifier.counts.tolist() == [1, 0, 3]
    count(classifier, labels, positive)
    assert classifier.counts.tolist() == [2, 0, 6] and classifier.counts.data_ptr() == memory
    assert list(classifier.state_dict()) == ["weight", "bias", "counts"] and classifier.half().counts.tolist() == [
        2,
        0,
        6,
    ]


def test_all_processes_samples_are_counted(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda found: found.add_(torch.tensor([5, 0, 1])))
    classifier = SeesawClassifier(4, 3)
    for _ in range(2):
        count(classifier, torch.tensor([[0, 2]]), torch.ones(1, 2, dtype=torch.bool))
    assert classifier.counts.tolist() == [12, 0, 4]


@pytest.mark.parametrize("name", ["htc_r50", "mask_rcnn_r50_interleaved", "panet_r50", "htc_r50_dcn_syncbn"])
def test_every_kind_of_detector_learns_by_it(name):
    model = tiny(name, class_loss="seesaw", samples=24, rpn_train_proposals=60).train()
    terms = model.losses(torch.randn(3, 3, 64, 96), SIZES, targets(), sampler)
    stages = range(1, len(model.box_heads) + 1)
    assert {f"stage{t}_{kind}" for t in stages for kind in ("class", "objectness", "box", "mask")} <= terms.keys()
    sum(terms.values()).backward()
    assert all(one.grad.isfinite().all() for one in model.parameters() if one.grad is not None)
    for head in model.box_heads:
        assert head.classes.weight.shape[0] == 5 and head.classes.weight.grad.flatten(1).any(dim=1).all()
        # The ground truth itself is among the samples.
        assert (head.classes.counts >= torch.bincount(targets().labels[targets().labels >= 0], minlength=3)).all()


def test_evaluation_counts_nothing():
    model, images = tiny("htc_r50", class_loss="seesaw", samples=24, rpn_train_proposals=60), torch.randn(3, 3, 64, 96)
    model.eval().losses(images, SIZES, targets(), sampler)
    assert not any(head.classes.counts.any() for head in model.box_heads)
    model.train().losses(images, SIZES, targets(), sampler)
    once = [head.classes.counts.clone() for head in model.box_heads]
    model.losses(images, SIZES, targets(), sampler)
    assert all(torch.equal(head.classes.counts, 2 * one) for head, one in zip(model.box_heads, once))


def test_a_rare_class_is_found_more_often():
    """Two overlapping classes, 2000 samples and 20; tested on as many of both."""
    generator = torch.Generator().manual_seed(0)

    def points(label, many):
        return torch.randn(many, 2, generator=generator) + torch.tensor([1.2 if label else -1.2, 0.0])

    x, labels = torch.cat([points(0, 2000), points(1, 20)]), torch.cat([torch.zeros(2000), torch.ones(20)]).long()
    test = torch.stack([points(0, 2000), points(1, 2000)])
    right = {}
    for kind in ("cross-entropy", "seesaw"):
        layer = torch.nn.Linear(2, 2)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
        for _ in range(300):
            optimizer.zero_grad()
            logits = layer(x)
            error = seesaw_error(logits, labels, torch.tensor([2000, 20])).mean()
            (error if kind == "seesaw" else F.cross_entropy(logits, labels)).backward()
            optimizer.step()
        right[kind] = (layer(test).argmax(2) == torch.tensor([[0], [1]])).float().mean(1)
    assert right["cross-entropy"][1] < 0.5 and right["cross-entropy"][0] > 0.99
    assert right["seesaw"][1] > right["cross-entropy"][1] + 0.25 and right["seesaw"][0] > 0.85
