"""Trees, and whether they help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tinc_codec.forms import candidate
from tinc_codec.forms.candidate import Form, Sections, Volume
from tinc_codec.opened import open_chunk
from tinc_codec.settings import Settings
from tinc_codec.stream import container
from tinc_codec.stream.container import SectionKind
from tinc_codec.threads import each
from tinc_codec.tree import section

if TYPE_CHECKING:
    from tinc_codec.fit.chunk import FittedTree

# Efforts from which trees are tried, and from which a fit with a tenth of the work tells where a
# whole one is worth it: where it is not further behind than this.
_TREES_FROM, _PILOT_FROM, _PILOT_LESS, _PROMISING_DB = 2, 5, 4, 0.1


def are_tried(settings: Settings) -> bool:
    """Tell whether trees are tried.

    At the least effort, where one takes ten times the time of all else, only if something is said
    of it.
    """
    said = settings.levels != "auto" or settings.iterations != "auto"
    return settings.form == "auto" and (said or settings.effort >= _TREES_FROM)


def with_trees(
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
        trees = fitted(some, replace(settings, effort=effort), rooms)
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

    def scored(pair: tuple[Volume, FittedTree | None]) -> Form | None:
        volume, tree = pair
        if tree is None:
            return None
        sections = {SectionKind.TREE: tree.tree, SectionKind.WEIGHTS: tree.weights}
        form = candidate.form_of(volume, sections if raw else _smooth(volume, sections))
        return form if candidate.is_portable(form.payload, settings.seed, raw=raw) else None

    return each(scored, list(zip(volumes, found, strict=True)))


def _smooth(volume: Volume, sections: Sections) -> Sections:
    """Return the sections of a tree, the faces of its leaves made smooth as is best."""
    from tinc_codec.fit import faces

    payload = container.pack({**volume.exact, **sections})
    chunk = open_chunk(payload)
    assert chunk.tree is not None
    if not chunk.tree.geometry.splits:
        return sections
    said = candidate.said(payload, volume)
    smoothing = faces.choose(chunk.tree.geometry, said, volume.unit, volume.weight)
    tree = section.to_bytes(replace(chunk.tree, smoothing=smoothing))
    return {**sections, SectionKind.TREE: tree}
