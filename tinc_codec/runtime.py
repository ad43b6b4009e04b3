"""Run-time matters: which engine evaluates, on how many threads. Never stored in a payload.

Order of precedence: the :func:`runtime` context manager, then the environment
(``TINC_DEVICE``, ``TINC_THREADS``, ``TINC_TRITON``, ``TINC_CACHE``), then the defaults.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache

from tinc_codec.errors import InvalidSetting

MAX_THREADS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """How to run.

    Attributes
    ----------
    device : str
        "auto", "cpu" (numba), "reference" (numpy, slow, the oracle), "torch" (torch on the CPU),
        "cuda" or "cuda:N" (torch on a GPU). "auto" is "cpu".
    threads : int
        Threads that one chunk may use, whatever else is under way; 0 means as many as the process
        may run on, which chunks coded at the same time share.
    triton : bool or None
        Whether torch on a GPU hands trees to Triton's kernels; None: with the versions of triton
        whose kernels have run on a GPU. A tree with paths too long or too wide for them always
        goes through torch's products.
    cache_bytes: int
        Decoded chunks and regions that a process keeps for further reads of zarr arrays, in bytes,
        256 MiB by default; 0 keeps none. Chunks that are read once are not kept.
    """

    device: str = "auto"
    threads: int = 0
    triton: bool | None = None
    cache_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        names = ("auto", "cpu", "reference", "torch", "cuda")
        if self.device not in names and not re.fullmatch(r"cuda:[0-9]+", str(self.device)):
            raise InvalidSetting(
                f"device={self.device!r} must be one of {', '.join(names)} or cuda:N "
                "(argument, runtime() or TINC_DEVICE)"
            )
        if type(self.threads) is not int or not 0 <= self.threads <= MAX_THREADS:
            raise InvalidSetting(
                f"threads={self.threads!r} must be an integer, 0 (all) to {MAX_THREADS} "
                "(argument, runtime() or TINC_THREADS)"
            )
        if self.triton is not None and not isinstance(self.triton, bool):
            raise InvalidSetting(f"triton={self.triton!r} must be True, False or None")
        if type(self.cache_bytes) is not int or self.cache_bytes < 0:
            raise InvalidSetting(
                f"cache_bytes={self.cache_bytes!r} must be a number of bytes, 0 for no cache "
                "(runtime() or TINC_CACHE)"
            )

    @property
    def uses_torch(self) -> bool:
        """Whether torch is to run, which works on many chunks at once."""
        return self.device not in ("auto", "cpu", "reference")

    def thread_count(self) -> int:
        """Return the number of threads, the default resolved."""
        return self.threads or processors()


def processors() -> int:
    """Return how many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# zarr runs codecs in worker threads: context variables reach them, thread-locals do not.
_CURRENT: ContextVar[Runtime | None] = ContextVar("tinc_codec_runtime", default=None)


_DEFAULT = Runtime()


@lru_cache(maxsize=16)
def _runtime(device: str, threads: str, triton: str, cache: str) -> Runtime:
    """Parse the environment variables; kept, since every step of a decoding asks for them."""
    if not re.fullmatch("[0-9]+", threads):
        raise InvalidSetting(f"TINC_THREADS={threads!r} must be an integer; 0 means all")
    if triton not in ("", "0", "1"):
        raise InvalidSetting(f"TINC_TRITON={triton!r} must be 0 or 1")
    if not re.fullmatch("[0-9]+", cache):
        raise InvalidSetting(f"TINC_CACHE={cache!r} must be a number of bytes; 0 means no cache")
    return Runtime(
        device=device,
        threads=int(threads),
        triton={"1": True, "0": False}.get(triton),
        cache_bytes=int(cache),
    )


def _from_environment() -> Runtime:
    get = os.environ.get  # an empty variable is as good as none
    return _runtime(
        get("TINC_DEVICE") or _DEFAULT.device,
        get("TINC_THREADS") or str(_DEFAULT.threads),
        get("TINC_TRITON") or "",
        get("TINC_CACHE") or str(_DEFAULT.cache_bytes),
    )


def current_runtime() -> Runtime:
    """Return the run-time settings in force here."""
    return _CURRENT.get() or _from_environment()


def given_runtime() -> Runtime | None:
    """Return the settings of the innermost :func:`runtime` here; None outside of any."""
    return _CURRENT.get()


@contextmanager
def using(settings: Runtime | None) -> Iterator[None]:
    """Put settings in force that were in force elsewhere; None leaves things as they are."""
    if settings is None:
        yield
        return
    token = _CURRENT.set(settings)
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def runtime(
    *,
    device: str | None = None,
    threads: int | None = None,
    triton: bool | None = None,
    cache_bytes: int | None = None,
) -> Iterator[Runtime]:
    """Set device, threads, kernels and cache for the encodes and decodes inside the ``with`` block.

    Threads of other libraries may not see it, nor do other processes. Images and arrays that
    :func:`tinc_codec.open` opens inside the block keep it, wherever they are computed.

    Parameters
    ----------
    device : str, optional
        See :class:`Runtime`.
    threads : int, optional
        See :class:`Runtime`.
    triton : bool, optional
        See :class:`Runtime`.
    cache_bytes : int, optional
        See :class:`Runtime`. Leaving the block does not empty the cache; the next read under a
        smaller limit does, unless that is 0.

    Yields
    ------
    Runtime
        The settings in force within the block.

    Raises
    ------
    InvalidSetting
        If a value is out of range.
    """
    base = current_runtime()
    chosen = replace(
        base,
        device=base.device if device is None else device,
        threads=base.threads if threads is None else threads,
        triton=base.triton if triton is None else triton,
        cache_bytes=base.cache_bytes if cache_bytes is None else cache_bytes,
    )
    with using(chosen):
        yield chosen
