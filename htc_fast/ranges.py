"""Named ranges: the paper's words for the parts of a detector, as profilers show them.

    with part("backbone"):
        ...

Off, `part` returns one shared object that does nothing, and a graph that is compiled or exported never sees it. It is
on while torch's profiler records, while somebody watches (`with watching(...)`), and always with HTC_FAST_RANGES=1
(anything else is off), which is for profilers that look from outside:
`HTC_FAST_RANGES=1 nsys profile python -m htc_fast.predict …`.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Protocol

import torch
import torch.fx.traceback

PART = "part"
_ALWAYS = os.environ.get("HTC_FAST_RANGES") == "1"
_OFF = contextlib.nullcontext()
_watchers: list["Watcher"] = []
_naming: list[int] = []  # threads that export, once per block that is open


class Watcher(Protocol):
    """Who wants to know when a part begins and ends; parts may lie inside each other."""

    def begin(self, name: str) -> None: ...

    def end(self, name: str) -> None: ...


def part(name: str) -> contextlib.AbstractContextManager:
    """A range of that name: NVTX on CUDA and torch's record_function, and everyone who watches is told.

    name     the paper's word: "backbone", "FPN", "RPN head", "box stage 1", …
    returns  a context manager
    """
    if _naming and threading.get_ident() in _naming:
        return torch.fx.traceback.annotate({PART: name})
    if torch.compiler.is_compiling() or not on():
        return _OFF
    return _Range(name)


def on() -> bool:
    """Whether ranges are recorded here and now."""
    return bool(_watchers) or _ALWAYS or torch.autograd._profiler_enabled()


@contextlib.contextmanager
def named_in_graphs() -> Iterator[None]:
    """Nodes of what is exported inside the block know their part: it is `node.meta["custom"][PART]`."""
    _naming.append(threading.get_ident())
    try:
        with torch.fx.traceback.preserve_node_meta():
            yield
    finally:
        _naming.remove(threading.get_ident())


@contextlib.contextmanager
def watching(watcher: Watcher) -> Iterator[Watcher]:
    """Tell the watcher of every part that this process runs inside the block."""
    _watchers.append(watcher)
    try:
        yield watcher
    finally:
        _watchers.remove(watcher)


class _Range:
    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        self.record = torch.profiler.record_function(self.name)
        self.record.__enter__()
        self.nvtx = torch.cuda.is_available()
        if self.nvtx:
            torch.cuda.nvtx.range_push(self.name)
        self.watchers = list(_watchers)
        for watcher in self.watchers:
            watcher.begin(self.name)

    def __exit__(self, *error) -> None:
        for watcher in self.watchers:
            watcher.end(self.name)
        if self.nvtx:
            torch.cuda.nvtx.range_pop()
        self.record.__exit__(*error)
