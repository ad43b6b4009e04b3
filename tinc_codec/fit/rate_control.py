"""The step at which a wavelet section has a size, or is as good as asked for.

1. About the step: magnitudes tell it, or a coding or two do.
2. Plan and cuts are chosen there; or by rule, without any coding.
3. Step: size and error are smooth, steep functions of it; a few more codings find it.

The caller may try other prices of a bit: which one decodes best in the same bytes depends on the
rest, and where few voxels are far brighter than the rest, by tenths of a dB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TypeVar

from tinc_codec.fit.cutting import choose_cuts, cut_by_rule
from tinc_codec.fit.plans import choose_plan, plan_by_rule
from tinc_codec.fit.residual import Coding, Residual
from tinc_codec.fit.steps import HEADER_BYTES, Trial, search
from tinc_codec.stream.residual.wavelets.section import stored_step
from tinc_codec.stream.residual.wavelets.segments import Quantized

_Made = TypeVar("_Made")

# A size is near enough from so many parts of it on, and the middle is aimed at; codings of more
# than so many times the size are given up.
_ENOUGH, _ROOM = 0.998, 4
# The most tries for a size; for a score, which has to be found: the search is over long before.
_TURNS, _MOST_TURNS = 20, 99
# How near two tries may come, in octaves of the step: the header holds none between for a size.
_SIZE_WIDTH, _SCORE_WIDTH = 0.00142, 0.005
# How near to the size, in octaves, plan and cuts are chosen.
_ABOUT_SIZE = 0.1
# How near to the wanted score one has to be, in dB; beyond what it does not matter how much
# better it is.
_NEAR_DB, _FAR_DB = 0.01, 30.0
# Steps grow as the price of a bit falls, to this power, where the size is to be the same.
_STEP_BY_PRICE = 0.2


def step_at(price: float, step: float, before: float) -> float:
    """Return the step that may give as large a coding at a price of a bit as a step gave before.

    ``before`` is the price that it was at.
    """
    return float(step * (before / price) ** _STEP_BY_PRICE)


def settle(rest: Residual, step: float, whole: Quantized) -> tuple[Residual, Quantized]:
    """Return a volume in the plan and with the cuts that do best at a step, and its coding there.

    ``whole`` is that in the plan to begin with, without cuts.
    """
    rest, whole = choose_plan(rest, step, whole)
    return choose_cuts(rest, step, whole)


def settle_about(rest: Residual, size: int) -> tuple[Residual, float] | None:
    """Choose plan and cuts where a size is about as wanted.

    Parameters
    ----------
    rest : Residual
        What to code.
    size : int
        Bytes at hand for the section.

    Returns
    -------
    tuple of Residual and float, or None
        The volume so, and the step that may give the size. None where all that was tried takes
        several times that.
    """
    wanted = math.log2((1 + _ENOUGH) / 2 * size)

    def attempt(step: float) -> Trial[Quantized | None]:
        whole = rest.whole(step, _ROOM * size)
        found = math.log2(_ROOM * size if whole is None else whole.nbytes + HEADER_BYTES)
        return Trial(
            step=step, value=found, is_fine=found > wanted,
            is_enough=abs(found - wanted) < _ABOUT_SIZE, made=whole,
        )  # fmt: skip

    forecast, finest = rest.transform.magnitudes.sizes(), rest.finest_step()
    start = 2 ** forecast.step(wanted)
    trials = search(forecast, start, finest, wanted, _SIZE_WIDTH, _TURNS, attempt)
    tried = _last((trial.step, trial.made) for trial in trials if trial.made is not None)
    if tried is None:
        return None
    step, whole = tried
    settled, coded = settle(rest, step, whole)
    found = math.log2(coded.nbytes + HEADER_BYTES)
    forecast = settled.transform.magnitudes.sizes()
    return settled, 2 ** forecast.beyond(math.log2(step), wanted - found)


def foretold(rest: Residual, size: int) -> tuple[Residual, float]:
    """Return a volume in a plan and with cuts by rule, and the step that may give a size."""
    wanted = math.log2(size)
    rest = plan_by_rule(rest, 2 ** rest.transform.magnitudes.sizes().step(wanted))
    step = 2 ** rest.transform.magnitudes.sizes().step(wanted)
    return cut_by_rule(rest, step), step


def within_size(
    rest: Residual, size: int, start: float, *, enough: float = _ENOUGH
) -> Coding | None:
    """Return the coding with the finest step that takes at most ``size`` bytes.

    Not finer than integers can hold: a smooth volume may take less.

    Parameters
    ----------
    rest : Residual
        What to code, in its plan and with its cuts.
    size : int
        Bytes at hand for the section.
    start : float
        A step near the wanted one.
    enough : float
        Share of the size at which no finer step is looked for.

    Returns
    -------
    Coding or None
        None where not even zeros fit.
    """

    # A step between two that are nearly alike is stored as one of them: not to be coded again.
    @lru_cache(maxsize=2)
    def attempt_stored(step: float) -> Trial[Coding | None]:
        coding = rest.code(step, _ROOM * size)
        found = _ROOM * size if coding is None else len(coding.data)
        return Trial(
            step=step, value=math.log2(found), is_fine=found > size,
            is_enough=enough * size <= found <= size, made=coding if found <= size else None,
        )  # fmt: skip

    def attempt(step: float) -> Trial[Coding | None]:
        return attempt_stored(stored_step(step))

    forecast, finest = rest.transform.magnitudes.sizes(), rest.finest_step()
    wanted = math.log2((1 + enough) / 2 * size)
    trials = search(forecast, start, finest, wanted, _SIZE_WIDTH, _TURNS, attempt)
    return _last(trial.made for trial in trials if trial.made is not None)


def _last(items: Iterable[_Made]) -> _Made | None:
    """Return the last of some items; none before it is kept."""
    last = None
    for item in items:
        last = item
    return last


def _step_of_score(rest: Residual, wanted: float) -> float:
    """Return the step that may give a score in dB; at most what the values vary by."""
    return float(min(2 ** rest.transform.magnitudes.decibels().step(wanted), rest.spread()))


def settle_near(
    rest: Residual, finish: Callable[[Coding], tuple[float, _Made]], wanted: float
) -> tuple[Residual, float, list[_Made]]:
    """Choose plan and cuts where a score is about as wanted.

    Parameters
    ----------
    rest : Residual
        What to code.
    finish : callable
        Tells in dB how good a coding is, and returns what it makes of it.
    wanted : float
        The score, in dB.

    Returns
    -------
    tuple of Residual, float and list
        The volume so, the step that may give the score, and what was made of each coding.
    """

    def attempt(step: float) -> Trial[tuple[Quantized, _Made]]:
        step = stored_step(step)
        whole = rest.whole(step)
        assert whole is not None
        score, made = finish(rest.finished(whole, step))
        found = min(score, wanted + _FAR_DB)
        return Trial(
            step=step, value=found, is_fine=found >= wanted,
            is_enough=abs(found - wanted) < _NEAR_DB, made=(whole, made),
        )  # fmt: skip

    forecast, finest = rest.transform.magnitudes.decibels(), rest.finest_step()
    start, every = _step_of_score(rest, wanted), list[_Made]()
    for trial in search(forecast, start, finest, wanted, _SCORE_WIDTH, _MOST_TURNS, attempt):
        whole, made = trial.made
        every.append(made)
    settled, _ = settle(rest, trial.step, whole)
    forecast = settled.transform.magnitudes.decibels()
    return settled, 2 ** forecast.beyond(math.log2(trial.step), wanted - trial.value), every


def foretold_score(rest: Residual, wanted: float) -> tuple[Residual, float]:
    """Return a volume in a plan and with cuts by rule, and the step that may give a score in dB."""
    rest = plan_by_rule(rest, _step_of_score(rest, wanted))
    step = _step_of_score(rest, wanted)
    return cut_by_rule(rest, step), step


def as_good(
    rest: Residual, finish: Callable[[Coding], tuple[float, _Made]], wanted: float, start: float
) -> Iterator[Trial[_Made]]:
    """Return what is tried to find about the coarsest step that is good enough.

    Parameters
    ----------
    rest : Residual
        What to code, in its plan and with its cuts.
    finish : callable
        Tells in dB how good a coding is, from its decoded bytes, and returns what it makes of it.
    wanted : float
        How good it has to be, in dB.
    start : float
        A step near the wanted one.

    Returns
    -------
    Iterator of Trial
        Those that are fine are good. The last of them is better by about 0.01 dB, or its step is
        finer by 0.3 % than one that is not good. There is none if not even the finest step that
        integers can hold is good.
    """

    def attempt(step: float) -> Trial[_Made]:
        coding = rest.code(step)
        assert coding is not None
        score, made = finish(coding)
        found = min(score, wanted + _FAR_DB)
        return Trial(
            step=coding.step, value=found, is_fine=found >= wanted,
            is_enough=wanted <= found <= wanted + _NEAR_DB, made=made,
        )  # fmt: skip

    forecast, finest = rest.transform.magnitudes.decibels(), rest.finest_step()
    aimed = wanted + _NEAR_DB / 2
    return search(forecast, start, finest, aimed, _SCORE_WIDTH, _MOST_TURNS, attempt)
