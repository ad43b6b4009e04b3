"""Which device torch runs on, and products in full float32 there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tinc_codec.errors import InvalidSetting
from tinc_codec.forks import in_children
from tinc_codec.runtime import current_runtime

if TYPE_CHECKING:
    import torch

_lock = threading.Lock()
_active: dict[str, int] = {}
_before: dict[str, str] = {}


@in_children
def _forget() -> None:
    global _lock
    _lock = threading.Lock()
    _active.clear()


def current_device() -> torch.device:
    """Return the torch device of the run-time settings: CUDA where they say so, else the CPU.

    Raises
    ------
    InvalidSetting
        If torch is not installed, or has no such device.
    """
    name = current_runtime().device
    try:
        import torch
    except ImportError as error:
        raise InvalidSetting(
            f"device={name!r} needs torch, which is not installed: "
            "pip install 'tinc_codec[fit]', or use device='cpu'"
        ) from error
    if not name.startswith("cuda"):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InvalidSetting(
            f"device={name!r} needs a CUDA device and torch finds none: install a driver and a "
            "CUDA build of torch, or use device='cpu'"
        )
    last = torch.cuda.device_count() - 1
    if int(name[5:] or 0) > last:
        raise InvalidSetting(f"device={name!r} is not there: use one of cuda:0 to cuda:{last}")
    # With its number: caches are keyed by the device, and threads may have another current one.
    return torch.device(name if ":" in name else f"cuda:{torch.cuda.current_device()}")


def is_there() -> bool:
    """Return whether torch is installed and finds a CUDA device."""
    if not find_spec("torch"):
        return False
    import torch

    return torch.cuda.is_available()


def check_device() -> None:
    """Refuse run-time settings that ask for a device, or for kernels, that are not there.

    Raises
    ------
    InvalidSetting
        As :func:`current_device`, and where Triton cannot run.
    """
    from tinc_codec.engines.gpu import trust

    if current_runtime().uses_torch:
        trust.are_asked_for(current_device())


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Multiply in full float32 whatever the caller's program allows (TF32, bfloat16, autocast).

    The precision is a setting of the whole process: the first to enter changes it, the last to
    leave puts it back.
    """
    import torch

    kind = device.type
    with _lock:
        if not _active.get(kind):
            _before[kind] = _swap_precision(kind, "ieee")
        _active[kind] = _active.get(kind, 0) + 1
    try:
        with torch.autocast(kind, enabled=False), torch.no_grad():
            yield
    finally:
        with _lock:
            _active[kind] -= 1
            if not _active[kind]:
                _swap_precision(kind, _before[kind])


def _swap_precision(kind: str, wanted: str) -> str:
    """Set the precision of float32 products; return what it was."""
    import torch

    backend: Any = torch.backends.cuda.matmul if kind == "cuda" else torch.backends.mkldnn
    backend = getattr(backend, "matmul", backend)
    if hasattr(backend, "fp32_precision"):
        before = str(backend.fp32_precision)
        backend.fp32_precision = wanted
    else:  # torch < 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest" if wanted == "ieee" else wanted)
    return before
