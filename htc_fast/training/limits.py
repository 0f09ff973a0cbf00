"""What numbers a training run may be given: one sentence for each that makes no sense."""

from typing import Any

from htc_fast.errors import MOST, MOST_PICTURES, UserError, check_count, check_number, option, shown

# The least that may be asked for of each.
COUNTS = dict.fromkeys(("iterations", "batch_size", "accumulate", "crop", "keep", "patience"), 1)
COUNTS |= {"tile": 32} | dict.fromkeys(("warmup", "evaluate_every", "save_every", "workers"), 0)
# The most, of those that would end in a lack of memory.
LIMITS = {"batch_size": MOST_PICTURES, "workers": 4096}
NUMBERS = ("epochs", "max_minutes", "lr", "clip", "weight_decay", "min_delta")
ZERO = {"weight_decay", "min_delta"}
# Shares: whether 0 and 1 are among them.
SHARES = {"ema": (True, False), "layer_decay": (False, True)}


def check_numbers(run: Any) -> None:
    """raises  UserError naming the option whose number makes no sense"""
    for name, least in COUNTS.items():
        if getattr(run, name) not in (None, "auto"):
            check_count(option(name), getattr(run, name), least, LIMITS.get(name, MOST))
    for name in NUMBERS:
        if getattr(run, name) is not None:
            check_number(option(name), getattr(run, name), zero=name in ZERO)
    for name in SHARES:
        _check_share(name, getattr(run, name))
    check_count("--seed", run.seed, least=-(2**63), most=2**63 - 1)


def _check_share(name: str, value: float) -> None:
    """raises  UserError where it is none"""
    zero, one = SHARES[name]
    if not (0 < value < 1 or (zero and value == 0) or (one and value == 1)):
        low, high = "from 0" if zero else "above 0", "to 1" if one else "to below 1"
        raise UserError(f"{option(name)} takes a number {low} {high}, got {shown(value)}.")
