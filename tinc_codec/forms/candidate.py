"""A chunk whose voxels are to be said, one way to say them, and how well that does.

Every score is of what a reader gets: of the decoded payload.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinc_codec import metrics
from tinc_codec.array_types import Float32Array, Int64Array
from tinc_codec.decoding.opened import Chunk, long_axes, open_chunk
from tinc_codec.decoding.together import decode_resident
from tinc_codec.decoding.voxels import box_values, unit_values
from tinc_codec.engines import current_engine
from tinc_codec.engines.gpu import scores
from tinc_codec.engines.gpu.memory import in_batches, out_of_memory
from tinc_codec.runtime import current_runtime
from tinc_codec.stream import container, normalize, special_values
from tinc_codec.stream.container import SectionKind
from tinc_codec.stream.normalize import ArrayInfo
from tinc_codec.threads import each

if TYPE_CHECKING:
    import torch

Sections = dict[SectionKind, bytes]

# What FORMAT.md promises of the engines, in normalised units: quantised and raw weights.
_TOLERANCE, _RAW_TOLERANCE = 1e-5, 1e-4
# Forms whose PSNR differs by less, in dB, hardly differ in error.
_ALIKE_DB = 0.02
# Above, what binary32 rounds counts.
_ROUNDED_FROM_DB = 90
_CHECKED_VOXELS = 2048
_CHECKED_BOXES, _CHECKED_SIDE = 16, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A chunk whose voxels are to be fitted.

    Attributes
    ----------
    exact : dict of SectionKind to bytes
        The sections that restore everything else.
    info : ArrayInfo
        Shape, dtype, range.
    values : array
        The voxels in their dtype, all axes of the box.
    unit : float32 array, 1 to 4 axes
        The same normalised, axes of one voxel left out.
    weight : float32 array of the same shape, or None
        What each voxel's squared error weighs, up to 1; 0: it is restored by other means.
    budget : int or None
        The most bytes that the payload may take; None where the target is a fidelity.
    """

    exact: Sections
    info: ArrayInfo
    values: npt.NDArray[Any]
    unit: Float32Array
    weight: Float32Array | None
    budget: int | None

    def importance(self) -> Float32Array | None:
        """Return the weights, 1 where voxels are masked; None where all that count are alike.

        Masked voxels are filled with the mean: what is wrong there shows beside them.
        """
        if self.weight is None:
            return None
        found = self.weight
        if not found.all():
            found = np.where(found == 0, np.float32(1), found)
        return None if np.all(found == 1) else found

    def own_budget(self) -> int:
        """Return the budget of a volume that has one."""
        assert self.budget is not None
        return self.budget

    def room(self, budget: int) -> int:
        """Return the bytes that a budget leaves for the fitted form."""
        return budget - size_of(self.exact)


def size_of(sections: Sections) -> int:
    """Return the bytes of a payload with these sections."""
    lengths = [len(data) for data in sections.values()]
    return container.HEADER_BYTES + sum(n + container.section_overhead(n) for n in lengths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to say the values of a chunk.

    Attributes
    ----------
    sections : dict of SectionKind to bytes
        Without those that the volume has anyway.
    payload : bytes
        Whole.
    psnr_db : float
        Of the decoded payload over the fitted voxels, as they weigh, against high - low.
    price : float or None
        Squared steps that a bit of its wavelet section was worth; None: it has none.
    """

    sections: Sections
    payload: bytes
    psnr_db: float
    price: float | None


def form_of(volume: Volume, sections: Sections, price: float | None = None) -> Form:
    """Return the form that these sections are, scored."""
    payload = container.pack({**volume.exact, **sections})
    return Form(sections=sections, payload=payload, psnr_db=_psnr(payload, volume), price=price)


def forms_of(volumes: Sequence[Volume], sections: Sequence[Sections]) -> list[Form]:
    """Return forms of trees alone, scored.

    With torch's engine on its device, unless that is full or there is more to a form than a tree.
    """
    pairs = list(zip(volumes, sections, strict=True))
    if not current_runtime().uses_torch:
        return each(lambda pair: form_of(*pair), pairs)
    payloads = [container.pack({**volume.exact, **said}) for volume, said in pairs]
    squares: list[float | None] = [None] * len(pairs)

    def run(some: Sequence[int]) -> None:
        found = decode_resident([payloads[k] for k in some], [None] * len(some))
        for k, bits in zip(some, found, strict=True):
            if bits is not None:
                volume = volumes[k]
                squares[k] = scores.mean_square(bits, volume.info, volume.unit, volume.weight)

    most = scores.most_scored(max((volume.unit.size for volume in volumes), default=1))
    with suppress(*out_of_memory()):
        in_batches(run, range(len(pairs)), most)
    return [
        Form(
            sections=said,
            payload=payload,
            psnr_db=_psnr(payload, volume) if square is None else decibels(square),
            price=None,
        )
        for (volume, said), payload, square in zip(pairs, payloads, squares, strict=True)
    ]


def best(volume: Volume, forms: Sequence[Form]) -> Form:
    """Return the form that decodes best; of those that hardly differ in error the most similar."""
    least = max(form.psnr_db for form in forms) - _ALIKE_DB
    near = [form for form in forms if form.psnr_db >= least]
    return near[0] if len(near) == 1 else max(near, key=lambda form: ssim(form.payload, volume))


def recorded(volume: Volume, form: Form) -> bytes:
    """Return the payload of a form with its PSNR written into the header.

    For that all fitted voxels count the same, whatever they weigh in the fit.
    """
    psnr = form.psnr_db
    if volume.weight is not None and volume.importance() is not None:
        alike = (volume.weight != 0).astype(np.float32)
        psnr = _psnr(form.payload, replace(volume, weight=alike))
    if psnr > _ROUNDED_FROM_DB:
        psnr = _precise_psnr(form.payload, volume)
    array = replace(volume.info, psnr_centidb=_centidb(psnr)).to_bytes()
    return container.pack({**volume.exact, SectionKind.ARRAY: array, **form.sections})


def _centidb(psnr: float) -> int:
    """Return the header's code of a PSNR in dB; inf is "exact"."""
    if psnr == math.inf:
        return normalize.PSNR_EXACT
    return min(max(round(100 * psnr), 1), normalize.PSNR_EXACT - 1)


def said(payload: bytes, volume: Volume) -> Float32Array:
    """Return what a payload says of the box, in normalised units, of the volume's shape."""
    chunk = open_chunk(payload)
    axes = [np.arange(n) for n in chunk.box_shape]
    return unit_values(chunk, axes, pointwise=False).reshape(volume.unit.shape)


def tree_says(chunk: Chunk, volume: Volume) -> Float32Array | torch.Tensor:
    """Return what a tree alone says of the box, of the volume's shape, its faces not yet smooth.

    With torch's engine it stays on its device.
    """
    assert chunk.tree is not None
    assert chunk.parameters is not None
    axes = [np.arange(n) for n in volume.unit.shape]
    if not current_runtime().uses_torch:
        return current_engine().evaluate_grid(chunk.tree, chunk.parameters, axes, chunk.steps)
    from tinc_codec.engines.gpu.engine import evaluate_alone

    return evaluate_alone(chunk.tree, chunk.parameters, axes, chunk.steps, pointwise=False)


def decoded(payload: bytes, volume: Volume) -> npt.NDArray[Any]:
    """Return the voxels of the box as a reader gets them, but for the masked ones."""
    chunk = replace(open_chunk(payload), mask=None)
    native = volume.info.dtype.newbyteorder("=")
    return box_values(chunk, [np.arange(n) for n in chunk.box_shape], pointwise=False).astype(
        native
    )


def _decoded_unit(payload: bytes, volume: Volume) -> Float32Array:
    """Return the decoded voxels normalised again, of the volume's shape."""
    ends = volume.info.low, volume.info.high
    return normalize.normalize(decoded(payload, volume), *ends, each).reshape(volume.unit.shape)


def ssim(payload: bytes, volume: Volume) -> float:
    """Return the SSIM of a payload over the box, where what is not fitted counts as exact."""
    unit = _decoded_unit(payload, volume)
    if volume.weight is not None:
        unit = np.where(volume.weight == 0, volume.unit, unit)
    return metrics.ssim(volume.unit, unit, 1.0, ndim=_windowed(volume.values.shape))


def _windowed(shape: tuple[int, ...]) -> int:
    """Return how many axes a window of SSIM spans: the last three, but those of one voxel."""
    return max(1, len(long_axes(shape[-3:])))


def chunk_ssim(payload: bytes, volume: Volume) -> float:
    """Return the SSIM of a payload as readers find it: of the box or, where less, of the chunk.

    Values are in units of the range, but from the dtype's 0 on, since SSIM compares means, too.
    """
    low, high = float(volume.info.low), float(volume.info.high)
    span, crop = high - low, open_chunk(payload).crop
    shape, box, fill = volume.unit.shape, (slice(None),) * volume.unit.ndim, math.nan
    axes = _windowed(volume.values.shape)
    if crop is not None:
        fill = special_values.value_of(crop.fill, volume.info.dtype)
        if math.isfinite(fill):
            shape, axes = long_axes(volume.info.shape), _windowed(volume.info.shape)
            box = tuple(s for s, n in zip(crop.slices, volume.info.shape, strict=True) if n > 1)
    # Where values are far from 0 for their range, binary32 would round what SSIM looks at.
    kind = np.float32 if max(abs(low), abs(high)) <= 2 * span else np.float64
    original, given = np.full((2, *shape), fill / span, kind)
    inside = original[box].shape
    np.add(volume.unit.reshape(inside), low / span, out=original[box], dtype=np.float64)
    decoded_unit = _decoded_unit(payload, volume).reshape(inside)
    np.add(decoded_unit, low / span, out=given[box], dtype=np.float64)
    del decoded_unit
    if volume.weight is not None:
        np.copyto(given[box], original[box], where=volume.weight.reshape(inside) == 0)
    found = metrics.ssim(original[box], given[box], 1.0, ndim=axes)
    if volume.weight is not None and np.isfinite(volume.values).all():
        found = min(found, _ssim_of_values(payload, volume, crop if math.isfinite(fill) else None))
    if not math.isfinite(fill):
        return found
    ends = (max(high, fill) - min(low, fill)) / span
    return min(found, metrics.ssim(original, given, ends, ndim=axes))


def _ssim_of_values(payload: bytes, volume: Volume, crop: special_values.Crop | None) -> float:
    """Return the SSIM of a chunk's values themselves, those restored exactly included.

    Within the box, where its surroundings (``crop``) are not given.
    """
    values, given = volume.values, decoded(payload, volume).reshape(volume.values.shape)
    if volume.weight is not None:
        given = np.where(volume.weight.reshape(values.shape) == 0, values, given)
    if crop is not None:
        fill = special_values.value_of(crop.fill, volume.info.dtype)
        pair = np.full((2, *volume.info.shape), fill, given.dtype)
        pair[0][crop.slices], pair[1][crop.slices] = values, given
        values, given = pair
    stack = long_axes(values.shape)
    return metrics.ssim(values.reshape(stack), given.reshape(stack), ndim=_windowed(values.shape))


def _psnr(payload: bytes, volume: Volume) -> float:
    """Return the PSNR in dB of a payload against high - low, voxels as they weigh."""
    error = _decoded_unit(payload, volume)
    error -= volume.unit
    found = decibels(float(np.average(error.astype(np.float64) ** 2, weights=volume.weight)))
    if found <= _ROUNDED_FROM_DB or volume.importance() is not None:
        return found
    return _precise_psnr(payload, volume)


def _precise_psnr(payload: bytes, volume: Volume) -> float:
    """Return the PSNR in dB without normalising to binary32; inf where all voxels are equal."""
    error = of_range(errors(decoded(payload, volume), volume), volume.info)
    return decibels(float(np.mean(error**2)))


def of_range(error: npt.NDArray[np.float64], info: ArrayInfo) -> npt.NDArray[np.float64]:
    """Return errors in units of high - low, which may be more than float64 holds."""
    low, high = float(info.low), float(info.high)
    if math.isfinite(high - low):
        return error / (high - low)
    return error / 2 / (high / 2 - low / 2)


def errors(given: npt.NDArray[Any], volume: Volume) -> npt.NDArray[np.float64]:
    """Return how far values of the box are from those to be fitted, masked voxels left out."""
    pair = [values.reshape(-1) for values in (given, volume.values)]
    if volume.weight is not None:  # masked voxels may be NaN of any kind
        counted = volume.weight.reshape(-1) != 0
        pair = [values[counted] for values in pair]
    found, original = (values.astype(np.float64) for values in pair)
    with np.errstate(over="ignore"):
        return found - original


def decibels(loss: float) -> float:
    """Return how far a loss is below 1, in dB; inf for none."""
    return -10 * math.log10(loss) if loss > 0 else math.inf


def is_portable(payload: bytes, seed: int, *, raw: bool = False) -> bool:
    """Tell whether this engine agrees with the reference on a form, as FORMAT.md promises.

    Checked on voxels drawn from all of the box. Weights so large that rounding errors grow
    beyond the promise would decode differently elsewhere.
    """
    from tinc_codec.engines import reference

    chunk = open_chunk(payload)
    drawn, pointwise = _drawn(chunk, np.random.default_rng(seed))
    tolerance = _RAW_TOLERANCE if raw else _TOLERANCE

    def agree(axes: list[Int64Array]) -> bool:
        here, there = (
            unit_values(chunk, axes, pointwise=pointwise, engine=engine)
            for engine in (current_engine(), reference)
        )
        return bool(np.abs(here - there).max() <= tolerance)

    return all(map(agree, drawn))


def _drawn(chunk: Chunk, rng: np.random.Generator) -> tuple[list[list[Int64Array]], bool]:
    """Return voxels from all of the box, and whether they are lists of single ones.

    For a tree of a low-pass band, of which any voxel takes a neighbourhood, they are small boxes.
    """
    shape = chunk.box_shape
    if chunk.tree is None or not chunk.tree.halvings:
        return [[rng.integers(0, n, _CHECKED_VOXELS) for n in shape]], True
    corners = [rng.integers(0, shape) for _ in range(_CHECKED_BOXES)]
    return [
        [np.arange(a, min(a + _CHECKED_SIDE, n)) for a, n in zip(corner, shape, strict=True)]
        for corner in corners
    ], False
