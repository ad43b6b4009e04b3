"""Forked processes: locks that a thread of the parent held are renewed there, or none would."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

_Function = TypeVar("_Function", bound=Callable[[], None])
_Value = TypeVar("_Value")


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


class cached_value(Generic[_Value]):  # noqa: N801 - a decorator, as functools names its own
    """A property that is worked out once for each object: functools' without a lock.

    That of Python 3.11 has one lock for all objects of a class, held meanwhile: a forked process
    would wait for it for ever, and threads for one another. Here two threads may both work it out.
    """

    def __init__(self, function: Callable[[Any], _Value]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> _Value:
        value = instance.__dict__[self._name] = self._function(instance)
        return value
