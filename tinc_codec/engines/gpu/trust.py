"""Whether Triton's kernels are used: asked for, able to run, and in agreement with torch.

They are used on a GPU of compute capability 8.0 or more, with a version of triton that has made
sound kernels before, or any if ``runtime(triton=True)`` or ``TINC_TRITON=1`` asks for them. Each
time a process meets paths of other widths they are compared with torch's products; if they fail or
disagree, a warning says so and torch goes on. A kernel that leaves its memory ends all work on the
GPU, though: hence the versions.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Callable, Hashable
from functools import cache
from typing import TYPE_CHECKING, Any

from tinc_codec.engines.gpu.stacks import Stacks
from tinc_codec.errors import InvalidSetting
from tinc_codec.runtime import current_runtime

if TYPE_CHECKING:
    import torch

# Versions of triton.
_TRIED = ("3.6.",)
_CAPABILITY = (8, 0)
# Of the largest value: rounding alone leaves some 1e-6. On a GPU derivatives have 11 bits, which
# leaves 4e-4.
_AGREEMENT, ROUGH_AGREEMENT = 1e-4, 5e-3

# Its multiples, modulo 1, are spread evenly.
_GOLDEN = 0.6180339887498949

_agreed: dict[tuple[Any, ...], bool] = {}


def are_asked_for(device: torch.device) -> bool:
    """Tell whether kernels are to be tried on a device.

    Raises
    ------
    InvalidSetting
        If the run-time settings ask for Triton where it cannot run.
    """
    asked = current_runtime().triton
    if asked is False:
        return False
    if asked and not _has_triton():
        raise InvalidSetting("triton=True needs triton, which is not installed: pip install "
                             "triton, or use triton=False")  # fmt: skip
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if asked and device.type != "cuda" and not interpreted:
        raise InvalidSetting(
            f"triton=True needs a CUDA device, not {device}: use device='cuda', triton=False, or "
            "set TRITON_INTERPRET=1 to try the kernels slowly on the CPU"
        )
    return (asked or (device.type == "cuda" and _has_tried_triton())) and _capable(device)


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@cache
def _has_tried_triton() -> bool:
    """Tell whether the version of triton is one whose kernels have run on a GPU (make test-gpu)."""
    try:
        return importlib.metadata.version("triton").startswith(_TRIED)
    except importlib.metadata.PackageNotFoundError:
        return False


def _capable(device: torch.device) -> bool:
    import torch

    if device.type != "cuda":
        return True
    return torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (
        _CAPABILITY
    )


def agreed(
    what: tuple[Hashable, ...],
    device: torch.device,
    compare: Callable[[], tuple[torch.Tensor, torch.Tensor]],
    most: float = _AGREEMENT,
) -> bool:
    """Tell whether a kernel agrees with torch; compared once per process and what it is made for.

    Parameters
    ----------
    what : tuple
        Which kernel, and what it is compiled for.
    device : torch.device
        Where.
    compare : callable
        Gives the kernel's values and those expected.
    most : float
        By how much they may differ, as a part of the largest one.
    """
    key = (*what, device)
    if key not in _agreed:
        import torch

        try:
            found, expected = (values.double() for values in compare())
            far = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))
            problem = "" if far <= most else f"off by {far:.2g} from torch's"
        except torch.cuda.OutOfMemoryError:
            raise
        # Compilers and drivers raise what they like; torch does the same work.
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            warnings.warn(f"Triton's kernels are not used on {device}: {problem}", stacklevel=2)
        _agreed[key] = not problem
    return _agreed[key]


def probe(stacks: Stacks, device: torch.device) -> torch.Tensor:
    """Return stacked parameters to compare kernels at: no two of a layer alike, of SIREN's size."""
    import torch

    numbers = torch.arange(stacks.chunks * stacks.parameters, device=device)
    values = (numbers.double() * _GOLDEN % 1 * 2 - 1).float()
    stacked = stacks.stack(values.view(stacks.chunks, stacks.parameters))
    for weight, _ in stacks.views(stacked):
        weight.mul_((6 / weight.shape[2]) ** 0.5)
    return stacked
