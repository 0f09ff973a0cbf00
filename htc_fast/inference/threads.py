"""Work done by threads beside the detector: pictures read ahead, results written behind, both bounded in memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(make: Callable[[Item], Made], items: Iterable[Item], threads: int, depth: int) -> Generator[Made, None, None]:
    """make(item) for every item, in order, while the caller is at work.

    threads  that make; 0: the caller does, item by item
    depth    results that may wait for the caller
    raises   what `make` raises, at that item's turn
    """
    if threads == 0:
        yield from map(make, items)
        return
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) >= depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class Behind:
    """Runs calls in threads; at most `depth` wait. Leaving the block waits for all of them.

    raises  what a call raised, at a later call or at the end of the block
    """

    def __init__(self, threads: int, depth: int):
        self.pool, self.depth = ThreadPoolExecutor(threads, thread_name_prefix="behind"), depth
        self.waiting: deque[Future] = deque()

    def __call__(self, call: Callable, *arguments: Any) -> None:
        """Start a call, once there is room."""
        while len(self.waiting) >= self.depth:
            self.waiting.popleft().result()
        self.waiting.append(self.pool.submit(call, *arguments))

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        try:
            # After an error what is under way still ends; another error would hide the first.
            while self.waiting and kind is None:
                self.waiting.popleft().result()
        finally:
            self.pool.shutdown(wait=True, cancel_futures=kind is not None and not issubclass(kind, KeyboardInterrupt))
