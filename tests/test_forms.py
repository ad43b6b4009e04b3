"""Which form says a chunk, and what is promised of it: fidelity reached, budgets held and used."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from volumes import volume

from tinc_codec import InvalidSetting, Settings, decode, encode, inspect, metrics
from tinc_codec.encode import _prepare
from tinc_codec.fit import chunk
from tinc_codec.forms import band_trees, choice, portability, trees, wavelets
from tinc_codec.forms.band_trees import BandTree
from tinc_codec.forms.candidate import Form
from tinc_codec.forms.volume import Volume
from tinc_codec.metrics import psnr
from tinc_codec.phantom import phantom
from tinc_codec.stream.container import SectionKind

QUICK: dict[str, Any] = {"effort": 1, "iterations": 30, "levels": 2}


def noisy(side: int, dtype: str = "u2") -> np.ndarray:
    """A smooth texture under much noise: the hard case of a budget, all of it can be used."""
    rng = np.random.default_rng(side)
    smooth = volume((side,) * 3, "f8") * 100
    values: np.ndarray = np.clip(rng.normal(smooth, 900), 0, 65535).astype(dtype)
    return values


def fidelity(array: np.ndarray, payload: bytes) -> float:
    """PSNR of the decoded bytes against high - low of the voxels that count."""
    decoded = decode(payload)
    counts = np.isfinite(array.astype("f8"))
    a, b = array[counts].astype("f8"), decoded[counts].astype("f8")
    squares = float(np.mean(((a - b) / (a.max() - a.min())) ** 2))
    return -10 * float(np.log10(squares)) if squares else np.inf


# The best is kept.


def few_bright_voxels(seed: int = 0) -> np.ndarray:
    """Voxels far brighter than the rest: what the coder leaves out decides tenths of a dB."""
    array = phantom((40, 40, 40)) // 8
    array[tuple(np.random.default_rng(seed).integers(0, 40, (3, 20)))] = 60000
    return array


@pytest.mark.parametrize("ratio", [96, 160])
def test_more_effort_tries_other_prices_of_a_bit(ratio: float) -> None:
    array = few_bright_voxels()
    found = [
        fidelity(array, encode(array, ratio=ratio, effort=effort, form="wavelet"))
        for effort in (3, 4, 7)
    ]
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.02


@pytest.mark.parametrize(
    ("array", "ratio"),
    [
        (phantom((20, 20, 20)), 12),
        (noisy(16), 6),
        (volume((24, 24, 24), "f4"), 30),
        (volume((60, 70), "u1"), 4),
    ],
    ids=["phantom", "noise", "smooth", "image"],
)
def test_auto_is_no_worse_than_any_form_it_tries(
    array: np.ndarray, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Form] = []
    original = wavelets.form_of

    def form(*arguments: Any) -> Form:
        tried.append(original(*arguments))
        return tried[-1]

    monkeypatch.setattr(wavelets, "form_of", form)
    best = encode(array, ratio=ratio, **QUICK)
    monkeypatch.setattr(wavelets, "form_of", original)
    assert len({frozenset(f.sections) for f in tried}) >= 2  # with a tree, and without
    alone = encode(array, ratio=ratio, form="wavelet", **QUICK)
    reached = psnr(array, decode(best))
    assert reached >= psnr(array, decode(alone)) - 1e-9
    for f in tried:
        if SectionKind.CORRECTION in f.sections:  # it would have to be much better
            continue
        assert reached >= psnr(array, decode(f.payload)) - 1e-9
    assert inspect(best).psnr_db == pytest.approx(reached, abs=0.02)


def test_a_tree_that_helps_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tree that knows the answer; and one that knows nothing is left out."""
    array = phantom((16, 16, 16))
    original = wavelets._with_wavelet

    def told(volume: Any, tree: Any, coding: Any) -> Form:
        form = original(volume, tree, coding)
        bonus = 20.0 if tree is not None else 0.0
        return replace(form, psnr_db=form.psnr_db + bonus)

    monkeypatch.setattr(wavelets, "_with_wavelet", told)
    assert inspect(encode(array, ratio=3, **QUICK)).form == "tree+wavelet"
    monkeypatch.setattr(wavelets, "_with_wavelet", original)
    noise = np.random.default_rng(0).integers(0, 999, (12, 12, 12)).astype("u2")
    assert inspect(encode(noise, ratio=3, **QUICK)).form == "wavelet"


def test_a_tree_with_wavelet_decodes_in_part_as_in_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_higher", lambda form, than: 1.0)
    array = phantom((16, 18, 20))
    payload = encode(array, ratio=4, **QUICK)
    assert inspect(payload).form == "tree+wavelet"
    expected = decode(payload)
    assert psnr(array, expected) > 25
    for selection in (3, (slice(2, 9), 4), ([1, 15], [0, 17], [19, 3]), (..., slice(5, 6))):
        np.testing.assert_array_equal(decode(payload, selection), expected[selection])


# A fidelity is reached.


def with_holes() -> np.ndarray:
    array = volume((14, 16, 18), "f4")
    array[3, 4:9, 2:7], array[9, 1, 1] = np.nan, np.inf
    return array


def cropped() -> np.ndarray:
    array = np.zeros((16, 16, 16), "u2")
    array[:13, 2:, :15] = phantom((13, 14, 15))
    return array


TARGETS = {
    "u1": volume((16, 17, 18), "u1"),
    "i1": volume((16, 17, 18), "i1"),
    "u2": phantom((16, 17, 18)),
    ">i2": volume((40, 41), ">i2"),
    "u4": volume((7, 8, 9, 3), "u4") * np.uint32(10**7),
    "f2": volume((900,), "f2"),
    "f4": volume((16, 17, 18), "f4"),
    "f8": volume((12, 13, 14), "f8") * 1e-9 - 3,
    "mask": with_holes(),
    "crop": cropped(),
}


@pytest.mark.parametrize("wanted", [25, 38.5, 60])
@pytest.mark.parametrize("case", TARGETS)
def test_a_psnr_is_reached_by_fewer_bytes_than_a_higher_one(case: str, wanted: float) -> None:
    array = TARGETS[case]
    payload = encode(array, psnr=wanted, form="wavelet", effort=1)
    measured = array
    if case == "crop":  # the padding is exact, and does not count
        measured, decoded = array[:13, 2:, :15], decode(payload)[:13, 2:, :15]
        squares = np.mean((measured.astype("f8") - decoded) ** 2) / float(np.ptp(measured)) ** 2
        reached = -10 * np.log10(squares) if squares else np.inf
    else:
        reached = fidelity(array, payload)
    assert reached >= wanted - 1e-6
    recorded = inspect(payload).psnr_db
    assert recorded == pytest.approx(min(reached, 1e3), abs=0.02) or np.isinf(reached)
    # Voxels of eight bits are exact from some step on, and no step is finer than needed.
    finer = encode(array, psnr=wanted + 3, form="wavelet", effort=1)
    assert len(payload) < len(finer) or np.isinf(reached)


@pytest.mark.parametrize("wanted", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("case", ["u2", ">i2", "u4", "f2", "f8"])
def test_an_ssim_is_reached_by_fewer_bytes_than_a_higher_one(case: str, wanted: float) -> None:
    array = TARGETS[case]
    payload = encode(array, ssim=wanted, form="wavelet", effort=1)
    reached = metrics.ssim(array, decode(payload), float(np.ptp(array)), ndim=min(3, array.ndim))
    assert reached >= wanted - 1e-5
    finer = encode(array, ssim=(wanted + 1) / 2, form="wavelet", effort=1)
    assert len(payload) < len(finer)


def test_an_ssim_counts_masked_voxels_as_exact() -> None:
    array = with_holes()
    decoded = decode(encode(array, ssim=0.9, form="wavelet", effort=1))
    counts = np.isfinite(array)
    np.testing.assert_array_equal(np.isfinite(decoded), counts)
    original, found = (np.where(counts, part, array[counts].mean()) for part in (array, decoded))
    assert metrics.ssim(original, found, float(np.ptp(array[counts]))) > 0.85


def test_an_ssim_with_a_tree_is_reached_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_smaller", lambda form, than: 1.0)
    array = phantom((16, 17, 18))
    payload = encode(array, ssim=0.93, **QUICK)
    assert inspect(payload).form == "tree+wavelet"
    assert metrics.ssim(array, decode(payload), float(np.ptp(array))) >= 0.93


def test_a_psnr_with_a_tree_is_reached_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_smaller", lambda form, than: 1.0)
    array = with_holes()
    payload = encode(array, psnr=41, **QUICK)
    assert inspect(payload).form == "tree+wavelet"
    assert fidelity(array, payload) >= 41


def test_the_smaller_of_two_that_reach_it_is_kept() -> None:
    array = phantom((16, 16, 16))
    payload = encode(array, psnr=35, **QUICK)
    assert len(payload) <= len(encode(array, psnr=35, form="wavelet", **QUICK))
    assert fidelity(array, payload) >= 35


@pytest.mark.parametrize("target", [{"psnr": 60}, {"rmse": 50}])
def test_more_effort_reaches_a_fidelity_with_fewer_bytes(target: dict[str, Any]) -> None:
    array = few_bright_voxels(seed=3)
    found = [encode(array, effort=effort, form="wavelet", **target) for effort in (3, 4)]
    assert len(found[1]) < 0.99 * len(found[0])


def test_a_psnr_beyond_binary32_is_refused_in_words() -> None:
    array = np.random.default_rng(0).normal(size=(9, 9, 9))
    with pytest.raises(InvalidSetting, match=r"psnr=190 is more than .* float64; ask for less"):
        encode(array, psnr=190, form="wavelet", effort=1)


@pytest.mark.parametrize("effort", [1, 3])
@pytest.mark.parametrize("dtype", ["u2", "f4", "f8"])
def test_a_smooth_chunk_with_bytes_to_spare_is_nearly_exact(dtype: str, effort: int) -> None:
    """No step is finer than the coder's integers can hold, however large the budget."""
    ramp = np.broadcast_to(np.arange(24)[:, None, None] * 1000.0, (24, 16, 12)).astype(dtype)
    payload = encode(ramp, ratio=4, form="wavelet", effort=effort)
    assert fidelity(ramp, payload) > 90


def test_a_fidelity_of_a_constant_costs_nothing() -> None:
    payload = encode(np.full((20, 20, 20), 7, "u2"), psnr=90)
    assert inspect(payload).form == "constant"


# An error in units of the data.


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a.astype(float) - b.astype(float)) ** 2)))


@pytest.mark.parametrize(("dtype", "effort"), [("u1", 1), ("u2", 2), ("i4", 1), ("f4", 2)])
def test_an_rmse_is_held_whatever_the_range(dtype: str, effort: int) -> None:
    dark = (noisy(24) // 300).astype(dtype)  # within 0 to 255
    for array in (dark, dark // 4):
        payload = encode(array, rmse=3, form="wavelet", effort=effort)
        assert rmse(array, decode(payload)) <= 3
        assert rmse(array, decode(payload)) > min(2.7, 0.9 * float(array.std()))


def test_a_chunk_of_less_than_the_rmse_takes_tens_of_bytes() -> None:
    noise = np.random.default_rng(0).normal(100, 3, (32, 32, 32)).astype("u2")
    payload = encode(noise, rmse=5, form="wavelet", effort=2)
    assert len(payload) < 100
    assert rmse(noise, decode(payload)) <= 5


def test_an_rmse_with_a_tree_is_held_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_smaller", lambda form, than: 1.0)
    array = phantom((32, 32, 32))
    wanted = 0.009 * float(np.ptp(array))
    payload = encode(array, rmse=wanted, **QUICK)
    assert inspect(payload).form == "tree+wavelet"
    assert rmse(array, decode(payload)) <= wanted


# A budget is held, and used.


@pytest.mark.parametrize("ratio", [2.5, 4, 11.3, 40, 80])
@pytest.mark.parametrize("side", [32, 64])
def test_a_budget_is_held_and_used(side: int, ratio: float) -> None:
    array = noisy(side)
    payload = encode(array, ratio=ratio, form="wavelet", effort=1)
    budget = int(array.nbytes / ratio)
    assert 0.97 * budget <= len(payload) <= budget


def test_a_budget_with_a_tree_is_held_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_higher", lambda form, than: 1.0)
    array = noisy(32)
    payload = encode(array, ratio=15, **QUICK)
    assert inspect(payload).form == "tree+wavelet"
    assert 0.97 * array.nbytes / 15 <= len(payload) <= array.nbytes / 15


def test_a_budget_holds_with_mask_and_crop() -> None:
    for array in (with_holes(), cropped()):
        for ratio in (3, 9, 25):
            payload = encode(array, ratio=ratio, form="wavelet", effort=1)
            assert len(payload) <= array.nbytes / ratio


def test_fewer_bytes_are_never_better() -> None:
    array = noisy(32)
    reached = [
        psnr(array, decode(encode(array, ratio=ratio, form="wavelet", effort=1)))
        for ratio in (3, 6, 12, 24, 48)
    ]
    assert reached == sorted(reached, reverse=True)


# A bounded form where it is much better.


def thresholded() -> np.ndarray:
    array = phantom((48, 48, 48))
    return np.where(array > np.quantile(array, 0.97), array, 0)


def spots() -> np.ndarray:
    array = np.full((40, 40, 40), 100, np.uint16)
    places = np.random.default_rng(0).integers(0, 40, (3, 80))
    array[tuple(places)] = np.arange(4000, 4080)  # too many values for masks
    return array


def labelled() -> np.ndarray:
    z, y, x = np.indices((40, 40, 40)) - 20
    return ((z * z + y * y + x * x < 200) * 255).astype(np.uint8)


def chequered() -> np.ndarray:
    return (np.indices((40, 40, 40)).sum(axis=0) % 2 * 1000).astype(np.uint16)


SPARSE = [thresholded, spots, labelled]


@pytest.mark.parametrize("make", SPARSE)
@pytest.mark.parametrize("effort", [1, 2])
def test_a_ratio_loses_nothing_where_storing_without_loss_fits(make: Any, effort: int) -> None:
    array = make()
    exact = encode(array, max_error=0, effort=effort)
    assert len(exact) < array.nbytes / 10
    payload = encode(array, ratio=0.95 * array.nbytes / len(exact), effort=effort)
    np.testing.assert_array_equal(decode(payload), array)
    with_half = encode(array, ratio=2 * array.nbytes / len(exact), effort=effort)
    assert len(with_half) <= len(exact) / 2


def test_what_every_voxel_steps_in_may_be_without_loss_too() -> None:
    array = chequered()
    np.testing.assert_array_equal(decode(encode(array, ratio=16, effort=1)), array)


@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_a_thresholded_volume_is_far_better_within_a_bound(dtype: str) -> None:
    array = thresholded().astype(dtype)
    plain = encode(array, ratio=40, effort=1, form="wavelet")
    payload = encode(array, ratio=40, effort=1)
    assert "correction" in inspect(payload).form
    assert len(payload) <= array.nbytes / 40
    assert fidelity(array, payload) > fidelity(array, plain) + 5


@pytest.mark.parametrize("target", [{"psnr": 90}, {"rmse": 0.2}, {"ssim": 0.9999}, {"psnr": 50}])
@pytest.mark.parametrize(
    "make", [*SPARSE, chequered, lambda: noisy(32), lambda: volume((30, 31, 32), "u2")]
)
def test_no_fidelity_takes_more_than_storing_without_loss(
    make: Any, target: dict[str, float]
) -> None:
    array = make()
    payload = encode(array, effort=1, **target)
    assert len(payload) <= len(encode(array, max_error=0, effort=1))
    decoded = decode(payload)
    if "ssim" in target:
        assert metrics.ssim(array, decoded) >= target["ssim"]
    if "rmse" in target:
        assert np.sqrt(np.mean((decoded.astype("f8") - array) ** 2)) <= target["rmse"]
    if "psnr" in target:
        assert psnr(array, decoded) >= target["psnr"]


def test_a_bounded_form_has_to_be_much_better() -> None:
    for array in (noisy(40), phantom((48, 48, 48))):
        for target in ({"ratio": 16}, {"psnr": 38}):
            payload = encode(array, effort=1, **target)
            assert payload == encode(array, effort=1, form="wavelet", **target)


def test_weights_of_voxels_count_for_bounded_forms_too() -> None:
    array = thresholded()
    weights = np.ones(array.shape, np.float32)
    weights[:, :20] = 0.5
    payload, plain = (
        encode(array, ratio=40, effort=1, importance=weights, form=form)
        for form in ("auto", "wavelet")
    )
    assert inspect(payload).form == "correction"
    bright = array > 0
    ours, theirs = (
        np.abs(decode(p)[bright].astype(float) - array[bright]).mean() for p in (payload, plain)
    )
    assert ours < theirs / 2


@pytest.mark.parametrize("dtype", ["i4", "f4"])
def test_what_no_transform_is_precise_enough_for(dtype: str) -> None:
    array = (1e9 * np.sin(np.indices((32, 32, 32)).sum(axis=0) / 9)).astype(dtype)
    payload = encode(array, psnr=141, effort=1)
    assert fidelity(array, payload) >= 141
    with pytest.raises(InvalidSetting, match="precision"):
        encode(array, psnr=141, effort=1, form="wavelet")


@pytest.mark.parametrize("wanted", [0.6, 0.9, 0.99])
def test_an_ssim_is_met_beside_preserved_values(wanted: float) -> None:
    rng = np.random.default_rng(1)
    array = rng.integers(-20, 40, (34, 38, 38)).astype(np.int8)
    array[rng.random(array.shape) < 0.2] = 90
    decoded = decode(encode(array, ssim=wanted, preserve=(90,), effort=1))
    assert metrics.ssim(array, decoded) >= wanted
    np.testing.assert_array_equal(decoded == 90, array == 90)


def test_gradients_and_ample_budgets() -> None:
    ramp = (np.indices((48, 48, 48)).sum(axis=0) * 23).astype(np.int16)
    for target in ({"ratio": 16}, {"psnr": 90}):
        payload = encode(ramp, effort=1, **target)
        assert len(payload) <= len(encode(ramp, max_error=0, effort=1))
    smooth = (1e9 * np.sin(np.indices((32, 32, 32)).sum(axis=0) / 9)).astype(np.int32)
    reached = [inspect(encode(smooth, ratio=ratio, effort=1)).psnr_db for ratio in (1.5, 2, 3)]
    assert reached[0] > reached[2] + 6


# No tree where none is wanted.


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_wavelet_alone_fits_no_tree() -> None:
    code = """
import sys
import numpy as np
from tinc_codec import decode, encode
array = np.random.default_rng(0).integers(0, 500, (16, 16, 16)).astype("u2")
for target in ({"ratio": 8}, {"psnr": 30}):
    decode(encode(array, form="wavelet", **target))
print([name for name in ("torch", "tinc_codec.fit.chunk") if name in sys.modules])
"""
    assert run_python(code).strip() == "[]"


def test_only_auto_and_tree_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Sequence[Any]:
        raise AssertionError("a tree is fitted")

    monkeypatch.setattr(chunk, "fit_trees", refuse)
    array = phantom((12, 12, 12))
    encode(array, ratio=8, form="wavelet")
    encode(array, psnr=30, form="wavelet")
    for form in ("auto", "tree"):
        with pytest.raises(AssertionError, match="a tree is fitted"):
            encode(array, ratio=4, form=form)


def test_trees_of_voxels_are_tried_after_those_of_a_band_from_effort_six_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes: list[tuple[int, ...]] = []
    whole = chunk.fit_trees

    def watched(units: Any, *arguments: Any) -> Any:
        shapes.extend(unit.shape for unit in units)
        return whole(units, *arguments)

    monkeypatch.setattr(chunk, "fit_trees", watched)
    monkeypatch.setattr(choice, "_higher", lambda form, than: 1.0)
    array = phantom((12, 13, 14))
    encode(array, ratio=8, effort=5, iterations=5)
    assert shapes == [(6, 7, 7)]
    payload = encode(array, ratio=8, effort=6, iterations=5)
    assert shapes[1:] == [(6, 7, 7), (12, 13, 14)]
    assert inspect(payload).form == "tree+wavelet"


# Fits of effort 7, and by how many dB each does better than wavelets: the shortest, a short and the
# whole one of a band, a short and the whole one of voxels; None: not made.
STAGES = {
    "no tree ever pays": (-0.41, None, None, None, None, "none"),
    "no tree pays": (-0.39, -0.03, None, None, None, "none"),
    "more work would not help": (-0.02, -0.005, None, None, None, "none"),
    "of a band hardly": (-0.2, -0.01, 0.04, None, None, "none"),
    "of a band": (-0.1, 0.1, 0.2, 0.1, None, "band"),
    "short fits alone tell": (-0.1, 0.1, 0.2, 0.11, 0.19, "band"),
    "of voxels": (-0.1, 0.1, 0.2, 0.11, 0.21, "voxels"),
    "the short one was better": (0.1, 0.2, 0.1, 0.15, None, "short"),
    "the shortest one was": (0.3, 0.2, 0.1, 0.15, None, "shortest"),
}


FITS = ("shortest", "short", "band", "short voxels", "voxels")
SHARES = {(0, False): "shortest", (1, False): "short", (2, False): "band",
          (1, True): "short voxels", (2, True): "voxels"}  # fmt: skip


def kept_of(
    gains: Sequence[float | None],
    unsound: set[str],
    monkeypatch: pytest.MonkeyPatch,
    effort: int = 7,
) -> tuple[list[str], str]:
    """Return the fits that are made where they gain so much, and which is kept."""
    given = dict(zip(FITS, gains, strict=False))
    made: list[str] = []

    def fitted(volumes: Any, bands: Any, settings: Settings, rooms: Any, share: float) -> list[Any]:
        work = (share > 0.05) + (share == 1)
        made.extend(SHARES[work, band.plan is None] for band in bands)
        return [BandTree(sections={}, said=volume.unit, plan=None) for volume in volumes]

    def add(volume: Any, tree: Any, like: Form | None) -> Form:
        gain = given[made[-1]]
        assert gain is not None
        assert like is (plain if made[-1].startswith("short") else None)
        return Form(sections={}, payload=made[-1].encode(), psnr_db=gain, price=None)

    monkeypatch.setattr(band_trees, "fitted", fitted)
    monkeypatch.setattr(
        portability, "is_portable", lambda payload, seed: payload.decode() not in unsound
    )
    prepared = _prepare(phantom((16, 16, 16)), None, Settings(ratio=8))
    assert isinstance(prepared, Volume)
    plain = wavelets.within_budget(prepared, None, wavelets.search_of(Settings(ratio=8)))
    assert plain is not None
    (best,) = trees.with_trees(
        [prepared], [plain], Settings(ratio=8, effort=effort), [900], add,
        lambda form, than: form.psnr_db - (0 if than is plain or than is None else than.psnr_db),
    )  # fmt: skip
    assert best is not None
    return made, "none" if best is plain else best.payload.decode()


@pytest.mark.parametrize("case", STAGES)
def test_each_fit_tells_whether_the_next_is_made(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    *gains, expected = STAGES[case]
    made, kept = kept_of(gains, set(), monkeypatch)
    assert made == [name for name, gain in zip(FITS, gains, strict=True) if gain]
    assert kept == expected


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ((-0.1, 0.03, None), "none"),  # promises 0.095 dB
        ((-0.2, 0.05, 0.14), "none"),
        ((-0.2, 0.05, 0.16), "band"),
        ((0.1, 0.16, 0.14), "short"),
    ],
)
def test_below_effort_six_a_tree_has_to_pay_for_its_time(
    gains: tuple[float | None, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, kept = kept_of(gains, set(), monkeypatch, effort=5)
    assert made == [name for name, gain in zip(FITS, gains, strict=False) if gain]
    assert kept == expected


@pytest.mark.parametrize(
    ("unsound", "expected"),
    [
        ({"voxels"}, "band"),
        ({"voxels", "band"}, "short voxels"),
        ({"voxels", "band", "short voxels"}, "short"),
        (set(FITS), "none"),
    ],
)
def test_what_engines_would_decode_differently_is_not_kept(
    unsound: set[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept_of((0.0, 0.1, 0.2, 0.11, 0.21), unsound, monkeypatch)[1] == expected


# Settings.


@pytest.mark.parametrize(
    "targets",
    [{"ratio": 9, "psnr": 40}, {"psnr": 40, "max_error": 1}, {"ratio": 9, "max_error": 1}],
)
def test_two_targets_are_refused(targets: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting, match="at most one target"):
        encode(phantom((8, 8, 8)), **targets)


@pytest.mark.parametrize("tree", [{"form": "tree"}, {"preset": "paper"}])
def test_a_tree_alone_takes_a_ratio(tree: dict[str, str]) -> None:
    with pytest.raises(InvalidSetting, match=r"psnr=40 needs a form .* takes a ratio"):
        Settings(psnr=40, **tree)


@pytest.mark.parametrize("wrong", [{"psnr": 0}, {"psnr": 201}, {"psnr": "40"}, {"form": "zip"}])
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(InvalidSetting, match=f"{name}={value!r} must be"):
        Settings(**wrong)


@pytest.mark.parametrize(
    "settings",
    [{}, {"ratio": 12.5}, {"psnr": 41.5, "form": "wavelet"}, {"form": "tree"}, {"max_error": 0}],
)
def test_settings_survive_json(settings: dict[str, Any]) -> None:
    made = Settings(**settings)
    assert Settings.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert made.ratio == settings.get("ratio", None if made.psnr or "max_error" in settings else 64)


def test_the_least_efforts_try_no_tree_unless_something_is_said_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[int] = []
    whole = chunk.fit_trees

    def counted(units: Any, weights: Any, settings: Settings, *arguments: Any) -> Any:
        tried.append(settings.effort)
        return whole(units, weights, settings, *arguments)

    monkeypatch.setattr(chunk, "fit_trees", counted)
    array = phantom((12, 12, 12))
    for effort in (1, 2):
        encode(array, ratio=16, effort=effort)
        encode(array, psnr=30, effort=effort)
    assert not tried
    encode(array, ratio=16, effort=1, levels=1, iterations=5)
    encode(array, ratio=16, effort=2, iterations=5)
    encode(array, ratio=16, effort=3)
    assert tried[:3] == [1, 2, 3]


# Data that are hard on the arithmetic.


def blob(side: int = 32) -> np.ndarray:
    z = np.indices((side,) * 3) - side // 2
    values: np.ndarray = np.exp(-(z**2).sum(0) / 2).astype("f4")
    return values


@pytest.mark.parametrize("ratio", [2, 16])
def test_a_blob_on_nothing_says_nothing_of_most_terms_of_a_filter(ratio: float) -> None:
    array = blob()
    payload = encode(array, ratio=ratio, effort=2, form="wavelet")
    assert len(payload) <= array.nbytes / ratio
    assert fidelity(array, payload) > 60


def test_one_sentinel_far_beyond_all_values_is_encoded() -> None:
    array = noisy(24, "f4")
    array[5, 5, 5] = 1e20
    payload = encode(array, ratio=16, effort=2, form="wavelet")
    assert decode(payload)[5, 5, 5] == pytest.approx(1e20, rel=1e-3)


@pytest.mark.parametrize("target", [{"ratio": 1.5}, {"psnr": 130}, {"rmse": 1e-6}])
def test_noise_in_fine_steps_takes_more_than_four_bytes_a_voxel(target: dict[str, Any]) -> None:
    array = np.random.default_rng(0).normal(size=(20, 20, 20))
    payload = encode(array, effort=2, form="wavelet", **target)
    assert fidelity(array, payload) > 110


@pytest.mark.parametrize("rmse", [5e-324, 1e-310])
def test_an_rmse_below_what_numbers_hold_is_reached_or_refused_in_words(rmse: float) -> None:
    array = volume((16, 16, 16), "u2")
    assert np.array_equal(decode(encode(array, rmse=rmse, effort=1)), array)
    with pytest.raises(InvalidSetting, match="ask for less"):
        encode(np.random.default_rng(0).normal(size=(9, 9, 9)), rmse=rmse, effort=1)


def test_an_rmse_beyond_all_values_takes_few_bytes() -> None:
    assert len(encode(blob(16) * np.float32(1e-41), rmse=1e290, effort=1)) < 100


@pytest.mark.parametrize("wanted", [0.5, 0.9])
def test_an_ssim_holds_where_values_are_negative(wanted: float) -> None:
    array = (volume((24, 24, 24), "f8") * 8000 - 1000 + 200 * noisy(24) / 900).astype("i2")
    decoded = decode(encode(array, ssim=wanted, effort=2, form="wavelet"))
    assert metrics.ssim(array, decoded) >= wanted


def test_an_ssim_holds_with_a_constant_margin() -> None:
    noise = np.random.default_rng(2).normal(300, 40, (28, 28, 28))
    array = (phantom((28, 28, 28)) // 16 + noise).astype("u2")
    array[:, :, 26:] = np.median(array)
    for wanted in (0.6, 0.9):
        decoded = decode(encode(array, ssim=wanted, effort=1, form="wavelet"))
        assert metrics.ssim(array, decoded) >= wanted


def test_a_payload_is_called_exact_only_if_all_voxels_are() -> None:
    array = np.linspace(0, 2**32 - 1, 30).astype("u4")[np.random.default_rng(0).permutation(30)]
    array = np.stack([array, array[::-1]])  # no margin of one value
    payload = encode(array, max_error=7, effort=1)
    assert np.abs(decode(payload).astype("i8") - array).max() > 0
    assert inspect(payload).psnr_db == pytest.approx(fidelity(array, payload), abs=0.006)


@pytest.mark.parametrize("target", [{"max_error": 1e-3}, {"psnr": 110}])
def test_signalling_nans_are_restored_without_a_warning(target: dict[str, Any]) -> None:
    array = volume((12, 12, 12), "f4")
    array[3, 4, 5] = np.array([0x7FA00000], "u4").view("f4")[0]
    bits = array.view("u4")
    bits[3, 4, 5] = 0x7FA00000
    assert decode(encode(array, effort=1, **target)).view("u4")[3, 4, 5] == 0x7FA00000
