"""Tasks done in processes beside this one: who gets which, and how all of them end."""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from htc_fast.ablation.one import Task, carry_out
from htc_fast.cores import usable_cores
from htc_fast.errors import UserError

LOG = "log.txt"
PATIENCE = 1.0  # seconds between two looks whether the others are alive


def side_by_side(tasks: list[Task], jobs: int) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Scores of tasks as they are ready, by so many processes; what these print goes to each task's log.

    raises  UserError with what went wrong in one of them, when all have ended; leaving it early ends them too, after
            their step and with their state saved
    """
    context = multiprocessing.get_context("spawn")
    asked, answers = context.Queue(), context.Queue()
    threads = max(usable_cores() // jobs, 1)
    for number, task in enumerate(tasks):
        asked.put((number, replace(task, run=replace(task.run, threads=task.run.threads or threads))))
    workers = [context.Process(target=work, args=(asked, answers, os.getpid())) for _ in range(min(jobs, len(tasks)))]
    # A process that still imports is not to be disturbed; what is sent to it waits until it begins.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    for worker in workers:
        asked.put(None)
        worker.start()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for _ in tasks:
            number, scores, trouble = _next(answers, workers)
            if scores is None:
                raise UserError(f"{tasks[number].name}: {trouble}")
            yield tasks[number], scores
        for worker in workers:  # they have nothing left, and leave by themselves
            worker.join()
    finally:
        _end(workers, asked)


def work(asked: Any, answers: Any, parent: int) -> None:
    """One process: tasks until there is none left, a wish to stop, or nobody who waits for them."""
    # A terminal's Ctrl-C goes to the parent alone, who hands it on once.
    os.setsid()
    threading.Thread(target=_leave_behind, args=(parent,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        while os.getppid() == parent and (item := asked.get()) is not None:
            number, task = item
            task.folder.mkdir(parents=True, exist_ok=True)
            scores, trouble = None, ""
            with (
                open(task.folder / LOG, "a", encoding="utf-8", errors="backslashreplace") as log,
                contextlib.redirect_stdout(log),
                contextlib.redirect_stderr(log),
            ):
                try:
                    scores = carry_out(task)
                except UserError as error:
                    trouble = str(error)
                except Exception as error:
                    traceback.print_exc()
                    trouble = f"{type(error).__name__}, see {task.folder / LOG}"
            if scores is None and not trouble:
                return
            answers.put((number, scores, trouble))


def _leave_behind(parent: int) -> None:
    """Stop this process, after its step and with its state saved, when nobody waits for it any more."""
    while os.getppid() == parent:
        time.sleep(PATIENCE)
    os.kill(os.getpid(), signal.SIGINT)


def _next(answers: Any, workers: list[Any]) -> tuple[int, dict[str, Any] | None, str]:
    while True:
        dead = [worker.exitcode for worker in workers if worker.exitcode]
        try:
            return answers.get(timeout=PATIENCE)
        except queue.Empty:
            if dead:
                raise UserError(
                    f"a process of --jobs ended with status {dead[0]}: start again with fewer, as memory may be short; "
                    "what is done is kept."
                ) from None


def _end(workers: list[Any], asked: Any) -> None:
    """Ask those that still work to stop, and wait; a second Ctrl-C waits no longer."""
    for worker in workers:
        if worker.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGINT)
    asked.cancel_join_thread()
    try:
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.kill()
