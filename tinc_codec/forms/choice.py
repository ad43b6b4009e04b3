"""The best form of each volume, under the target that the settings give."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from tinc_codec.errors import InvalidSetting
from tinc_codec.forms import bounded, scoring, trees, wavelets
from tinc_codec.forms.band_trees import BandTree
from tinc_codec.forms.candidate import Form, form_of, recorded
from tinc_codec.forms.volume import Volume
from tinc_codec.settings import Settings
from tinc_codec.stream import container, cosine
from tinc_codec.stream.container import SectionKind
from tinc_codec.threads import each

# Below this budget the low-order form may be the best, and is tried too.
_TRY_COSINE_BELOW = 1024
# Errors are measured on normalised values in binary32: an RMSE and an SSIM are held with so much to
# spare.
_MARGIN_DB = 1e-3
# More than any dtype has, and less than any values do.
_BEYOND_ALL_DB = 400.0


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
        bound, search = settings.max_error, wavelets.search_of(settings)
        found = each(lambda volume: bounded.within_bound(volume, bound, search), volumes)
    return [recorded(volume, form) for volume, form in zip(volumes, found, strict=True)]


def _trees_alone(volumes: Sequence[Volume], settings: Settings) -> list[Form]:
    """Return trees that take the whole budget; the low-order form where none is good."""
    found = trees.fitted(
        volumes, settings, [volume.room(volume.own_budget()) for volume in volumes]
    )

    def best(pair: tuple[Volume, Form | None]) -> Form:
        volume, tree = pair
        if tree is not None and (
            volume.own_budget() >= _TRY_COSINE_BELOW or settings.preset == "paper"
        ):
            return tree
        return _better(tree, _low_order(volume))

    return each(best, list(zip(volumes, found, strict=True)))


def _within_budgets(volumes: Sequence[Volume], settings: Settings) -> list[Form]:
    """Return the best of wavelet, tree with wavelet, and the low-order form."""
    search = wavelets.search_of(settings)
    found = each(lambda volume: wavelets.within_budget(volume, None, search), volumes)

    def within(pair: tuple[Volume, Form | None]) -> Form | None:
        volume, form = pair
        return form and bounded.better_within_budget(volume, form, search)

    def with_trees(some: Sequence[Volume], forms: Sequence[Form | None]) -> list[Form | None]:
        budgets = [volume.own_budget() for volume in some]

        def add(volume: Volume, tree: BandTree, like: Form | None) -> Form | None:
            return wavelets.within_budget(volume, tree, search.at_price_of(like))

        return trees.with_trees(some, forms, settings, budgets, add, _higher)

    found = _bounded_or_with_trees(volumes, found, settings, within, with_trees)

    def final(pair: tuple[Volume, Form | None]) -> Form:
        volume, form = pair
        if form is not None and volume.own_budget() >= _TRY_COSINE_BELOW:
            return form
        return _better(form, _low_order(volume))

    return each(final, list(zip(volumes, found, strict=True)))


def _as_good(volumes: Sequence[Volume], settings: Settings) -> list[Form]:
    """Return the smallest forms that have the PSNR, the RMSE or the SSIM asked for."""
    search = wavelets.search_of(settings)

    def score_of(volume: Volume) -> Callable[[Form], float]:
        return _psnr_db if settings.ssim is None else partial(_ssim_db, volume)

    def reach(
        volume: Volume, tree: BandTree | None = None, like: Form | None = None
    ) -> Form | None:
        wanted = _wanted_db(volume, settings)
        return wavelets.as_good(volume, tree, score_of(volume), wanted, search.at_price_of(like))

    def within(pair: tuple[Volume, Form | None]) -> Form | None:
        volume, form = pair
        score, wanted = score_of(volume), _wanted_db(volume, settings)
        if form is None:  # no transform is precise enough
            fine = bounded.as_good(volume, score, wanted, search)
            if fine is None:
                raise _out_of_reach(volume, settings)
            return fine
        return bounded.smaller_as_good(volume, form, score, wanted, search)

    def with_trees(some: Sequence[Volume], forms: Sequence[Form | None]) -> list[Form | None]:
        sizes = [len(form.payload) for form in forms if form is not None]
        return trees.with_trees(some, forms, settings, sizes, reach, _smaller)

    found = _bounded_or_with_trees(volumes, each(reach, volumes), settings, within, with_trees)
    for volume, form in zip(volumes, found, strict=True):
        if form is None:
            raise _out_of_reach(volume, settings)
    return [form for form in found if form is not None]


def _out_of_reach(volume: Volume, settings: Settings) -> InvalidSetting:
    return InvalidSetting(
        f"{settings.fidelity} is more than the transform's precision gives for a chunk of "
        f"{volume.info.dtype}; ask for less, or for a max_error"
    )


def _bounded_or_with_trees(
    volumes: Sequence[Volume],
    found: Sequence[Form | None],
    settings: Settings,
    within: Callable[[tuple[Volume, Form | None]], Form | None],
    with_trees: Callable[[Sequence[Volume], Sequence[Form | None]], list[Form | None]],
) -> list[Form | None]:
    """Return bounded forms where they are much better than those found; else trees are tried."""
    if settings.form != "auto":
        return list(found)
    best = each(within, list(zip(volumes, found, strict=True)))
    rest = [k for k, form in enumerate(best) if form is None]
    forms = [found[k] for k in rest]
    if rest and trees.are_tried(settings):
        forms = with_trees([volumes[k] for k in rest], forms)
    for k, form in zip(rest, forms, strict=True):
        best[k] = form
    return best


def _wanted_db(volume: Volume, settings: Settings) -> float:
    """Return what is asked for, in dB: a PSNR against the volume's range, or as ``_ssim_db``."""
    if settings.psnr is not None:
        return settings.psnr
    if settings.ssim is not None:
        return scoring.decibels(1 - settings.ssim) + _MARGIN_DB
    assert settings.rmse is not None
    span = float(volume.info.high) - float(volume.info.low)
    wanted = 20 * (math.log10(span) - math.log10(settings.rmse)) + _MARGIN_DB
    return min(max(wanted, -_BEYOND_ALL_DB), _BEYOND_ALL_DB)


def _psnr_db(form: Form) -> float:
    return form.psnr_db


def _ssim_db(volume: Volume, form: Form) -> float:
    """Return by how much a form's SSIM is short of 1, in dB."""
    return scoring.decibels(1 - scoring.chunk_ssim(form.payload, volume))


def _higher(form: Form, than: Form | None) -> float:
    return math.inf if than is None else form.psnr_db - than.psnr_db


def _smaller(form: Form, than: Form | None) -> float:
    """Return what fewer bytes are worth: about 6 dB for half of them."""
    return math.inf if than is None else 6 * math.log2(len(than.payload) / len(form.payload))


def _better(form: Form | None, other: Form) -> Form:
    return form if form is not None and form.psnr_db >= other.psnr_db else other


def _low_order(volume: Volume) -> Form:
    room = volume.room(volume.own_budget())
    size = room - container.section_overhead(room)
    return form_of(volume, {SectionKind.COSINE: cosine.fit(volume.unit, volume.weight, size)})
