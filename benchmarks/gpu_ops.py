"""Time the irregular operators on a GPU beside their rivals and their limits.

    python -m benchmarks.gpu_ops                        every suite into benchmarks/results/<device>/
    python -m benchmarks.gpu_ops --out folder --dry     small, on the CPU: a rehearsal

Every result is checked first. The limit counts bytes: what must move through memory at the copy rate of the same run.
"""

import argparse
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # so that it also runs as a file, from anywhere

from benchmarks.gpu_timing import RESULTS, Table, device  # noqa: E402
from htc_fast import ops  # noqa: E402
from htc_fast.ops import _backend, _native  # noqa: E402

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
NAMES = {"cuda": "htc_fast", "triton": "htc_fast, Triton", "cpp": "htc_fast"}


class Setting:
    """How large everything is, and random numbers that do not depend on the device."""

    def __init__(self, dry: bool) -> None:
        self.dry = dry
        self.image, self.channels = ((160, 224), 16) if dry else ((800, 1344), 256)
        self.generator = torch.Generator().manual_seed(0)

    def count(self, count: int) -> int:
        return max(1, count // 50) if self.dry else count

    def random(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator).to(device())

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        made = torch.randn(*shape, generator=self.generator).to(device(), dtype)
        return made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made

    def proposals(self, count: int) -> Tensor:
        """[count, 4]: sides log-uniform from 16 to 600 pixels, as a detector's proposals spread over the levels."""
        reach = torch.tensor([self.image[1], self.image[0]], device=device())
        size, centre = 16 * (600 / 16) ** self.random(count, 2), self.random(count, 2) * reach
        return torch.cat([centre - size / 2, centre + size / 2], dim=1).clamp(min=0).minimum(reach.repeat(2))

    def rois(self, count: int) -> Tensor:
        return torch.cat([torch.zeros(count, 1, device=device()), self.proposals(count)], dim=1)

    def pyramid(self, dtype: torch.dtype) -> list[Tensor]:
        sides = [(self.image[0] >> s, self.image[1] >> s) for s in (2, 3, 4, 5)]
        return [self.normal(1, self.channels, *side, dtype=dtype).requires_grad_() for side in sides]


def backends(op: str) -> list[str]:
    if device().type == "cpu":
        return ["cpp"]
    native = f"htc_fast::{op}" in _native.cuda_operators
    return [name for name in ("cuda", "triton") if name in _backend.available[op] and (name != "cuda" or native)]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype)[6:]


def check_few(found: Tensor, call: Callable, maps: list[Tensor], rois: Tensor, *semantic: Tensor) -> None:
    """The first RoIs' first channels against the reference in float32."""
    few = [one.detach()[:, :8].float() for one in (*maps, *semantic)]
    with ops.use_backend("reference"):
        wanted = call(few[: len(maps)], rois.detach()[:20], *few[len(maps) :])
    torch.testing.assert_close(found.detach()[:20, :8].float(), wanted, rtol=2e-2, atol=2e-2)


def gradient(out: Tensor, inputs: list[Tensor], grad: Tensor) -> Callable:
    return lambda: torch.autograd.grad(out, inputs, grad, retain_graph=True)


def bench_roi_align(table: Table, setting: Setting) -> None:
    for dtype, count, size, fused in [
        (torch.bfloat16, 1000, 7, False),
        (torch.bfloat16, 1000, 7, True),
        (torch.bfloat16, 100, 14, True),
        (torch.float32, 1000, 7, False),
        (torch.bfloat16, 512, 7, True),
        (torch.bfloat16, 512, 7, False),
        (torch.float32, 512, 7, False),
    ]:
        count, maps = setting.count(count), setting.pyramid(dtype)
        semantic = setting.normal(*maps[1].shape, dtype=dtype).requires_grad_() if fused else None
        inputs, rois = [*maps, *([semantic] if fused else [])], setting.rois(count)
        case = f"{count} RoIs to {size}×{size}{' with the semantic map' if fused else ''}"

        def pool(maps, rois, semantic=None, size=size):
            return ops.multi_level_roi_align(maps, rois, size, SCALES, semantic=semantic)

        forward = lambda maps=maps, rois=rois, semantic=semantic, pool=pool: pool(maps, rois, semantic)  # noqa: E731
        read = sum(one.nbytes for one in inputs)
        grad = setting.normal(count, setting.channels, size, size, dtype=dtype)
        for backend in backends("multi_level_roi_align"):
            with ops.use_backend(backend):
                out = forward()
                check_few(out, pool, maps, rois, *inputs[4:])
                with torch.no_grad():
                    table.add("roi_align", f"forward, {case}", name_of(dtype), NAMES[backend], forward,
                              read + out.nbytes)  # fmt: skip
                table.add("roi_align", f"backward, {case}", name_of(dtype), NAMES[backend],
                          gradient(out, inputs, grad), read + out.nbytes)  # fmt: skip
        if device().type == "cuda" and "htc_fast::multi_level_roi_align_backward" in _native.cuda_operators:
            sizes = [1, *(side for one in inputs for side in one.shape[2:])]
            given = grad, rois, sizes, SCALES, 0, True, 56.0, fused, 0.125, 14
            table.add("roi_align", f"backward, {case}", name_of(dtype), "htc_fast, atomic",
                      lambda a=given: torch.ops.htc_fast.multi_level_roi_align_backward(*a, False))  # fmt: skip
        bench_torchvision(table, setting, case, maps, rois, size, dtype)


def bench_torchvision(table, setting, case, maps, rois, size, dtype) -> None:
    """It has no bf16 and reads NCHW: it is given fp16 in its own layout, and no semantic map."""
    try:
        from torchvision.ops import MultiScaleRoIAlign
    except ImportError:
        return
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], size, 0)
    kind = torch.float16 if dtype == torch.bfloat16 and not setting.dry else torch.float32
    features = {str(i): one.detach().to(kind).contiguous().requires_grad_() for i, one in enumerate(maps)}
    run = lambda: pooler(features, [rois[:, 1:].to(kind)], [setting.image])  # noqa: E731
    who = f"torchvision, {name_of(kind)}" if kind != dtype else "torchvision"
    who += ", pyramid only" if "semantic" in case else ""
    with torch.no_grad():
        table.add("roi_align", f"forward, {case}", name_of(dtype), who, run)
    out = run()
    back = gradient(out, list(features.values()), torch.ones_like(out))
    table.add("roi_align", f"backward, {case}", name_of(dtype), who, back)


def bench_pr_roi_pool(table: Table, setting: Setting) -> None:
    for dtype, count, size in [(torch.bfloat16, 1000, 7), (torch.bfloat16, 100, 14), (torch.float32, 1000, 7)]:
        count, maps = setting.count(count), setting.pyramid(dtype)
        rois, case = setting.rois(count).requires_grad_(), f"{count} RoIs to {size}×{size}"

        def pool(maps, rois, size=size):
            return ops.pr_roi_pool(maps, rois, size, SCALES)

        for backend in backends("pr_roi_pool"):
            with ops.use_backend(backend):
                out = pool(maps, rois)
                check_few(out, pool, maps, rois)
                grad, moved = setting.normal(*out.shape, dtype=dtype), sum(one.nbytes for one in maps) + out.nbytes
                with torch.no_grad():
                    table.add("pr_roi_pool", f"forward, {case}", name_of(dtype), NAMES[backend],
                              lambda a=(maps, rois), pool=pool: pool(*a), moved)  # fmt: skip
                for to, inputs in (("maps", maps), ("boxes", [rois])):
                    table.add("pr_roi_pool", f"backward to the {to}, {case}", name_of(dtype), NAMES[backend],
                              gradient(out, inputs, grad), moved)  # fmt: skip


def as_on_the_cpu(found: Tensor, call: Callable, *inputs: Tensor) -> None:
    """Indices must be the CPU's, all of them."""
    if _native.loaded():
        assert torch.equal(found.cpu(), call(*(one.cpu() for one in inputs))), "the CPU keeps other boxes"


def bench_nms(table: Table, setting: Setting) -> None:
    for images, count, classes, most in [
        (1, 1000, 1, 1000),
        (5, 5000, 5, 1000),
        (1, 80000, 80, 100),
        (8, 1000, 80, 100),
    ]:
        count = setting.count(count)
        inputs = (torch.stack([setting.proposals(count) for _ in range(images)]), setting.random(images, count),
                  (setting.random(images, count) * classes).long())  # fmt: skip
        run = lambda b, s, i, most=most: ops.batched_nms_padded(b, s, i, 0.5, most)[0]  # noqa: E731
        case = f"the best {most} of {images} × {count} boxes, {classes} class{'es' if classes > 1 else ''}"
        bench_kept(table, "batched_nms_padded", case, run, inputs)
    for count, classes in [(1000, 80), (10_000, 80), (100_000, 80), (1000, 1), (10_000, 1), (1_000_000, 80)]:
        count = setting.count(count)
        inputs = setting.proposals(count), setting.random(count), (setting.random(count) * classes).long()
        case = f"all of {count} boxes, {classes} class{'es' if classes > 1 else ''}"
        bench_kept(table, "batched_nms", case, lambda b, s, i: ops.batched_nms(b, s, i, 0.5), inputs)
        if count <= 100_000:
            bench_torchvision_nms(table, case, inputs)


def bench_kept(table: Table, op: str, case: str, run: Callable, inputs: tuple[Tensor, ...]) -> None:
    for backend in backends(op):
        with ops.use_backend(backend):
            found = run(*inputs)
        as_on_the_cpu(found, run, *inputs)
        with ops.use_backend(backend):
            table.add("nms", case, "float32", NAMES[backend], lambda: run(*inputs), sum(one.nbytes for one in inputs))


def bench_torchvision_nms(table: Table, case: str, inputs: tuple[Tensor, ...]) -> None:
    try:
        from torchvision.ops import batched_nms
    except ImportError:
        return
    table.add("nms", case, "float32", "torchvision", lambda: batched_nms(*inputs, 0.5))


def bench_soft_nms(table: Table, setting: Setting) -> None:
    for count, classes, most in [(1000, 80, 100), (5000, 80, 100), (5000, 1, 5000)]:
        count = setting.count(count)
        inputs = setting.proposals(count), setting.random(count), (setting.random(count) * classes).long()
        for backend in backends("soft_nms"):
            case = f"soft-NMS, the best {most} of {count} boxes, {classes} class{'es' if classes > 1 else ''}"
            table.add("nms", case, "float32", NAMES[backend], lambda a=inputs, m=most: ops.soft_nms(*a, max_output=m))


def bench_masks(table: Table, setting: Setting) -> None:
    count = setting.count(100)
    masks, boxes = setting.random(count, 28, 28), setting.proposals(count)
    height, width = setting.image
    for op, what in ((ops.paste_masks, "paste"), (ops.encode_masks, "encode")):
        for backend in backends(op.__name__):
            run = lambda op=op: op(masks, boxes, (height, width))  # noqa: E731
            found, wanted = run(), op(masks.cpu(), boxes.cpu(), (height, width)) if _native.loaded() else None
            same = wanted is None or (
                torch.equal(found.cpu(), wanted) if isinstance(found, Tensor) else found == wanted
            )
            assert same, f"{what}: the CPU gives other masks"
            moved = masks.nbytes + (count * height * width if what == "paste" else 0)
            table.add("masks", f"{what}, {count} masks at {height}×{width}", "float32", NAMES[backend], run, moved)


SUITES = (bench_roi_align, bench_pr_roi_pool, bench_nms, bench_soft_nms, bench_masks)


def run_all(table: Table, setting: Setting, folder: Path) -> None:
    for bench in SUITES:
        try:
            bench(table, setting)
        except Exception:
            traceback.print_exc()
            table.failed += 1
        table.store(folder)  # after each: what was measured is kept, whatever comes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder (benchmarks/results)")
    parser.add_argument("--dry", action="store_true", help="a rehearsal on the CPU, with small sizes")
    arguments = parser.parse_args()
    if not arguments.dry and not torch.cuda.is_available():
        parser.error("there is no GPU here: --dry rehearses on the CPU")
    table, setting = Table(), Setting(arguments.dry)
    if arguments.dry:
        run_all(table, setting, arguments.out)
    else:
        # A stream of its own: a gradient runs on its forward's stream, and the default one cannot be captured.
        with torch.cuda.stream(torch.cuda.Stream()):
            run_all(table, setting, arguments.out)
    print(f"results in {arguments.out}" + (f"; {table.failed} failed" if table.failed else ""))
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
