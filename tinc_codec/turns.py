"""Calls from several threads share the machine: those of zarr and dask each code a chunk.

A chunk alone takes all processors. As many chunks as there are processors are done sooner by one
thread each than by several in turns, and more of them push one another out of the caches: encoders
wait, in the order of their coming. Decoders do not, so that nobody who looks at a volume waits for
those; nor does torch, which has a device to itself. A number of threads that the settings give is
for each call, and is not divided.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice

from tinc_codec.forks import in_children
from tinc_codec.runtime import current_runtime, processors


class _Calls:
    """Those under way in this process, and the long ones, which wait for ``changed``, by arrival.

    Those under way are a set without a lock: an interrupt of the user could leave one held.
    """

    def __init__(self) -> None:
        self.under_way: set[object] = set()
        self.changed = threading.Condition()
        self.long: dict[object, None] = {}


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
    return current_runtime().threads or max(1, processors() // max(1, len(_calls.under_way)))


@contextmanager
def counted() -> Iterator[None]:
    """Count a call among those that share the processors, unless it is a part of another."""
    if _counted.get():
        yield
        return
    calls, call = _calls, object()
    try:
        calls.under_way.add(call)
        _counted.set(True)
        yield
    finally:
        _counted.set(False)
        calls.under_way.discard(call)


@contextmanager
def in_turn() -> Iterator[None]:
    """Count a call that takes long, once it is among the first as many as there are processors."""
    if _counted.get():
        yield
        return
    calls, call = _calls, object()
    try:
        with calls.changed:
            calls.long[call] = None
            calls.changed.wait_for(lambda: call in islice(calls.long, processors()))
        with counted():
            yield
    finally:
        with calls.changed:
            calls.long.pop(call, None)
            calls.changed.notify_all()
