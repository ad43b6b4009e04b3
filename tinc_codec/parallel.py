"""How a stage hands out work that threads may share: by a function that its caller gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

# Maps a function over items: ``map``, or one that does it on threads.
Run = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
