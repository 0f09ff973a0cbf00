"""One training step of mmdetection 3.3.0, with its recorded draws: every loss and every gradient's norm."""

import json

import pytest
import torch

from htc_fast.criterion.losses import losses
from htc_fast.criterion.matching import IGNORED, NEGATIVE, anchors_inside
from htc_fast.models.structures import Targets
from htc_fast.models.weights.foreign import from_mmdetection
from tests import golden

CALLS = ["rpn"] + [f"stage {t} {head}" for t in (1, 2, 3) for head in ("box", "mask")]


class Recorded:
    """A sampler that draws what was recorded, in the recorded order of calls.

    mmdetection numbers only those candidates that take part: anchors inside the image, and real proposals.
    """

    def __init__(self, draws, inside):
        self.draws, self.inside, self.calls = draws, inside, 0

    def __call__(self, assigned, generator=None):
        part = self.inside if self.calls == 0 else assigned[0] != IGNORED
        position = part.nonzero()[:, 0]
        drawn = [position[self.draws[f"sample{self.calls}_{sign}_inds"].long()] for sign in ("pos", "neg")]
        gt = self.draws[f"sample{self.calls}_pos_assigned_gt_inds"]
        where = CALLS[self.calls]
        self.calls += 1
        assert torch.equal(assigned[0, drawn[0]], gt.long()), f"{where}: the recorded positives are matched otherwise"
        assert (assigned[0, drawn[1]] == NEGATIVE).all(), f"{where}: a recorded negative is none here"
        priority = torch.full(assigned.shape, -1.0)
        for one in drawn:
            priority[0, one] = torch.linspace(2, 1, len(one))
        return priority


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    model = golden.model(tmp_path_factory.mktemp("golden"), semantic_loss_weight=0.2).train()
    truth = golden.arrays("train")
    height, width = truth["gt_masks_shape"].tolist()[1:]
    bits = truth["gt_masks"][..., None] >> torch.arange(7, -1, -1) & 1
    semantic = truth["gt_sem_seg"].long()
    targets = Targets(
        boxes=truth["gt_boxes"][None],
        labels=truth["gt_labels"][None],
        masks=bits.flatten(2)[None, ..., :width].to(torch.uint8),
        semantic=semantic if semantic.shape[-1] == width // 8 else semantic[:, ::8, ::8],
    )
    size = torch.tensor([[height, width]])
    sides = [(height // stride, width // stride) for stride in (4, 8, 16, 32, 64)]
    inside = anchors_inside(torch.cat(model.rpn.anchors(sides, "cpu")), size, 0)[0]
    sampler = Recorded(truth, inside)
    # Near-ties among 2000 scores may come in another order here, and draws are recorded by number.
    pool, found = truth["sample1_cand_priors"], []
    propose = model.rpn.propose
    model.rpn.propose = lambda *inputs: (found.append(propose(*inputs)), (pool[None], None, torch.ones(1, 2000) > 0))[1]
    terms = losses(model, golden.images(model.config), size, targets, sampler)
    assert sampler.calls == 7
    # Each recorded proposal is among ours.
    distance = torch.cdist(pool, found[0][0][0], p=torch.inf).amin(dim=1)
    assert (distance < 1e-2).float().mean() > 0.99 and found[0][2].all()
    sum(terms.values()).backward()
    return model, terms


@pytest.fixture(scope="module")
def recorded():
    return json.loads((golden.FOLDER / "train.json").read_text())


@pytest.mark.slow
def test_losses(step, recorded):
    _, terms = step
    names = {"rpn_class": "loss_rpn_cls", "rpn_box": "loss_rpn_bbox", "semantic": "loss_semantic_seg"}
    for t in range(3):
        for ours, theirs in (("class", "cls"), ("box", "bbox"), ("mask", "mask")):
            names[f"stage{t + 1}_{ours}"] = f"s{t}.loss_{theirs}"
    assert set(terms) == set(names)
    for ours, theirs in names.items():
        assert terms[ours].item() == pytest.approx(recorded["log"][theirs], rel=1e-4), ours
    assert sum(terms.values()).item() == pytest.approx(recorded["total"], rel=1e-4)


@pytest.mark.slow
def test_gradient_norms(step, recorded):
    model, _ = step
    ours = {}
    for name, parameter in model.named_parameters():
        # In float32, as recorded: of 12 million entries the sum is off by a thousandth.
        ours[name] = None if parameter.grad is None else parameter.grad.norm().item()
    # Renaming alone: the values are only there to be carried.
    theirs = from_mmdetection({name: torch.tensor(norm) for name, norm in recorded["grad_norms"].items()})
    assert len(theirs) > 150
    for name, norm in theirs.items():
        # 2e-3: norms of 128 numbers move by 1.2e-3 with how many threads share the sums of convolutions before them.
        assert ours[name] == pytest.approx(norm.item(), rel=2e-3, abs=1e-7), name
    frozen = from_mmdetection({name: torch.tensor(0.0) for name in recorded["no_grad"]})
    assert {name for name, norm in ours.items() if norm is None} == set(frozen)
