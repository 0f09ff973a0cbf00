"""The rows of the last layers that belong to classes: moved by name where a file's classes are not the model's."""

import re
from collections.abc import Sequence

from torch import Tensor

from htc_fast.errors import UserError, few, short

# Rows by class, and how many a class has; a box head's classes have the background's behind them, or objectness's two.
LAST = re.compile(r"^(box_heads\.\d+|mask_heads\.\d+|context_head)\.(classes|deltas|logits)\.(weight|bias)$")
SEMANTIC = re.compile(r"^semantic_head\.logits\.(weight|bias)$")


def moved(
    tensors: dict[str, Tensor], own: dict[str, Tensor], old: Sequence[str], new: Sequence[str], semantic: bool = False
) -> dict[str, Tensor]:
    """A file's tensors with the rows of its classes where the model has these classes.

    tensors   of the file, by our names;  old: its classes by label
    own       the model's, whose rows stay where the file lacks a class;  new: its classes by label
    semantic  the semantic branch's classes are these too, with the background behind them
    returns   tensors of the model's shapes; those without rows by class are the file's own. Where only one of both has
              objectness, that and the background stay the model's
    """
    pairs = [(label, list(old).index(name)) for label, name in enumerate(new) if name in old]
    out = dict(tensors)
    for key, value in tensors.items():
        if key not in own or not (LAST.match(key) or (semantic and SEMANTIC.match(key))):
            continue
        possible = (1, 2) if "box_heads." in key and ".classes." in key else (1,) if SEMANTIC.match(key) else (0,)
        each = 4 if ".deltas." in key else 1
        behind, own_behind = len(value) - each * len(old), len(own[key]) - each * len(new)
        alike = behind in possible and own_behind in possible and value.shape[1:] == own[key].shape[1:]
        if not alike or len(value) == len(own[key]) == 4 == each:
            continue  # one regression for all classes, semantic classes of another kind, another architecture
        # A fresh row takes part where the file has none; the background is the file's.
        made = own[key].detach().clone()
        last = [(len(new) + one, len(old) + one) for one in range(behind) if behind == own_behind]
        for to, source in [*pairs, *last]:
            made[each * to : each * (to + 1)] = value[each * source : each * (source + 1)]
        out[key] = made
    return out


def check_order(given: Sequence[str], own: Sequence[str]) -> None:
    """Names given for a model's classes may be others than its own, but not its own in other places.

    raises  UserError
    """
    elsewhere = [one for place, one in enumerate(given) if one in own and list(own).index(one) != place]
    if elsewhere and len(set(own)) == len(own):
        raise UserError(
            f"class_names puts {short(elsewhere[0])} in another place than the model, whose classes are "
            f"{few(own)}: leave class_names out, or keep the order."
        )
