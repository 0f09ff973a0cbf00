"""--checkpoint-backbone: the same steps, with less kept between forward and backward."""

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from htc_fast import UserError
from htc_fast.training import Trainer, TrainingRun
from tests.data.builder import write
from tests.training.test_compiled import step
from tests.training.test_run import small_run
from tests.training.tiny import tiny_model


def model_of(recomputes, drop=0.0):
    model = tiny_model()
    model.backbone.norm_eval = False  # statistics that run
    for block in model.backbone.net.modules():
        if isinstance(block, nn.BatchNorm2d):
            nn.init.ones_(block.weight)  # without, the blocks would add nothing that could be dropped
        if drop and hasattr(block, "drop_path"):
            block.drop_path = DropPath(drop)
    model.backbone.checkpoint(recomputes)
    return model.train()


def running(model):
    return {name: one.clone() for name, one in model.state_dict().items() if "running" in name or "tracked" in name}


def calls_of(model):
    """A list that grows with every call of a convolution of the last stage."""
    calls = []
    model.backbone.net.layer4[0].conv1.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    return calls


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_the_same_losses_gradients_and_statistics(drop):
    plain, other = model_of(False, drop), model_of(True, drop)
    start = running(other)
    calls = calls_of(plain), calls_of(other)
    (terms, gradients), (others, other_gradients) = step(plain), step(other)
    assert [len(one) for one in calls] == [1, 2]
    assert len(terms) > 10 and terms.keys() == others.keys() and gradients.keys() == other_gradients.keys()
    assert any(name.startswith("backbone") for name in gradients)
    torch.testing.assert_close(others, terms, rtol=0, atol=0)
    torch.testing.assert_close(other_gradients, gradients, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(running(other), running(plain), rtol=0, atol=0)
    counts = {name: int(one) for name, one in running(other).items() if "tracked" in name}
    assert set(counts.values()) == {0, 1}  # frozen, and trained once
    assert any(not torch.equal(start[name], one) for name, one in running(other).items() if "var" in name)


def test_drop_path_draws_at_all():
    # Otherwise the test above could not fail.
    drawn = step(model_of(False, 0.5))[0], step(model_of(False, 0.0))[0]
    assert not torch.equal(drawn[0]["semantic"], drawn[1]["semantic"])


def saved(model):
    """Bytes that the backbone's forward keeps for its backward."""
    kept = {}

    def keep(one):
        kept[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        return one

    own = {one.untyped_storage().data_ptr() for one in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        maps = model.backbone(torch.randn(2, 3, 64, 64))
    return sum(size for place, size in kept.items() if place not in own), maps


def test_less_is_kept():
    (plain, _), (less, _) = saved(model_of(False)), saved(model_of(True))
    assert less < plain / 2


def test_it_can_be_switched_off_and_is_off_where_nothing_is_learnt():
    model = model_of(True)
    calls, images = calls_of(model), torch.randn(1, 3, 64, 64)
    sum(one.sum() for one in model.backbone(images)).backward()
    assert len(calls) == 2
    with torch.no_grad():
        model.backbone(images)
    assert len(calls) == 3
    model.backbone.checkpoint(False)
    sum(one.sum() for one in model.backbone(images)).backward()
    assert len(calls) == 4


def test_names_of_weights_stay():
    assert model_of(True).state_dict().keys() == tiny_model().state_dict().keys()


def test_the_option_reaches_the_backbone(tmp_path):
    write(tmp_path, split="train")
    root = write(tmp_path, split="val")
    counts = []
    for asked in (False, True):
        loop = Trainer(small_run(root, tmp_path / "run", checkpoint_backbone=asked, iterations=1)).loop
        calls = calls_of(loop.model)
        loop.model.train()
        loop.update(loop.batches.stream())
        counts.append(len(calls))
    assert counts == [1, 2]


def test_what_does_not_go_with_it_is_refused():
    with pytest.raises(UserError, match=r"--graphs .* --checkpoint-backbone has to: leave out one of them"):
        TrainingRun(graphs=True, checkpoint_backbone=True)
    with pytest.raises(UserError, match=r"--compile .* so --checkpoint-backbone is not for it: leave out one of them"):
        TrainingRun(compile=True, checkpoint_backbone=True)


def test_a_norm_in_between_is_no_dead_end():
    """What the norms see the second time is what they saw the first."""
    model, seen = model_of(True), []
    norm = next(one for one in model.backbone.net.layer4.modules() if isinstance(one, nn.BatchNorm2d))
    norm.register_forward_hook(lambda _, inputs, result: seen.append(result.detach().clone()))
    sum(one.sum() for one in model.backbone(torch.randn(2, 3, 64, 64))).backward()
    assert len(seen) == 2 and torch.equal(*seen)
