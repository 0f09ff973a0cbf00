"""SCNet against its definition, all switches together and each alone; what its parts compute, and what is refused."""

import pytest
import torch
import torch.nn.functional as F

import htc_fast
from htc_fast.errors import UserError
from htc_fast.inference.predict import at_stage
from htc_fast.models.scnet import ContextHead, Relay, ResidualPair, with_context
from tests.models import test_family as family
from tests.models.test_zoo import SIZES, tiny

ONE = {"sample_consistency": True}
VARIANTS = {
    "scnet": ("scnet_r50", {}),
    "one mask head": ("cascade_mask_r50", ONE),
    "relayed features": ("cascade_mask_r50", {**ONE, "feature_relay": True}),
    "global context": ("htc_r50", {"global_context": True}),
    "residual heads": ("htc_r50", {"residual_heads": True}),
    "second stage alone": ("scnet_r50", {"test_stage": 2}),
    "four convolutions, boxes by class": ("scnet_r50", {"box_head": "4conv1fc", "class_agnostic": False}),
}
POOL = family.pool


def conv2d(layer, x):
    return F.conv2d(x, layer.weight, layer.bias, padding=1)


def convolved(convs, x):
    """Pairs: x + second(relu(first(x))), and no ReLU behind the sum; others: relu(convolution)."""
    for one in convs:
        x = x + conv2d(one.second, F.relu(conv2d(one.first, x))) if hasattr(one, "second") else F.relu(conv2d(one, x))
    return x


def context(model, features):
    """[N, C] and logits [N, classes]: the mean of what two pairs make of P6."""
    mean = convolved(model.context_head.convs, features[4]).flatten(2).mean(2)
    return mean, F.linear(mean, model.context_head.classes.weight, model.context_head.classes.bias)


def semantic_map(model, features, logits=False):
    head = model.semantic_head
    if head is None:
        return None
    size = features[1].shape[2:]
    resampled = [F.interpolate(one, size, mode="bilinear", align_corners=True) for one in features]
    x = convolved(head.convs, sum(F.relu(lateral(one)) for one, lateral in zip(resampled, head.lateral)))
    return head.logits(x) if logits else F.relu(head.embedding(x))


def hidden(head, x):
    for conv in head.convs or ():
        x = F.relu(conv2d(conv, x))
    x = F.relu(head.fc1(x.flatten(1)))
    return x if head.fc2 is None else F.relu(head.fc2(x))


def box_head(head, x):
    x = hidden(head, x)
    return head.classes(x), head.deltas(x)


def pool_of(model, config, features, n, boxes, grid, semantic):
    x = POOL(config, features, n, boxes, grid, semantic)
    return x if model.context_head is None else x + context(model, features)[0][n][:, None, None]


def relayed(model, seen):
    """hidden [K, D] -> [K, C, 14, 14], every pixel a mix of four of 7 x 7, whose corners lie on the result's."""
    small = F.linear(seen, model.relay.dense.weight, model.relay.dense.bias).view(len(seen), -1, 7, 7)
    mix = torch.zeros(14, 7)
    for row in range(14):
        low = min(int(row * 6 / 13), 5)
        mix[row, low + 1] = row * 6 / 13 - low
        mix[row, low] = 1 - mix[row, low + 1]
    return torch.einsum("yi,kcij,xj->kcyx", mix, small, mix)


def mask_logits(model, features, n, boxes, semantic, seen=None):
    """Of every mask head [K, classes, 28, 28]; seen: what the last box head made of the boxes, found here if None."""
    config, out, previous = model.config, [], None
    x = pool_of(model, config, features, n, boxes, 14, semantic if config.semantic in ("mask", "both") else None)
    if model.relay is not None:
        if seen is None:
            own = semantic if config.semantic in ("box", "both") else None
            seen = hidden(model.box_heads[-1], pool_of(model, config, features, n, boxes, 7, own))
        x = x + relayed(model, seen)
    for head in model.mask_heads:
        here = x if previous is None or head.flow is None else x + F.relu(head.flow(previous))
        previous = convolved(head.convs, here)
        out.append(head.logits(F.relu(head.upsample(previous))))
    return out


def mask_probabilities(model, features, n, boxes, labels, semantic):
    found = mask_logits(model, features, n, boxes, semantic)
    assert len(found) == (1 if model.config.sample_consistency else 3)
    return torch.stack([one[torch.arange(len(labels)), labels].sigmoid() for one in found]).mean(0)


@pytest.mark.parametrize("name, options", VARIANTS.values(), ids=VARIANTS.keys())
def test_detect_is_the_definition(name, options, monkeypatch):
    made = []

    def louder(name, **fields):
        """Parts that start quietly say as much as the others."""
        made.append(tiny(name, **fields))
        for part in (made[0].relay, made[0].context_head):
            for parameter in [] if part is None else part.parameters():
                parameter.data += torch.randn_like(parameter) * 0.05
        return made[0]

    monkeypatch.setattr(family, "tiny", louder)
    monkeypatch.setattr(family, "pool", lambda *given: pool_of(made[0], *given))
    for own in (semantic_map, box_head, mask_probabilities):
        monkeypatch.setattr(family, own.__name__, own)
    family.test_detect_is_the_definition(name, options)
    # It was this detector that was compared.
    assert [one.config.name for one in made] == [name]


@torch.no_grad()
def test_a_pair_has_no_relu_behind_its_sum():
    pair = ResidualPair(1)
    for layer, bias in ((pair.first, 0.5), (pair.second, -4.0)):
        layer.weight.zero_(), layer.bias.fill_(bias)
        layer.weight[0, 0, 1, 1] = 2.0
    x = torch.tensor([-3.0, 0.0, 1.0]).view(1, 1, 1, 3)
    # x + 2 * relu(2 x + 0.5) - 4
    assert pair(x).flatten().tolist() == [-7.0, -3.0, 2.0]


@torch.no_grad()
def test_the_relay_s_corners_are_those_of_the_small_map():
    relay = Relay(1, 1)
    relay.dense.weight.copy_(torch.arange(49.0)[:, None]), relay.dense.bias.fill_(-1.0)
    found = relay(torch.tensor([[2.0]]))[0, 0]  # 2 * (7 row + column) - 1 of 7 x 7 pixels
    assert (found[0, 0], found[0, 13], found[13, 0], found[13, 13]) == (-1, 11, 83, 95)
    steps = torch.arange(14) * 6 / 13
    torch.testing.assert_close(found, 2 * (7 * steps[:, None] + steps) - 1)


@torch.no_grad()
def test_the_context_is_the_mean_of_the_coarsest_level():
    head = ContextHead(2, 3)
    for pair in head.convs:
        pair.second.weight.zero_(), pair.second.bias.copy_(torch.tensor([1.0, -1.0]))
    head.classes.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [2, 0]])), head.classes.bias.fill_(0.5)
    coarsest = torch.tensor([[1.0, 2, 3, 6], [0, 0, 0, 8]]).view(1, 2, 2, 2)
    vector, logits = head([torch.full((1, 2, 9, 9), torch.nan), coarsest])
    assert vector.flatten().tolist() == [5.0, 0.0] and vector.shape == (1, 2, 1, 1)
    assert logits.tolist() == [[5.5, 0.5, 10.5]]


def test_every_roi_takes_in_its_own_image():
    vector = torch.tensor([[1.0, 2], [10, 20]])[..., None, None]
    boxes, rois = torch.zeros(2, 3, 4), torch.tensor([[1.0, 0, 0, 4, 4], [0, 0, 0, 4, 4], [1, 0, 0, 2, 2]])
    found = with_context(torch.zeros(6, 2, 1, 1), vector, boxes).flatten(1)
    assert found.tolist() == [[1, 2]] * 3 + [[10, 20]] * 3
    assert with_context(torch.zeros(3, 2, 1, 1), vector, rois).flatten(1).tolist() == [[10, 20], [1, 2], [10, 20]]
    assert [one.sum() for one in with_context([torch.zeros(3, 2, 1, 1)] * 2, vector, rois)] == [63, 63]


def test_parameter_counts():
    with torch.device("meta"):
        model = htc_fast.create_model("scnet_r50")
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    conv, last = 256 * 256 * 9 + 256, (256 * 256 * 4 + 256) + (256 * 80 + 80)
    assert count["mask_heads"] == 12 * conv + last and count["box_heads"] == 3 * 13_982_805
    assert count["semantic_head"] == 2_802_103  # two pairs weigh what four convolutions do
    assert count["context_head"] == 4 * conv + 256 * 80 + 80  # as mmdetection has
    assert count["relay"] == 1024 * 12_544 + 12_544
    assert sum(count.values()) == 94_799_269


def test_names_of_the_weights():
    state = tiny("scnet_r50").state_dict()
    named = lambda *parts: {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}  # noqa: E731
    own = lambda part: {key for key in state if key.startswith(part)}  # noqa: E731

    def pairs(part, count):
        return named(*(f"{part}.convs.{k}.{one}" for k in range(count) for one in ("first", "second")))

    assert own("mask_heads.") == pairs("mask_heads.0", 6) | named("mask_heads.0.upsample", "mask_heads.0.logits")
    assert own("context_head.") == pairs("context_head", 2) | named("context_head.classes")
    assert own("semantic_head.convs.") == pairs("semantic_head", 2) and own("relay.") == named("relay.dense")
    plain = {key for key in tiny("htc_r50").state_dict() if not key.startswith(("mask_heads.", "semantic_head.convs."))}
    assert plain == set(state) - own("mask_heads.") - own("context_head.") - own("relay.") - own("semantic_head.convs.")


def test_a_stage_alone_keeps_the_one_mask_head_and_the_relay_s_own_box_head():
    model = tiny("scnet_r50").eval()
    images = torch.randn(2, 3, 64, 96)
    whole = model.detect(images, SIZES)
    for t in (1, 2, 3):
        with at_stage(model, t):
            found = model.detect(images, SIZES)
        assert not torch.equal(found.scores, whole.scores) and found.masks.sum() > 0
    for parameter in model.box_heads[1].parameters():
        parameter.data.fill_(torch.nan)
    with at_stage(model, 1):
        assert model.detect(images, SIZES).masks.isfinite().all()
    for parameter in model.box_heads[2].fc1.parameters():
        parameter.data.fill_(torch.nan)
    with at_stage(model, 1):
        assert model.detect(images, SIZES).masks.isnan().any()


REFUSED = {
    "feature_relay hands .*, got sample_consistency=False: set sample_consistency=True, or feature_relay=False": (
        "cascade_mask_r50", {"feature_relay": True}),
    "sample_consistency trains .*, got interleaved=True, which draws others: set interleaved=False": (
        "htc_r50", {**ONE, "information_flow": False}),
    "sample_consistency leaves one mask head, got information_flow=True, .*: set information_flow=False": (
        "htc_r50", {**ONE, "interleaved": False}),
    "residual_heads makes .*, got adaptive_pooling=True, .*: set adaptive_pooling=False, or residual_heads=False": (
        "scnet_r50", {"adaptive_pooling": True}),
    "residual_heads makes .*, got mask_fc=True, .*: set mask_fc=False, or residual_heads=False": (
        "htc_r50", {"residual_heads": True, "mask_fc": True}),
}  # fmt: skip


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_does_not_go_together(sentence):
    name, options = REFUSED[sentence]
    with pytest.raises(UserError, match=f"^{sentence}\\.$"):
        tiny(name, **options)
