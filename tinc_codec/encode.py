"""From array to payload: the forward path.

array - exceptions (padding, masks) - normalize - tree within the budget - fit - quantize -
entropy code - container. Every candidate is scored by decoding it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinc_codec.decode import long_axes, open_chunk, unit_values
from tinc_codec.engines import current_engine
from tinc_codec.errors import InvalidSetting
from tinc_codec.settings import Settings
from tinc_codec.stream import container, cosine, exceptions, normalize
from tinc_codec.stream.container import SectionKind
from tinc_codec.stream.normalize import ArrayInfo
from tinc_codec.threads import each

if TYPE_CHECKING:
    from tinc_codec.fit.chunk import FittedTree

Float32Array = npt.NDArray[np.float32]
Sections = dict[SectionKind, bytes]

# Bytes that every chunk of any supported shape and dtype can be said in, as a constant at least.
SMALLEST_BUDGET = 96
_SMALLEST_FORM = 6
# Below this budget the low-order form may beat the best tree, and is tried too.
_TRY_COSINE_BELOW = 1024
# What FORMAT.md promises of the engines, in normalised units: quantised and raw weights.
_TOLERANCE, _RAW_TOLERANCE = 1e-5, 1e-4
_CHECKED_VOXELS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class _Volume:
    """A chunk whose voxels are to be fitted.

    Attributes
    ----------
    exact : dict of SectionKind to bytes
        The sections that restore everything else.
    info : ArrayInfo
        Shape, dtype, range.
    unit : float32 array, 1 to 4 axes
        Normalised voxels.
    weight : float32 array of the same shape, or None
        1 where a voxel counts, 0 where not.
    budget : int
        The most bytes that the payload may take.
    """

    exact: Sections
    info: ArrayInfo
    unit: Float32Array
    weight: Float32Array | None
    budget: int

    @property
    def room(self) -> int:
        """Bytes left for the fitted form."""
        return self.budget - _size(self.exact)


def encode(array: npt.ArrayLike, **settings: Any) -> bytes:
    """Compress an array.

    Parameters
    ----------
    array : array_like
        int8 to int32, uint8 to uint32, float16 to float64; 1 to 4 axes longer than one voxel.
        Any byte order, strides and memory order; never changed.
    **settings
        See :class:`tinc_codec.Settings`.

    Returns
    -------
    bytes
        The payload: at most ``array.nbytes / ratio`` bytes.

    Raises
    ------
    InvalidSetting
        If a setting is out of range, or the budget cannot hold this chunk.
    UnsupportedData
        If the array is of a kind that the codec does not take.
    """
    return encode_chunk(np.asanyarray(array), Settings(**settings))


def encode_chunk(array: npt.NDArray[Any], settings: Settings) -> bytes:
    """Compress an array by a record of settings; see :func:`encode`."""
    return encode_chunks([array], settings)[0]


def encode_chunks(arrays: Sequence[npt.NDArray[Any]], settings: Settings) -> list[bytes]:
    """Compress arrays by a record of settings, on a GPU many of them at once.

    Arrays of one shape that get the same tree are fitted together, as many as the device's memory
    holds. All of them are held in float32 meanwhile: 4 bytes per voxel, 8 with a mask.

    Parameters
    ----------
    arrays, settings
        See :func:`encode`, whose errors this raises too, for the first array that has one.

    Returns
    -------
    list of bytes
        The payload of each.
    """
    prepared = each(lambda array: _prepare(array, settings), arrays)
    volumes = [p for p in prepared if isinstance(p, _Volume)]
    fitted = iter(_fitted(volumes, settings))
    return [p if isinstance(p, bytes) else next(fitted) for p in prepared]


def _prepare(array: npt.NDArray[Any], settings: Settings) -> _Volume | bytes:
    """Return what is to be fitted; the payload where nothing is."""
    normalize.check_array(array)
    budget = _budget(array, settings)
    constant = exceptions.constant_value(array)
    crop = exceptions.find_crop(array) if constant is None else None
    box = array if crop is None else array[crop.slices]
    mask = exceptions.find_mask(box, settings.preserve) if constant is None else None
    valid = None if mask is None else mask.labels == 0
    low, high = normalize.value_range(box, valid)
    info = ArrayInfo(
        shape=array.shape,
        dtype=array.dtype,
        order=normalize.memory_order(array),
        low=low,
        high=high,
        psnr_centidb=normalize.PSNR_EXACT,
    )
    exact: Sections = {SectionKind.ARRAY: info.to_bytes()}
    if crop is not None:
        exact[SectionKind.CROP] = crop.to_bytes(array.dtype.itemsize)
    if mask is not None:
        exact[SectionKind.MASK] = mask.to_bytes()
    _check_room(exact, budget, has_values=low != high)
    if low == high:
        return container.pack(exact)
    unit = normalize.normalize(box, low, high).reshape(long_axes(box.shape))
    weight = None if valid is None else valid.astype(np.float32).reshape(unit.shape)
    if weight is not None:
        # What lies under the mask must not pull on statistics or on the low-order form.
        unit[weight == 0] = np.average(unit, weights=weight)
    return _Volume(exact=exact, info=info, unit=unit, weight=weight, budget=budget)


def _fitted(volumes: Sequence[_Volume], settings: Settings) -> list[bytes]:
    """Return the payloads of what is to be fitted."""
    if not volumes:
        return []
    from tinc_codec.fit.chunk import fit_trees

    trees = fit_trees(
        [volume.unit for volume in volumes],
        [volume.weight for volume in volumes],
        settings,
        [volume.room for volume in volumes],
    )
    pairs = list(zip(volumes, trees, strict=True))
    return each(lambda pair: _best_form(*pair, settings), pairs)


def _budget(array: npt.NDArray[Any], settings: Settings) -> int:
    """Return the most bytes that the payload may take."""
    budget = math.floor(array.nbytes / settings.ratio)
    if budget < SMALLEST_BUDGET:
        raise InvalidSetting(
            f"a chunk of {array.nbytes} bytes at ratio {settings.ratio:g} leaves {budget} bytes; "
            f"at least {SMALLEST_BUDGET} are needed. Use chunks of "
            f"{math.ceil(SMALLEST_BUDGET * settings.ratio)} bytes or more, or a ratio up to "
            f"{array.nbytes / SMALLEST_BUDGET:.4g}"
        )
    longer = len(long_axes(array.shape))
    if longer > 4:
        raise InvalidSetting(
            f"a chunk of shape {array.shape} has {longer} axes longer than one voxel; at most 4 "
            "are supported. Use chunks of length 1 along the leading axes"
        )
    return budget


def _size(sections: Sections) -> int:
    lengths = [len(data) for data in sections.values()]
    return container.HEADER_BYTES + sum(n + container.section_overhead(n) for n in lengths)


def _check_room(exact: Sections, budget: int, *, has_values: bool) -> None:
    """Refuse a budget that what must be restored exactly has used up."""
    needed = _size(exact)
    if has_values:
        needed += _SMALLEST_FORM + container.section_overhead(_SMALLEST_FORM)
    if needed > budget:
        mask = len(exact.get(SectionKind.MASK, b""))
        raise InvalidSetting(
            f"the chunk's budget is {budget} bytes, but restoring its padding and special values "
            f"exactly takes {needed} (mask: {mask}). Use a lower ratio, or fewer preserved values"
        )


def _best_form(volume: _Volume, fitted: FittedTree | None, settings: Settings) -> bytes:
    """Return the payload of the tree, or of the low-order form where that is better."""
    exact, info, unit, weight = volume.exact, volume.info, volume.unit, volume.weight
    forms: list[Sections] = []
    if fitted is not None:
        tree = {SectionKind.TREE: fitted.tree, SectionKind.WEIGHTS: fitted.weights}
        payload = container.pack({**exact, **tree})
        if _is_portable(payload, settings.seed, raw=settings.preset == "paper"):
            forms.append(tree)
    if not forms or (volume.budget < _TRY_COSINE_BELOW and settings.preset != "paper"):
        size = volume.room - container.section_overhead(volume.room)
        forms.append({SectionKind.COSINE: cosine.fit(unit, weight, size)})
    scored = [(_psnr(container.pack({**exact, **f}), info, unit, weight), f) for f in forms]
    psnr, form = max(scored, key=lambda pair: pair[0])
    array = replace(info, psnr_centidb=_centidb(psnr)).to_bytes()
    return container.pack({**exact, SectionKind.ARRAY: array, **form})


def _is_portable(payload: bytes, seed: int, *, raw: bool) -> bool:
    """Tell whether this engine agrees with the reference on a tree, as FORMAT.md promises.

    Checked on voxels drawn from all of the box. Weights so large that rounding errors grow
    beyond the promise would decode differently elsewhere.
    """
    from tinc_codec.engines import reference

    chunk = open_chunk(payload)
    assert chunk.tree is not None
    assert chunk.parameters is not None
    rng = np.random.default_rng(seed)
    points = [rng.integers(0, n, _CHECKED_VOXELS) for n in chunk.tree.geometry.shape]
    here = current_engine().evaluate_points(chunk.tree, chunk.parameters, points)
    there = reference.evaluate_points(chunk.tree, chunk.parameters, points)
    tolerance = _RAW_TOLERANCE if raw else _TOLERANCE
    return bool(np.abs(here - there).max() <= tolerance)


def _centidb(psnr: float) -> int:
    """Return the header's code of a PSNR in dB; inf is "exact"."""
    if psnr == math.inf:
        return normalize.PSNR_EXACT
    return min(max(round(100 * psnr), 1), normalize.PSNR_EXACT - 1)


def _psnr(
    payload: bytes, info: ArrayInfo, unit: Float32Array, weight: Float32Array | None
) -> float:
    """Return the PSNR in dB of a payload over the fitted voxels, against high - low."""
    chunk = open_chunk(payload)
    axes = [np.arange(n) for n in chunk.box_shape]
    values = unit_values(chunk, axes, pointwise=False)
    decoded = normalize.denormalize(values, info.low, info.high, info.dtype)
    error = normalize.normalize(decoded, info.low, info.high).reshape(unit.shape) - unit
    squares = float(np.average(error.astype(np.float64) ** 2, weights=weight))
    return -10 * math.log10(squares) if squares > 0 else math.inf
