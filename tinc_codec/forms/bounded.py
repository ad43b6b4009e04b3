"""Forms whose every voxel is within a bound: integers alone, since engines may differ by a level.

Wavelet coefficients and a correction of what they decode to, or a correction alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.decode import decode
from tinc_codec.errors import InvalidSetting
from tinc_codec.forms import candidate, wavelets
from tinc_codec.forms.candidate import Form, Volume
from tinc_codec.opened import open_chunk
from tinc_codec.settings import Settings
from tinc_codec.stream.container import SectionKind
from tinc_codec.stream.normalize import ArrayInfo
from tinc_codec.threads import each

# A transform is tried where a correction alone takes fewer bits a voxel than this, with steps of so
# many bounds.
_BASE_BELOW_BITS, _STEPS_OF_BOUND = 0.6, (2.5, 4.0, 6.0)


def within_bound(volume: Volume, settings: Settings) -> Form:
    """Return the smallest of the forms whose every voxel is within the bound."""
    assert settings.max_error is not None
    bound, search = settings.max_error, wavelets.search_of(settings)
    best = _with_correction(volume, None, bound)
    if 8 * len(best.payload) > _BASE_BELOW_BITS * volume.unit.size:
        return best
    span = float(volume.info.high) - float(volume.info.low)
    for factor in _STEPS_OF_BOUND:
        if 0 < factor * bound < span:
            base = wavelets.at_step(volume, factor * bound / span, search)
            form = _with_correction(volume, base, bound)
            best = min(best, form, key=lambda form: len(form.payload))
    return best


def _with_correction(volume: Volume, base: Form | None, max_error: float) -> Form:
    """Add to a form, or to nothing, what brings every voxel within a bound.

    Raises
    ------
    InvalidSetting
        If the dtype cannot hold that.
    """
    from tinc_codec.stream.residual.corrections import correction

    info, shape = volume.info, volume.unit.shape
    wanted = volume.values.astype(info.dtype.newbyteorder("=")).reshape(shape)
    given = np.full(shape, info.low, wanted.dtype)
    if base is not None:
        given = candidate.decoded(base.payload, volume).reshape(shape)
    if volume.weight is not None:
        inside = volume.weight != 0
        middle = given if base is not None else _mean(wanted[inside], info)
        wanted = np.where(inside, wanted, middle)
    data = correction.encode(wanted, given, max_error, each)
    sections = {**(base.sections if base else {}), SectionKind.CORRECTION: data}
    form = candidate.form_of(volume, sections)
    _check_bound(volume, form, max_error)
    return form


def _mean(values: npt.NDArray[Any], info: ArrayInfo) -> Any:
    """Return the mean of values in their dtype; near its limits one of the ends."""
    with np.errstate(over="ignore"):
        mean = float(values.mean(dtype=np.float64))
    return values.dtype.type(min(max(mean, info.low), info.high))


def _check_bound(volume: Volume, form: Form, max_error: float) -> None:
    """Make sure, from decoded bytes, that the bound holds."""
    given = decode(form.payload)
    crop = open_chunk(form.payload).crop
    error = np.abs(candidate.errors(given if crop is None else given[crop.slices], volume))
    if float(error.max()) > max_error:
        raise InvalidSetting(
            f"max_error={max_error:g} is out of reach for this chunk of {volume.info.dtype} "
            f"values: an error of {float(error.max()):g} is left; use a lossless codec"
        )
