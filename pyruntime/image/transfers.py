"""Transfers that several callers of one process want: equal ones run once, and each caller sees all of it.

Equal is: the same verb, store, reference, platform, registries and credentials. Whoever comes later first hears where
every layer is, then what the others hear. A caller that cancels leaves; the transfer itself ends when all have left.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pyruntime.errors import Cancelled
from pyruntime.image.pull import pull
from pyruntime.image.push import Pushed, push

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyruntime.image.platform import Platform
    from pyruntime.image.progress import Progress
    from pyruntime.image.reference import Reference
    from pyruntime.image.registry import RegistryClient
    from pyruntime.image.store import Image, Store

    Tell = Callable[[Progress], None]
    Seat = queue.SimpleQueue[Progress | None]

T = TypeVar("T")
LOOK_S = 0.1  # how often a caller's cancel is looked at


class Transfers:
    """The transfers of one process. Thread-safe."""

    def __init__(self) -> None:
        self._running: dict[tuple[Any, ...], _Shared[Any]] = {}
        self._lock = threading.Lock()

    def pull(self, store: Store, client: RegistryClient, reference: Reference, *, platform: Platform | None = None,
             progress: Tell | None = None, cancel: threading.Event | None = None, **more: Any) -> Image:  # fmt: skip
        """As pull.pull, whose other settings come from the first caller."""
        key = ("pull", store.root, reference, platform, *client.identity)

        def work(tell: Tell, stop: threading.Event) -> Image:
            return pull(store, client, reference, platform=platform, progress=tell, cancel=stop, **more)

        return self._join(key, work, progress, cancel)

    def push(self, store: Store, client: RegistryClient, reference: Reference, *, platform: Platform | None = None,
             progress: Tell | None = None, cancel: threading.Event | None = None, **more: Any) -> Pushed:  # fmt: skip
        """As push.push, whose other settings come from the first caller."""
        key = ("push", store.root, reference, platform, *client.identity)

        def work(tell: Tell, stop: threading.Event) -> Pushed:
            return push(store, client, reference, platform=platform, progress=tell, cancel=stop, **more)

        return self._join(key, work, progress, cancel)

    def _join(self, key: tuple[Any, ...], work: Callable[[Tell, threading.Event], T], progress: Tell | None,
              cancel: threading.Event | None) -> T:
        shared: _Shared[T] | None
        with self._lock:
            shared = self._running.get(key)
            seat = shared.enter() if shared is not None else None
            if shared is None or seat is None:
                shared = self._running[key] = _Shared(work, lambda: self._ended(key))
                seat = shared.first
        return shared.follow(seat, progress, cancel or threading.Event())

    def _ended(self, key: tuple[Any, ...]) -> None:
        with self._lock:
            shared = self._running.get(key)
            if shared is not None and shared.thread is threading.current_thread():
                del self._running[key]


class _Shared(Generic[T]):
    """One running transfer in a thread of its own, with a queue for each of its callers."""

    def __init__(self, work: Callable[[Tell, threading.Event], T], ended: Callable[[], None]) -> None:
        self.stop = threading.Event()
        self._work, self._ended = work, ended
        self.first: Seat = queue.SimpleQueue()  # of the caller that began it
        self._seats = [self.first]
        self._last: dict[str, Progress] = {}
        self._lock = threading.Lock()
        self._done = False
        self._result: list[T] = []
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="shared-transfer", daemon=True)
        self.thread.start()

    def enter(self) -> Seat | None:
        """A queue that begins with the last line of every id, None in it is the end; None when all others have left."""
        seat: Seat = queue.SimpleQueue()
        with self._lock:
            if self.stop.is_set():
                return None
            for progress in self._last.values():
                seat.put(progress)
            if self._done:
                seat.put(None)
            self._seats.append(seat)
        return seat

    def follow(self, seat: Seat, progress: Tell | None, cancel: threading.Event) -> T:
        """The transfer's result, or its error; Cancelled when the caller leaves."""
        try:
            while True:
                try:
                    told = seat.get(timeout=LOOK_S)
                except queue.Empty:
                    told = None
                    if not cancel.is_set():
                        continue
                if cancel.is_set() and not self._done:
                    raise Cancelled("the transfer was cancelled")
                if told is None:
                    break
                if progress is not None:
                    progress(told)
        finally:
            self._leave(seat)
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _leave(self, seat: Seat) -> None:
        with self._lock:
            self._seats.remove(seat)
            if not self._seats:
                self.stop.set()

    def _run(self) -> None:
        try:
            self._result.append(self._work(self._tell, self.stop))
        except BaseException as error:  # noqa: BLE001 # raised where it is waited for
            self._error = error
        self._ended()
        with self._lock:
            self._done = True
            for seat in self._seats:
                seat.put(None)

    def _tell(self, progress: Progress) -> None:
        with self._lock:
            self._last[progress.id] = progress
            for seat in self._seats:
                seat.put(progress)
