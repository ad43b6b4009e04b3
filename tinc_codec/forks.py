"""Forked processes: locks that a thread of the parent held are renewed there, or none would."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

_Function = TypeVar("_Function", bound=Callable[[], None])


def in_children(renew: _Function) -> _Function:
    """Call a function at the beginning of each forked process; return it."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)
    return renew
