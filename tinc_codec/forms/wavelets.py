"""Wavelet sections, of a volume or of what a tree leaves, and the filter of what they decode to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from tinc_codec.forms import scoring
from tinc_codec.forms.band_trees import BandTree
from tinc_codec.forms.candidate import Form, best, form_of
from tinc_codec.forms.volume import Volume, size_of
from tinc_codec.settings import Settings
from tinc_codec.stream import container
from tinc_codec.stream.container import SectionKind

if TYPE_CHECKING:
    from tinc_codec.fit import residual
    from tinc_codec.stream.residual.filters.postfilter import PostFilter

# Bytes below which no wavelet section says anything.
_SMALLEST_WAVELET = 24
# Share of the bytes that is enough where cuts are taken by rule: a coding or two less, of two to
# four, for 0.01 dB.
_ROUGHLY = 0.99
# Effort from which plans of the transform, cuts and filters are tried with all of a chunk.
_TRIES_FROM = 2
# What a filter has to gain, its bytes paid: it takes a sixth to a third of the time to decode.
_FILTER_WORTH_DB = 0.05
# Prices of a bit, in squared steps, that are tried beside the usual one from an effort on.
_PRICES = {4: (0.04, 0.06), 7: (0.03, 0.05, 0.1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is tried with wavelet coefficients.

    Attributes
    ----------
    tries : bool
        Plans of the transform and cuts in tiles are chosen with all of the chunk, and filters of
        the decoded values are tried; else rules choose, and there is no filter.
    prices : tuple of float
        Prices of a bit, in squared steps; plans are chosen at the first one.
    """

    tries: bool
    prices: tuple[float, ...]

    def at_price_of(self, form: Form | None) -> Search:
        """Return the search at the price of another form alone, to be compared with that."""
        if form is None or form.price is None:
            return self
        return replace(self, prices=(form.price,))


def search_of(settings: Settings) -> Search:
    """Return what the effort allows."""
    from tinc_codec.fit import residual

    others = (some for least, some in _PRICES.items() if settings.effort >= least)
    return Search(
        tries=settings.effort >= _TRIES_FROM,
        prices=(residual.PRICE, *chain.from_iterable(others)),
    )


def _rest(volume: Volume, tree: BandTree | None) -> residual.Residual:
    """Return what a tree leaves, or the volume itself, ready to be coded."""
    from tinc_codec.fit import residual

    if tree is None:
        return residual.Residual.of(volume.unit, volume.importance())
    rest = volume.unit - tree.said
    if volume.weight is not None:
        rest[volume.weight == 0] = 0
    return residual.Residual.of(rest, volume.importance(), tree.plan)


def _with_wavelet(volume: Volume, tree: BandTree | None, coding: residual.Coding) -> Form:
    sections = {} if tree is None else tree.sections
    return form_of(volume, {**sections, SectionKind.WAVELET: coding.data}, coding.price)


def within_budget(volume: Volume, tree: BandTree | None, search: Search) -> Form | None:
    """Add to a tree, or to nothing, the wavelet section that fits the budget; None if none does.

    With a filter of the decoded values where one is worth its bytes and its time, and at the price
    of a bit that decodes best.
    """
    sections = {} if tree is None else tree.sections
    room = volume.own_budget() - size_of({**volume.exact, **sections})
    size = room - container.section_overhead(max(room, 0))
    if size < _SMALLEST_WAVELET:
        return None
    from tinc_codec.fit import rate_control

    first, *others = search.prices
    rest = _rest(volume, tree).at_price(first)
    coding = None
    if not search.tries:
        rest, start = rate_control.foretold(rest, size)
        coding = rate_control.within_size(rest, size, start, enough=_ROUGHLY)
    elif settled := rate_control.settle_about(rest, size):
        rest, start = settled
        coding = rate_control.within_size(rest, size, start)
    if coding is None:
        return None
    plain = _with_wavelet(volume, tree, coding)
    filtered, used = _filtered(volume, plain, coding) if search.tries else (plain, None)
    forms, less = [plain], size
    if used is not None:
        taken = len(filtered.sections[SectionKind.FILTER])
        less -= taken + container.section_overhead(taken)
    for price in others if used is None else search.prices:
        start = rate_control.step_at(price, coding.step, first)
        form = _at_price(volume, tree, rest.at_price(price), less, used, start)
        if form is not None:
            forms.append(form)
    return best(volume, forms)


def _at_price(
    volume: Volume, tree: BandTree | None, rest: residual.Residual, size: int,
    used: PostFilter | None, start: float,
) -> Form | None:  # fmt: skip
    """Add the wavelet section that fits a size, and a filter like one; None if none does."""
    from tinc_codec.fit import rate_control

    coding = rate_control.within_size(rest, size, start)
    if coding is None:
        return None
    form = _with_wavelet(volume, tree, coding)
    return form if used is None else _filtered(volume, form, coding, used)[0]


def as_good(
    volume: Volume,
    tree: BandTree | None,
    score: Callable[[Form], float],
    wanted: float,
    search: Search,
) -> Form | None:
    """Add to a tree, or to nothing, the smallest wavelet section that makes a good form.

    Parameters
    ----------
    volume, tree : Volume and BandTree or None
        What to code, and what is left to the tree.
    score : callable
        Tells in dB how good a form is.
    wanted : float
        How good it has to be.
    search : Search
        What is tried.

    Returns
    -------
    Form or None
        None where the transform's precision does not do.
    """
    from tinc_codec.fit import rate_control

    def plain(coding: residual.Coding) -> tuple[float, Form | None]:
        return _scored([_with_wavelet(volume, tree, coding)], score, wanted)

    def filtered(coding: residual.Coding) -> tuple[float, Form | None]:
        form = _with_wavelet(volume, tree, coding)
        return _scored([form, _filtered(volume, form, coding)[0]], score, wanted)

    first, *others = search.prices
    rest = _rest(volume, tree).at_price(first)
    if search.tries:
        # What is best without a filter is found on the way: its 40 bytes are more than it is worth
        # where all is a few hundred.
        rest, start, made = rate_control.settle_near(rest, plain, wanted)
        finish, found = filtered, _smallest(made)
        del made  # payloads, of which one is kept
    else:
        rest, start = rate_control.foretold_score(rest, wanted)
        finish, found = plain, None
    step: float | None = None
    for trial in rate_control.as_good(rest, finish, wanted, start):
        found = _smallest([found, trial.made])
        step = trial.step if trial.is_fine else step
    if step is None:
        return None
    for price in others:
        start = rate_control.step_at(price, step, first)
        for trial in rate_control.as_good(rest.at_price(price), finish, wanted, start):
            found = _smallest([found, trial.made])
    return found


def _scored(
    forms: Sequence[Form], score: Callable[[Form], float], wanted: float
) -> tuple[float, Form | None]:
    """Return how good the last of some forms is, and the smallest of those that are good."""
    scores = [score(form) for form in forms]
    good = [form for form, found in zip(forms, scores, strict=True) if found >= wanted]
    return scores[-1], _smallest(good)


def _smallest(forms: Iterable[Form | None]) -> Form | None:
    """Return the smallest of some forms, the first of several; None if there is none."""
    found = (form for form in forms if form is not None)
    return min(found, key=lambda form: len(form.payload), default=None)


def _filtered(
    volume: Volume, plain: Form, coding: residual.Coding, like: PostFilter | None = None
) -> tuple[Form, PostFilter | None]:
    """Return a form with the best filter added, and that filter.

    The form as it is and None where the gain does not pay for the time of decoding. With ``like``
    the bytes of the filter, which is like that one, are paid for already.
    """
    from tinc_codec.fit import postfilter
    from tinc_codec.stream.residual.filters import postfilter as stage

    if math.isinf(plain.psnr_db):
        return plain, None
    said = scoring.said(plain.payload, volume)
    price = coding.worth_of_byte if like is None else 0.0
    found = postfilter.choose(said, volume.unit, volume.weight, price, like)
    if found is None:
        return plain, None
    data = stage.to_bytes(found)
    form = form_of(volume, {**plain.sections, SectionKind.FILTER: data}, plain.price)
    least = 0.0
    if like is None:
        squares = postfilter.counted(volume.unit.size, volume.weight) * 10 ** (-plain.psnr_db / 10)
        least = _FILTER_WORTH_DB + 10 * math.log10(1 + price * len(data) / squares)
    return (form, found) if form.psnr_db - plain.psnr_db > least else (plain, None)


def at_step(volume: Volume, step: float, search: Search) -> Form:
    """Return the form of wavelet coefficients at a step, in normalised units, without a filter."""
    from tinc_codec.fit import cutting, plans, rate_control

    rest = _rest(volume, None)
    step = max(step, rest.finest_step())
    if search.tries:
        whole = rest.whole(step)
        assert whole is not None
        rest, _ = rate_control.settle(rest, step, whole)
    else:
        rest = cutting.cut_by_rule(plans.plan_by_rule(rest, step), step)
    coding = rest.code(step)
    assert coding is not None
    return _with_wavelet(volume, None, coding)
