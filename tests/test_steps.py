"""Steps foretold from magnitudes, and searched for."""

from __future__ import annotations

import math
import weakref

import numpy as np
import pytest

from tinc_codec.fit import rate_control, residual, steps
from tinc_codec.fit.steps import Forecast, Magnitudes, Trial
from tinc_codec.phantom import phantom


def volume(noise: float = 0.0005) -> residual.Residual:
    rng = np.random.default_rng(5)
    values = phantom((48, 64, 56)).astype(np.float32) / np.float32(65535)
    return residual.Residual.of(values + rng.normal(0, noise, values.shape).astype(np.float32))


def line(slope: float) -> Forecast:
    at = np.arange(-20.0, 1.0)
    return Forecast(at, -slope * at)


@pytest.mark.parametrize("step", [0.001, 0.003, 0.01, 0.05, 0.4])
def test_size_and_error_are_about_as_foretold(step: float) -> None:
    coded = volume()
    coding, forecasts = coded.whole(step), coded.transform.magnitudes
    assert coding is not None
    size = coding.nbytes + steps.HEADER_BYTES
    assert forecasts.sizes().value(math.log2(step)) == pytest.approx(math.log2(size), abs=0.4)
    squares = coded.at_price(0.0).cost(coding, step) * step**2
    found = -10 * math.log10(squares / coded.values.size)
    assert forecasts.decibels().value(math.log2(step)) == pytest.approx(found, abs=1.0)


def test_forecasts_are_counted_from_magnitudes() -> None:
    band = np.zeros((2, 3, 4), np.float32)
    band[0, 0, 0], band[1, 2, 3] = -1.0, 0.25
    found = Magnitudes.of([(band, None)])
    at = np.log2([0.3, 1.2])  # magnitudes of 0.18 and more, of 0.72 and more
    assert np.interp(at, found.steps, found.larger) == pytest.approx([2, 1], abs=0.1)
    squares = np.interp(at, found.steps, found.squares)
    assert squares == pytest.approx([0, 0.0625], abs=0.01)
    assert found.larger[-1] == 0
    assert found.squares[-1] == pytest.approx(1.0625)
    assert found.count == band.size


def test_weights_count_in_magnitudes() -> None:
    band = np.full((1, 1, 8), 2.0, np.float32)
    quarter = Magnitudes.of([(band, np.full((1, 1, 8), 0.25, np.float32))])
    plain = Magnitudes.of([(band / 2, None)])
    assert np.array_equal(quarter.steps, plain.steps)
    assert np.allclose(quarter.squares, plain.squares)


def test_nothing_but_zeros_takes_a_header() -> None:
    found = Magnitudes.of([(np.zeros((2, 2, 2), np.float32), None)])
    sizes, scores = found.sizes(), found.decibels()
    assert sizes.value(-3) == sizes.value(3) == pytest.approx(4)
    assert math.isfinite(scores.value(0))
    assert math.isfinite(sizes.step(12))


def trial(
    step: float, value: float, wanted: float, near: float = 0.0, made: object = None
) -> Trial[object]:
    return Trial(
        step=step, value=value, is_fine=value > wanted, is_enough=abs(value - wanted) < near,
        made=made,
    )  # fmt: skip


@pytest.mark.parametrize("pace", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("off", [-3.0, 0.0, 2.0])
def test_few_tries_correct_a_forecast(pace: float, off: float) -> None:
    def attempt(step: float) -> Trial[object]:
        value = -pace * math.log2(step) + off
        return trial(step, value, wanted=9.0, near=0.002, made=f"of {step}")

    tried = list(steps.search(line(1.0), 2**-4.0, 2**-30, 9.0, 1e-6, 20, attempt))
    assert tried[-1].value == pytest.approx(9.0, abs=0.002)
    assert len(tried) <= 7
    assert [t.made for t in tried] == [f"of {t.step}" for t in tried]


def test_a_jump_over_what_is_wanted_ends_the_search() -> None:
    def attempt(step: float) -> Trial[object]:
        return trial(step, 5.0 if math.log2(step) > -7.25 else 8.0, wanted=6.0)

    tried = list(steps.search(line(1.0), 2**-3.0, 2**-30, 6.0, 0.01, 99, attempt))
    # Steps come nearer to the jump from either side.
    *_, fine = coarser = [math.log2(t.step) for t in tried if t.is_fine]
    *_, coarse = finer = [math.log2(t.step) for t in tried if not t.is_fine]
    assert coarser == sorted(coarser)
    assert finer == sorted(finer, reverse=True)
    assert fine <= -7.25 < coarse < fine + 0.01
    assert len(tried) < 30


@pytest.mark.parametrize(("value", "end"), [(50.0, 0.0), (1.0, -12.0)])
def test_what_no_step_gives_ends_at_the_last_step(value: float, end: float) -> None:
    def attempt(step: float) -> Trial[object]:
        return trial(step, value, wanted=9.0)

    tried = list(steps.search(line(1.0), 2**-6.0, 2**-12.0, 9.0, 1e-3, 40, attempt))
    assert math.log2(tried[-1].step) == end
    assert len(tried) < 30


def test_a_search_keeps_nothing_that_was_made() -> None:
    class Large:
        pass

    alive: list[weakref.ref[Large]] = []

    def attempt(step: float) -> Trial[object]:
        # The last one is still in the hands of the search and of this loop.
        assert sum(large() is not None for large in alive) <= 1
        made = Large()
        alive.append(weakref.ref(made))
        return trial(step, 5.0 if math.log2(step) > -7.25 else 8.0, wanted=6.0, made=made)

    tries = sum(1 for _ in steps.search(line(1.0), 2**-3.0, 2**-30, 6.0, 0.01, 99, attempt))
    assert tries == len(alive) > 3
    assert not any(large() for large in alive)


def test_a_size_is_found_with_few_codings(monkeypatch: pytest.MonkeyPatch) -> None:
    coded = residual._coded
    calls = []

    def counted(*arguments: object) -> object:
        calls.append(arguments)
        return coded(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(residual, "_coded", counted)
    by_rule = volume()
    sizes = range(2000, 6001, 500)
    for size in sizes:
        cut, start = rate_control.foretold(by_rule, size)
        coding = rate_control.within_size(cut, size, start)
        assert coding is not None
        assert 0.995 * size <= len(coding.data) <= size
    assert len(calls) <= 6 * len(sizes)
    calls.clear()
    given = residual.Residual.of(by_rule.values, plan=by_rule.transform.plan)
    for size in sizes:
        settled = rate_control.settle_about(given, size)
        assert settled is not None
        coding = rate_control.within_size(settled[0], size, settled[1])
        assert coding is not None
        assert 0.995 * size <= len(coding.data) <= size
    assert len(calls) <= 7 * len(sizes)
