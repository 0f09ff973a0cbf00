"""FishNet-150 beside a plain definition by the names and shapes that its authors published."""

import pytest
import torch
import torch.nn.functional as F

from htc_fast.errors import UserError
from htc_fast.models.backbone import Backbone
from htc_fast.models.fishnet import Bottleneck, FishNet, Gather, published

# Of each stage: channels in and out, blocks, dilation, whether the first has a projection; transfer's channels, blocks.
STAGES = {
    0: (64, 128, 2, 1, True, None, 0),
    1: (128, 256, 4, 1, True, None, 0),
    2: (256, 512, 8, 1, True, None, 0),
    4: (512, 512, 2, 1, False, 256, 2),
    5: (768, 384, 2, 2, False, 128, 2),
    6: (512, 256, 2, 4, False, 64, 2),
    7: (320, 320, 2, 1, False, 512, 2),
    8: (832, 832, 2, 1, False, 768, 2),
    9: (1600, 1600, 4, 1, False, 512, 4),
}


def norm(name, channels):
    return {f"{name}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")}


def blocks(name, inputs, outputs, count, projects=False):
    shapes = {}
    for i in range(count):
        block, inner, enters = f"{name}.{i}", outputs // 4, inputs if i == 0 else outputs
        for number, (channels, kernel) in enumerate(
            ((enters, (inner, enters, 1, 1)), (inner, (inner, inner, 3, 3))), 1
        ):
            shapes |= norm(f"{block}.bn{number}", channels) | {f"{block}.conv{number}.weight": kernel}
        shapes |= norm(f"{block}.bn3", inner) | {f"{block}.conv3.weight": (outputs, inner, 1, 1)}
        if projects and i == 0:
            shapes |= norm(f"{block}.shortcut.0", enters) | {f"{block}.shortcut.2.weight": (outputs, enters, 1, 1)}
    return shapes


def original_shapes():
    """Every weight of the published classifier."""
    shapes = {}
    for i, (inputs, outputs) in enumerate(((3, 32), (32, 32), (32, 64)), 1):
        shapes |= {f"conv{i}.0.weight": (outputs, inputs, 3, 3)} | norm(f"conv{i}.1", outputs)
    for i, (inputs, outputs, count, _, projects, transfer, transfers) in STAGES.items():
        shapes |= blocks(f"fish.fish.{i}.0", inputs, outputs, count, projects)
        shapes |= blocks(f"fish.fish.{i}.1", transfer, transfer, transfers) if transfers else {}
    bridge = "fish.fish.3"
    shapes |= norm(f"{bridge}.0.0", 512) | {f"{bridge}.0.2.weight": (256, 512, 1, 1)} | norm(f"{bridge}.0.3", 256)
    shapes |= {f"{bridge}.1.weight": (1024, 256, 1, 1), f"{bridge}.1.bias": (1024,)}
    shapes |= blocks(f"{bridge}.2", 1024, 512, 4, True) | norm(f"{bridge}.3.0.0", 1024)
    shapes |= {f"{bridge}.3.0.3.weight": (32, 1024, 1, 1), f"{bridge}.3.0.3.bias": (32,)}
    shapes |= {f"{bridge}.3.0.5.weight": (512, 32, 1, 1), f"{bridge}.3.0.5.bias": (512,)}
    shapes |= norm("fish.fish.9.3.0", 2112) | {"fish.fish.9.3.2.weight": (1056, 2112, 1, 1)}
    shapes |= norm("fish.fish.9.3.3", 1056)
    return shapes | {"fish.fish.9.4.1.weight": (1000, 1056, 1, 1), "fish.fish.9.4.1.bias": (1000,)}


def original_state():
    torch.manual_seed(0)
    state = {}
    for key, shape in original_shapes().items():
        fan = torch.Size(shape[1:]).numel() if len(shape) == 4 else 0
        state[key] = torch.randn(shape) * (2 / fan) ** 0.5 if fan else torch.rand(shape) * 0.5 + 0.5
    return state


class Original:
    """Maps f7..f10 of the published network, function by function; each as the layer that reads it sees it."""

    def __init__(self, state):
        self.state = state

    def norm_relu(self, x, name):
        mean, var, weight, bias = (
            self.state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, 1e-5).relu()

    def conv(self, x, name, **options):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), **options)

    def blocks(self, x, name, count, dilation=1):
        for block in (f"{name}.{i}" for i in range(count)):
            y = self.conv(self.norm_relu(x, f"{block}.bn1"), f"{block}.conv1")
            # The block that changes the number of channels on the way up has the stage's dilation, as all behind it.
            y = self.conv(self.norm_relu(y, f"{block}.bn2"), f"{block}.conv2", padding=dilation, dilation=dilation)
            y = self.conv(self.norm_relu(y, f"{block}.bn3"), f"{block}.conv3")
            if f"{block}.shortcut.2.weight" in self.state:
                x = self.conv(self.norm_relu(x, f"{block}.shortcut.0"), f"{block}.shortcut.2")
            elif x.shape[1] != y.shape[1]:
                n, c, h, w = x.shape
                x = x.reshape(n, y.shape[1], c // y.shape[1], h, w).sum(2)
            x = x + y
        return x

    def bridge(self, x):
        name = "fish.fish.3"
        x = self.conv(self.norm_relu(x, f"{name}.0.0"), f"{name}.0.2")
        x = self.conv(self.norm_relu(x, f"{name}.0.3"), f"{name}.1")
        weights = self.norm_relu(x, f"{name}.3.0.0").mean((2, 3), keepdim=True)
        weights = self.conv(self.conv(weights, f"{name}.3.0.3").relu(), f"{name}.3.0.5").sigmoid()
        return self.blocks(x, f"{name}.2", 4) * weights + weights

    def __call__(self, images):
        x = images
        for i in (1, 2, 3):
            x = self.norm_relu(self.conv(x, f"conv{i}.0", stride=2 if i == 1 else 1, padding=1), f"conv{i}.1")
        maps = [F.max_pool2d(x, 3, 2, 1)]
        for i, beside in enumerate((None, None, None, None, 2, 1, 0, 6, 5, 4)):
            if i == 3:
                maps.append(self.bridge(maps[3]))
                continue
            _, _, count, dilation, _, _, transfers = STAGES[i]
            x = self.blocks(maps[i], f"fish.fish.{i}.0", count, dilation)
            x = F.interpolate(x, scale_factor=2) if i in (4, 5, 6) else F.max_pool2d(x, 2)
            other = [] if beside is None else [self.blocks(maps[beside], f"fish.fish.{i}.1", transfers)]
            maps.append(torch.cat([x, *other], 1))
        readers = [f"fish.fish.{i}.0.0.bn1" for i in (7, 8, 9)] + ["fish.fish.9.3.0"]
        return [self.norm_relu(one, reader) for one, reader in zip(maps[7:], readers)]


def fishnet150():
    return Backbone("fishnet150", pretrained=False, frozen_stages=1, norm_eval=True)


@torch.no_grad()
def test_published_weights_give_the_published_network_s_maps():
    state, made = original_state(), fishnet150().eval()
    made.load_state_dict(published({f"module.{key}": value for key, value in state.items()}))
    images = torch.randn(2, 3, 64, 96)
    for found, want in zip(made(images), Original(state)(images), strict=True):
        torch.testing.assert_close(found, want, rtol=0, atol=1e-5 * float(want.max()))


def test_parameters_with_the_classifier_are_the_published_ones():
    weights = {key: torch.Size(one) for key, one in original_shapes().items() if "running" not in key}
    assert sum(one.numel() for one in weights.values()) == 24_959_400
    head = 2 * 2112 + 2112 * 1056 + 2 * 1056 + 1056 * 1000 + 1000
    assert sum(one.numel() for one in FishNet().parameters()) == 24_959_400 - head


def test_names_of_other_files():
    with pytest.raises(UserError, match=r"no weight .layer1\.0\.conv1\.weight. in their model"):
        published({"module.layer1.0.conv1.weight": torch.ones(1)})


@torch.no_grad()
def test_a_block_that_gathers():
    x = torch.arange(12.0).view(1, 6, 1, 2)
    assert Gather(3)(x).flatten().tolist() == [0 + 2 + 4, 1 + 3 + 5, 6 + 8 + 10, 7 + 9 + 11]
    block = Bottleneck(16, 8, dilation=2, gathers=True).eval()
    torch.nn.init.zeros_(block.conv3.weight)
    x = torch.randn(1, 16, 5, 6)
    torch.testing.assert_close(block(x), x[:, 0::2] + x[:, 1::2])


@torch.no_grad()
def test_memory_stays_channels_last():
    net = FishNet().eval()
    apart = []
    for name, module in net.named_modules():
        module.register_forward_hook(
            lambda _, __, made, name=name: apart.extend(
                name
                for one in (made if isinstance(made, list) else [made])
                if not one.is_contiguous(memory_format=torch.channels_last)
            )
        )
    net(torch.randn(2, 3, 64, 96).contiguous(memory_format=torch.channels_last))
    assert apart == []
