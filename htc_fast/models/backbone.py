"""Any timm model, or FishNet-150, as a backbone with feature maps at strides 4, 8, 16 and 32."""

import contextlib
import inspect
from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from timm.models.dpn import DualPathBlock
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from htc_fast.errors import UserError, choose
from htc_fast.models import drop_path as stochastic_depth
from htc_fast.models import fishnet, swin
from htc_fast.models.config import Model
from htc_fast.models.convolution import take_over
from htc_fast.models.deformable import DeformableConv2d, exchange
from htc_fast.models.frozen_norms import Pair, all_own, folded, is_depthwise, pairs
from htc_fast.models.norm import keeps_statistics
from htc_fast.models.recompute import recompute_blocks
from htc_fast.models.rfp import blank, take_feedback
from htc_fast.models.sac import SwitchableConv2d
from htc_fast.models.standardised import standardise
from htc_fast.models.weights import imagenet

STRIDES = (4, 8, 16, 32)
TRIAL = (32, 160)  # odd multiples of 32, and unequal: a window or grid that fits these fits every size


class Backbone(nn.Module):
    """images [N, 3, H, W] -> C2..C5, channels-last in memory.

    name           timm's name, or fishnet150
    pretrained     ImageNet weights through timm
    frozen_stages  the stem and this many stages get no gradient; 0: all are trained
    norm_eval      batch norms keep their running statistics, also in training; those of frozen stages always do
    stride_in_1x1  bottleneck blocks of a ResNet take their step in the first convolution instead of the second
    dcn            stages, 2 to 5, whose 3x3 convolutions are deformable
    drop_path      share of samples for which the last residual block is dropped in training, of those before less
    sac            stages, 2 to 5, whose 3x3 convolutions are switchable atrous ones
    standardised   weights of the others are standardised, as DetectoRS has them
    feedback       channels of maps at strides 8, 16 and 32 that a step before gives back; 0: there are none
    norms          maps of a DPN or a FishNet, which have their batch norms and ReLUs before convolutions, get their own
                   here; ImageNet weights bring what these networks' next layers do to the same maps. Those of a Swin
                   transformer get layer norms, as in its authors' detectors
    raises         UserError if timm has no such model, its features lack one of the strides, it takes only pictures of
                   certain sizes, it has no bottlenecks, nothing to deform, to switch or to drop, or takes no feedback,
                   or its weights cannot be had
    """

    def __init__(
        self,
        name: str,
        pretrained: bool,
        frozen_stages: int,
        norm_eval: bool,
        stride_in_1x1: bool = False,
        dcn: tuple[int, ...] = (),
        sac: tuple[int, ...] = (),
        standardised: bool = False,
        feedback: int = 0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.net: Any = _create(name, pretrained, drop_path)  # timm's, with feature_info
        if stride_in_1x1:
            _move_strides(self.net, name)
        reductions = list(self.net.feature_info.reduction())
        missing = [stride for stride in STRIDES if stride not in reductions]
        if missing:
            raise UserError(
                f"backbone {name!r} has features at strides {reductions} and lacks {missing}: "
                "choose one with strides 4, 8, 16 and 32, such as resnet50 or convnext_tiny."
            )
        last = {stride: index for index, stride in enumerate(reductions)}
        self.indices = [last[stride] for stride in STRIDES]
        if both := sorted({*dcn} & {*sac}):
            raise UserError(
                f"dcn and sac both replace the 3x3 convolutions of {'stages' if both[1:] else 'stage'} "
                f"{', '.join(map(str, both))}: choose one of them for each stage (sac reads between pixels too)."
            )
        exchange(self.net, name, self.indices, dcn, DeformableConv2d, "dcn", "deformable")
        exchange(self.net, name, self.indices, sac, SwitchableConv2d, "sac", "switchable")
        if standardised:
            standardise(self.net)
        self.feedback = feedback
        if feedback:
            take_feedback(self.net, name, self.indices, feedback)
        self.channels = [self.net.feature_info.channels()[index] for index in self.indices]
        self.channels_first = str(getattr(self.net, "output_fmt", "NCHW")).upper().endswith("NCHW")
        self.norms = nn.ModuleList(_norms(self.net, name, self.channels, pretrained))
        self.norm_eval = norm_eval
        self.pairs: list[Pair] | None = None  # found when they are first wanted
        self.depthwise = any(map(is_depthwise, self.net.modules()))
        take_over(self.net)
        self._freeze(frozen_stages)
        self._try(name)

    @classmethod
    def of(cls, config: Model, feedback: int = 0) -> "Backbone":
        """The one that a configuration describes; feedback: channels of it, for the further steps of a recursion."""
        return cls(
            config.backbone,
            config.pretrained,
            config.frozen_stages,
            config.norm_eval,
            config.stride_in_1x1,
            config.dcn,
            config.sac,
            standardised=bool(config.sac) or config.fpn_steps > 1,
            feedback=feedback,
            drop_path=config.drop_path,
        )

    def forward(self, images: Tensor, feedback: Sequence[Tensor] = ()) -> list[Tensor]:
        images = images.contiguous(memory_format=torch.channels_last)
        with self._autocast(images), self._folded(images):
            maps = self.net(images, *feedback)
        maps = [maps[index] for index in self.indices]
        if len(self.norms):
            maps = [norm(one) for norm, one in zip(self.norms, maps)]
            maps = [F.relu_(one) for one in maps] if self.channels_first else maps
        return maps if self.channels_first else [one.permute(0, 3, 1, 2) for one in maps]

    def _folded(self, images: Tensor) -> contextlib.AbstractContextManager:
        return folded(self.pairs or []) if self._folds(images) else contextlib.nullcontext()

    def _autocast(self, images: Tensor) -> contextlib.AbstractContextManager:
        """On a CPU, depthwise convolutions that are not our own go backwards more slowly in bf16 than in fp32."""
        slow = images.device.type == "cpu" and self.training and self.depthwise
        if not slow or (self._folds(images) and all_own(self.net, self.pairs or [], images)):
            return contextlib.nullcontext()
        return torch.autocast("cpu", enabled=False)

    def _folds(self, images: Tensor) -> bool:
        if images.device.type != "cpu" or not self.training or torch.compiler.is_compiling():
            return False
        if self.pairs is None:
            self.pairs = pairs(self.net)
        return True

    def checkpoint(self, enabled: bool) -> None:
        """Whether training keeps the blocks' inputs alone, and computes what is inside again going backwards.

        raises  UserError if the network has no blocks
        """
        if not recompute_blocks(self.net, enabled) and enabled:
            raise UserError(
                "gradient checkpointing computes a backbone's blocks again, and this one has none: choose another "
                "backbone, such as resnet50 or swin_tiny_patch4_window7_224, or leave it off."
            )

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        self.pairs = None  # a norm may have been exchanged meanwhile
        for module in self.modules():
            if keeps_statistics(module) or (self.norm_eval and isinstance(module, nn.modules.batchnorm._BatchNorm)):
                module.eval()
        return self

    @torch.no_grad()
    def _try(self, name: str) -> None:
        """Small passes, as the alternative is to fail in the first step, or to read features at the wrong places."""
        sizes = [TRIAL]
        if any(one.ndim > 1 and not key.endswith("weight") for key, one in self.net.state_dict().items()):
            # Tables of positions may end at the size of timm's own pictures.
            own = self.net.pretrained_cfg["input_size"][-1] // 32 * 32
            sizes.append((own + 32, own + 96))
        super().train(False)  # batch norms keep their statistics
        trouble = next(filter(None, (self._trouble(size) for size in sizes)), None)
        super().train()
        if trouble:
            raise UserError(
                f"backbone {name!r} does not take pictures of every size whose sides 32 divides, as a detector needs; "
                f"{trouble}; choose one without a fixed size or window, such as resnet50, convnext_tiny or "
                "swin_tiny_patch4_window7_224."
            )

    def _trouble(self, size: tuple[int, int]) -> str | None:
        """What is wrong with features of this size, (height, width); None: nothing."""
        weight = next(self.net.parameters())
        wanted = [[1, count, *(side // stride for side in size)] for count, stride in zip(self.channels, STRIDES)]
        try:
            images = weight.new_zeros(1, 3, *size)
            found = [list(one.shape) for one in self(images, blank(images, self.feedback))]
            wrong = None if found == wanted else f"its features are {found} instead of {wanted}"
        except (RuntimeError, TypeError, AssertionError, AttributeError, ValueError, IndexError) as error:
            wrong = str(error).strip().splitlines()[0] if str(error).strip() else "timm's code asserts another size"
        return wrong and f"with {size[0]} x {size[1]} pixels: {wrong}"

    def _freeze(self, stages: int) -> None:
        if stages < 1:
            return
        ends = getattr(self.net, "frozen_ends", None) or [
            self.net.feature_info.module_name(one) for one in self.indices
        ]
        end = ends[min(stages, len(STRIDES)) - 1].replace(".", "_")
        children = [name for name, _ in self.net.named_children()]
        if end not in children:
            return
        for name in children[: children.index(end) + 1]:
            self.net.get_submodule(name).requires_grad_(False)
            for path in stochastic_depth.paths_of(self.net.get_submodule(name)):
                path.drop_prob = 0.0
        if swin.is_swin(self.net):
            self.norms[:stages].requires_grad_(False)


def _move_strides(net: nn.Module, name: str) -> None:
    blocks = [module for module in net.modules() if isinstance(module, Bottleneck)]
    if not blocks:
        raise UserError(f"stride_in_1x1 is for ResNets of bottleneck blocks, such as resnet50: {name!r} has none.")
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def _norms(net: nn.Module, name: str, channels: list[int], pretrained: bool) -> Sequence[nn.Module]:
    """One for each map, of networks whose maps leave without."""
    if swin.is_swin(net):
        return swin.output_norms(name, channels, pretrained)
    if isinstance(net, fishnet.FishNet):
        return [nn.BatchNorm2d(count) for count in channels]
    if not any(isinstance(module, DualPathBlock) for module in net.modules()):
        return []
    made = [nn.BatchNorm2d(count, eps=0.001) for count in channels]
    if pretrained:
        features = timm.create_model(name, pretrained=True).features
        last = features.conv5_bn_ac.bn
        for norm, known in zip(made, [*(features.get_submodule(f"conv{i}_1.c1x1_a.bn") for i in (3, 4, 5)), last]):
            norm.load_state_dict(known.state_dict())
    return made


def _create(name: str, pretrained: bool, drop_path: float) -> nn.Module:
    base = name.split(".")[0]
    choose(name if base == fishnet.NAME else base, [*timm.list_models(), fishnet.NAME], "backbone")
    if base == fishnet.NAME:
        if pretrained:
            raise UserError(
                f"{fishnet.NAME} has no ImageNet weights that timm could bring: start without, with pretrained=False "
                "(--no-pretrained), or from a detector's, with weights= (--weights)."
            )
        if drop_path > 0:
            raise stochastic_depth.refused(name)
        return fishnet.FishNet()
    options: dict[str, Any] = {"features_only": True, "pretrained": pretrained}
    # Transformers with a fixed window grid take any image size only when told so.
    if "strict_img_size" in inspect.signature(timm.models.model_entrypoint(base)).parameters or "swin" in base:
        options["strict_img_size"] = False
    if drop_path > 0:
        options[stochastic_depth.OPTION] = drop_path
    try:
        net = timm.create_model(name, **options)
    except (RuntimeError, TypeError, AssertionError, AttributeError, ValueError) as error:
        if stochastic_depth.OPTION in str(error):
            raise stochastic_depth.refused(name) from error
        raise UserError(f"timm cannot give feature maps of {name!r} ({error}): choose another backbone.") from error
    except (OSError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"the ImageNet weights of {name} cannot be had ({reason}): go online once, or start without them, with "
            f"pretrained=False (--no-pretrained); those of {imagenet.PACKAGED} come as a package for training."
        ) from error
    stochastic_depth.check(net, name, drop_path)
    swin.take_any_size(net)
    return net
