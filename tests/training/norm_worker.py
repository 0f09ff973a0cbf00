"""One of two processes with batch norms over both: a picture each; writes losses, gradients and running statistics."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from htc_fast.criterion.losses import losses
from htc_fast.models.norm import JointBatchNorm
from tests.inference.test_fuse import settled
from tests.models.test_zoo import tiny
from tests.training.gloo_worker import first_sampler, picture
from tests.training.tiny import SMALL, collate

# Unlike numbers of instances; the fourth picture has none, so that one process has no row for its mask heads.
PAIRS = {"some and some": (1, 2), "some and none": (2, 4)}
LAYERS = [(2, [True, True]), (3, [False, True, False]), (2, [False, False]), (0, [])]


class Step(torch.nn.Module):
    def __init__(self):
        super().__init__()
        options = {**SMALL, "samples": 32, "rpn_samples": 64, "rpn_train_proposals_per_level": 50}
        # In double precision, as rounding would let many a ReLU of these small maps fall to its other side.
        self.model = settled(tiny("htc_r50_syncbn", semantic_classes=4, **options)).double().train()
        # Scores apart from one another, so that rounding cannot change the order of proposals.
        torch.nn.init.normal_(self.model.rpn.objectness.weight, generator=torch.Generator().manual_seed(1))

    def forward(self, images, image_sizes, targets):
        targets = replace(targets, boxes=targets.boxes.double())
        return losses(self.model, images.double(), image_sizes, targets, first_sampler)


def step(indices, wrap=lambda step: step):
    """Losses, gradients and running statistics of one step with these pictures."""
    *batch, _ = collate([picture(index) for index in indices])
    wrapped = wrap(Step())
    terms = wrapped(*batch)
    sum(terms.values()).backward()
    model = getattr(wrapped, "module", wrapped).model
    gradients = {name: one.grad for name, one in model.named_parameters() if one.requires_grad}
    return {name: one.detach() for name, one in terms.items()}, gradients, dict(model.named_buffers())


def layer(number, parts):
    """One norm over some of (rows, which are real), one after the other: outputs, gradients, running statistics."""
    torch.manual_seed(number)
    norm = JointBatchNorm(3).double()
    every = [torch.randn(2, count, 3, 2, 2).double() for count, _ in LAYERS]
    given = [(every[index], torch.tensor(LAYERS[index][1], dtype=torch.bool)) for index in parts]
    x = torch.cat([maps[0] for maps, _ in given]).requires_grad_()
    y = norm(x, torch.cat([rows for _, rows in given]))
    y.backward(torch.cat([maps[1] for maps, _ in given]))
    return y.detach(), x.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()


def main(folder, rank):
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    wrap = torch.nn.parallel.DistributedDataParallel
    found = {name: step(pair[rank : rank + 1], wrap) for name, pair in PAIRS.items()}
    layers = {pair: layer(0, [pair[rank]]) for pair in ((0, 1), (1, 2), (2, 3), (3, 1))}
    torch.save((found, layers), folder / f"found{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
