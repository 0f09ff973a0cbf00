"""Swin transformers under timm's names: of mmdetection, and of the authors' own detectors."""

import re

from torch import Tensor

# Where the network is one, in either library.
MMDETECTION = "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight"
AUTHORS = "backbone.layers.0.blocks.0.attn.qkv.weight"
# Computed from the window's size.
TABLES = re.compile(r"^backbone\..*\.relative_position_index$")
RENAMES = (
    (r"^backbone\.norm(\d)\.", r"backbone.norms.\1."),
    (r"^backbone\.patch_embed\.(?:projection|proj)\.", "backbone.net.patch_embed.proj."),
    (r"^backbone\.patch_embed\.norm\.", "backbone.net.patch_embed.norm."),
    (r"^backbone\.(?:stages|layers)\.(\d)\.blocks\.", r"backbone.net.layers_\1.blocks."),
    (r"^(backbone\.net\.layers_.*\.attn)\.w_msa\.", r"\1."),
    (r"^(backbone\.net\.layers_.*)\.ffn\.layers\.0\.0\.", r"\1.mlp.fc1."),
    (r"^(backbone\.net\.layers_.*)\.ffn\.layers\.1\.", r"\1.mlp.fc2."),
)
# Both end a stage with what timm begins the next one with.
MERGING = re.compile(r"^backbone\.(?:stages|layers)\.(\d)\.downsample\.(norm|reduction)\.(weight|bias)$")


def converted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A detector's tensors, with those of a Swin backbone under our names; without one, the same."""
    if MMDETECTION not in state and AUTHORS not in state:
        return state
    out = {}
    for key, value in state.items():
        merging = MERGING.match(key)
        if TABLES.match(key):
            continue
        if merging:
            stage, part, kind = merging.groups()
            key = f"backbone.net.layers_{int(stage) + 1}.downsample.{part}.{kind}"
            value = _by_pixel(value) if MMDETECTION in state else value
        for pattern, name in RENAMES:
            key = re.sub(pattern, name, key)
        out[key] = value
    return out


def _by_pixel(value: Tensor) -> Tensor:
    """[..., 4 C] by channel and within it by the four pixels, row after row -> by pixel, column after column.

    source  mmdetection gathers the pixels that become one by torch's unfold; the authors and timm put them in a row,
            upper left, lower left, upper right, lower right
    """
    return value.unflatten(-1, (-1, 2, 2)).movedim(-3, -1).transpose(-3, -2).flatten(-3)
