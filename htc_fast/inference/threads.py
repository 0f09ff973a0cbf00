"""Work done by threads beside the detector: pictures read ahead, results written behind, both bounded in memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, Queue
from threading import Event, Thread
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


def read_ahead(items: Iterable[Item], depth: int = 2) -> Generator[Item, None, None]:
    """The items, made in a thread while the caller is at work; leaving does not wait for one that hangs.

    depth   items that may wait for the caller
    raises  what making one raised, at its turn
    """
    ready, stop = Queue[tuple[list[Item], BaseException | None]](depth), Event()

    def make() -> None:
        each, error = iter(items), None
        try:
            for item in each:
                ready.put(([item], None))
                if stop.is_set():
                    break
        except BaseException as raised:
            error = raised
        if isinstance(each, Generator):
            each.close()  # in the thread that it ran in
        ready.put(([], error))

    thread = Thread(target=make, name="read_ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if not item:
                return
            yield item[0]
    finally:
        stop.set()
        try:
            while True:
                ready.get_nowait()
        except Empty:
            pass
        thread.join(timeout=1)


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
