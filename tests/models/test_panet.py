"""PANet's heads, alone and in a cascade, against the definition with torchvision's RoIAlign on every level."""

import pytest
import torch
import torch.nn.functional as F
import torchvision

from htc_fast import ops
from htc_fast.criterion.losses import losses
from htc_fast.errors import UserError
from htc_fast.inference.export import export_detect, waits
from htc_fast.inference.layout import ChannelsLastBoxHead, prepare
from htc_fast.inference.optimize import optimize
from htc_fast.models import zoo
from htc_fast.models.htc import HTC
from htc_fast.models.weights import fit
from tests.criterion import test_family_losses as family_losses
from tests.inference.test_optimize import assert_equal, detector, images
from tests.models import test_family as family
from tests.models.test_family import STRIDES
from tests.models.test_zoo import SIZES, tiny

BOTH = {"adaptive_pooling": True, "mask_fc": True}
VARIANTS = {
    "panet": ("panet_r50", {}),
    "htc with both": ("htc_r50", BOTH),
    "four convolutions": ("panet_r50", {"box_head": "4conv1fc"}),
    "htc, adaptive": ("htc_r50", {"adaptive_pooling": True}),
    "htc, fully connected mask": ("htc_r50", {"mask_fc": True}),
    "one stage alone": ("htc_r50", {**BOTH, "test_stage": 2}),
    "no flow, one regression per class": ("cascade_mask_r50", {**BOTH, "class_agnostic": False}),
    "legacy RoIAlign": ("panet_r50", {"roi_aligned": False, "roi_samples": 2}),
}


def panet(name="panet_r50", **options):
    return tiny(name, **{"neck": "fpn", **options})


def pool(config, features, n, boxes, grid, semantic):
    """Of image n [R, C, grid, grid], of every level with adaptive pooling, else of the one that fits."""
    if not config.adaptive_pooling:
        return FITTING(config, features, n, boxes, grid, semantic)
    rois, out = torch.cat([torch.full((len(boxes), 1), float(n)), boxes], dim=1), []
    how = config.roi_samples or -1, config.roi_aligned
    for one, stride in zip(features[:4], STRIDES):
        x = torchvision.ops.roi_align(one, rois, grid, 1 / stride, *how)
        if semantic is not None:
            x = x + F.adaptive_avg_pool2d(torchvision.ops.roi_align(semantic, rois, 14, 1 / 8, *how), grid)
        out.append(x)
    return out


FITTING, FIRST = family.pool, family.box_head


def box_head(head, x):
    if not isinstance(x, list):
        return FIRST(head, x)
    if head.convs is not None:
        x = torch.stack([F.relu(conv2d(conv, one)) for conv, one in zip(head.convs[0], x)]).amax(0)
        for conv in head.convs[1:]:
            x = F.relu(conv2d(conv, x))
        hidden = F.relu(head.fc1(x.flatten(1)))
        return head.classes(hidden), head.deltas(hidden)
    first = torch.stack([F.relu(layer(one.flatten(1))) for layer, one in zip(head.fc1, x)]).amax(0)
    hidden = F.relu(head.fc2(first))
    return head.classes(hidden), head.deltas(hidden)


def mask_logits(model, x, last):
    """Logits [K, classes, 28, 28] of the heads 0 to `last`."""
    previous, out = None, []
    for head in model.mask_heads[: last + 1]:
        levels = x if isinstance(x, list) else [x]
        if previous is not None and model.config.information_flow:
            levels = [one + F.relu(head.flow(previous)) for one in levels]
        convs = head.convs[0] if isinstance(x, list) else [head.convs[0]]
        here = torch.stack([F.relu(conv2d(conv, one)) for conv, one in zip(convs, levels)]).amax(0)
        for conv in head.convs[1:3]:
            here = F.relu(conv2d(conv, here))
        previous = F.relu(conv2d(head.convs[3], here))
        logits = head.logits(F.relu(head.upsample(previous)))
        if model.config.mask_fc:
            hidden = F.relu(conv2d(head.fc.conv5, F.relu(conv2d(head.fc.conv4, here))))
            logits = logits + F.relu(head.fc.dense(hidden.flatten(1))).view(-1, 1, 28, 28)
        out.append(logits)
    return out


def conv2d(layer, x):
    return F.conv2d(x, layer.weight, layer.bias, padding=1)


def mask_probabilities(model, features, n, boxes, labels, semantic):
    config = model.config
    x = pool(config, features, n, boxes, 14, semantic if config.semantic in ("mask", "both") else None)
    found = mask_logits(model, x, (config.test_stage or len(model.mask_heads)) - 1)
    found = [one[torch.arange(len(labels)), labels].sigmoid() for one in found]
    return found[-1] if config.test_stage else torch.stack(found).mean(0)


def mask_error(model, t, features, n, boxes, objects, given, semantic):
    config = model.config
    x = pool(config, features, n, boxes, 14, semantic if config.semantic in ("mask", "both") else None)
    logits = mask_logits(model, x, t)[t][torch.arange(len(objects)), given.labels[n][objects]]
    rois = torch.cat([torch.arange(len(boxes))[:, None].float(), boxes], 1)
    goal = torchvision.ops.roi_align(given.masks[n][objects][:, None].float(), rois, 28, 1.0, -1, True)[:, 0] >= 0.5
    return F.binary_cross_entropy_with_logits(logits, goal.float(), reduction="sum")


@pytest.fixture
def define(monkeypatch):
    """The family's definitions, with PANet's parts in the places of theirs; which of the masks' were asked."""
    asked, masks = [], {"mask_probabilities": mask_probabilities, "mask_error": mask_error}
    for module in (family, family_losses):
        monkeypatch.setattr(module, "pool", pool)
        monkeypatch.setattr(module, "box_head", box_head)
        monkeypatch.setattr(module, "tiny", panet)
    for module, name in ((family, "mask_probabilities"), (family_losses, "mask_error")):
        monkeypatch.setattr(module, name, lambda *given, name=name: asked.append(name) or masks[name](*given))
    return asked


@pytest.mark.parametrize("name, options", VARIANTS.values(), ids=VARIANTS.keys())
def test_detect_is_the_definition(name, options, define):
    family.test_detect_is_the_definition(name, options)
    assert define == ["mask_probabilities"] * 3  # one picture after the other


@pytest.mark.parametrize("variant", list(VARIANTS)[:5])
def test_losses_are_the_definition(variant, define):
    family_losses.test_losses_are_the_definition(*VARIANTS[variant])
    assert define and set(define) == {"mask_error"}


def step(model, given):
    torch.manual_seed(1)
    return losses(model, torch.randn(3, 3, 64, 96), family.SIZES, given, family_losses.priority)


def test_gradients_reach_every_parameter():
    model = panet("htc_r50", samples=24, **BOTH).train()
    sum(step(model, family_losses.targets()).values()).backward()
    for heads in (model.box_heads, model.mask_heads):
        for name, parameter in heads.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_pictures_without_objects_have_no_mask_to_learn():
    model, given = panet("htc_r50", **BOTH).train(), family_losses.targets()
    given.labels.fill_(-1)
    terms = step(model, given)
    sum(terms.values()).backward()
    assert [terms[f"stage{t}_mask"].item() for t in (1, 2, 3)] == [0, 0, 0]
    assert all(one.grad is None or one.grad.abs().sum() == 0 for one in model.mask_heads.parameters())


def test_parameter_counts():
    with torch.device("meta"):
        box, mask = (heads[0] for heads in _heads("panet_r50"))
        plain = _heads("mask_rcnn_r50")[1][0]
    count = lambda module: sum(one.numel() for one in module.parameters())  # noqa: E731
    first, conv = 256 * 7 * 7 * 1024 + 1024, 256 * 256 * 9 + 256
    assert count(box) == 4 * first + (1024 * 1024 + 1024) + (1024 * 81 + 81) + (1024 * 320 + 320) == 52_844_945
    assert count(mask.fc) == conv + (256 * 128 * 9 + 128) + (128 * 14 * 14 * 784 + 784) == 20_554_896
    assert count(mask) == count(plain) + 3 * conv + count(mask.fc) == 24_968_416


def _heads(name):
    model = HTC(zoo.config(name))
    return model.box_heads, model.mask_heads


def test_names_of_the_weights():
    plain, ours = (set(panet(name).state_dict()) for name in ("mask_rcnn_r50", "panet_r50"))
    parts = {f"{part}.{kind}" for part in ("box_heads.0.fc1", "mask_heads.0.convs.0") for kind in ("weight", "bias")}
    levels = {f"{name.rpartition('.')[0]}.{level}.{name.rpartition('.')[2]}" for name in parts for level in range(4)}
    fc = {f"mask_heads.0.fc.{part}.{kind}" for part in ("conv4", "conv5", "dense") for kind in ("weight", "bias")}
    assert plain - ours == parts and ours - plain == levels | fc


def test_a_file_tells_that_it_is_panet(tmp_path):
    found = fit.sizes(panet(class_agnostic=False, box_channels=24).state_dict())
    assert found == {"channels": 16, "box_channels": 24, "class_agnostic": False, **BOTH}
    found = fit.sizes(panet("htc_r50", mask_fc=True).state_dict())
    assert found["mask_fc"] and "adaptive_pooling" not in found and found["box_channels"] == 32
    saved = panet("htc_r50", **BOTH).eval()
    torch.save(saved.state_dict(), tmp_path / "panet.pth")
    loaded = panet("htc_r50", weights=tmp_path / "panet.pth").eval()
    assert loaded.config.adaptive_pooling and loaded.config.mask_fc
    assert_equal(loaded.detect(images(), SIZES), saved.detect(images(), SIZES), 0)


def test_levels_start_from_different_weights():
    model = panet()
    for layers in (model.box_heads[0].fc1, model.mask_heads[0].convs[0]):
        assert len({float(layer.weight.detach().sum()) for layer in layers}) == 4


@pytest.mark.parametrize("stride", STRIDES[:4])
def test_every_roi_reads_the_one_level_that_is_given(stride):
    torch.manual_seed(0)
    features, semantic = torch.randn(1, 4, 256 // stride, 256 // stride), torch.randn(1, 4, 32, 32)
    rois = torch.tensor([[0, 3.0, 5, 9, 11], [0, 10, 20, 150, 170], [0, 0, 0, 256, 256], [0, 40, 3, 43, 250]])
    got = ops.multi_level_roi_align([features], rois, 7, (1 / stride,), semantic=semantic)
    want = torchvision.ops.roi_align(features, rois, 7, 1 / stride, -1, True)
    want = want + F.avg_pool2d(torchvision.ops.roi_align(semantic, rois, 14, 1 / 8, -1, True), 2)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_padded_detections_have_no_mask():
    model = panet("htc_r50", **BOTH, rpn_proposals=3, score_threshold=0.2, detections=20).eval()
    x = [torch.randn(3, 16, 14, 14) for _ in range(4)]
    with torch.no_grad():
        masks = [
            model.mask_heads[0].predict(model.mask_heads[0].features(x), torch.tensor(labels))
            for labels in ([0, 1, 2], [2, 1, 0])
        ]
    assert torch.equal(masks[0][1], masks[1][1]) and not torch.equal(masks[0][0], masks[1][0])
    found = model.detect(images(), SIZES)
    padded = found.labels < 0
    assert 0 < padded.sum() < padded.numel()
    assert (found.masks[padded] == 0).all() and (found.masks[~padded] > 0).all()


@pytest.mark.parametrize("variant", ["panet", "htc with both"])
def test_the_exported_graph_never_waits(variant):
    name, options = VARIANTS[variant]
    model = panet(name, **options).eval()
    program = export_detect(model, (64, 96))
    assert waits(program) == []
    example = images()[:1], SIZES[:1]
    found, want = program.module()(*example), model.detect(*example)
    assert torch.equal(found["labels"], want.labels) and want.count.item() > 0
    torch.testing.assert_close(found["masks"], want.masks, rtol=1e-4, atol=1e-4)


WIDE = {"backbone": "resnet18", "channels": 64, "detections": 4}  # enough for Winograd
OPTIMIZED = {
    **{
        variant: VARIANTS[variant]
        for variant in ("panet", "four convolutions", "htc, fully connected mask", "one stage alone")
    },
    "wide": ("htc_r50", {**BOTH, **WIDE}),
}


@pytest.mark.parametrize("variant", OPTIMIZED)
def test_optimized_it_detects_the_same(variant):
    name, options = OPTIMIZED[variant]
    model = detector(name, neck="fpn", **options)
    want = model.detect(images(), SIZES)
    assert_equal(optimize(model, (64, 96), 2, torch.float32).detect(images(), SIZES), want)
    laid_out = prepare(model, torch.float32, torch.device("cuda"))
    assert isinstance(laid_out.box_heads[0], ChannelsLastBoxHead)
    assert_equal(laid_out.detect(images(), SIZES), want)
    low = optimize(model, (64, 96), 2, torch.bfloat16)
    assert {one.dtype for heads in (low.network.box_heads, low.network.mask_heads) for one in heads.parameters()} == {
        torch.bfloat16
    }
    torch.testing.assert_close(low.detect(images(), SIZES).scores, want.scores, rtol=0.05, atol=0.02)


NORMS = {"norm": "syncbn", "box_head": "4conv1fc", "norm_eval": False}


def test_norms_follow_every_convolution_of_the_heads():
    model, given = panet("htc_r50", samples=24, **BOTH, **NORMS).train(), family_losses.targets()
    sum(step(model, given).values()).backward()
    for heads in (model.box_heads, model.mask_heads):
        for name, module in heads.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.num_batches_tracked > 0 and module.weight.grad.abs().sum() > 0, name
        assert all(one.grad is not None for one in heads.parameters())
    # Four levels' first convolutions and three more for boxes; for masks the fully connected branch's two as well.
    kinds = [
        sum(isinstance(one, torch.nn.BatchNorm2d) for one in heads[0].modules())
        for heads in (model.box_heads, model.mask_heads)
    ]
    assert kinds == [7, 9]
    model.eval()
    fast = optimize(model, (64, 96), 2, torch.float32)
    assert_equal(fast.detect(images(), SIZES), model.detect(images(), SIZES))


def test_padding_is_no_part_of_a_batch():
    """What is in rows that are not real changes nothing for those that are."""
    head, real = panet(**BOTH, **NORMS).mask_heads[0].train(), torch.tensor([True, True, False])
    levels = [torch.randn(3, 16, 14, 14) for _ in range(4)]
    other = [torch.cat([one[:2], torch.randn(1, 16, 14, 14)]) for one in levels]
    first, second = (head.predict(head.features(x, rows=real))[:2] for x in (levels, other))
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, head.predict(head.features(levels))[:2])


def test_what_does_not_go_together():
    with pytest.raises(UserError, match="mask_fc halves the channels, of which there is only 1"):
        panet(channels=1)
