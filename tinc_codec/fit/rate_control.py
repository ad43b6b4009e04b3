"""The step at which a wavelet section has a size, or is as good as asked for.

1. About the step: magnitudes tell it, or a coding or two do.
2. Plan and cuts are chosen there; or by rule, without any coding.
3. Step: size and error are smooth, steep functions of it; a few more codings find it.

The caller may try other prices of a bit: which one decodes best in the same bytes depends on the
rest, and where few voxels are far brighter than the rest, by tenths of a dB.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

from tinc_codec.fit.cutting import choose_cuts, cut_by_rule
from tinc_codec.fit.plans import choose_plan
from tinc_codec.fit.residual import Coding, Residual
from tinc_codec.fit.steps import HEADER_BYTES, search
from tinc_codec.stream.residual.wavelets.section import stored_step
from tinc_codec.stream.residual.wavelets.segments import Quantized

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


def step_at(price: float, coding: Coding) -> float:
    """Return the step that may give as large a coding at another price of a bit."""
    return float(coding.step * (coding.price / price) ** _STEP_BY_PRICE)


def settle(rest: Residual, step: float, whole: Quantized) -> tuple[Residual, Quantized]:
    """Return a volume in the plan and with the cuts that do best at a step, and its coding there.

    ``whole`` is that in the plan to begin with, without cuts.
    """
    rest, whole = choose_plan(rest, step, whole)
    return choose_cuts(rest, step, whole)


def settle_about(rest: Residual, size: int) -> tuple[Residual, float] | None:
    """Choose plan and cuts where a size is about as wanted; return also the step that may give it.

    None where all that was tried takes several times the size.
    """
    wanted = math.log2((1 + _ENOUGH) / 2 * size)
    tried: tuple[float, Quantized] | None = None

    def attempt(step: float) -> tuple[float, bool, bool]:
        nonlocal tried
        whole = rest.whole(step, _ROOM * size)
        if whole is None:
            return math.log2(_ROOM * size), True, False
        tried = step, whole
        found = math.log2(whole.nbytes + HEADER_BYTES)
        return found, found > wanted, abs(found - wanted) < _ABOUT_SIZE

    forecast, finest = rest.transform.magnitudes.sizes(), rest.finest_step()
    start = 2 ** forecast.step(wanted)
    search(forecast, start, finest, wanted, _SIZE_WIDTH, _TURNS, attempt)
    if tried is None:
        return None
    step, whole = tried
    settled, coded = settle(rest, step, whole)
    found = math.log2(coded.nbytes + HEADER_BYTES)
    forecast = settled.transform.magnitudes.sizes()
    return settled, 2 ** forecast.beyond(math.log2(step), wanted - found)


def foretold(rest: Residual, size: int) -> tuple[Residual, float]:
    """Return a volume with cuts by rule, and the step that may give a size."""
    step = 2 ** rest.transform.magnitudes.sizes().step(math.log2(size))
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
    best = None

    @cache
    def attempt_stored(step: float) -> tuple[float, bool, bool]:
        nonlocal best
        coding = rest.code(step, _ROOM * size)
        found = _ROOM * size if coding is None else len(coding.data)
        if coding is None or found > size:
            return math.log2(found), True, False
        best = coding
        return math.log2(found), False, found >= enough * size

    def attempt(step: float) -> tuple[float, bool, bool]:
        return attempt_stored(stored_step(step))

    forecast, finest = rest.transform.magnitudes.sizes(), rest.finest_step()
    wanted = math.log2((1 + enough) / 2 * size)
    search(forecast, start, finest, wanted, _SIZE_WIDTH, _TURNS, attempt)
    return best


def _step_of_score(rest: Residual, wanted: float) -> float:
    """Return the step that may give a score in dB; at most what the values vary by."""
    return float(min(2 ** rest.transform.magnitudes.decibels().step(wanted), rest.spread()))


def settle_near(
    rest: Residual, score: Callable[[Coding], float], wanted: float
) -> tuple[Residual, float]:
    """Choose plan and cuts where a score is about as wanted; return also the step for it."""
    tried: tuple[float, float, Quantized] | None = None

    def attempt(step: float) -> tuple[float, bool, bool]:
        nonlocal tried
        step = stored_step(step)
        whole = rest.whole(step)
        assert whole is not None
        found = min(score(rest.finished(whole, step)), wanted + _FAR_DB)
        tried = step, found, whole
        return found, found >= wanted, abs(found - wanted) < _NEAR_DB

    forecast, finest = rest.transform.magnitudes.decibels(), rest.finest_step()
    start = _step_of_score(rest, wanted)
    search(forecast, start, finest, wanted, _SCORE_WIDTH, _MOST_TURNS, attempt)
    assert tried is not None
    step, found, whole = tried
    settled, _ = settle(rest, step, whole)
    forecast = settled.transform.magnitudes.decibels()
    return settled, 2 ** forecast.beyond(math.log2(step), wanted - found)


def foretold_score(rest: Residual, wanted: float) -> tuple[Residual, float]:
    """Return a volume with cuts by rule, and the step that may give a score in dB."""
    step = _step_of_score(rest, wanted)
    return cut_by_rule(rest, step), step


def as_good(
    rest: Residual, score: Callable[[Coding], float], wanted: float, start: float
) -> Coding | None:
    """Return the coding with about the coarsest step that is good enough.

    Parameters
    ----------
    rest : Residual
        What to code, in its plan and with its cuts.
    score : callable
        Tells in dB how good a coding is, from its decoded bytes.
    wanted : float
        How good it has to be, in dB.
    start : float
        A step near the wanted one.

    Returns
    -------
    Coding or None
        Never worse than wanted, better by about 0.01 dB or with a step that is finer by 0.3 % than
        one that is not good. None where not even the finest step that integers can hold is good.
    """
    best: Coding | None = None

    def attempt(step: float) -> tuple[float, bool, bool]:
        nonlocal best
        coding = rest.code(step)
        assert coding is not None
        found = min(score(coding), wanted + _FAR_DB)
        if found >= wanted:
            best = coding
        return found, found >= wanted, wanted <= found <= wanted + _NEAR_DB

    forecast, finest = rest.transform.magnitudes.decibels(), rest.finest_step()
    aimed = wanted + _NEAR_DB / 2
    search(forecast, start, finest, aimed, _SCORE_WIDTH, _MOST_TURNS, attempt)
    return best
