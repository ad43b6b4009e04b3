"""The forms that the values of a chunk may take, each scored by decoding it; the best is kept.

- tree: the whole budget for a tree of networks;
- wavelet: the whole budget for wavelet coefficients;
- tree and wavelet: a share for the tree, the rest for what it leaves;
- either of these two with a filter of the decoded values, where that is worth its bytes;
- cosine: a few low-order terms, where the budget is very small;
- wavelet and correction, or correction alone, where every voxel is to be within a bound. No tree:
  engines may differ by a level there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinc_codec import metrics
from tinc_codec.decode import box_values, decode_chunk, unit_values
from tinc_codec.engines import current_engine
from tinc_codec.errors import InvalidSetting
from tinc_codec.opened import open_chunk
from tinc_codec.settings import Settings
from tinc_codec.stream import container, cosine, normalize
from tinc_codec.stream.container import SectionKind
from tinc_codec.stream.normalize import ArrayInfo
from tinc_codec.threads import each
from tinc_codec.tree import section

if TYPE_CHECKING:
    from tinc_codec.fit import residual
    from tinc_codec.fit.chunk import FittedTree

Float32Array = npt.NDArray[np.float32]
Sections = dict[SectionKind, bytes]

# Below this budget the low-order form may be the best, and is tried too.
_TRY_COSINE_BELOW = 1024
# What FORMAT.md promises of the engines, in normalised units: quantised and raw weights.
_TOLERANCE, _RAW_TOLERANCE = 1e-5, 1e-4
_CHECKED_VOXELS = 2048
# Bytes below which no wavelet section says anything.
_SMALLEST_WAVELET = 24
# Of a tree with wavelet coefficients, the share of the bytes that is the tree's.
_TREE_SHARE = 0.4
# Where errors are bounded: a transform is tried where its correction alone takes fewer bits a voxel
# than this, with steps of so many bounds.
_BASE_BELOW_BITS, _STEPS_OF_BOUND = 0.6, (2.5, 4.0, 6.0)
# Where the search for an SSIM starts.
_STEP_OF_SSIM = 0.1
# Efforts from which trees and filters are tried, other plans of the transform too, and from which a
# fit with a tenth of the work tells where a whole one is worth it: where it is not further behind
# than this.
_TREES_FROM, _FILTERS_FROM, _PLANS_FROM = 2, 2, 3
_PILOT_FROM, _PILOT_LESS, _PROMISING_DB = 5, 4, 0.1


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
        found = np.where(self.weight == 0, np.float32(1), self.weight)
        return None if np.all(found == 1) else found

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
    """

    sections: Sections
    payload: bytes
    psnr_db: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """What is tried with wavelet coefficients.

    Attributes
    ----------
    plans : bool
        Other plans of the transform than the one in which all axes are alike.
    filters : bool
        Filters of the decoded values.
    seed : int
        Of the voxels on which engines are compared.
    """

    plans: bool
    filters: bool
    seed: int


def _search(settings: Settings) -> _Search:
    return _Search(
        plans=settings.effort >= _PLANS_FROM,
        filters=settings.effort >= _FILTERS_FROM,
        seed=settings.seed,
    )


def encode(volumes: Sequence[Volume], settings: Settings) -> list[bytes]:
    """Return the payload of the best form of each volume."""
    if not volumes:
        return []
    if settings.form == "tree" or settings.preset == "paper":
        found = _trees_alone(volumes, settings)
    elif settings.ratio is not None:
        found = _within_budgets(volumes, settings)
    elif settings.max_error is None:
        found = _as_good(volumes, settings)
    else:
        found = each(lambda volume: _bounded(volume, settings), volumes)
    return [_recorded(volume, form) for volume, form in zip(volumes, found, strict=True)]


def _trees_alone(volumes: Sequence[Volume], settings: Settings) -> list[Form]:
    """Return trees that take the whole budget; the low-order form where none is good."""
    trees = _trees(volumes, settings, [_room(volume) for volume in volumes])

    def best(pair: tuple[Volume, Form | None]) -> Form:
        volume, tree = pair
        if tree is not None and (
            _budget(volume) >= _TRY_COSINE_BELOW or settings.preset == "paper"
        ):
            return tree
        return _better(tree, _low_order(volume))

    return each(best, list(zip(volumes, trees, strict=True)))


def _within_budgets(volumes: Sequence[Volume], settings: Settings) -> list[Form]:
    """Return the best of wavelet, tree with wavelet, and the low-order form."""
    search = _search(settings)
    found = each(lambda volume: _wavelet_within(volume, None, search), volumes)
    if _tries_trees(settings):
        budgets = [round(_TREE_SHARE * _budget(volume)) for volume in volumes]

        def add(volume: Volume, tree: Form) -> Form | None:
            return _wavelet_within(volume, tree, search)

        found = _with_trees(volumes, found, settings, budgets, add, _higher)

    def final(pair: tuple[Volume, Form | None]) -> Form:
        volume, form = pair
        if form is not None and _budget(volume) >= _TRY_COSINE_BELOW:
            return form
        return _better(form, _low_order(volume))

    return each(final, list(zip(volumes, found, strict=True)))


def _as_good(volumes: Sequence[Volume], settings: Settings) -> list[Form]:
    """Return the smallest forms that have the PSNR, or the SSIM, asked for."""
    search = _search(settings)

    def good(volume: Volume, form: Form) -> bool:
        if settings.psnr is not None:
            return form.psnr_db >= settings.psnr
        return _ssim(form.payload, volume) >= (settings.ssim or 0)

    def reach(volume: Volume, tree: Form | None = None) -> Form | None:
        start = _STEP_OF_SSIM if settings.psnr is None else 4 * 10 ** (-settings.psnr / 20)
        return _wavelet_as_good(volume, tree, lambda form: good(volume, form), start, search)

    found = each(reach, volumes)
    target = f"psnr={settings.psnr:g}" if settings.psnr is not None else f"ssim={settings.ssim}"
    for volume, form in zip(volumes, found, strict=True):
        if form is None:
            raise InvalidSetting(
                f"{target} is more than the transform's precision gives for a chunk of "
                f"{volume.info.dtype}; use max_error=0, or a lower one"
            )
    if _tries_trees(settings):
        sizes = [round(_TREE_SHARE * len(form.payload)) for form in found if form is not None]
        found = _with_trees(volumes, found, settings, sizes, reach, _smaller)
    return [form for form in found if form is not None]


def _tries_trees(settings: Settings) -> bool:
    """Tell whether trees are tried.

    At the least effort, where one takes ten times the time of all else, only if something is said
    of it.
    """
    said = settings.levels != "auto" or settings.iterations != "auto"
    return settings.form == "auto" and (said or settings.effort >= _TREES_FROM)


def _bounded(volume: Volume, settings: Settings) -> Form:
    """Return the smallest of the forms whose every voxel is within the bound."""
    assert settings.max_error is not None
    bound = settings.max_error
    best = _with_correction(volume, None, bound)
    if 8 * len(best.payload) > _BASE_BELOW_BITS * volume.unit.size:
        return best
    span = float(volume.info.high) - float(volume.info.low)
    for factor in _STEPS_OF_BOUND:
        if 0 < factor * bound < span:
            base = _wavelet_at(volume, factor * bound / span, settings.effort >= _PLANS_FROM)
            form = _with_correction(volume, base, bound)
            best = min(best, form, key=lambda form: len(form.payload))
    return best


def _wavelet_at(volume: Volume, step: float, plans: bool) -> Form:
    """Return the form of wavelet coefficients at a step, in normalised units."""
    rest = _rest(volume, None)
    step = max(step, rest.finest_step())
    if plans:
        rest.choose_plan(step)
        step = max(step, rest.finest_step())
    first = rest.code(step)
    assert first is not None
    cuts = rest.cuts_for(len(first.data))
    coding = rest.code(step, cuts) if cuts else first
    assert coding is not None
    return _with_wavelet(volume, None, coding)


def _with_correction(volume: Volume, base: Form | None, max_error: float) -> Form:
    """Add to a form, or to nothing, what brings every voxel within a bound.

    Raises
    ------
    InvalidSetting
        If the dtype cannot hold that.
    """
    from tinc_codec.stream.residual import correction

    info, shape = volume.info, volume.unit.shape
    wanted = volume.values.astype(info.dtype.newbyteorder("=")).reshape(shape)
    given = np.full(shape, info.low, wanted.dtype)
    if base is not None:
        given = _decoded(base.payload, volume).reshape(shape)
    if volume.weight is not None:
        inside = volume.weight != 0
        middle = given if base is not None else wanted.dtype.type(wanted[inside].mean())
        wanted = np.where(inside, wanted, middle)
    data = correction.encode(wanted, given, max_error, each)
    sections = {**(base.sections if base else {}), SectionKind.CORRECTION: data}
    form = _form(volume, sections)
    _check_bound(volume, form, max_error)
    return form


def _check_bound(volume: Volume, form: Form, max_error: float) -> None:
    """Make sure, from decoded bytes, that the bound holds."""
    given = decode_chunk(form.payload)
    crop = open_chunk(form.payload).crop
    found = (given if crop is None else given[crop.slices]).astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(found - volume.values.astype(np.float64))
    if volume.weight is not None:
        error = error.reshape(volume.unit.shape)[volume.weight != 0]
    if float(error.max()) > max_error:
        raise InvalidSetting(
            f"max_error={max_error:g} is out of reach for this chunk of {volume.info.dtype} "
            f"values: an error of {float(error.max()):g} is left; use a lossless codec"
        )


def _with_trees(
    volumes: Sequence[Volume],
    found: Sequence[Form | None],
    settings: Settings,
    budgets: Sequence[int],
    add: Callable[[Volume, Form], Form | None],
    gains: Callable[[Form, Form | None], float],
) -> list[Form | None]:
    """Return forms with a tree where they are better than those found without.

    From some effort on, a short fit tells first where a whole one is worth its time.

    Parameters
    ----------
    volumes, found : sequences
        Volumes, and their best forms so far.
    settings : Settings
        As the user gave them.
    budgets : sequence of int
        Bytes for the tree.
    add : callable
        Adds to a tree the wavelet coefficients of what it leaves.
    gains : callable
        By how many dB, about, one form is better than another.
    """
    chosen = list(range(len(volumes)))
    best = list(found)
    efforts = [settings.effort]
    if settings.effort >= _PILOT_FROM and settings.iterations == "auto":
        efforts.insert(0, settings.effort - _PILOT_LESS)
    for effort in efforts:
        some = [volumes[k] for k in chosen]
        rooms = [volumes[k].room(budgets[k]) for k in chosen]
        trees = _trees(some, replace(settings, effort=effort), rooms)
        forms = each(
            lambda pair: None if pair[1] is None else add(pair[0], pair[1]),
            list(zip(some, trees, strict=True)),
        )
        pairs = [(k, form) for k, form in zip(chosen, forms, strict=True) if form is not None]
        chosen = [k for k, form in pairs if gains(form, found[k]) > -_PROMISING_DB]
        for k, form in pairs:
            if gains(form, best[k]) > 0:
                best[k] = form
    return best


def _higher(form: Form, than: Form | None) -> float:
    return math.inf if than is None else form.psnr_db - than.psnr_db


def _smaller(form: Form, than: Form | None) -> float:
    """Return what fewer bytes are worth: about 6 dB for half of them."""
    return math.inf if than is None else 6 * math.log2(len(than.payload) / len(form.payload))


def _better(form: Form | None, other: Form) -> Form:
    return form if form is not None and form.psnr_db >= other.psnr_db else other


def _budget(volume: Volume) -> int:
    assert volume.budget is not None
    return volume.budget


def _room(volume: Volume) -> int:
    return volume.room(_budget(volume))


def _trees(
    volumes: Sequence[Volume], settings: Settings, rooms: Sequence[int]
) -> list[Form | None]:
    """Fit a tree to each volume within so many bytes; None where there is none to rely on."""
    if not volumes:
        return []
    from tinc_codec.fit.chunk import fit_trees

    fitted = fit_trees(
        [volume.unit for volume in volumes], [volume.weight for volume in volumes], settings, rooms
    )
    raw = settings.preset == "paper"

    def scored(pair: tuple[Volume, FittedTree | None]) -> Form | None:
        volume, tree = pair
        if tree is None:
            return None
        sections = {SectionKind.TREE: tree.tree, SectionKind.WEIGHTS: tree.weights}
        form = _form(volume, sections if raw else _smooth(volume, sections))
        return form if _is_portable(form.payload, settings.seed, raw=raw) else None

    return each(scored, list(zip(volumes, fitted, strict=True)))


def _smooth(volume: Volume, sections: Sections) -> Sections:
    """Return the sections of a tree, the faces of its leaves made smooth as is best."""
    from tinc_codec.fit import faces

    payload = container.pack({**volume.exact, **sections})
    chunk = open_chunk(payload)
    assert chunk.tree is not None
    if not chunk.tree.geometry.splits:
        return sections
    said = _said(payload, volume)
    smoothing = faces.choose(chunk.tree.geometry, said, volume.unit, volume.weight)
    tree = section.to_bytes(replace(chunk.tree, smoothing=smoothing))
    return {**sections, SectionKind.TREE: tree}


def _said(payload: bytes, volume: Volume) -> Float32Array:
    """Return what a payload says of the box, in normalised units, of the volume's shape."""
    chunk = open_chunk(payload)
    axes = [np.arange(n) for n in chunk.box_shape]
    return unit_values(chunk, axes, pointwise=False).reshape(volume.unit.shape)


def _low_order(volume: Volume) -> Form:
    room = _room(volume)
    size = room - container.section_overhead(room)
    return _form(volume, {SectionKind.COSINE: cosine.fit(volume.unit, volume.weight, size)})


def _rest(volume: Volume, tree: Form | None) -> residual.Volume:
    """Return what a tree leaves, or the volume itself, ready to be coded."""
    from tinc_codec.fit import residual

    if tree is None:
        return residual.Volume(volume.unit, volume.importance())
    rest = volume.unit - _said(tree.payload, volume)
    if volume.weight is not None:
        rest[volume.weight == 0] = 0
    return residual.Volume(rest, volume.importance())


def _with_wavelet(volume: Volume, tree: Form | None, coding: residual.Coding) -> Form:
    sections = {} if tree is None else tree.sections
    return _form(volume, {**sections, SectionKind.WAVELET: coding.data})


def _wavelet_within(volume: Volume, tree: Form | None, search: _Search) -> Form | None:
    """Add to a tree, or to nothing, the wavelet section that fits the budget; None if none does."""
    room = _room(volume) if tree is None else _budget(volume) - len(tree.payload)
    size = room - container.section_overhead(max(room, 0))
    if size < _SMALLEST_WAVELET:
        return None
    from tinc_codec.fit import residual

    rest = _rest(volume, tree)
    coding = residual.within_size(rest, size, plans=search.plans)
    if coding is None:
        return None
    plain = _with_wavelet(volume, tree, coding)
    filtered = _filtered(volume, plain, coding, search) if search.filters else plain
    if filtered is plain:
        return plain
    taken = len(filtered.sections[SectionKind.FILTER])
    less = size - taken - container.section_overhead(taken)
    again = residual.within_size(rest, less, start=coding.step)
    if again is None:
        return plain
    filtered = _filtered(volume, _with_wavelet(volume, tree, again), again, search, taken)
    return filtered if filtered.psnr_db > plain.psnr_db else plain


def _wavelet_as_good(
    volume: Volume, tree: Form | None, good: Callable[[Form], bool], start: float, search: _Search
) -> Form | None:
    """Add to a tree, or to nothing, the smallest wavelet section that makes a good form."""
    from tinc_codec.fit import residual

    def finished(coding: residual.Coding) -> Form:
        plain = _with_wavelet(volume, tree, coding)
        return _filtered(volume, plain, coding, search) if search.filters else plain

    coding = residual.as_good(
        _rest(volume, tree), lambda coding: good(finished(coding)), start, plans=search.plans
    )
    return None if coding is None else finished(coding)


def _filtered(
    volume: Volume, plain: Form, coding: residual.Coding, search: _Search, most: int | None = None
) -> Form:
    """Add the filter that a form is best with; itself if none is worth its bytes.

    Where ``most`` bytes are set aside for it, they cost nothing more.
    """
    from tinc_codec.fit import postfilter
    from tinc_codec.stream.residual import postfilter as stage

    said = _said(plain.payload, volume)
    price = coding.worth_of_byte if most is None else 0.0
    found = postfilter.choose(said, volume.unit, volume.weight, price, most)
    if found is None:
        return plain
    form = _form(volume, {**plain.sections, SectionKind.FILTER: stage.to_bytes(found)})
    if SectionKind.TREE in form.sections and not _is_portable(form.payload, search.seed):
        return plain
    return form if form.psnr_db > plain.psnr_db else plain


def _form(volume: Volume, sections: Sections) -> Form:
    payload = container.pack({**volume.exact, **sections})
    return Form(sections=sections, payload=payload, psnr_db=_psnr(payload, volume))


def _recorded(volume: Volume, form: Form) -> bytes:
    """Return the payload of a form, its PSNR in it, for which all fitted voxels weigh the same."""
    psnr = form.psnr_db
    if volume.weight is not None and volume.importance() is not None:
        alike = (volume.weight != 0).astype(np.float32)
        psnr = _psnr(form.payload, replace(volume, weight=alike))
    array = replace(volume.info, psnr_centidb=_centidb(psnr)).to_bytes()
    return container.pack({**volume.exact, SectionKind.ARRAY: array, **form.sections})


def _is_portable(payload: bytes, seed: int, *, raw: bool = False) -> bool:
    """Tell whether this engine agrees with the reference on a form, as FORMAT.md promises.

    Checked on voxels drawn from all of the box. Weights so large that rounding errors grow
    beyond the promise would decode differently elsewhere.
    """
    from tinc_codec.engines import reference

    chunk = open_chunk(payload)
    rng = np.random.default_rng(seed)
    points = [rng.integers(0, n, _CHECKED_VOXELS) for n in chunk.box_shape]
    here, there = (
        unit_values(chunk, points, pointwise=True, engine=engine)
        for engine in (current_engine(), reference)
    )
    tolerance = _RAW_TOLERANCE if raw else _TOLERANCE
    return bool(np.abs(here - there).max() <= tolerance)


def _centidb(psnr: float) -> int:
    """Return the header's code of a PSNR in dB; inf is "exact"."""
    if psnr == math.inf:
        return normalize.PSNR_EXACT
    return min(max(round(100 * psnr), 1), normalize.PSNR_EXACT - 1)


def _decoded(payload: bytes, volume: Volume) -> npt.NDArray[Any]:
    """Return the voxels of the box as a reader gets them, but for the masked ones."""
    chunk = replace(open_chunk(payload), mask=None)
    native = volume.info.dtype.newbyteorder("=")
    return box_values(chunk, [np.arange(n) for n in chunk.box_shape], pointwise=False).astype(
        native
    )


def _decoded_unit(payload: bytes, volume: Volume) -> Float32Array:
    """Return the decoded voxels normalised again, of the volume's shape."""
    info, decoded = volume.info, _decoded(payload, volume)
    return normalize.normalize(decoded, info.low, info.high).reshape(volume.unit.shape)


def _ssim(payload: bytes, volume: Volume) -> float:
    """Return the SSIM of a payload over the box, where what is not fitted counts as exact."""
    unit = _decoded_unit(payload, volume)
    if volume.weight is not None:
        unit = np.where(volume.weight == 0, volume.unit, unit)
    return metrics.ssim(volume.unit, unit, 1.0, ndim=min(3, unit.ndim))


def _psnr(payload: bytes, volume: Volume) -> float:
    """Return the PSNR in dB of a payload against high - low, voxels as they weigh."""
    error = _decoded_unit(payload, volume)
    error -= volume.unit
    squares = float(np.average(error.astype(np.float64) ** 2, weights=volume.weight))
    return -10 * math.log10(squares) if squares > 0 else math.inf
