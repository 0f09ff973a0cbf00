"""`detect` never waits for the device: its exported graph has no size, index or copy that depends on data."""

import pytest
import torch

import htc_fast
from htc_fast.inference.export import export_detect, waits
from tests.models.test_zoo import tiny

VARIANTS = {
    **{name: (name, {}) for name in htc_fast.list_models()},
    "second stage alone": ("htc_r50", {"test_stage": 2}),
    "efficientnet": ("htc_r50", {"backbone": "tf_efficientnet_lite0"}),
    "convnext": ("htc_r50", {"backbone": "test_convnext"}),
    "swin": ("htc_r50", {"backbone": "swin_tiny_patch4_window7_224"}),
}


QUICK = ("htc_r50", "mask_rcnn_r50", "second stage alone")


@pytest.mark.parametrize(
    "variant", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in VARIANTS]
)
def test_graph_has_fixed_shapes_and_no_waits(variant):
    name, overrides = VARIANTS[variant]
    model = tiny(name, **overrides).eval()
    program = export_detect(model, (64, 96))
    assert waits(program) == []
    torch.manual_seed(3)
    example = torch.randn(1, 3, 64, 96), torch.tensor([[60, 90]])
    with torch.no_grad():
        found, want = program.module()(*example), model.detect(*example)
    assert torch.equal(found["labels"], want.labels) and want.count.item() > 0
    torch.testing.assert_close(found["boxes"], want.boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found["masks"], want.masks, rtol=1e-4, atol=1e-4)


class Waiting(torch.nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        return self.what(x)


# What must be found: the check would be worth nothing otherwise.
BAD = {
    "nonzero": lambda x: x.nonzero(),
    "item": lambda x: x + x.sum().item(),
    "a mask as index": lambda x: x[x > 0],
    "unique": lambda x: torch.unique(x),
    "inside a graph of its own": torch.no_grad()(lambda x: x[x > 0]),
    "another device": lambda x: torch.ops.aten._to_copy(x, device=torch.device("meta")),
    "to another device": lambda x: x.to("meta"),
    "to the host, where the host is where it is": lambda x: x.cpu() + 1,
    "numbers from the host": lambda x: x + torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "writing through a mask": lambda x: x.index_put((x > 0,), x.new_zeros(())),
    "where": lambda x: torch.where(x > 0)[0],
    "a size that depends on data": lambda x: torch.argwhere(x),
}


@pytest.mark.parametrize("kind", BAD)
def test_the_check_finds_what_waits(kind):
    program = torch.export.export(Waiting(BAD[kind]), (torch.randn(4, 4),), strict=False)
    assert waits(program)


def test_the_check_accepts_what_does_not_wait():
    fine = lambda x: (x > 0).to(torch.int64) + x[1:].sum() + x.masked_fill(x > 0, 0) + x[x.argmax(1)]  # noqa: E731
    program = torch.export.export(Waiting(fine), (torch.randn(4, 4),), strict=False)
    assert waits(program) == []


def test_a_model_that_waits_is_refused(monkeypatch):
    model = tiny("htc_r50").eval()
    extract = model.extract
    monkeypatch.setattr(model, "extract", lambda images: [one * one.sum().item() for one in extract(images)])
    with pytest.raises(RuntimeError, match="would wait for the device"):
        export_detect(model, (64, 96))
