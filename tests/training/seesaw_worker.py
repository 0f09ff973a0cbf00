"""One of two processes that learn by Seesaw Loss, two pictures each; writes gradients and what was counted."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from htc_fast.criterion.losses import losses
from tests.models.test_zoo import tiny
from tests.training.gloo_worker import INDICES, first_sampler, picture
from tests.training.tiny import SMALL, collate


class Step(torch.nn.Module):
    def __init__(self):
        super().__init__()
        options = {**SMALL, "samples": 32, "rpn_samples": 64, "rpn_train_proposals_per_level": 50}
        self.model = tiny("htc_r50", semantic_classes=4, class_loss="seesaw", box_loss="giou", **options).train()
        # Scores apart from one another, so that rounding cannot change the order of proposals.
        torch.nn.init.normal_(self.model.rpn.objectness.weight, generator=torch.Generator().manual_seed(1))

    def forward(self, *batch):
        return sum(losses(self.model, *batch, first_sampler).values())


def steps(indices, wrap=lambda step: step):
    """Gradients of the second step with these pictures, and the counts after it."""
    *batch, _ = collate([picture(index) for index in indices])
    wrapped = wrap(Step())
    for _ in range(2):
        wrapped.zero_grad()
        wrapped(*batch).backward()
    model = getattr(wrapped, "module", wrapped).model
    counts = torch.stack([head.classes.counts for head in model.box_heads])
    return {name: one.grad for name, one in model.named_parameters() if one.requires_grad}, counts


def main(folder, rank):
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    found = steps(INDICES[2 * rank : 2 * rank + 2], torch.nn.parallel.DistributedDataParallel)
    torch.save(found, folder / f"found{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
