"""Time the operators on a GPU beside their rivals and their limits; a table on stdout, JSON in --out.

Every result is checked first. `device` is the median of replays of a CUDA graph that holds the call 20 times (rivals
that wait for the device cannot be captured: none for them); `call` is the median of single calls from Python.
The limit counts bytes: what must move through memory at the copy rate measured in the same run.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from htc_fast import ops
from htc_fast.ops import _backend, _native

IMAGE = (800, 1344)
CHANNELS = 256


def events(run: Callable, repeats: int) -> list[float]:
    """Microseconds of each of the repeats."""
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in pairs:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) * 1e3 for start, end in pairs]


def measure(run: Callable, repeats: int = 50, inside: int = 20) -> dict:
    for _ in range(5):
        run()
    torch.cuda.synchronize()
    calls = events(run, repeats)
    result = {"call": statistics.median(calls), "spread": statistics.quantiles(calls, n=10)[8] - min(calls)}
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(inside):
                run()
        graph.replay()
        result["device"] = statistics.median(events(graph.replay, 20)) / inside
    except RuntimeError:
        torch.cuda.synchronize()
        result["device"] = None
    return {name: value and round(value, 2) for name, value in result.items()}


def copy_rate() -> float:
    """Bytes per microsecond, read and written."""
    a = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    b = torch.empty_like(a)
    return 2 * a.nbytes / statistics.median(events(lambda: b.copy_(a), 20))


def proposals(count: int, generator: torch.Generator) -> torch.Tensor:
    """[count, 4]: sides log-uniform from 16 to 600 pixels, as a detector's proposals spread over the levels."""
    size = 16 * (600 / 16) ** torch.rand(count, 2, generator=generator)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([IMAGE[1], IMAGE[0]])
    limit = torch.tensor([IMAGE[1], IMAGE[0]]).repeat(2)
    return torch.cat([centre - size / 2, centre + size / 2], dim=1).clamp(min=0).minimum(limit).cuda()


def pyramid(dtype: torch.dtype) -> list[torch.Tensor]:
    maps = [torch.randn(1, CHANNELS, IMAGE[0] >> s, IMAGE[1] >> s, device="cuda", dtype=dtype) for s in (2, 3, 4, 5)]
    return [map.contiguous(memory_format=torch.channels_last) for map in maps]


def backends(op: str) -> list[str]:
    native = f"htc_fast::{op}" in _native.cuda_operators
    return [name for name in ("cuda", "triton") if name in _backend.available[op] and (name != "cuda" or native)]


class Table:
    def __init__(self) -> None:
        self.rows, self.rate = [], copy_rate()

    def add(self, case: str, who: str, run: Callable, bytes_moved: float | None = None) -> None:
        try:
            row = {"case": case, "who": who, **measure(run)}
        except Exception as error:
            row = {"case": case, "who": who, "error": str(error)[:200]}
            torch.cuda.synchronize()
        if bytes_moved and row.get("device"):
            row["limit"] = round(bytes_moved / self.rate, 2)
            row["share"] = round(row["limit"] / row["device"], 3)
        self.rows.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def bench_roi_align(table: Table, generator: torch.Generator) -> None:
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    for dtype, count, size, fused in [
        (torch.bfloat16, 1000, 7, False),
        (torch.bfloat16, 1000, 7, True),
        (torch.bfloat16, 100, 14, True),
        (torch.float32, 1000, 7, False),
        (torch.bfloat16, 512, 7, True),
        (torch.float32, 512, 7, False),
    ]:
        maps = [map.requires_grad_() for map in pyramid(dtype)]
        semantic = torch.randn_like(maps[1]).requires_grad_() if fused else None
        rois = torch.cat([torch.zeros(count, 1, device="cuda"), proposals(count, generator)], dim=1)
        case = f"roi_align {count}x{size}x{size} {str(dtype)[6:]}{' + semantic' if fused else ''}"

        def forward(maps=maps, rois=rois, size=size, semantic=semantic):
            return ops.multi_level_roi_align(maps, rois, size, scales, semantic=semantic)

        read = sum(map.nbytes for map in [*maps, *([semantic] if fused else [])])
        with ops.use_backend("reference"):
            few = ops.multi_level_roi_align(
                [m.detach()[:, :8].float() for m in maps],
                rois[:20],
                size,
                scales,
                semantic=semantic.detach()[:, :8].float() if fused else None,
            )
        for backend in backends("multi_level_roi_align"):
            with ops.use_backend(backend):
                out = forward()
                torch.testing.assert_close(out[:20, :8].float(), few, rtol=2e-2, atol=2e-2)
                with torch.no_grad():
                    table.add(case, backend, forward, read + out.nbytes)
                grad = torch.randn_like(out)
                inputs = [*maps, *([semantic] if fused else [])]
                table.add(
                    case + " backward",
                    backend,
                    lambda out=out, inputs=inputs, grad=grad: torch.autograd.grad(out, inputs, grad, retain_graph=True),
                    read + out.nbytes,
                )
        if backends("multi_level_roi_align")[:1] == ["cuda"]:
            sizes = [1, *(side for map in inputs for side in map.shape[2:])]
            arguments = grad, rois, sizes, scales, 0, True, 56.0, fused, 0.125, 14
            table.add(
                case + " backward",
                "cuda, atomic",
                lambda a=arguments: torch.ops.htc_fast.multi_level_roi_align_scatter(*a),
            )
        bench_torchvision_roi_align(table, case, maps, rois, size, dtype)


def bench_torchvision_roi_align(table, case, maps, rois, size, dtype) -> None:
    try:
        from torchvision.ops import MultiScaleRoIAlign
    except ImportError:
        return
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], size, 0)
    # It has no bf16 and reads NCHW: it is given fp16 in its own layout.
    kind = torch.float16 if dtype == torch.bfloat16 else dtype
    features = {str(i): map.detach().to(kind).contiguous().requires_grad_() for i, map in enumerate(maps)}
    run = lambda: pooler(features, [rois[:, 1:].to(kind)], [IMAGE])  # noqa: E731
    with torch.no_grad():
        table.add(case, f"torchvision ({str(kind)[6:]}, pyramid only)", run)
    out = run()
    grad = torch.randn_like(out)
    table.add(
        case + " backward",
        f"torchvision ({str(kind)[6:]}, pyramid only)",
        lambda: torch.autograd.grad(out, list(features.values()), grad, retain_graph=True),
    )


def bench_pr_roi_pool(table: Table, generator: torch.Generator) -> None:
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    for dtype, count, size in [(torch.bfloat16, 1000, 7), (torch.bfloat16, 100, 14), (torch.float32, 1000, 7)]:
        maps = [map.requires_grad_() for map in pyramid(dtype)]
        rois = torch.cat([torch.zeros(count, 1, device="cuda"), proposals(count, generator)], dim=1).requires_grad_()
        run = lambda maps=maps, rois=rois, size=size: ops.pr_roi_pool(maps, rois, size, scales)  # noqa: E731
        case = f"pr_roi_pool {count}x{size}x{size} {str(dtype)[6:]}"
        with ops.use_backend("reference"):
            few = ops.pr_roi_pool([m.detach()[:, :8].float() for m in maps], rois.detach()[:20], size, scales)
        for backend in backends("pr_roi_pool"):
            out = run()
            torch.testing.assert_close(out[:20, :8].float(), few, rtol=2e-2, atol=2e-2)
            grad, moved = torch.randn_like(out), sum(map.nbytes for map in maps) + out.nbytes
            with torch.no_grad():
                table.add(case, backend, run, moved)
            for to, inputs in (("maps", maps), ("boxes", [rois])):
                back = lambda out=out, to=inputs, g=grad: torch.autograd.grad(out, to, g, retain_graph=True)  # noqa: E731
                table.add(f"{case} backward to the {to}", backend, back, moved)


def bench_nms(table: Table, generator: torch.Generator) -> None:
    for images, count, classes, most in [(1, 1000, 1, 1000), (5, 5000, 5, 1000), (1, 80000, 80, 100)]:
        boxes = torch.stack([proposals(count, generator) for _ in range(images)])
        scores = torch.rand(images, count, generator=generator).cuda()
        idxs = torch.randint(0, classes, (images, count), generator=generator).cuda()
        for backend in backends("batched_nms_padded"):
            with ops.use_backend(backend):
                table.add(
                    f"batched_nms_padded {images}x{count}, {classes} classes, {most} wanted",
                    backend,
                    lambda a=(boxes, scores, idxs), m=most: ops.batched_nms_padded(*a, 0.5, m),
                )
    for count in (1000, 10_000, 100_000):
        boxes, scores = proposals(count, generator), torch.rand(count, generator=generator).cuda()
        idxs = torch.randint(0, 80, (count,), generator=generator).cuda()
        for backend in backends("batched_nms"):
            with ops.use_backend(backend):
                table.add(
                    f"batched_nms {count}, 80 classes",
                    backend,
                    lambda a=(boxes, scores, idxs): ops.batched_nms(*a, 0.5),
                )
        try:
            from torchvision.ops import batched_nms
        except ImportError:
            continue
        table.add(
            f"batched_nms {count}, 80 classes", "torchvision", lambda a=(boxes, scores, idxs): batched_nms(*a, 0.5)
        )


def bench_soft_nms(table: Table, generator: torch.Generator) -> None:
    for count, classes, most in [(1000, 80, 100), (5000, 80, 100), (5000, 1, 5000)]:
        boxes, scores = proposals(count, generator), torch.rand(count, generator=generator).cuda()
        idxs = torch.randint(0, classes, (count,), generator=generator).cuda()
        run = lambda a=(boxes, scores, idxs), m=most: ops.soft_nms(*a, max_output=m)  # noqa: E731
        for backend in backends("soft_nms"):
            with ops.use_backend(backend):
                table.add(f"soft_nms {count}, {classes} classes, {most} wanted", backend, run)


def bench_masks(table: Table, generator: torch.Generator) -> None:
    masks, boxes = torch.rand(100, 28, 28, generator=generator).cuda(), proposals(100, generator)
    for op in (ops.paste_masks, ops.encode_masks):
        for backend in backends(op.__name__):
            with ops.use_backend(backend):
                table.add(f"{op.__name__} 100 masks", backend, lambda op=op: op(masks, boxes, IMAGE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    table = Table()
    for bench in (bench_roi_align, bench_pr_roi_pool, bench_nms, bench_soft_nms, bench_masks):
        bench(table, generator)
    device = torch.cuda.get_device_properties(0)
    report = {
        "device": device.name,
        "torch": torch.__version__,
        "multiprocessors": device.multi_processor_count,
        "copy_gb_per_s": round(table.rate / 1e3),
        "unit": "microseconds",
        "rows": table.rows,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
