"""A cascade's step from one stage to the next, beside PyTorch's operators, eager and compiled."""

import pytest
import torch

from benchmarks import rivals
from benchmarks.bench_detections import STD, heads
from benchmarks.cases import as_on_the_cpu, close, number, plural, select
from htc_fast import ops

USUAL = [(1000, 80, False), (1000, 80, True)]  # rows, classes, whether deltas differ by class
REST = [(512, 80, False), (1000, 1203, True)]


@torch.no_grad()
@pytest.mark.parametrize(("rows", "classes", "by_class"), select(USUAL, USUAL, REST))
def bench_refine(compare, draw, rows, classes, by_class):
    (logits,), deltas, boxes, _, sizes = heads(draw, rows, classes, 1, by_class)
    moved = lambda boxes, logits, deltas, sizes: ops.refine(boxes, logits, deltas, STD, sizes)  # noqa: E731
    given = boxes, logits, deltas, sizes
    ours = lambda: moved(*given)  # noqa: E731
    compiled = rivals.plain(rivals.compiled(ours, draw))
    calls = {"htc_fast": ours, "PyTorch": rivals.plain(ours), "PyTorch, compiled": compiled}
    agnostic = "deltas by class" if by_class else "deltas for all classes"
    case = f"{number(rows)} boxes, {plural(classes, 'class', 'classes')}, {agnostic}"
    read = logits.nbytes if by_class else deltas.nbytes
    verify = as_on_the_cpu(moved, *given)
    compare(case, calls, close(1e-3), op="refine", gigabytes=(read + 2 * boxes.nbytes) / 1e9, verify=verify)
