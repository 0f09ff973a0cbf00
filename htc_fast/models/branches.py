"""Two branches of the network side by side on a GPU: work that does not need what follows it runs on a second stream.

Only where a second stream was offered (`with offering(stream)`), as the capture of a CUDA graph does; everywhere else,
on a CPU, in an exported and in a compiled network, work runs where it stands.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

import torch

Result = TypeVar("Result")
_side: ContextVar[torch.cuda.Stream | None] = ContextVar("side", default=None)


@contextlib.contextmanager
def offering(stream: torch.cuda.Stream) -> Iterator[None]:
    """Let `beside` use this stream inside the block. It belongs to the block's current stream and to no other."""
    token = _side.set(stream)
    try:
        yield
    finally:
        _side.reset(token)


def beside(work: Callable[[], Result]) -> Callable[[], Result]:
    """Run work beside what follows.

    returns  a function that gives work's result, behind which the current stream has waited for it: call it once, as
             late as the result allows, and keep what work reads until then
    """
    stream = None if torch.compiler.is_compiling() else _side.get()
    if stream is None:
        found = work()
        return lambda: found
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = work()

    def join() -> Result:
        # No record_stream: what work reads lives until here, and what it made is used again only by the side stream,
        # whose next branch starts by waiting for the main stream, behind all that read it; in a graph's pool too.
        torch.cuda.current_stream().wait_stream(stream)
        return found

    return join
