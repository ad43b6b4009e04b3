"""Trees alone, and with wavelet coefficients where that helps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from tinc_codec.decoding.opened import open_chunk
from tinc_codec.forms import band_trees, portability, scoring
from tinc_codec.forms.band_trees import BandTree
from tinc_codec.forms.candidate import Form, forms_of
from tinc_codec.forms.volume import Sections, Volume
from tinc_codec.runtime import current_runtime
from tinc_codec.settings import TREES_FROM, Settings
from tinc_codec.stream import container
from tinc_codec.stream.container import SectionKind
from tinc_codec.threads import each
from tinc_codec.tree import section

if TYPE_CHECKING:
    from tinc_codec.fit.chunk import FittedTree

# Short fits, as trials, tell where a whole one is worth its time: where they are no further behind
# wavelets than so many dB. Work is told by effort, also below those that a user may choose.
#
#   effort      trial                           goes on above
#   3, 4        a thirtieth of effort 5's work  -0.12 dB (where trees paid: -0.1 or more)
#   5 and more  a hundredth of effort 5's work  -0.4 dB (where trees paid: -0.3 or more)
#               then a tenth of all work        -0.02 dB
_TENTH_FROM, _TENTH, _TENTH_DB = 5, 0.1, -0.02
_SHORTEST, _SHORTEST_DB = -3, -0.4
_SHORT, _SHORT_DB = -1, -0.12
# A whole fit gains about half as much again as the tenth gained over the hundredth; with that it
# has to promise what a tree is worth.
_STILL = 0.5
# By how much a tree has to be better: it decodes at half the speed and less, and takes several
# times as long to fit. At the efforts that are for fidelity, whatever that takes, a little.
_TREE_WORTH_DB, _LEAST_TREE_WORTH_DB = 0.15, 0.05
# From this effort on a tree of the voxels is tried too, where one of a band is worth it and a short
# fit does better than that of the band did. It takes several times as long, to fit and to decode,
# and gains up to 0.35 dB where surfaces are sharp.
_VOXELS_FROM = 6
# A tree of voxels gets two fifths of the bytes. One of a low-pass band gets a fifth, but bytes for
# some 1,500 weights, from which on trees have levels, where that is no more than two fifths.
_SHARES, _TREE_BYTES = (0.2, 0.4), 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """A fit to be made.

    Attributes
    ----------
    share : float
        Part of the effort's work.
    of_voxels : bool
        Whether of the voxels, not of a band.
    least : float or None
        Of a trial: what has to be gained for that, in dB; None: more than the last trial did.
    """

    share: float
    of_voxels: bool
    least: float | None = None

    @property
    def is_trial(self) -> bool:
        """Whether it is to tell if the next one is worth its time."""
        return self.share < 1


def are_tried(settings: Settings) -> bool:
    """Tell whether trees are tried.

    At the least efforts, where one takes several times the time of all else, only if something is
    said of it.
    """
    said = settings.levels != "auto" or settings.iterations != "auto"
    return settings.form == "auto" and (said or settings.effort >= TREES_FROM)


def with_trees(
    volumes: Sequence[Volume],
    found: Sequence[Form | None],
    settings: Settings,
    sizes: Sequence[int],
    add: Callable[[Volume, BandTree, Form | None], Form | None],
    gains: Callable[[Form, Form | None], float],
) -> list[Form | None]:
    """Return forms with a tree where they are better than those found without.

    Short fits as trials tell first where a whole one is worth its time.

    Parameters
    ----------
    volumes, found : sequences
        Volumes, and their best forms so far, of wavelet coefficients alone.
    settings : Settings
        As the user gave them.
    sizes : sequence of int
        Bytes of each payload, about.
    add : callable
        Adds to a tree the wavelet coefficients of what it leaves: as well as may be, or, for a
        trial, in the way of another form.
    gains : callable
        By how many dB, about, one form is better than another.
    """
    coarse = each(lambda pair: band_trees.band_of(*pair), list(zip(volumes, found, strict=True)))
    bands = {k: band for k, band in enumerate(coarse) if band is not None}
    chosen = list(bands)
    best = list(found)

    def added(triple: tuple[Volume, BandTree | None, Form | None]) -> Form | None:
        volume, tree, like = triple
        return None if tree is None else add(volume, tree, like)

    def made_by(fit: _Fit) -> dict[int, Form]:
        some = [volumes[k] for k in chosen]
        fitted_to = [bands[k] for k in chosen]
        if fit.of_voxels:
            fitted_to = [band_trees.voxels_of(volume) for volume in some]
        rooms = [volumes[k].room(_share_of(sizes[k], of_voxels=fit.of_voxels)) for k in chosen]
        trees = band_trees.fitted(some, fitted_to, settings, rooms, fit.share)
        likes = [found[k] if fit.is_trial else None for k in chosen]
        forms = each(added, list(zip(some, trees, likes, strict=True)))
        return {k: form for k, form in zip(chosen, forms, strict=True) if form is not None}

    is_sound = partial(portability.is_portable, seed=settings.seed)
    worth = _LEAST_TREE_WORTH_DB if settings.effort >= _VOXELS_FROM else _TREE_WORTH_DB
    tried: dict[int, float] = {}
    for fit in _fits(settings):
        forms = made_by(fit)
        gained = {k: gains(form, found[k]) for k, form in forms.items()}
        better = [k for k in forms if gained[k] >= worth and gains(forms[k], best[k]) > 0]
        sound = each(is_sound, [forms[k].payload for k in better])
        for k, kept in zip(better, sound, strict=True):
            best[k] = forms[k] if kept else best[k]
        chosen = _worth_going_on(fit, gained, tried, worth)
        if fit.is_trial:
            tried = gained
    return best


def _worth_going_on(
    fit: _Fit, gained: dict[int, float], tried: dict[int, float], worth: float
) -> list[int]:
    """Return the volumes for which the next fit is made.

    By what this one and the last trial gained over wavelets alone, in dB, by number of volume.
    """
    if not fit.is_trial:
        return [k for k in gained if gained[k] > worth]
    if fit.least is None:
        return [k for k in gained if gained[k] > tried[k]]
    chosen = [k for k in gained if gained[k] > fit.least]
    if not tried:
        return chosen
    promised = {k: gained[k] + _STILL * (gained[k] - tried[k]) for k in chosen}
    return [k for k in chosen if promised[k] > worth]


def _fits(settings: Settings) -> list[_Fit]:
    """Return the fits to make in turn."""
    fits = []
    for of_voxels in (False, True) if settings.effort >= _VOXELS_FROM else (False,):
        if settings.iterations == "auto":
            fits += [
                _Fit(share=share, of_voxels=of_voxels, least=least)
                for share, least in _trials(settings.effort, of_voxels=of_voxels)
            ]
        fits.append(_Fit(share=1.0, of_voxels=of_voxels))
    return fits


def _trials(effort: int, *, of_voxels: bool) -> list[tuple[float, float | None]]:
    """Return the shares of the work of trials, and what each has to gain."""
    if of_voxels:
        return [(_TENTH, None)]
    from tinc_codec.fit.recipe import share_of_work

    if effort < _TENTH_FROM:
        return [(share_of_work(_SHORT, effort), _SHORT_DB)]
    return [(share_of_work(_SHORTEST, effort), _SHORTEST_DB), (_TENTH, _TENTH_DB)]


def _share_of(size: int, *, of_voxels: bool) -> int:
    """Return how many bytes of a payload are its tree's."""
    least, most = (round(share * size) for share in _SHARES)
    return most if of_voxels else min(max(least, _TREE_BYTES), most)


def fitted(
    volumes: Sequence[Volume], settings: Settings, rooms: Sequence[int]
) -> list[Form | None]:
    """Fit a tree to each volume within so many bytes; None where there is none to rely on."""
    if not volumes:
        return []
    from tinc_codec.fit.chunk import fit_trees

    found = fit_trees(
        [volume.unit for volume in volumes], [volume.weight for volume in volumes], settings, rooms
    )
    raw = settings.preset == "paper"

    def said(pair: tuple[Volume, FittedTree]) -> Sections:
        volume, tree = pair
        sections = {SectionKind.TREE: tree.tree, SectionKind.WEIGHTS: tree.weights}
        return sections if raw else _smooth(volume, sections)

    pairs = [(volume, tree) for volume, tree in zip(volumes, found, strict=True) if tree]
    # A GPU holds the values of one chunk at a time.
    sections = [said(p) for p in pairs] if current_runtime().uses_torch else each(said, pairs)
    forms = forms_of([volume for volume, _ in pairs], sections)
    sound = each(lambda form: portability.is_portable(form.payload, settings.seed, raw=raw), forms)
    made = iter(form if kept else None for form, kept in zip(forms, sound, strict=True))
    return [next(made) if tree else None for tree in found]


def _smooth(volume: Volume, sections: Sections) -> Sections:
    """Return the sections of a tree, the faces of its leaves made smooth as is best."""
    from tinc_codec.fit import faces

    payload = container.pack({**volume.exact, **sections})
    chunk = open_chunk(payload)
    assert chunk.tree is not None
    if not chunk.tree.geometry.splits:
        return sections
    said = scoring.tree_says(chunk, volume)
    smoothing = faces.choose(chunk.tree.geometry, said, volume.unit, volume.weight)
    tree = section.to_bytes(replace(chunk.tree, smoothing=smoothing))
    return {**sections, SectionKind.TREE: tree}
