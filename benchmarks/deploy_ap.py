"""What a trained detector is worth in every form that it can be deployed in: AP, and milliseconds per picture.

    python -m benchmarks.deploy_ap --weights runs/sample/model.safetensors [--threads 2] [--folder DIR] [--limit N]

The sample's held-out pictures, in every form in one frame (`Framed`, `OnnxDetector`), so that what differs is the
form's. 8 bits are those of onnxruntime's quantize_static, for convolutions and products, with ranges of training
pictures. Milliseconds are of one picture from resized pixels to detections, the median over all of them; those of the
parts are of the first picture, in calls of their own. Results in the device's deploy_ap.json; --folder keeps the files.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

import htc_fast
from benchmarks import runtimes, stored
from benchmarks.deploy import quantize
from benchmarks.precision import IOU, KEYS, SCORE, matched
from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.data import CocoDataset
from htc_fast.data.pictures import normalise_and_pad
from htc_fast.data.sample import make_sample_dataset
from htc_fast.device import supports
from htc_fast.errors import check_count
from htc_fast.evaluation import coco
from htc_fast.inference import Framed, optimize
from htc_fast.inference.onnx import OnnxDetector, export_onnx
from htc_fast.inference.onnx.compare import framed
from htc_fast.models.htc import HTC
from htc_fast.profiling.limits import version

CALIBRATING = 16  # pictures
PROFILED = 5  # calls whose parts are measured
WATCHED = {"optimize()": "optimized", "ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}  # as runtimes calls them
Frame = tuple[int, int]
Form = Framed | OnnxDetector


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the files are made and stay")
    parser.add_argument("--limit", type=int, help="only the first N pictures")
    parser.add_argument("--note", help="one sentence about the weights, kept beside the results")
    parser.add_argument("--out", type=Path, help="folder for the results")
    options = parser.parse_args()
    torch.set_num_threads(check_count("--threads", options.threads))
    device = torch.device("cpu")
    path = stored.folder(device, options.out) / "deploy_ap.json"
    model = htc_fast.load(options.weights, device="cpu")
    frame = model.config.image_size or (800, 1344)
    root = make_sample_dataset()
    with tempfile.TemporaryDirectory() as scratch:
        seen = CocoDataset(root, "train")
        files = written(model, frame, seen, options.folder or Path(scratch))
        shown = [seen.image(index) for index in range(min(CALIBRATING, len(seen)))]
        held_out = CocoDataset(root, "val")
        rows = list(compared(forms(model, frame, files, shown), held_out, options.limit))
        picture = next(examples(model, frame, held_out))
        for row in rows:
            row["parts"] = parts(row["run by"], row["dtype"], options.weights, files, picture)
    names = {"model": model.config.name, "backbone": model.config.backbone, "frame": frame, "note": options.note}
    about = {"threads": options.threads, "score": SCORE, "iou": IOU, "calibrated with": CALIBRATING}
    packages = {name: version(name) for name in ("onnxruntime", "openvino")}
    stored.write(path, device, {**names, **about, "packages": packages, "rows": rows})


def written(model: HTC, frame: Frame, pictures: CocoDataset, folder: Path) -> dict[str, Path]:
    """The files, by the type that they compute in."""
    files = {kind: folder / f"{kind}.onnx" for kind in ("float32", "float16", "int8")}
    export_onnx(model, files["float32"], image_size=frame)
    export_onnx(model, files["float16"], image_size=frame, fp16=True)
    quantize(files["float32"], files["int8"], examples(model, frame, pictures))
    return files


def examples(model: HTC, frame: Frame, pictures: CocoDataset) -> Iterator[dict[str, np.ndarray]]:
    """The file's inputs for some of the pictures."""
    for index in range(min(CALIBRATING, len(pictures))):
        pixels = framed(pictures.image(index), frame)
        images, sizes = normalise_and_pad([pixels], model.config.mean, model.config.std, frame=frame)
        yield {"images": images.contiguous().numpy(), "image_sizes": sizes.numpy()}


def parts(
    name: str, dtype: str, weights: Path, files: dict[str, Path], picture: dict[str, np.ndarray]
) -> dict[str, float]:
    """Milliseconds of a form's parts, of one picture; none of the detector as it is, and of float16, whose nodes lose
    their names in onnxruntime."""
    if name not in WATCHED or dtype == "float16":
        return {}
    file = weights if name == "optimize()" else files.get(dtype, files["float32"])
    _, make = runtimes.RUNTIMES[WATCHED[name]]
    call, _, watch = make(str(file), dtype, torch.get_num_threads(), picture)
    with torch.no_grad():
        call()
        return {part: round(taken, 2) for part, taken in watch(PROFILED).items()}


def forms(
    model: HTC, frame: Frame, files: dict[str, Path], shown: list[np.ndarray]
) -> Iterator[tuple[str, str, Callable[[], Form]]]:
    """Name, type and how to make it; the first is the detector as it is. shown: what 8 bits are calibrated on."""
    yield "eager", "float32", lambda: Framed(model, frame)
    types = [torch.float32, *([torch.bfloat16] if supports(torch.bfloat16, torch.device("cpu")) else [])]
    for dtype in types:
        yield "optimize()", str(dtype)[6:], lambda dtype=dtype: Framed(optimize(model, frame, 1, dtype), frame)
    if supports(torch.int8, torch.device("cpu")):
        yield "optimize()", "int8", lambda: Framed(optimize(model, frame, 1, "int8", shown), frame)
    for kind, path in files.items():
        yield "ONNX Runtime", kind, lambda path=path: OnnxDetector(path)
    for kind in [str(one)[6:] for one in types]:
        yield "OpenVINO", kind, lambda kind=kind: in_openvino(files["float32"], kind)
    yield "OpenVINO", "int8", lambda: in_openvino(files["int8"], "float32")


def in_openvino(path: Path, kind: str) -> OnnxDetector:
    """The file's detector, which OpenVINO runs instead of onnxruntime."""
    detector = OnnxDetector(path)
    detector.session = Compiled(path, {"float32": "f32", "bfloat16": "bf16"}[kind], torch.get_num_threads())
    return detector


class Compiled:
    """A file as OpenVINO runs it, called as onnxruntime's sessions are."""

    def __init__(self, path: Path, precision: str, threads: int):
        import openvino

        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
        self.program = openvino.Core().compile_model(path, "CPU", {**options, "PERFORMANCE_HINT": "LATENCY"})

    def run(self, names: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        found = self.program(inputs)
        return [found[name].copy() for name in names]


def compared(
    kinds: Iterator[tuple[str, str, Callable[[], Form]]], dataset: CocoDataset, limit: int | None
) -> Iterator[dict]:
    """A row for each form: AP, what it finds of the first one's detections, milliseconds."""
    exact = None
    for name, dtype, make in kinds:
        detector = make()
        seconds = timed(detector)
        found = coco.collect(detector, dataset, limit=limit)
        exact = exact or found
        metrics = coco.score(dataset, found).metrics
        low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)) * 1e3
        times = {"median": round(float(median), 2), "spread": round(float(high - low), 2)}
        scores = {key: round(metrics[key], 5) for key in KEYS}
        row = {"run by": name, "dtype": dtype, "pictures": len(found), **scores, **matched(exact, found)}
        row["milliseconds"] = times
        print(row, flush=True)
        yield row


def timed(detector: Form) -> list[float]:
    """Seconds of each call of `see` from now on."""
    see, taken = detector.see, list[float]()

    def watched(pixels: list[torch.Tensor]):
        began = time.perf_counter()
        found = see(pixels)
        taken.append(time.perf_counter() - began)
        return found

    detector.see = watched
    return taken


if __name__ == "__main__":
    entry.run(main)
