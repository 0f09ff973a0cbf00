"""A profile: what is asked for, what that means on this device, and the measuring of it all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch

from htc_fast import cores
from htc_fast.data.pictures import image_limits
from htc_fast.device import MOST_THREADS, find_device, out_of_memory, supports
from htc_fast.errors import MOST_PICTURES, UserError, check_count, choose, option, settle
from htc_fast.models import zoo
from htc_fast.models.config import as_tuples
from htc_fast.profiling import limits
from htc_fast.profiling.detect import MODES, Run, Setting, profile_model, recorded_model
from htc_fast.profiling.limits import Limits
from htc_fast.profiling.paper import FPS, counted, published
from htc_fast.profiling.peers import profile_peers
from htc_fast.profiling.report import rounded
from htc_fast.profiling.step import profile_step, recorded_step

DTYPES = ("float32", "bfloat16")
USUAL_SHARE = {"cpu": 0.7, "cuda": 0.3}  # of the limit that a detector reaches somewhere: for the estimate alone
INTERRUPTED = "interrupted: what is missing was not measured"


@dataclass(frozen=True)
class ProfileRun:
    """What to measure; what is None depends on the device.

    raises  UserError naming the option that makes no sense
    """

    models: Annotated[tuple[str, ...] | None, "default: the rows of the paper's Table 1", "NAME"] = None
    image_size: Annotated[tuple[int, ...] | None, "short and long side (default: 800 1333; CPU: half)", "PX"] = None
    batch_size: Annotated[int, "pictures at once"] = 1
    dtypes: Annotated[tuple[str, ...], "float32, bfloat16 (default: both where the device has them)", "DTYPE"] = DTYPES
    modes: Annotated[tuple[str, ...], "eager, optimized, peers (default: all)", "MODE"] = (*MODES, "peers")
    rounds: Annotated[int | None, "timed runs of each, after one that is not (default: 20; CPU: 3)"] = None
    set: Annotated[dict[str, Any], "fields of the configuration", "FIELD=VALUE"] = field(default_factory=dict)
    train: Annotated[bool, "a training step instead, on sample pictures"] = False
    trace: Annotated[Path | None, "also write one run as a Chrome trace: chrome://tracing, Perfetto", "FILE"] = None
    device: Annotated[str | None, "cpu, cuda, cuda:1; by default a GPU if there is one"] = None
    threads: Annotated[int | None, "CPU threads"] = None

    def __post_init__(self):
        settle(self)
        object.__setattr__(self, "set", {name: as_tuples(value) for name, value in self.set.items()})
        for name, most in (("batch_size", MOST_PICTURES), ("rounds", 2**31 - 1), ("threads", MOST_THREADS)):
            if getattr(self, name) is not None:
                check_count(option(name), getattr(self, name), most=most)
        # Older scripts spell it the British way.
        object.__setattr__(self, "modes", tuple(mode.replace("optimised", "optimized") for mode in self.modes))
        known = {"models": zoo.list_models(), "modes": (*MODES, "peers"), "dtypes": DTYPES}
        for name, choices in known.items():
            for one in getattr(self, name) or ():
                choose(one, choices, name.removesuffix("s"))
        if self.image_size is not None:
            image_limits(self.image_size)
        zoo.config((self.models or tuple(FPS))[0], **self.set)
        if self.trace is not None and self.trace.is_dir():
            raise UserError(f"--trace {self.trace} is a folder: choose another name.")
        find_device(self.device)


def profile(
    run: ProfileRun,
    say: Callable[[str], object] = lambda text: None,
    note: Callable[[str], object] = lambda text: None,
) -> dict:
    """Measure every part of the models, beside what this device could do at best.

    say      told what comes next
    note     told what is worth keeping: what is not as in the paper, how long it takes, who failed
    returns  what `profile.json` holds; after Ctrl-C what was measured until then, and its setting says so
    raises   UserError if the device has none of the dtypes, or the trace cannot be written
    """
    cores.hold(run.threads)
    setting, changed = make_setting(run)
    for line in changed:
        note(line)
    say("measuring a copy and a product")
    top = limits.measure(setting.device)
    note(estimate(setting, top))
    runs: list[Run] = []
    absent: dict[str, str] = {}
    try:
        for one in measure(setting, absent, say, note):
            runs.append(one)
        say("measuring a copy and a product again")
        top = top.best(limits.measure(setting.device))
        if run.trace is not None:
            say(f"writing {run.trace}")
            trace(setting, run.trace)
    except KeyboardInterrupt:
        note("interrupted")
        changed.append(INTERRUPTED)
    about = {"size": list(setting.size), "batch_size": setting.batch_size, "rounds": setting.rounds, "changed": changed}
    cases = [] if setting.train else [name for name in FPS if name in {run.case for run in runs}]
    return rounded(
        {
            "machine": limits.machine(setting.device),
            "limits": top.as_dict(),
            "setting": about,
            "paper": {name: published(name) for name in cases},
            "absent": absent,
            "rows": [run.row(top) for run in runs],
        }
    )


def make_setting(run: ProfileRun) -> tuple[Setting, list[str]]:
    """What is run on this device, and one sentence for each thing that is not as the paper has it."""
    device = find_device(run.device)
    small, changed = device.type == "cpu", []
    models, size = run.models or tuple(FPS), (800, 1333)
    if run.image_size is not None:
        size = image_limits(run.image_size)
    elif small:
        size = (256, 427) if run.train else (400, 667)
        changed.append(f"on a CPU pictures are {size[0]} x {size[1]} instead of 800 x 1333: --image-size 800 1333")
    if small and run.train and not run.models:
        models = ("htc_r50",)
        changed.append("on a CPU only htc_r50 is trained: name others with --models")
    dtypes = tuple(name for name in run.dtypes if supports(getattr(torch, name), device))
    lacking = [name for name in run.dtypes if name not in dtypes]
    changed += [f"{name} is left out: this {device.type} does not compute in it" for name in lacking]
    if not dtypes:
        raise UserError(f"this {device.type} does not compute in {' or '.join(lacking)}: --dtypes float32.")
    modes = ("train",) if run.train else tuple(mode for mode in (*MODES, "peers") if mode in run.modes)
    rounds = run.rounds or (3 if small else 20)
    return Setting(device, models, size, run.batch_size, dtypes, modes, rounds, run.set), changed


def estimate(setting: Setting, top: Limits) -> str:
    """How long it will take, from what the models need and this device can."""
    share, total = USUAL_SHARE[setting.device.type], 10.0
    for name in setting.models:
        needs = counted(name, setting.padded, setting.batch_size, **setting.overrides).values()
        once = {dtype: sum(need.seconds(top, dtype) for need in needs) / share for dtype in setting.dtypes}
        total += 2 * once.get("float32", 0.0) + 3
        if setting.train:
            total += 3 * once[setting.dtypes[-1]] * (setting.rounds + 2)
        else:
            total += len({*setting.modes} - {"peers"}) * (setting.rounds + 1) * sum(once.values())
    if "peers" in setting.modes:
        total *= 1 + 1 / len(setting.models)
    long = f"{total / 60:.0f} minutes" if total > 90 else f"{total:.0f} seconds"
    return f"this takes about {long}, by what the models need and this device can"


def measure(
    setting: Setting, absent: dict[str, str], say: Callable[[str], object], note: Callable[[str], object]
) -> Iterator[Run]:
    """All models, one after the other; one that does not fit into memory leaves the others.

    absent  gets who has no run -> why
    """
    for name in setting.models:
        try:
            yield from (profile_step if setting.train else profile_model)(name, setting, say)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            absent[name] = "not enough memory: a smaller --image-size or --batch-size"
            note(f"{name}: {absent[name]}")
    if "peers" in setting.modes:
        yield from profile_peers(setting, say, absent)


def trace(setting: Setting, path: Path) -> None:
    """One run of the first model, or one training step, as a Chrome trace with the parts as ranges.

    raises  UserError if the file cannot be written
    """
    recorded = (recorded_step if setting.train else recorded_model)(setting.models[0], setting)
    try:
        recorded.export_chrome_trace(str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write {path} ({error}): choose another --trace.") from None
