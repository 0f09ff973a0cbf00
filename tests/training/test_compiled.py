"""--compile: the same losses and gradients as without."""

import pytest
import torch

from htc_fast.training.compiled import PARTS, compile_layers
from tests.training.tiny import Pictures, collate, tiny_model


def step(model):
    """The losses of a whole training step, and their gradients."""
    torch.manual_seed(1)  # the pictures draw their brightness
    images, image_sizes, targets, _ = collate([Pictures()[index] for index in (0, 2)])
    terms = model.losses(images, image_sizes, targets, generator=torch.Generator().manual_seed(1))
    sum(terms.values()).backward()
    return terms, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_the_same_losses_and_gradients():
    plain, compiled = tiny_model().train(), tiny_model().train()
    torch._dynamo.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compile_layers(compiled)
    (terms, gradients), (others, other_gradients) = step(plain), step(compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before >= sum(
        getattr(plain, name) is not None for name in PARTS
    )
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(others, terms, rtol=1e-4, atol=1e-5)
    assert len(terms) > 10
    assert gradients.keys() == other_gradients.keys() and len(gradients) > 50
    for name, value in gradients.items():
        torch.testing.assert_close(
            other_gradients[name], value, rtol=1e-4, atol=1e-4 * float(value.abs().max()), msg=name
        )
