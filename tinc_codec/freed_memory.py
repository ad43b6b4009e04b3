"""Freed memory kept for the next chunk, where the GNU C library would give it back to the system.

An array of a few MB is fresh memory each time by default, and every page of it costs more to take
than the work on it: decoding takes 1.6 times as long, encoding 1.8 times. The library finds that
out by itself unless ``MALLOC_TRIM_THRESHOLD_`` is set, which dask does in its workers.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

# Blocks up to this size are taken from memory that is kept, at most twice as much of it.
_BLOCK = 31 << 20
# Of mallopt, in malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# What distributed sets for its workers; another value is somebody's wish.
_OF_DASK = "65536"


@cache
def keep_freed_memory() -> None:
    """Have the process keep up to 62 MiB of freed memory, in each of malloc's arenas; once.

    Called when the first chunk is encoded or decoded, not on import: others' processes import this
    package, too. Nothing is done elsewhere than on Linux with the GNU C library, nor where the
    environment says what malloc is to keep.
    """
    asked = os.environ.get("MALLOC_TRIM_THRESHOLD_", _OF_DASK) != _OF_DASK
    asked |= "MALLOC_MMAP_THRESHOLD_" in os.environ
    asked |= "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if asked or not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _BLOCK)
        mallopt(_TRIM_THRESHOLD, 2 * _BLOCK)
