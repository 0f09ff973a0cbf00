"""Ctrl-C and a scheduler's SIGTERM: a wish to stop, heard where nothing is lost."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

ONE_REQUEST = 1.0  # seconds within which signals are one wish to stop


@contextlib.contextmanager
def heard(ask: Callable[[], None]) -> Iterator[None]:
    """Within, a signal calls `ask`; a second one, later, raises KeyboardInterrupt at once.

    Under torchrun one Ctrl-C comes twice, from the terminal and from torchrun.
    """
    first = None

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        first = time.monotonic() if first is None else first
        if time.monotonic() - first > ONE_REQUEST:
            raise KeyboardInterrupt
        ask()

    previous = {}
    # Only the main thread may set handlers; elsewhere the caller keeps its own.
    with contextlib.suppress(ValueError):
        previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
