"""From array to payload: the forward path.

array - special values (padding, masks) - normalize - forms (tree within the budget - fit -
quantize - entropy code; wavelet of the rest) - container. Every form is scored by decoding it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec import turns
from tinc_codec.decoding.opened import long_axes
from tinc_codec.errors import InvalidSetting, UnsupportedData
from tinc_codec.forms import choice
from tinc_codec.forms.volume import Sections, Volume, size_of
from tinc_codec.freed_memory import keep_freed_memory
from tinc_codec.importance import by_threshold, by_weights, check_weights
from tinc_codec.runtime import current_runtime
from tinc_codec.settings import Settings
from tinc_codec.stream import container, normalize, special_values
from tinc_codec.stream.container import SectionKind
from tinc_codec.stream.normalize import ArrayInfo
from tinc_codec.threads import each

# Bytes that every chunk of any supported shape and dtype can be said in, as a constant at least.
SMALLEST_BUDGET = 96
_SMALLEST_FORM = 6


def encode(
    array: npt.ArrayLike, *, importance: npt.ArrayLike | None = None, **settings: Any
) -> bytes:
    """Compress an array.

    Parameters
    ----------
    array : array_like
        int8 to int32, uint8 to uint32, float16 to float64; 1 to 4 axes longer than one voxel.
        Any byte order, strides and memory order; never changed.
    importance : float or array_like, optional
        A threshold (see :class:`tinc_codec.Settings`), or what the squared error of each voxel
        weighs: an array of the same shape, 0 or more. Only ratios of weights matter, and one below
        1/256 of the largest counts as that. Needs a ratio.
    **settings
        See :class:`tinc_codec.Settings`.

    Returns
    -------
    bytes
        The payload: at most ``array.nbytes / ratio`` bytes, or as few as reach the fidelity asked
        for.

    Raises
    ------
    InvalidSetting
        If a setting is unknown or out of range, the budget cannot hold this chunk, or more than
        four axes are longer than one voxel.
    UnsupportedData
        If the array is of a kind that the codec does not take.
    """
    weights = None if importance is None else np.asarray(importance)
    if weights is None or weights.ndim == 0:
        threshold = None if weights is None else weights.item()
        chosen = Settings.from_json({"importance": threshold, **settings})
        return encode_chunk(np.asanyarray(array), chosen)
    return encode_chunks([np.asanyarray(array)], Settings.from_json(settings), [weights])[0]


def encode_chunk(array: npt.NDArray[Any], settings: Settings) -> bytes:
    """Compress an array by a record of settings; see :func:`encode`."""
    return encode_chunks([array], settings)[0]


def encode_chunks(
    arrays: Sequence[npt.ArrayLike],
    settings: Settings,
    importance: Sequence[npt.ArrayLike | None] | None = None,
) -> list[bytes]:
    """Compress arrays by a record of settings, on a GPU many of them at once.

    Arrays of one shape that get the same tree are fitted together, as many as the device's memory
    holds. All of them are held in float32 meanwhile: 4 bytes per voxel, 8 with a mask.

    Parameters
    ----------
    arrays : sequence of array_like
        Each as for :func:`encode`, whose errors this raises too, for the first that has one.
    settings : Settings
        For all of them.
    importance : sequence of array_like or None, optional
        What the voxels of each array weigh; see :func:`encode`.

    Returns
    -------
    list of bytes
        The payload of each.

    Raises
    ------
    UnsupportedData
        If one array is given in place of several.
    """
    if isinstance(arrays, np.ndarray):
        raise UnsupportedData(
            f"encode_chunks takes a sequence of arrays, not one of shape {arrays.shape}: give "
            "[array], or list(array) if these are its items"
        )
    keep_freed_memory()
    given = [None] * len(arrays) if importance is None else importance
    pairs = [
        (np.asanyarray(array), None if weights is None else np.asarray(weights))
        for array, weights in zip(arrays, given, strict=True)
    ]
    with turns.counted() if current_runtime().uses_torch else turns.in_turn():
        prepared = each(lambda pair: _prepare(*pair, settings), pairs)
        volumes = [p for p in prepared if isinstance(p, Volume)]
        fitted = iter(choice.encode(volumes, settings))
    return [p if isinstance(p, bytes) else _smaller(p, next(fitted)) for p in prepared]


def _prepare(
    array: npt.NDArray[Any], weights: npt.NDArray[Any] | None, settings: Settings
) -> Volume | bytes:
    """Return what is to be fitted; the payload where nothing is."""
    normalize.check_array(array)
    array = np.asarray(array)  # of subclasses, such as matrices, parts keep other axes
    check_axes(array.shape)
    if weights is not None:
        _check_importance(array, weights, settings)
    budget = None if settings.ratio is None else _budget(array, settings.ratio)
    constant = special_values.constant_value(array)
    crop = special_values.find_crop(array) if constant is None else None
    box = array if crop is None else array[crop.slices]
    any_form = settings.form == "auto" and settings.preset == "default"
    few = _few_values(array, box, crop) if constant is None and any_form else None
    if few is not None and budget is not None and len(few) <= budget:
        return few
    mask = special_values.find_mask(box, settings.preserve) if constant is None else None
    valid = None if mask is None else mask.labels == 0
    low, high = normalize.value_range(box, valid)
    info = _info(array, low, high)
    exact = _exact_sections(info, crop, mask)
    if budget is not None:
        _check_room(exact, budget, has_values=low != high)
    if low == high:
        return container.pack(exact)
    unit = normalize.normalize(box, low, high, each).reshape(long_axes(box.shape))
    inside = weights if weights is None or crop is None else weights[crop.slices]
    weight = _weight(box, valid, inside, settings)
    if weight is not None:
        weight = weight.reshape(unit.shape)
        # What lies under the mask must not pull on statistics or on the low-order form.
        unit[weight == 0] = np.average(unit, weights=weight)
    return Volume(
        exact=exact, info=info, values=box, unit=unit, weight=weight, budget=budget, few=few
    )


def _few_values(
    array: npt.NDArray[Any], box: npt.NDArray[Any], crop: special_values.Crop | None
) -> bytes | None:
    """Return the payload of an array of few values, by masks alone; None if it is not one."""
    found = special_values.few_values(box)
    if found is None:
        return None
    value, mask = found
    exact = _exact_sections(_info(array, value, value), crop, mask)
    return container.pack(exact)


def _info(array: npt.NDArray[Any], low: int | float, high: int | float) -> ArrayInfo:
    return ArrayInfo(
        shape=array.shape,
        dtype=array.dtype,
        order=normalize.memory_order(array),
        low=low,
        high=high,
        psnr_centidb=normalize.PSNR_EXACT,
    )


def _exact_sections(
    info: ArrayInfo, crop: special_values.Crop | None, mask: special_values.Mask | None
) -> Sections:
    exact: Sections = {SectionKind.ARRAY: info.to_bytes()}
    if crop is not None:
        exact[SectionKind.CROP] = crop.to_bytes(info.dtype.itemsize)
    if mask is not None:
        exact[SectionKind.MASK] = mask.to_bytes()
    return exact


def _smaller(volume: Volume, payload: bytes) -> bytes:
    """Return the smaller of a volume's payloads; of two alike the one that is exact for sure."""
    few = volume.few
    return few if few is not None and len(few) <= len(payload) else payload


def _weight(
    box: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_] | None,
    weights: npt.NDArray[Any] | None,
    settings: Settings,
) -> npt.NDArray[np.float32] | None:
    """Return what each voxel of the box weighs, 0 where it is masked; None where all weigh 1."""
    weight = None
    if weights is not None:
        weight = by_weights(weights)
    elif settings.importance is not None:
        weight = by_threshold(box, settings.importance)
    if valid is None:
        return weight
    return valid.astype(np.float32) if weight is None else weight * valid


def _check_importance(
    array: npt.NDArray[Any], weights: npt.NDArray[Any], settings: Settings
) -> None:
    if settings.importance is not None:
        raise InvalidSetting(
            "importance is given as an array, and as a threshold in the settings "
            f"({settings.importance!r}); give one of them"
        )
    settings.check_takes_importance("importance")
    check_weights(weights, array.shape)


def _budget(array: npt.NDArray[Any], ratio: float) -> int:
    """Return the most bytes that the payload may take."""
    budget = math.floor(array.nbytes / ratio)
    if budget < SMALLEST_BUDGET:
        most = array.nbytes / SMALLEST_BUDGET
        raise InvalidSetting(
            f"a chunk of {array.nbytes} bytes at ratio {ratio:g} leaves {budget} bytes; "
            f"at least {SMALLEST_BUDGET} are needed. Use chunks of "
            f"{math.ceil(SMALLEST_BUDGET * ratio)} bytes or more"
            + (f", or a ratio up to {most:.4g}" if most >= 1 else "")
        )
    return budget


def check_axes(shape: tuple[int, ...]) -> None:
    """Refuse a chunk with more than four axes longer than one voxel.

    Raises
    ------
    InvalidSetting
        If it has.
    """
    longer = len(long_axes(shape))
    if longer > 4:
        raise InvalidSetting(
            f"a chunk of shape {shape} has {longer} axes longer than one voxel; at most 4 "
            "are supported. Use chunks of length 1 along the leading axes"
        )


def _check_room(exact: Sections, budget: int, *, has_values: bool) -> None:
    """Refuse a budget that what must be restored exactly has used up."""
    needed = size_of(exact)
    if has_values:
        needed += _SMALLEST_FORM + container.section_overhead(_SMALLEST_FORM)
    if needed > budget:
        mask = len(exact.get(SectionKind.MASK, b""))
        raise InvalidSetting(
            f"the chunk's budget is {budget} bytes, but restoring its padding and special values "
            f"exactly takes {needed} (mask: {mask}). Use a lower ratio, or fewer preserved values"
        )
