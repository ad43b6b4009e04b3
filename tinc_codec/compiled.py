"""Functions compiled by numba, and kept on disk where there is a folder for it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(signature: Any = None, **options: Any) -> Callable[[_Function], _Function]:
    """Compile a function that frees the GIL while it runs; arguments as of :func:`numba.njit`.

    What is compiled is kept in numba's cache. Where that has no folder to write to, as for a user
    without a home, it is compiled in each process anew, and a warning says so once.
    """

    def decorate(function: _Function) -> _Function:
        try:
            found: Any = njit(signature, nogil=True, cache=True, **options)(function)
        except RuntimeError as error:
            if "no locator" not in str(error):
                raise
            _warn_of_no_cache()
            found = njit(signature, nogil=True, **options)(function)
        return cast("_Function", found)

    return decorate


@functools.cache
def _warn_of_no_cache() -> None:
    warnings.warn(
        "numba finds no folder to keep compiled code in, neither beside the package nor in the "
        "user's home: each process compiles anew, for 20 seconds or so. Set NUMBA_CACHE_DIR to a "
        "folder that can be written to",
        RuntimeWarning,
        stacklevel=2,
    )
