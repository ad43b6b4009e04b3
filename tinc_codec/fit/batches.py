"""Many chunks in batches that fit into memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


def in_batches(run: Callable[[Sequence[int]], None], numbers: Sequence[int], most: int) -> None:
    """Call run() on all numbers, at most so many at once; on half as many when memory runs out.

    Raises
    ------
    torch.cuda.OutOfMemoryError
        If a single one is too much.
    """
    at = 0
    while at < len(numbers):
        some = numbers[at : at + most]
        try:
            run(some)
            at += len(some)
        except _out_of_memory():
            if len(some) == 1:
                raise
            most = -(-len(some) // 2)
        else:
            continue
        # Outside the handler, whose traceback holds the failed batch.
        _empty_cache()


def _out_of_memory() -> tuple[type[BaseException], ...]:
    """Return the error of a full device; nothing raises it before torch is loaded."""
    torch = sys.modules.get("torch")
    return () if torch is None else (torch.cuda.OutOfMemoryError,)


def _empty_cache() -> None:
    """Give back what torch keeps, so that a batch of another size finds it in one piece."""
    import torch

    torch.cuda.empty_cache()
