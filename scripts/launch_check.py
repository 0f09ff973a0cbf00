"""Count what one picture through the optimised detector would launch on a GPU, part by part, and hold it to a budget.

    python -m scripts.launch_check             print the table, compare it with tests/budget_launches.json
    python -m scripts.launch_check --update    write what was found as the new budget

Needs no GPU: the detector runs on tensors without data that claim to be on one, and every operator is written down. Of
torch's operators each is one launch, but a convolution with a bias, which is two; views and new tensors are none. Our
CUDA kernels are counted by the emulator, Triton's by their launchers, both at the sizes they are given. Bytes are what
the launches read and write, tensor by tensor; the least is what a program of fused layers could not avoid.
"""

import argparse
import contextlib
import copy
import importlib
import json
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from htc_fast import create_model
from htc_fast.inference.layout import prepare
from htc_fast.ops import _backend, _cudnn, convolution, fold_images, max_pool, pad_images
from htc_fast.profiling.meters import CostMeter
from htc_fast.ranges import watching
from scripts.launch_recorder import Call, Described, Recorder, bytes_of, pretending
from tests.simt import emulator, operators

ROOT = Path(__file__).resolve().parent.parent
BUDGET = ROOT / "tests" / "budget_launches.json"
SIZE = 800, 1344
# Of several layers in one launch, the whole is what moves bytes.
FUSED = "semantic_merge", "mask_branch"
# Ours, as the emulator calls them; the arguments are those of the schema.
EMULATED: dict[str, Any] = {
    "multi_level_roi_align": lambda features, rois, height, width, scales, ratio, aligned, _, semantic, scale, grid: (
        operators.multi_level_roi_align(
            features,
            rois,
            (height, width),
            scales,
            sampling_ratio=ratio,
            aligned=aligned,
            semantic=semantic,
            semantic_scale=scale,
            semantic_grid=grid,
        )
    ),
    "batched_nms_padded": operators.batched_nms_padded,
    "propose": lambda *arguments: emulator.kernels().propose(*arguments),
    "refine": operators.refine,
    "detections": lambda logits, deltas, boxes, valid, sizes, std, averaged, score, iou, limit: operators.detections(
        logits,
        deltas,
        boxes,
        valid,
        sizes,
        std=std,
        score_average="logits" if averaged else "probabilities",
        score_threshold=score,
        iou_threshold=iou,
        limit=limit,
    ),
}


# And those that call other operators in turn.
INSIDE = {
    "convolution": convolution._convolution,
    "lateral": convolution._lateral,
    "pad_images": pad_images._run,
    "fold_images": fold_images._run,
    "max_pool": max_pool._run,
}


@dataclass
class Part:
    """What one part of the detector launches, and the bytes that this moves."""

    launches: int = 0
    megabytes: float = 0.0
    least_megabytes: float = 0.0
    operators: dict[str, int] = field(default_factory=dict)


def launches(call: Call) -> dict[str, list[int]]:
    """What a call launches: name -> the bytes that each launch of that name moves."""
    namespace, _, name = call.operator._schema.name.partition("::")
    if namespace == "htc_fast_triton":
        return of_triton(name, *tree_map_only(Described, lambda one: one.on("meta"), (call.arguments, call.options)))
    if namespace == "htc_fast" and name in INSIDE:
        return of_python(INSIDE[name], call)
    names = [f"{namespace}::{name}"]
    if namespace == "htc_fast" and name in EMULATED:
        arguments, options = tree_map_only(Described, lambda one: one.on("cpu"), (call.arguments, call.options))
        with emulator.counting() as counted:
            EMULATED[name](*arguments, **options)
            names = counted()
    elif namespace == "htc_fast":
        raise LookupError(f"nobody knows what {name} launches: add it to EMULATED or INSIDE")
    elif (namespace, name) == ("aten", "convolution") and call.arguments[2] is not None:
        names.append("bias")
    # What one of our operators has between its launches is not known here: docs/irregular_kernels.md counts it.
    return gathered([(one, call.moved if number == 0 else 0) for number, one in enumerate(names)])


def gathered(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for name, moved in pairs:
        found.setdefault(name, []).append(moved)
    return found


def of_python(operator: Callable, call: Call) -> dict[str, list[int]]:
    """What is behind an operator that calls others; cuDNN is taken to do what it is asked for."""
    found: list[tuple[str, int]] = []

    def cudnn(x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None, geometry: tuple) -> Tensor:
        out = convolution.maps_like(x, *_cudnn.size(x, weight, geometry))
        found.append(("cudnn_convolution_relu", bytes_of(x, weight, bias, other, out)))
        return out

    with pretending(), contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(_cudnn, "takes", lambda x, weight, bias, *_: bias is not None))
        stack.enter_context(mock.patch.object(_cudnn, "run", cudnn))
        arguments, options = tree_map_only(Described, lambda one: one.on("cuda"), (call.arguments, call.options))
        with Recorder() as recorder:
            operator(*arguments, **options)
    inner = [(name, moved) for one in recorder.calls for name, some in launches(one).items() for moved in some]
    return gathered([*found, *inner])


def of_triton(name: str, arguments: tuple, options: dict) -> dict[str, list[int]]:
    """The kernels and torch's operators behind one of Triton's launchers."""
    found: list[tuple[str, int]] = []

    def note(kernel, programs, device, *given, **_) -> None:
        found.append((kernel.fn.__name__, bytes_of(given)))

    files = (ROOT / "htc_fast" / "ops" / "triton").glob("[a-z]*.py")
    modules = [importlib.import_module(f"htc_fast.ops.triton.{path.stem}") for path in files]
    (launcher,) = {
        one for one in (getattr(module, name, None) for module in modules) if isinstance(one, types.FunctionType)
    }
    with contextlib.ExitStack() as stack:
        for module in modules:
            if hasattr(module, "launch"):
                stack.enter_context(mock.patch.object(module, "launch", note))
        recorder = stack.enter_context(Recorder())
        launcher(*arguments, **options)
    return gathered([*((call.operator._schema.name, call.moved) for call in recorder.calls), *found])


def to_gpu(network: nn.Module) -> None:
    """Parameters and buffers become tensors without data on a GPU, in place."""
    for module in network.modules():
        for kind in (module._parameters, module._buffers):
            for name, one in kind.items():
                if one is not None:
                    made = torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device="cuda")
                    kind[name] = nn.Parameter(made, requires_grad=False) if kind is module._parameters else made


def trace(
    model_name: str = "htc_r50", size: tuple[int, int] = SIZE, dtype: torch.dtype = torch.bfloat16
) -> dict[str, Part]:
    """Part -> what it launches for one image of `size`."""
    model = create_model(model_name).eval()
    least = least_bytes(model, size)
    network = prepare(model, dtype, torch.device("cuda"))
    with torch.no_grad(), pretending():
        to_gpu(network)
        given = inputs(size, "cuda")
        with Recorder() as recorder, watching(recorder):
            network.detect(*given)
    parts: dict[str, Part] = {}
    for call in recorder.calls:
        part = parts.setdefault(call.part, Part())
        for name, moved in launches(call).items():
            part.launches += len(moved)
            part.megabytes += sum(moved) / 1e6
            part.operators[name] = part.operators.get(name, 0) + len(moved)
    for where, moved in least.items():
        parts.setdefault(where, Part()).least_megabytes = moved * dtype.itemsize / 4 / 1e6
    return parts


@torch.no_grad()
def least_bytes(model: nn.Module, size: tuple[int, int]) -> dict[str, float]:
    """Part -> bytes that fused layers could not avoid, in float32."""
    network, usual = copy.deepcopy(model).to("meta"), _backend.backend_for

    def chosen(name: str, tensor: Tensor) -> str:
        return "triton" if name in FUSED else usual(name, tensor)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(_backend, "backend_for", chosen))
        meter = stack.enter_context(CostMeter())
        stack.enter_context(watching(meter))
        network.detect(*inputs(size, "meta"))
    found = {part: need.moved for part, need in meter.needs.items()}
    stages = [found.pop(part) for part in list(found) if part.startswith("mask stage ")]
    found["mask stages"] = found.get("mask stages", 0.0) + sum(stages)
    return found


def inputs(size: tuple[int, int], device: str) -> tuple[Tensor, Tensor]:
    images = torch.empty(1, *size, 3, device=device).permute(0, 3, 1, 2)
    return images, torch.empty(1, 2, dtype=torch.int64, device=device)


def total(parts: dict[str, Part]) -> int:
    return sum(part.launches for part in parts.values())


def print_table(parts: dict[str, Part]) -> None:
    print(f"{'part':18}{'launches':>10}{'MB':>10}{'least MB':>10}")
    for name, part in parts.items():
        print(f"{name:18}{part.launches:>10}{part.megabytes:>10.1f}{part.least_megabytes:>10.1f}")
    print(f"{'all':18}{total(parts):>10}")


def compare(parts: dict[str, Part], budget: dict[str, dict]) -> list[str]:
    """What breaks the budget, one sentence each."""
    wrong = [f"{name} is in the budget and no part of the detector" for name in budget if name not in parts]
    for name, part in parts.items():
        limit = budget.get(name)
        if limit is None:
            wrong.append(f"{name} has no budget: run python -m scripts.launch_check --update and look at the change")
            continue
        if part.launches > limit["launches"]:
            wrong.append(f"{name} launches {part.launches}, the budget is {limit['launches']}")
        if part.megabytes > limit["megabytes"] * 1.01:
            wrong.append(f"{name} moves {part.megabytes:.1f} MB, the budget is {limit['megabytes']}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write tests/budget_launches.json")
    parser.add_argument("--all", action="store_true", help="name every operator of every part")
    arguments = parser.parse_args()
    if emulator.why_not() is not None:
        print(emulator.why_not(), file=sys.stderr)
        return 2
    parts = trace()
    print_table(parts)
    if arguments.all:
        for name, part in parts.items():
            print(name, json.dumps(part.operators, indent=1))
    stored = json.loads(BUDGET.read_text()) if BUDGET.exists() else {"before": {}, "now": {}}
    if arguments.update:
        stored["now"] = {name: asdict(part) for name, part in parts.items()}
        BUDGET.write_text(json.dumps(stored, indent=1) + "\n")
    wrong = compare(parts, stored["now"])
    print("\n".join(wrong) if wrong else f"{total(parts)} launches within budget")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
