"""How work is cut, and handed out to threads: by a function that the caller of a stage gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

# Maps a function over items: ``map``, or one that does it on threads.
Run = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


def even_parts(length: int, count: int) -> list[tuple[int, int]]:
    """Cut a length in so many parts that are as even as can be: first place and last, exclusive."""
    return list(pairwise(k * length // count for k in range(count + 1)))
