"""torchvision's and detectron2's checkpoints: our detector does what theirs does with the same made-up weights."""

import os
import pickle
import re
from collections import defaultdict, deque

import numpy as np
import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.ops import FrozenBatchNorm2d

import htc_fast
from htc_fast.errors import UserError
from htc_fast.models import zoo
from htc_fast.models.weights import foreign
from htc_fast.models.weights.load import load_weights, read

SIZES = [(120, 150), (128, 192)]
FEW = {"rpn_proposals_per_level": 300, "rpn_proposals": 200, "score_threshold": 0.02}


def torchvision_model(num_classes, frozen):
    """Mask R-CNN with weights that find something everywhere; `frozen`: as COCO_V1, its norms add nothing."""
    torch.manual_seed(0)
    options = {"rpn_pre_nms_top_n_test": 300, "rpn_post_nms_top_n_test": 200, "box_score_thresh": 0.02}
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=num_classes, **options)
    for module in list(model.modules()):
        for name, norm in module.named_children():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm = FrozenBatchNorm2d(norm.num_features, eps=1e-5) if frozen else norm
                setattr(module, name, norm)
                norm.running_mean.data.normal_(0, 0.1), norm.running_var.data.uniform_(0.6, 1.5)
                norm.weight.data.uniform_(0.3, 0.7)
                if frozen:
                    norm.running_var.data[::3] *= 1e-4
                    norm.weight.data[::3] *= 1e-2
    if frozen:
        overwrite_eps(model, 0.0)
    unused = [number for number in range(1, num_classes) if num_classes == 91 and number not in foreign.COCO_IDS]
    heads = model.rpn.head, model.roi_heads.box_predictor.cls_score, model.roi_heads.mask_predictor.mask_fcn_logits
    for head, factor in zip(heads, (4, 8, 1.5)):
        for parameter in head.parameters():
            parameter.data *= factor
    # No picture shows COCO's unused ids: training drives them down.
    model.roi_heads.box_predictor.cls_score.bias.data[unused] = -30
    return model.eval()


def normalised(images, config):
    batch = torch.zeros(len(images), 3, *(max(side) for side in zip(*SIZES)))
    for slot, image in zip(batch, images):
        pixels = (image * 255 - torch.tensor(config.mean)[:, None, None]) / torch.tensor(config.std)[:, None, None]
        slot[:, : image.shape[1], : image.shape[2]] = pixels
    return batch


@torch.no_grad()
def torchvision_detections(model, batch):
    """Boxes, scores, labels and masks [n, 28, 28] per image, before anything is pasted."""
    from torchvision.models.detection.image_list import ImageList

    features = model.backbone(batch)
    proposals, _ = model.rpn(ImageList(batch, SIZES), features)
    return model.roi_heads(features, proposals, SIZES)[0]


def old_names(state):
    """As torchvision wrote them before 0.13."""
    out = {}
    for key, value in state.items():
        key = re.sub(r"^backbone\.fpn\.(inner|layer)_blocks\.(\d)\.0\.", r"backbone.fpn.\1_blocks.\2.", key)
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        key = re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", key)
        out[key] = value
    return out


@pytest.mark.slow
@pytest.mark.parametrize("num_classes, old", [(91, True), (4, False)])
def test_torchvision_finds_the_same(tmp_path, num_classes, old):
    theirs = torchvision_model(num_classes, frozen=old)
    state = theirs.state_dict()
    torch.save({"model": old_names(state) if old else state, "epoch": 3}, tmp_path / "tv.pth")
    ours = htc_fast.create_model(
        "mask_rcnn_r50",
        num_classes=80 if num_classes == 91 else num_classes - 1,
        weights=tmp_path / "tv.pth",
        **FEW,
    ).eval()
    assert ours.config.roi_samples == 2 and not ours.config.roi_aligned and ours.config.rpn.whole_anchors
    torch.manual_seed(1)
    images = [torch.rand(3, *size) for size in SIZES]
    batch = normalised(images, ours.config)
    want = torchvision_detections(theirs, batch)
    found = ours.detect(batch, torch.tensor(SIZES))
    ids = torch.tensor(foreign.COCO_IDS if num_classes == 91 else range(1, num_classes))
    for n, one in enumerate(want):
        boxes, scores, labels = one["boxes"], one["scores"], one["labels"]
        count = len(boxes)
        assert count > 50 and abs(int(found.count[n]) - count) <= 1
        count = min(count, int(found.count[n]))
        boxes, scores, labels, masks = (value[:count] for value in (boxes, scores, labels, one["masks"][:, 0]))
        own = ids[found.labels[n, :count]]
        assert (own == labels).float().mean() > 0.95  # equal scores may change places
        alike = own == labels
        torch.testing.assert_close(found.scores[n, :count], scores, rtol=1e-4, atol=1e-5)
        apart = (found.boxes[n, :count] - boxes).abs().amax(dim=1)[alike]
        assert (apart < 0.02).float().mean() > 0.97
        apart = (found.masks[n, :count] - masks).abs().amax(dim=(1, 2))[alike]
        assert (apart < 1e-3).float().mean() > 0.97


SMALL = {"backbone": "resnet26", "channels": 16, "box_channels": 32, "num_classes": 3}
BACKWARD = [
    (r"^backbone\.net\.bn1\.", "backbone.bottom_up.stem.conv1.norm."),
    (r"^backbone\.net\.conv1\.", "backbone.bottom_up.stem.conv1."),
    (r"^backbone\.net\.layer(\d)\.", lambda found: f"backbone.bottom_up.res{int(found[1]) + 1}."),
    (r"(bottom_up\.res\d\.\d+)\.downsample\.1\.", r"\1.shortcut.norm."),
    (r"(bottom_up\.res\d\.\d+)\.downsample\.0\.", r"\1.shortcut."),
    (r"(bottom_up\.res\d\.\d+)\.bn(\d)\.", r"\1.conv\2.norm."),
    (r"^fpn\.(lateral|output)\.(\d)\.", lambda found: f"backbone.fpn_{found[1]}{int(found[2]) + 2}."),
    (r"^rpn\.conv\.", "proposal_generator.rpn_head.conv."),
    (r"^rpn\.objectness\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^rpn\.deltas\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"^box_heads\.(\d)\.fc(\d)\.", r"roi_heads.box_head.\1.fc\2."),
    (r"^box_heads\.(\d)\.classes\.", r"roi_heads.box_predictor.\1.cls_score."),
    (r"^box_heads\.(\d)\.deltas\.", r"roi_heads.box_predictor.\1.bbox_pred."),
    (r"^mask_heads\.0\.convs\.(\d)\.", lambda found: f"roi_heads.mask_head.mask_fcn{int(found[1]) + 1}."),
    (r"^mask_heads\.0\.upsample\.", "roi_heads.mask_head.deconv."),
    (r"^mask_heads\.0\.logits\.", "roi_heads.mask_head.predictor."),
]


def as_detectron2(model):
    """Our weights as detectron2 writes them: its names, NumPy arrays, input in BGR over a spread of 1."""
    out = {}
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked") or key.startswith(("mask_heads.1", "mask_heads.2")):
            continue
        if key == "backbone.net.conv1.weight":
            value = (value / torch.tensor(model.config.std)[:, None, None]).flip(1)
        for pattern, name in BACKWARD:
            key = re.sub(pattern, name, key)
        if len(model.box_heads) == 1:
            key = key.replace("box_head.0", "box_head").replace("box_predictor.0", "box_predictor")
        out[key] = value.numpy()
    cells = {f"proposal_generator.anchor_generator.cell_anchors.{level}": np.zeros((3, 4)) for level in range(5)}
    return {"model": {**out, **cells}, "__author__": "somebody", "matching_heuristics": True}


@pytest.mark.parametrize("name", ["mask_rcnn_r50", "cascade_mask_r50"])
@pytest.mark.parametrize("protocol", [4, 5])
def test_detectron2(tmp_path, name, protocol):
    torch.manual_seed(0)
    source = htc_fast.create_model(name, **SMALL)
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(as_detectron2(source), protocol=protocol))
    made = htc_fast.create_model(name, weights=path, **SMALL)
    assert made.config.stride_in_1x1 and made.config.mean == source.config.mean
    for key, value in made.state_dict().items():
        own = re.sub(r"mask_heads\.\d", "mask_heads.0", key)  # one head stands for all
        torch.testing.assert_close(value, source.state_dict()[own], rtol=1e-6, atol=1e-7)
    if name == "cascade_mask_r50":
        assert made.config.score_average == "probabilities" and made.config.stages.delta_std[2][0] == 1 / 30
    block = made.backbone.net.get_submodule("layer2.0")
    assert block.conv1.stride == (2, 2) and block.conv2.stride == (1, 1)
    shapes = [tuple(one.shape) for one in made.extract(torch.zeros(1, 3, 64, 96))]
    assert shapes[0] == (1, 16, 16, 24) and shapes[3] == (1, 16, 2, 3)
    assert made.eval().detect(torch.randn(1, 3, 64, 96), torch.tensor([[64, 96]])).boxes.shape == (1, 100, 4)


def test_detectron2_reads_bgr_over_its_own_spread(tmp_path):
    weight, pixels = torch.randn(64, 3, 7, 7), torch.rand(1, 3, 32, 32) * 255
    mean, spread = torch.tensor([103.53, 116.28, 123.675]), torch.tensor([57.375, 57.12, 58.395])
    state = {
        "backbone.bottom_up.stem.conv1.weight": weight,
        "pixel_mean": mean[:, None, None],
        "pixel_std": spread[:, None, None],
    }
    torch.save({"model": state}, tmp_path / "x101.pth")
    file = read(tmp_path / "x101.pth")
    theirs = torch.conv2d((pixels.flip(1) - mean[:, None, None]) / spread[:, None, None], weight)
    assert "mean" not in file.options  # the same as ours
    config = zoo.config("mask_rcnn_r50")
    ours = (pixels - torch.tensor(config.mean)[:, None, None]) / torch.tensor(config.std)[:, None, None]
    torch.testing.assert_close(
        torch.conv2d(ours, file.tensors["backbone.net.conv1.weight"]), theirs, rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("key, rgb", [("config", "to_rgb"), ("cfg", "bgr_to_rgb")])
def test_mmdetection_s_own_configuration_tells_the_original_resnets(tmp_path, key, rgb):
    text = f"norm = dict(mean=[103.53,\n 116.28, 123.675], std=[1.0, 1.0, 1.0], {rgb}=False)\nb = dict(style='caffe')"
    weight = torch.randn(64, 3, 7, 7)
    torch.save({"meta": {key: text}, "state_dict": {"backbone.conv1.weight": weight}}, tmp_path / "caffe.pth")
    file = read(tmp_path / "caffe.pth")
    assert file.options == {"stride_in_1x1": True}
    want = weight.flip(1) * torch.tensor(zoo.config("htc_r50").std)[:, None, None]
    torch.testing.assert_close(file.tensors["backbone.net.conv1.weight"], want)
    usual = f"mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], {rgb}=True, style='pytorch', mean_=[1]"
    torch.save({"meta": {key: usual}, "state_dict": {"backbone.conv1.weight": weight}}, tmp_path / "usual.pth")
    file = read(tmp_path / "usual.pth")
    assert file.options == {} and torch.equal(file.tensors["backbone.net.conv1.weight"], weight)


def test_grouped_resnets_keep_their_strides():
    state = {"backbone.bottom_up.res2.0.conv2.weight": torch.zeros(256, 4, 3, 3)}
    assert foreign.convert(state)[1]["stride_in_1x1"] is False


def test_a_model_built_otherwise_is_told_what_differs(tmp_path):
    source = htc_fast.create_model("mask_rcnn_r50", **SMALL)
    (tmp_path / "d2.pkl").write_bytes(pickle.dumps(as_detectron2(source)))
    report = load_weights(htc_fast.create_model("mask_rcnn_r50", **SMALL), tmp_path / "d2.pkl")
    assert report.differing == ["stride_in_1x1=True"] and "stride_in_1x1=True" in str(report)
    wanted = htc_fast.create_model("mask_rcnn_r50", weights=tmp_path / "d2.pkl", stride_in_1x1=False, **SMALL)
    assert not wanted.config.stride_in_1x1
    with pytest.raises(UserError, match="stride_in_1x1 is for ResNets"):
        htc_fast.create_model("mask_rcnn_r50", backbone="resnet18", stride_in_1x1=True)


def test_commands_take_a_foreign_file_too(tmp_path, monkeypatch):
    monkeypatch.setitem(zoo.MODELS, "mask_rcnn_r50", zoo.config("mask_rcnn_r50", **SMALL))
    source = htc_fast.create_model("mask_rcnn_r50", num_classes=3)
    (tmp_path / "d2.pkl").write_bytes(pickle.dumps(as_detectron2(source)))
    made = htc_fast.load(tmp_path / "d2.pkl", name="mask_rcnn_r50", device="cpu")
    assert (
        made.config.stride_in_1x1
        and made.config.num_classes == 3
        and torch.equal(made.rpn.conv.weight, source.rpn.conv.weight)
    )


class Hostile:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_plain_pickle_s_code_is_never_run(tmp_path, protocol):
    marker, path = tmp_path / "ran", tmp_path / "hostile.pkl"
    odd = {"objects": np.array([Hostile(marker), None], dtype=object), "names": np.array(["a", "b"])}
    content = {"model": {"rpn.conv.bias": np.ones(2, dtype=">f4"), "hook": Hostile(marker)}, "odd": odd["objects"]}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert read(path).tensors["rpn.conv.bias"].tolist() == [1, 1]
    path.write_bytes(pickle.dumps({"model": {"rpn.conv.bias": odd["names"]}}, protocol=protocol))
    with pytest.raises(UserError, match="holds no tensors"):
        read(path)
    assert not marker.exists()


class Bag(dict):
    """As mmengine's ConfigDict is one."""


class Row(list):
    pass


class Command:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (os.system, (f"touch {self.marker}",))


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_load_refuses_under_weights_only_is_read(tmp_path, protocol):
    marker, path = tmp_path / "ran", tmp_path / "framework.pth"
    odd = [Bag(a=Bag(b=1)), Row([1, 2]), deque([1]), defaultdict(list, a=[1]), Command(marker), 2**3000]
    for content in odd:
        torch.save({"state_dict": {"x": torch.ones(2)}, "meta": content}, path, pickle_protocol=protocol)
        assert read(path).tensors["x"].tolist() == [1, 1]
    assert not marker.exists()
