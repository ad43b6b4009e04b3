"""Wavelet sections, of a volume or of what a tree leaves, and the filter of what they decode to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinc_codec.forms import candidate
from tinc_codec.forms.band_trees import BandTree
from tinc_codec.forms.candidate import Form, Volume
from tinc_codec.settings import Settings
from tinc_codec.stream import container
from tinc_codec.stream.container import SectionKind

if TYPE_CHECKING:
    from tinc_codec.fit import residual

# Bytes below which no wavelet section says anything.
_SMALLEST_WAVELET = 24
# Efforts from which filters are tried, and other plans of the transform too.
_FILTERS_FROM, _PLANS_FROM = 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is tried with wavelet coefficients.

    Attributes
    ----------
    plans : bool
        Other plans of the transform than the one in which all axes are alike.
    filters : bool
        Filters of the decoded values.
    """

    plans: bool
    filters: bool


def search_of(settings: Settings) -> Search:
    """Return what the effort allows."""
    return Search(
        plans=settings.effort >= _PLANS_FROM,
        filters=settings.effort >= _FILTERS_FROM,
    )


def _rest(volume: Volume, tree: BandTree | None) -> residual.Volume:
    """Return what a tree leaves, or the volume itself, ready to be coded."""
    from tinc_codec.fit import residual

    if tree is None:
        return residual.Volume(volume.unit, volume.importance())
    rest = volume.unit - tree.said
    if volume.weight is not None:
        rest[volume.weight == 0] = 0
    return residual.Volume(rest, volume.importance(), tree.plan)


def _with_wavelet(volume: Volume, tree: BandTree | None, coding: residual.Coding) -> Form:
    sections = {} if tree is None else tree.sections
    return candidate.form_of(volume, {**sections, SectionKind.WAVELET: coding.data})


def within_budget(volume: Volume, tree: BandTree | None, search: Search) -> Form | None:
    """Add to a tree, or to nothing, the wavelet section that fits the budget; None if none does."""
    sections = {} if tree is None else tree.sections
    room = volume.own_budget() - candidate.size_of({**volume.exact, **sections})
    size = room - container.section_overhead(max(room, 0))
    if size < _SMALLEST_WAVELET:
        return None
    from tinc_codec.fit import residual

    rest = _rest(volume, tree)
    coding = residual.within_size(rest, size, plans=search.plans)
    if coding is None:
        return None
    plain = _with_wavelet(volume, tree, coding)
    filtered = _filtered(volume, plain, coding) if search.filters else plain
    if filtered is plain:
        return plain
    taken = len(filtered.sections[SectionKind.FILTER])
    less = size - taken - container.section_overhead(taken)
    again = residual.within_size(rest, less, start=coding.step)
    if again is None:
        return plain
    filtered = _filtered(volume, _with_wavelet(volume, tree, again), again, taken)
    return filtered if filtered.psnr_db > plain.psnr_db else plain


def as_good(
    volume: Volume,
    tree: BandTree | None,
    good: Callable[[Form], bool],
    start: float,
    search: Search,
) -> Form | None:
    """Add to a tree, or to nothing, the smallest wavelet section that makes a good form."""
    from tinc_codec.fit import residual

    def finished(coding: residual.Coding) -> Form | None:
        form = _with_wavelet(volume, tree, coding)
        if search.filters:
            form = _filtered(volume, form, coding)
        return form if good(form) else None

    return residual.as_good(_rest(volume, tree), finished, start, plans=search.plans)


def _filtered(
    volume: Volume, plain: Form, coding: residual.Coding, most: int | None = None
) -> Form:
    """Add the filter that a form is best with; itself if none is worth its bytes.

    Where ``most`` bytes are set aside for it, they cost nothing more.
    """
    from tinc_codec.fit import postfilter
    from tinc_codec.stream.residual import postfilter as stage

    said = candidate.said(plain.payload, volume)
    price = coding.worth_of_byte if most is None else 0.0
    found = postfilter.choose(said, volume.unit, volume.weight, price, most)
    if found is None:
        return plain
    form = candidate.form_of(volume, {**plain.sections, SectionKind.FILTER: stage.to_bytes(found)})
    return form if form.psnr_db > plain.psnr_db else plain


def at_step(volume: Volume, step: float, search: Search) -> Form:
    """Return the form of wavelet coefficients at a step, in normalised units, without a filter."""
    rest = _rest(volume, None)
    step = max(step, rest.finest_step())
    if search.plans:
        rest.choose_plan(step)
        step = max(step, rest.finest_step())
    rest.choose_cuts(step)
    coding = rest.code(step)
    assert coding is not None
    return _with_wavelet(volume, None, coding)
