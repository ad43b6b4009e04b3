"""The same work on many items, on as many threads as the run-time settings allow.

The threads of a process stay for the next time: starting one takes about a millisecond, and a
chunk is decoded in some ten steps of a few milliseconds.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypeVar, cast

from tinc_codec import turns
from tinc_codec.forks import in_children

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


@in_children
def _forget_threads() -> None:
    """Start afresh in a forked child, which has none of its parent's threads."""
    global _lock, _pool, _pool_size
    _lock, _pool, _pool_size = threading.Lock(), None, 0


def _shared_pool(size: int) -> ThreadPoolExecutor:
    """Return a pool of at least ``size`` threads; a smaller one ends when its last user is done."""
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < size:
            _pool, _pool_size = ThreadPoolExecutor(size, "tinc"), size
        return _pool


def _handed(pool: ThreadPoolExecutor, work: Callable[[int], None], k: int) -> Future[None] | None:
    """Hand work(k) to another thread; None while the interpreter ends, when no thread takes any."""
    # The run-time settings are context variables, which threads do not inherit.
    run = copy_context().run
    try:
        return pool.submit(run, work, k)
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise
        return None


@contextmanager
def begun(work: Callable[[int], None], threads: int) -> Iterator[Callable[[], None]]:
    """Let threads of the process call work(k) for k from 1 to threads - 1, while this one goes on.

    Yields a function that calls work(0) and ends when all are done. What no other thread has begun
    by then is done here: all may be busy, with work that waits for more work even. What is not
    begun when the context is left never is.
    """
    # What no thread has begun stays in the pool's queue until one is free, which may be long after:
    # it must not hold the work, nor the arrays that this is of.
    held = [work]

    def begin(k: int) -> None:
        if held:
            held[0](k)

    pool = _shared_pool(threads - 1) if threads > 1 else None
    others = [_handed(pool, begin, k) for k in range(1, threads)] if pool else []

    def finish() -> None:
        work(0)
        for k, other in enumerate(others, 1):
            if other is None or other.cancel():
                work(k)
            else:
                other.result()

    try:
        yield finish
    finally:
        held.clear()


def shared(work: Callable[[int], None], threads: int) -> None:
    """Call work(k) for k from 0 to threads - 1, on this thread and those of the process."""
    with begun(work, threads) as finish:
        finish()


def each(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Return function(item) for every item, in order; the first error that one raises is raised.

    This thread takes part, and after an error no further item is begun.
    """
    if len(items) < 2 or (threads := min(len(items), turns.threads())) < 2:
        return [function(item) for item in items]
    found: list[_Result | None] = [None] * len(items)
    failed: dict[int, BaseException] = {}
    places = itertools.count()

    def work(_: int) -> None:
        while not failed and (at := next(places)) < len(items):
            try:
                found[at] = function(items[at])
            except BaseException as error:  # an interrupt, too, once the others have ended
                failed[at] = error

    shared(work, threads)
    if failed:
        raise failed[min(failed)]
    return cast("list[_Result]", found)
