"""Forked processes: locks that a thread of the parent held are renewed there, or none would."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

_Function = TypeVar("_Function", bound=Callable[[], None])


def in_children(renew: _Function) -> _Function:
    """Call a function at the beginning of each forked process; return it."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)
    return renew


class Lock:
    """A lock for ``with`` that is open in a forked process, whoever held it in the parent.

    For the life of the process: it is renewed in children for ever.
    """

    def __init__(self) -> None:
        self._renew()
        in_children(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()
