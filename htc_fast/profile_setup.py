"""From the profile's options to what is run: settings, time needed, the training step, files."""

import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import torch

from htc_fast import train as training
from htc_fast import train_setup
from htc_fast.cli import choose
from htc_fast.data.sample import make_sample_dataset
from htc_fast.errors import UserError
from htc_fast.models import zoo
from htc_fast.processor import supports
from htc_fast.profiling import report
from htc_fast.profiling.detect import MODES, Run, Setting, build, picture
from htc_fast.profiling.paper import FPS, counted
from htc_fast.profiling.step import profile_step
from htc_fast.restore import find_device, image_size
from htc_fast.training import presets
from htc_fast.training.distributed import World
from htc_fast.training.loop import Trainer

DTYPES = ("float32", "bfloat16")
USUAL_RATE = {"cpu": 8e10, "cuda": 5e13}  # FLOP/s that a detector reaches somewhere: for the estimate alone


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


class Progress:
    """Says how long it will take, and then where it is."""

    def __init__(self, options: Namespace, setting: Setting):
        self.began, self.last = time.monotonic(), 0
        counts = [counted(name, setting.padded, setting.batch_size, **overrides(options)) for name in options.models]
        once = sum(need.flop for needs in counts for need in needs.values()) / USUAL_RATE[setting.device.type]
        runs = len(setting.usable_dtypes()) * len(setting.modes) * (setting.rounds + 1) + 2
        self.seconds = once * (3 * (setting.rounds + 2) if options.train else runs) + 5 * len(options.models)
        if "peers" in options.modes and not options.train:
            self.seconds *= 1 + 1 / len(options.models)

    def estimate(self) -> str:
        """Beforehand."""
        long = f"{self.seconds / 60:.0f} minutes" if self.seconds > 90 else f"{max(self.seconds, 5):.0f} seconds"
        return f"this takes about {long}, by rule of thumb"

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
    words = ["--model", name, "--data", str(make_sample_dataset()), "--no-pretrained", "--workers", "0"]
    words += ["--image-size", *map(str, setting.size), "--batch-size", str(setting.batch_size)]
    words += ["--amp" if dtype == "bfloat16" else "--no-amp", *(["--set", *options.set] if options.set else [])]
    given = presets.fill(training.parser().parse_args(words), presets.PAPER)
    world = World(device=setting.device)
    config = train_setup.make_config(given)
    train, _ = train_setup.make_datasets(given, semantic=config.semantic != "none")
    model = train_setup.make_model(config, given, train)
    feed = train_setup.make_feed(given, train, config, world)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, feed, train_setup.make_recipe(given, world), folder, world)
        return profile_step(trainer, dtype, setting.rounds, say)


def trace(options: Namespace, setting: Setting) -> None:
    """One run of the first model as a Chrome trace, with the parts as ranges.

    raises  UserError if the file cannot be written
    """
    model = build(options.models[0], setting.device, **overrides(options))
    pictures, given = [picture(setting.size)] * setting.batch_size, {"size": setting.size}
    model.predict(pictures, **given, batch_size=setting.batch_size, score_threshold=0.0)
    with torch.profiler.profile() as recorded:
        model.predict(pictures, **given, batch_size=setting.batch_size, score_threshold=0.0)
    try:
        options.trace.parent.mkdir(parents=True, exist_ok=True)
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
