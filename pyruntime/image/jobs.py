"""Jobs of one transfer side by side: the first failure or the caller's cancel ends all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pyruntime.errors import Cancelled

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

T = TypeVar("T")
WAIT_S = 0.1  # how often the caller's cancel is looked at


def side_by_side(jobs: Sequence[Callable[[], T]], workers: int, *, cancel: threading.Event,
                 stop: threading.Event) -> list[T]:  # fmt: skip
    """What the jobs give, in their order; at most `workers` run at a time, the first ones first.

    `stop` is set, for the jobs to see, when `cancel` is or when one of them fails; then all are waited for. Raises
    Cancelled, else the error of the first job that failed by itself.
    """
    from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

    with ThreadPoolExecutor(max(workers, 1), "transfer") as pool:
        running = [pool.submit(job) for job in jobs]
        pending = set(running)
        try:
            while pending:
                done, pending = wait(pending, WAIT_S, FIRST_EXCEPTION)
                if cancel.is_set() or any(job.exception() for job in done if not job.cancelled()):
                    _end(stop, pending)
        except BaseException:  # an interrupt: the pool waits for what runs
            _end(stop, pending)
            raise
    if cancel.is_set():
        raise Cancelled("the transfer was cancelled")
    errors = [error for job in running if not job.cancelled() and (error := job.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, Cancelled)):
        raise error
    return [job.result() for job in running]


def _end(stop: threading.Event, pending: Iterable[Future[T]]) -> None:
    stop.set()
    for job in pending:
        job.cancel()
