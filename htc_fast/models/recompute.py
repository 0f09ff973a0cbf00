"""Gradient checkpointing of a backbone: blocks keep their inputs alone, and compute the rest again going backwards.

timm's own switch is lost in networks that give features: there it leaves the first and last stage out, keeps whole
stages or, for some, does nothing.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from timm.layers import DropPath
from torch import nn
from torch.utils.checkpoint import checkpoint

from htc_fast.models.frozen_norms import StandIn, instead, stand_ins

NORMS = nn.modules.batchnorm._BatchNorm
RANDOM = (DropPath, nn.modules.dropout._DropoutNd)


def recompute_blocks(net: nn.Module, enabled: bool) -> int:
    """Switch it on or off for all blocks of a network, in training alone; how many blocks there are.

    What is computed, gradients and running statistics stay the same; names and weights too.
    """
    blocks = list(_blocks(net))
    for block in blocks:
        if enabled:
            block.forward = functools.partial(_recomputed, block)
        else:
            block.__dict__.pop("forward", None)
    return len(blocks)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules of more than one layer with weights that contain no others."""
    for child in module.children():
        listed = isinstance(child, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
        # timm's networks and stages have a switch of their own; so have a few of its blocks.
        inside = list(_blocks(child)) if listed or hasattr(child, "grad_checkpointing") else []
        if not inside and not listed and sum(bool(one._parameters) for one in child.modules()) > 1:
            inside = [child]
        yield from inside


def _recomputed(block: nn.Module, *args: Any, **options: Any) -> Any:
    """What the block's own `forward` gives."""
    if not (block.training and torch.is_grad_enabled()):
        return type(block).forward(block, *args, **options)

    def forward(*again: Any) -> Any:
        return type(block).forward(block, *_own_lists(again), **options)

    # The state of random numbers is kept where some are drawn.
    drawn = any(isinstance(module, RANDOM) and module.training for module in block.modules())
    kept: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": drawn}
    norms = [one for one in block.modules() if isinstance(one, NORMS) and one.training]
    # A compiler writes into running statistics once by itself, and takes no contexts.
    if not torch.compiler.is_compiling():
        kept["context_fn"] = lambda: (contextlib.nullcontext(), _again(norms, stand_ins(block)))
    return checkpoint(forward, *_own_lists(args), **kept)


def _own_lists(args: Sequence[Any]) -> tuple:
    """The same, with lists that nobody else changes: some blocks write into the list of maps that they are given."""
    return tuple(list(one) if isinstance(one, list) else one for one in args)


@contextlib.contextmanager
def _again(norms: Sequence[nn.Module], forwards: Sequence[StandIn]) -> Iterator[None]:
    """The second time layers compute what they did, and batch norms, which have seen this batch, write into copies."""
    kept = [dict(norm._buffers) for norm in norms]
    for norm, buffers in zip(norms, kept):
        norm._buffers.update({name: None if one is None else one.clone() for name, one in buffers.items()})
    try:
        with instead(forwards):
            yield
    finally:
        for norm, buffers in zip(norms, kept):
            norm._buffers.update(buffers)
