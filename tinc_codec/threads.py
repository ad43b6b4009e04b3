"""The same work on many items, on as many threads as the run-time settings allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from tinc_codec.runtime import current_runtime

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def each(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Return function(item) for every item, in order; the first error that one raises is raised."""
    threads = min(len(items), current_runtime().thread_count())
    if threads <= 1:
        return [function(item) for item in items]
    # The run-time settings are context variables, which threads do not inherit.
    contexts = [copy_context() for _ in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda context, item: context.run(function, item), contexts, items))
