"""--compile: the same maps and gradients as without."""

import torch

from htc_fast.training.compiled import PARTS, compile_layers
from tests.training.tiny import tiny_model


def step(model):
    """Maps of the compiled parts, and the gradients of their squares."""
    torch.manual_seed(1)
    features = model.extract(torch.randn(2, 3, 64, 64))
    maps = [*features, *model.semantic(features)]
    sum(one.square().mean() for one in maps).backward()
    return maps, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_the_same_maps_and_gradients():
    plain, compiled = tiny_model().train(), tiny_model().train()
    torch._dynamo.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compile_layers(compiled)
    (maps, gradients), (others, other_gradients) = step(plain), step(compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before >= len(PARTS)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(others, maps, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == other_gradients.keys() and len(gradients) > 50
    for name, value in gradients.items():
        torch.testing.assert_close(
            other_gradients[name], value, rtol=1e-4, atol=1e-4 * float(value.abs().max()), msg=name
        )
