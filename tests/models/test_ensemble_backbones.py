"""Backbones of COCO 2018's winner: sizes, what is frozen, norms of the maps, and the same results in every form."""

import pytest
import timm
import torch
from torch import nn

from htc_fast import create_model, load
from htc_fast.criterion.losses import losses
from htc_fast.errors import UserError
from htc_fast.inference import optimize
from htc_fast.inference.export import export_detect, waits
from htc_fast.inference.fuse import fuse_convolutions
from htc_fast.inference.layout import prepare
from htc_fast.models import zoo
from htc_fast.models.backbone import Backbone
from htc_fast.models.structures import Targets
from htc_fast.models.weights.imagenet import with_own_pixels
from htc_fast.models.weights.load import load_weights
from htc_fast.training.checkpoint import weights_bytes
from htc_fast.training.run import TrainingRun
from htc_fast.training.trainer import make_config
from tests.inference.test_fuse import settled
from tests.models.test_zoo import tiny

# Of the classifiers, as published, in millions.
CLASSIFIERS = {"legacy_senet154": 115.1, "dpn107": 86.9, "resnext101_32x8d": 88.8, "resnext101_64x4d": 83.5}
# Channels of the maps, what one frozen stage freezes, and the norms that no convolution takes in: of what reads sums
# and concatenations, one for every block and projection.
RESNEXT = [256, 512, 1024, 2048], {"conv1", "bn1", "layer1"}, 0
SENET = [256, 512, 1024, 2048], {"layer0", "layer1"}, 0
BACKBONES = {
    "legacy_senet154": SENET,
    "resnext101_32x8d": RESNEXT,
    "resnext101_64x4d": RESNEXT,
    "dpn107": (
        [376, 1152, 2432, 2688],
        {"features_conv1_1", *(f"features_conv2_{i}" for i in (1, 2, 3, 4))},
        4 + 8 + 20 + 3 + 4,
    ),
    "fishnet150": ([320, 832, 1600, 2112], {"stem", "tail1"}, 18 + 6 + 8 + 14 + 4 + 2),
    # Small relatives of SENet-154 and DPN-107.
    "legacy_seresnext26_32x4d": SENET,
    "dpn68": (
        [144, 320, 704, 832],
        {"features_conv1_1", *(f"features_conv2_{i}" for i in (1, 2, 3))},
        3 + 4 + 12 + 3 + 4,
    ),
}
QUICK = ("legacy_seresnext26_32x4d", "dpn68")
NAMES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in BACKBONES]


@pytest.fixture(scope="module", params=NAMES)
def made(request):
    """Name and detector, batch norms as after some training."""
    model = tiny("htc_r50", backbone=request.param)
    settled(model.backbone)
    return request.param, model.eval()


def test_parameters_of_the_classifiers():
    with torch.device("meta"):
        counts = {name: sum(one.numel() for one in timm.create_model(name).parameters()) for name in CLASSIFIERS}
    assert {name: round(count / 1e6, 1) for name, count in counts.items()} == CLASSIFIERS


def test_names_of_the_zoo():
    names = {name: zoo.config(f"htc_{name}").backbone for name in zoo.BACKBONES}
    assert set(CLASSIFIERS) | {"fishnet150"} <= set(names.values()) and names["senet154"] == "legacy_senet154"


@torch.no_grad()
def test_maps(made):
    channels = BACKBONES[made[0]][0]
    backbone = made[1].backbone
    assert backbone.channels == channels
    maps = backbone(torch.randn(2, 3, 96, 160))
    assert [list(one.shape) for one in maps] == [
        [2, count, 96 // stride, 160 // stride] for count, stride in zip(channels, (4, 8, 16, 32))
    ]
    for one in maps:  # all leave through a ReLU
        assert one.min() == 0 < one.max() < 1000 and one.is_contiguous(memory_format=torch.channels_last)


def test_one_frozen_stage(made):
    backbone = made[1].backbone
    frozen = {key.split(".")[0] for key, one in backbone.net.named_parameters() if not one.requires_grad}
    free = {key.split(".")[0] for key, one in backbone.net.named_parameters() if one.requires_grad}
    assert frozen == BACKBONES[made[0]][1] and len(free) > 2 and not frozen & free
    assert all(one.requires_grad for one in backbone.norms.parameters())


def test_norms_keep_their_statistics(made):
    name, model = made
    backbone = model.backbone
    norms = [one for one in backbone.train().modules() if isinstance(one, nn.BatchNorm2d)]
    assert len(norms) > 28 and not any(one.training for one in norms)
    assert len(backbone.norms) == (4 if name in ("dpn107", "dpn68", "fishnet150") else 0)
    try:
        backbone.norm_eval = False
        backbone.train()
        # Those of frozen stages always do.
        assert [one.training for one in norms] == [one.weight.requires_grad for one in norms] and norms[-1].training
    finally:
        backbone.norm_eval = True
        backbone.eval()


@torch.no_grad()
def test_fused(made):
    name, model = made
    net = model.backbone.net
    fused, count = fuse_convolutions(net)
    assert sum(isinstance(one, nn.BatchNorm2d) for one in fused.modules()) == BACKBONES[name][2] and count > 50
    images = torch.randn(1, 3, 96, 128)
    for found, want in zip(fused(images), net(images), strict=True):
        torch.testing.assert_close(found, want, rtol=0, atol=1e-5 * float(want.abs().max()))
    gates = [sum(isinstance(one, nn.Sigmoid) for one in one.modules()) for one in (net, fused)]
    assert gates == [{"legacy_senet154": 50, "legacy_seresnext26_32x4d": 8, "fishnet150": 1}.get(name, 0)] * 2


def test_ready_for_a_device(made):
    model = made[1]
    images, sizes = torch.randn(1, 3, 96, 128), torch.tensor([[90, 128]])
    want = model.detect(images, sizes)
    found = optimize(model, (96, 128), dtype=torch.float32).detect(images, sizes)
    assert torch.equal(found.labels, want.labels) and want.count.item() > 0
    for name in ("boxes", "scores", "masks"):
        torch.testing.assert_close(getattr(found, name), getattr(want, name), rtol=1e-4, atol=1e-4)
    # As for a GPU, whose operators run as their definitions here.
    found = prepare(model, torch.float32, torch.device("cuda")).detect(images, sizes)
    torch.testing.assert_close(found.scores, want.scores, rtol=1e-4, atol=1e-4)
    found = optimize(model, (96, 128), dtype=torch.bfloat16).detect(images, sizes)
    assert found.count.item() > 0 and found.masks.isfinite().all()
    torch.testing.assert_close(found.scores, want.scores, rtol=0, atol=0.05)


@pytest.mark.slow
def test_exported(made):
    model = made[1]
    program = export_detect(model, (96, 128))
    assert waits(program) == []
    images, sizes = torch.randn(1, 3, 96, 128), torch.tensor([[90, 128]])
    with torch.no_grad():
        found, want = program.module()(images, sizes), model.detect(images, sizes)
    torch.testing.assert_close(found["scores"], want.scores, rtol=1e-4, atol=1e-4)


def test_a_step_reaches_all_that_is_free(made):
    model = made[1].train()
    boxes = torch.tensor([[[8.0, 8.0, 60.0, 70.0]]])
    masks = torch.ones(1, 1, 96, 128, dtype=torch.uint8)
    targets = Targets(boxes, torch.zeros(1, 1, dtype=torch.int64), masks, torch.zeros(1, 12, 16, dtype=torch.int64))
    sum(losses(model, torch.randn(1, 3, 96, 128), torch.tensor([[96, 128]]), targets).values()).backward()
    for one in model.backbone.parameters():
        assert (one.grad is not None and one.grad.isfinite().all()) if one.requires_grad else one.grad is None
    model.zero_grad(set_to_none=True)
    model.eval()


@torch.no_grad()
def test_a_dpn_s_weights_bring_the_norms_of_its_maps(monkeypatch):
    create = timm.create_model

    def trained(name, **options):
        torch.manual_seed(0)
        return settled(create(name, **{**options, "pretrained": False}))

    monkeypatch.setattr(timm, "create_model", trained)
    whole, backbone = trained("dpn68"), Backbone("dpn68", pretrained=True, frozen_stages=0, norm_eval=True).eval()
    backbone.net.load_state_dict({k.replace(".", "_", 1): v for k, v in whole.state_dict().items() if "." in k}, False)
    read, images = [], torch.randn(1, 3, 64, 96)
    for i in (3, 4, 5):
        whole.features.get_submodule(f"conv{i}_1.c1x1_a.bn").register_forward_hook(lambda _, __, y: read.append(y))
    read.append(whole.forward_features(images).relu())
    for found, want in zip(backbone(images), read, strict=True):
        torch.testing.assert_close(found, want)


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_files_with_norms_of_maps(tmp_path, form):
    model = tiny("htc_r50", backbone="dpn68")
    settled(model.backbone)
    path = tmp_path / f"model.{form}"
    if form == "pth":
        torch.save(model.state_dict(), path)
        again = tiny("htc_r50", backbone="dpn68")
        load_weights(again, path)
    else:
        path.write_bytes(weights_bytes(model))
        again = load(path)
    want = model.state_dict()
    assert all(torch.equal(one.cpu(), want[key]) for key, one in again.state_dict().items())


def test_what_pixels_the_weights_expect(monkeypatch):
    own, imagenet = ((124.0, 117.0, 104.0), (59.8802,) * 3), ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    for name in ("r50", "x101_64x4d", "x101_32x8d", "senet154", "dpn107", "fishnet150"):
        config = with_own_pixels(zoo.config(f"htc_{name}"))
        assert (config.mean, config.std) == (own if name == "dpn107" else imagenet)
    said = zoo.config("htc_dpn107", mean=(1.0, 2.0, 3.0))
    assert with_own_pixels(said) == said
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **o: create(name, **{**o, "pretrained": False}))
    for pretrained, want in ((True, own), (False, imagenet)):
        config = tiny("htc_r50", backbone="dpn68", pretrained=pretrained).config
        assert (config.mean, config.std) == want
        config = make_config(TrainingRun(backbone="dpn68", pretrained=pretrained))
        assert (config.mean, config.std) == want


def test_fishnet_s_weights_cannot_be_had():
    with pytest.raises(UserError, match=r"no ImageNet weights.*pretrained=False \(--no-pretrained\).*weights="):
        create_model("htc_fishnet150", pretrained=True)
    with pytest.raises(UserError, match="did you mean fishnet150"):
        create_model("htc_r50", backbone="fishnet15O")


def test_weights_that_timm_does_not_know():
    with pytest.raises(UserError, match=r"timm cannot give feature maps of 'resnet50.bogus' \(Invalid pretrained tag"):
        create_model("htc_r50", backbone="resnet50.bogus", pretrained=True)
