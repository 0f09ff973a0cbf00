"""From the profile's options to what is run: settings, time needed, the training step, files."""

import contextlib
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import torch

from htc_fast import train as training
from htc_fast.commands.output import check_writable
from htc_fast.data.pictures import image_size
from htc_fast.data.sample import make_sample_dataset
from htc_fast.device import find_device, supports
from htc_fast.errors import UserError, choose
from htc_fast.models import zoo
from htc_fast.profiling import limits, report
from htc_fast.profiling.detect import MODES, Run, Setting, build, picture
from htc_fast.profiling.limits import Limits
from htc_fast.profiling.paper import FPS, counted, published
from htc_fast.profiling.step import profile_step, recorded_step
from htc_fast.training import presets
from htc_fast.training import run as train_setup
from htc_fast.training.distributed import World
from htc_fast.training.loop import Trainer

DTYPES = ("float32", "bfloat16")
USUAL_SHARE = {"cpu": 0.7, "cuda": 0.3}  # of the limit that a detector reaches somewhere: for the estimate alone


def check(options: Namespace) -> Namespace:
    """Fill in what was left out, and refuse what makes no sense.

    raises  UserError naming the option
    """
    for name in ("batch_size", "rounds", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} takes a number of at least 1, got {value}.")
    options.models_given = options.models is not None
    options.models = [choose(name, zoo.list_models(), "model") for name in options.models or FPS]
    options.modes = [choose(name, (*MODES, "peers"), "mode") for name in options.modes or (*MODES, "peers")]
    options.dtypes = [choose(name, DTYPES, "dtype") for name in options.dtypes or DTYPES]
    image_size(options.image_size)
    overrides(options)
    for name in ("out", "trace"):
        path = getattr(options, name)
        if path is not None and (path.is_file() if name == "out" else path.is_dir()):
            raise UserError(f"--{name} {path} is a {'file' if name == 'out' else 'folder'}: choose another name.")
    find_device(options.device)
    check_writable(options.out)
    if options.trace is not None:
        check_writable(options.trace.parent)
    return options


def overrides(options: Namespace) -> dict:
    """--set as fields of the configuration.

    raises  UserError for one that no model has
    """
    found = train_setup.parse_fields(options.set)
    try:
        zoo.config(options.models[0], **found)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, UserError) else UserError(f"--set: {error}") from error
    return found


def setting(options: Namespace) -> tuple[Setting, list[str]]:
    """What is run, and one sentence for each thing that is not as the paper has it."""
    device = find_device(options.device)
    small, changed = device.type == "cpu", []
    size = image_size(options.image_size)
    if size is None:
        size = (400, 667) if small else (800, 1333)
        if options.train:
            size = (256, 427) if small else (800, 1333)
        if small:
            changed.append(f"on a CPU pictures are {size[0]} x {size[1]} instead of 800 x 1333: --image-size 800 1333")
    if small and options.train and not options.models_given:
        options.models = ["htc_r50"]
        changed.append("on a CPU only htc_r50 is trained: name others with --models")
    lacking = [name for name in options.dtypes if not supports(getattr(torch, name), device)]
    changed += [f"{name} is left out: this {device.type} does not compute in it" for name in lacking]
    if len(lacking) == len(options.dtypes):
        raise UserError(f"this {device.type} does not compute in {' or '.join(lacking)}: --dtypes float32.")
    rounds = options.rounds or (3 if small else 20)
    modes = tuple(mode for mode in MODES if mode in options.modes)
    return Setting(device, size, options.batch_size, tuple(options.dtypes), modes, rounds), changed


def estimate(options: Namespace, setting: Setting, top: Limits) -> str:
    """How long it will take, from what the models need and this device can."""
    share, dtypes = USUAL_SHARE[setting.device.type], setting.usable_dtypes()
    total = 10.0
    for name in options.models:
        needs = counted(name, setting.padded, setting.batch_size, **overrides(options)).values()
        once = {dtype: sum(need.seconds(top, dtype) for need in needs) / share for dtype in dtypes}
        counting = 2 * once.get("float32", 0.0) + 3
        if options.train:
            total += counting + 3 * once[dtypes[-1]] * (setting.rounds + 2)
        else:
            total += counting + len(setting.modes) * (setting.rounds + 1) * sum(once.values())
    if "peers" in options.modes and not options.train:
        total *= 1 + 1 / len(options.models)
    long = f"{total / 60:.0f} minutes" if total > 90 else f"{total:.0f} seconds"
    return f"this takes about {long}, by what the models need and this device can"


def result(options: Namespace, setting: Setting, changed: list[str], top: Limits, found) -> dict:
    """What `profile.json` holds.

    found  runs, memory, absent, failed
    """
    rows = [run.row(top) for run in found.runs]
    for row, peak in zip(rows, found.memory):
        row["memory_mb"] = peak
    about = {"size": list(setting.size), "batch_size": setting.batch_size, "rounds": setting.rounds, "changed": changed}
    papers = {} if options.train else {name: published(name) for name in options.models if name in FPS}
    return {"machine": limits.machine(setting.device), "limits": top.as_dict(), "setting": about, "paper": papers,
            "absent": found.absent | found.failed, "rows": rows}  # fmt: skip


class Progress:
    """Says where it is, in one line that is written over on a terminal."""

    def __init__(self):
        self.began, self.last = time.monotonic(), 0

    def line(self, text: str) -> None:
        """One that stays."""
        self.done()
        print(text, file=sys.stderr, flush=True)

    def __call__(self, what: str) -> None:
        line = f"[{time.monotonic() - self.began:4.0f} s] {what}"
        if sys.stderr.isatty():
            print(f"\r{line:<{self.last}}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
        self.last = len(line)

    def done(self) -> None:
        """Make room for the table."""
        if sys.stderr.isatty():
            print(f"\r{'':<{self.last}}\r", end="", file=sys.stderr, flush=True)


def train_step(options: Namespace, name: str, setting: Setting, say) -> tuple[Run, float]:
    """A step as `python -m htc_fast.train` takes it, on the sample pictures; nothing is written."""
    say(f"{name}: preparing sample pictures")
    dtype = setting.usable_dtypes()[-1]
    with trainer(options, name, setting, dtype) as made:
        return profile_step(made, dtype, setting.rounds, say)


@contextlib.contextmanager
def trainer(options: Namespace, name: str, setting: Setting, dtype: str) -> Iterator[Trainer]:
    """A training run that has not begun, by the paper's recipe."""
    words = ["--model", name, "--data", str(make_sample_dataset()), "--no-pretrained", "--workers", "0"]
    words += ["--image-size", *map(str, setting.size), "--batch-size", str(setting.batch_size)]
    words += ["--amp" if dtype == "bfloat16" else "--no-amp", *(["--set", *options.set] if options.set else [])]
    given = presets.fill(training.parser().parse_args(words), presets.PAPER)
    world = World(device=setting.device)
    config = train_setup.make_config(given)
    train, _ = train_setup.make_datasets(given, semantic=config.semantic != "none")
    model = train_setup.make_model(config, given, train)
    batches = train_setup.make_batches(given, train, config, world)
    with tempfile.TemporaryDirectory() as folder:
        yield Trainer(model, batches, train_setup.make_recipe(given, world), folder, world)


def trace(options: Namespace, setting: Setting) -> None:
    """One run of the first model, or one training step, as a Chrome trace with the parts as ranges.

    raises  UserError if the file cannot be written
    """
    name = options.models[0]
    if options.train:
        with trainer(options, name, setting, setting.usable_dtypes()[-1]) as made:
            recorded = recorded_step(made)
    else:
        model = build(name, setting.device, **overrides(options))
        pictures = [picture(setting.size)] * setting.batch_size
        given = {"size": setting.size, "batch_size": setting.batch_size, "score_threshold": 0.0}
        model.predict(pictures, **given)
        with torch.profiler.profile() as recorded:
            model.predict(pictures, **given)
    try:
        recorded.export_chrome_trace(str(options.trace))
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write {options.trace} ({error}): choose another --trace.") from None


def write(result: dict, folder: Path, name: str) -> list[Path]:
    """Both files.

    raises  UserError if they cannot be written
    """
    try:
        return report.write(result, folder, name)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): choose another --out.") from None
