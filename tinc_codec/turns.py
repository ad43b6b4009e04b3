"""Calls from several threads share the machine: those of zarr and dask each code a chunk.

A chunk alone takes all processors. As many chunks as there are processors are done sooner by one
thread each than by several in turns, and more of them push one another out of the caches.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tinc_codec.forks import in_children
from tinc_codec.runtime import current_runtime, processors


class _Calls:
    """Those under way in this process; ``changed`` guards the numbers."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.under_way = self.in_turn = 0


_calls = _Calls()
# Whether this thread works for a call that is counted; those that help it have its context.
_counted = ContextVar("tinc_codec_counted", default=False)


@in_children
def _forget_calls() -> None:
    """Start afresh in a forked child, in which no calls are under way."""
    global _calls
    _calls = _Calls()


def threads() -> int:
    """Return how many threads a step may use: as the settings say, or a share of the processors."""
    return current_runtime().threads or max(1, processors() // max(1, _calls.under_way))


@contextmanager
def counted() -> Iterator[None]:
    """Count a call among those that share the processors, unless it is a part of another."""
    if _counted.get():
        yield
        return
    calls, token = _calls, _counted.set(True)
    with calls.changed:
        calls.under_way += 1
    try:
        yield
    finally:
        with calls.changed:
            calls.under_way -= 1
        _counted.reset(token)


@contextmanager
def in_turn() -> Iterator[None]:
    """Count a call that takes long, once fewer of these are under way than there are processors."""
    if _counted.get():
        yield
        return
    calls = _calls
    with calls.changed:
        calls.changed.wait_for(lambda: calls.in_turn < processors())
        calls.in_turn += 1
    try:
        with counted():
            yield
    finally:
        with calls.changed:
            calls.in_turn -= 1
            calls.changed.notify()
