"""The same work on many items, on as many threads as the run-time settings allow.

The threads of a process stay for the next time: starting one takes about a millisecond, and a
chunk is decoded in some ten steps of a few milliseconds.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar, cast

from tinc_codec.runtime import MAX_THREADS, current_runtime

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def _new_pool() -> ThreadPoolExecutor:
    """Return a pool that starts a thread whenever none is idle: work in it may wait for more."""
    return ThreadPoolExecutor(MAX_THREADS, "tinc")


_pool = _new_pool()


def _forget_threads() -> None:
    """Start afresh in a forked child, which has none of its parent's threads."""
    global _pool
    _pool = _new_pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def submit(function: Callable[..., _Result], *arguments: Any) -> Future[_Result]:
    """Call a function on another thread, under the run-time settings of this one."""
    # These are context variables, which threads do not inherit.
    return _pool.submit(copy_context().run, function, *arguments)


def each(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Return function(item) for every item, in order; the first error that one raises is raised.

    This thread takes part, and after an error no further item is begun.
    """
    threads = min(len(items), current_runtime().thread_count())
    if threads <= 1:
        return [function(item) for item in items]
    found: list[_Result | None] = [None] * len(items)
    failed: dict[int, BaseException] = {}
    places = itertools.count()

    def work() -> None:
        while not failed and (at := next(places)) < len(items):
            try:
                found[at] = function(items[at])
            except BaseException as error:  # an interrupt, too, once the others have ended
                failed[at] = error

    helpers = [submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():
            helper.result()
    if failed:
        raise failed[min(failed)]
    return cast("list[_Result]", found)
