"""Jobs side by side, lines of progress, and callers that share a transfer; no registry."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from pyruntime.errors import Cancelled, ImageError
from pyruntime.image.jobs import side_by_side
from pyruntime.image.progress import Progress, Reporter
from pyruntime.image.transfers import Transfers, _Shared

pytestmark = pytest.mark.unit
WAIT_S = 60  # for what comes at once, on a busy machine too


def until(look: Callable[[], object]) -> None:
    """Returns when `look` gives something true."""
    end = time.monotonic() + WAIT_S
    while not look():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_jobs_in_their_order_and_not_too_many_at_once() -> None:
    running, most, lock, full = 0, 0, threading.Lock(), threading.Barrier(3)

    def job(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if number < 3:
            full.wait(WAIT_S)  # three at a time there are
        time.sleep(0.02 * (5 - number % 5))
        with lock:
            running -= 1
        return number

    jobs = [lambda i=i: job(i) for i in range(7)]
    assert side_by_side(jobs, 3, cancel=threading.Event(), stop=threading.Event()) == list(range(7))
    assert most == 3
    assert side_by_side([], 3, cancel=threading.Event(), stop=threading.Event()) == []


def test_one_failure_ends_the_others() -> None:
    stop, begun = threading.Event(), []

    def waits() -> None:
        begun.append(1)
        assert stop.wait(WAIT_S)
        raise Cancelled("told to stop")

    def fails() -> None:
        raise ImageError("the reason")

    with pytest.raises(ImageError, match="the reason"):
        side_by_side([waits, fails, waits, waits], 2, cancel=threading.Event(), stop=stop)
    assert len(begun) < 3 or stop.is_set()


def test_the_callers_cancel_ends_all() -> None:
    cancel, stop = threading.Event(), threading.Event()
    threading.Timer(0.1, cancel.set).start()
    with pytest.raises(Cancelled):
        side_by_side([lambda: stop.wait(WAIT_S), lambda: stop.wait(WAIT_S)], 1, cancel=cancel, stop=stop)
    assert stop.is_set()


def test_an_interrupt_ends_all(monkeypatch) -> None:
    stop = threading.Event()

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        side_by_side([lambda: stop.wait(WAIT_S), lambda: stop.wait(WAIT_S)], 1, cancel=threading.Event(), stop=stop)
    assert stop.is_set()


def test_counts_are_thinned_out_but_for_the_last() -> None:
    said: list[Progress] = []
    report = Reporter(said.append)
    for at in range(0, 1001, 10):
        report.count("a", "Downloading", at, 1000)
    report.say("a", "Download complete")
    assert [line.current for line in said[:2]] == [0, 1000]
    assert said[-1] == Progress("a", "Download complete")
    Reporter(None).say("a", "b")


class Client:
    identity = ("hosts", "nobody")


class Place:
    root = "/somewhere"


@pytest.fixture
def work(monkeypatch):
    """Stands in for a pull: what callers share is all that is looked at here."""
    runs: list[threading.Event] = []
    go = threading.Event()

    def pull(store, client, reference, *, platform, progress, cancel, **more):
        runs.append(cancel)
        progress(Progress("a", "begun"))
        while not go.wait(0.02):
            if cancel.is_set():
                raise Cancelled("all have left")
        if more.get("fails"):
            raise ImageError("failed")
        progress(Progress("a", "done"))
        return reference

    monkeypatch.setattr("pyruntime.image.transfers.pull", pull)
    return runs, go


def test_two_callers_one_transfer(work) -> None:
    runs, go = work
    transfers, heard, found = Transfers(), ([], []), []
    threads = [threading.Thread(target=lambda i=i: found.append(
        transfers.pull(Place, Client, "x", progress=heard[i].append))) for i in range(2)]
    for thread, lines in zip(threads, heard):
        thread.start()
        until(lambda lines=lines: lines)
    go.set()
    for thread in threads:
        thread.join()
    assert found == ["x", "x"]
    assert len(runs) == 1
    assert [[line.status for line in lines] for lines in heard] == [["begun", "done"]] * 2
    transfers.pull(Place, Client, "x")
    assert len(runs) == 2  # an ended one is not joined


def test_others_are_not_equal(work) -> None:
    runs, go = work
    go.set()
    transfers = Transfers()
    for reference, platform in (("x", None), ("y", None), ("x", "arm64")):
        assert transfers.pull(Place, Client, reference, platform=platform) == reference
    assert len(runs) == 3


def test_one_leaves_and_then_all(work) -> None:
    runs, _ = work
    transfers, leave, heard = Transfers(), [threading.Event(), threading.Event()], ([], [])
    left = []

    def follow(number: int) -> None:
        try:
            transfers.pull(Place, Client, "x", progress=heard[number].append, cancel=leave[number])
        except Cancelled:
            left.append(number)

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: all(heard))
    leave[0].set()
    threads[0].join()
    assert left == [0]
    assert not runs[0].is_set()
    leave[1].set()
    threads[1].join()
    assert left == [0, 1]
    assert runs[0].wait(WAIT_S)


def test_who_comes_as_the_last_one_leaves_has_a_transfer_of_its_own(work, monkeypatch) -> None:
    """Not the end of the one that nobody wants any more."""
    runs, go = work
    transfers, leave, heard, left, found = Transfers(), threading.Event(), [], [], []

    def follow() -> None:
        try:
            transfers.pull(Place, Client, "x", progress=heard.append, cancel=leave)
        except Cancelled:
            left.append(1)

    first = threading.Thread(target=follow)
    first.start()
    until(lambda: heard)
    enter = _Shared.enter

    def late(shared: _Shared) -> object:
        leave.set()
        first.join(WAIT_S)
        return enter(shared)

    monkeypatch.setattr(_Shared, "enter", late)
    second = threading.Thread(target=lambda: found.append(transfers.pull(Place, Client, "x")))
    second.start()
    until(lambda: len(runs) == 2)
    go.set()
    second.join(WAIT_S)
    assert (left, found) == ([1], ["x"])


def test_a_failure_is_everybodys(work) -> None:
    _, go = work
    go.set()
    with pytest.raises(ImageError, match="failed"):
        Transfers().pull(Place, Client, "x", fails=True)
