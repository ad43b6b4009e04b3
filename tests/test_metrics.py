from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tinc_codec import metrics
from tinc_codec.metrics import (
    Errors,
    accuracy,
    block_jump,
    errors,
    errors_by_threshold,
    max_error,
    otsu_threshold,
    psnr,
    ssim,
)


def volume(shape, dtype=np.uint16, seed=0, high=60_000):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def test_psnr_takes_the_range_of_the_data_as_peak():
    reference = np.array([100, 200, 300], np.uint16)
    test = np.array([110, 190, 310], np.uint16)
    assert psnr(reference, test) == pytest.approx(20 * math.log10(200 / 10))
    assert psnr(reference, test, 1000) == pytest.approx(20 * math.log10(1000 / 10))


def test_unsigned_differences_do_not_wrap():
    reference = np.array([0, 65535, 10], np.uint16)
    test = np.array([65535, 0, 12], np.uint16)
    assert max_error(reference, test) == 65535
    assert errors(reference, test).squared_error == 2 * 65535.0**2 + 4


def test_equal_volumes_are_infinitely_good_and_a_flat_reference_infinitely_bad():
    flat = np.full((4, 4), 7, np.uint8)
    assert psnr(flat, flat) == math.inf
    assert psnr(flat, flat + 1) == -math.inf


def test_non_finite_voxels_must_match_and_do_not_count():
    reference = np.array([np.nan, np.inf, 0.0, 1.0, 3.0])
    test = np.array([np.nan, np.inf, 0.0, 1.0, 2.0])
    found = errors(reference, test)
    assert found == Errors(voxels=3, squared_error=1.0, max_error=1.0, low=0.0, high=3.0)
    for broken in (
        [np.nan, -np.inf, 0, 1, 3],
        [0, np.inf, 0, 1, 3],
        [np.nan, np.inf, 0, 1, np.nan],
    ):
        assert max_error(reference, np.array(broken)) == math.inf
        assert psnr(reference, np.array(broken)) == -math.inf


@pytest.mark.parametrize("finite", [[], [5.0], [5.0, 7.0]])
def test_a_wrong_voxel_that_is_not_finite_is_an_infinite_error_beside_any_others(finite):
    reference, test = np.array([np.nan, *finite]), np.array([0.0, *finite])
    found = errors(reference, test)
    assert found.rmse == found.max_error == math.inf
    assert found.voxels == len(finite)
    assert found.data_range == max(finite, default=0) - min(finite, default=0)
    assert found.psnr() == -math.inf


def test_errors_of_parts_add_up_to_those_of_the_whole():
    a, b = volume((9, 5, 4)), volume((9, 5, 4), seed=1)
    parts = errors(a[:3], b[:3]) + errors(a[3:], b[3:])
    assert parts == errors(a, b)
    assert parts + Errors() == parts


@pytest.mark.parametrize("threshold", [-math.inf, 0, 30_000, math.nan])
@pytest.mark.parametrize("special", [(), (np.nan,), (np.inf, np.nan)])
def test_errors_on_both_sides_of_a_threshold(threshold, special):
    a = volume((9, 5, 4)).astype(np.float64)
    b = a + np.random.default_rng(1).normal(0, 5, a.shape)
    a[0, 0, : len(special)] = b[0, 0, : len(special)] = special
    bright, dark = errors_by_threshold(a, b, threshold)
    mask = a >= threshold
    for found, kind in ((bright, mask), (dark, ~mask)):
        x, y = (v[kind & np.isfinite(a)] for v in (a, b))
        assert found.voxels == x.size
        if x.size:
            assert found.squared_error == pytest.approx(((x - y) ** 2).sum())
            assert (found.max_error, found.low, found.high) == (abs(y - x).max(), x.min(), x.max())
    both, whole = bright + dark, errors(a, b)
    assert both.squared_error == pytest.approx(whole.squared_error)
    assert replace(both, squared_error=0) == replace(whole, squared_error=0)
    b[0, 1, 0] = np.nan
    assert sum(errors_by_threshold(a, b, threshold), Errors()).max_error == math.inf


def test_slabs_do_not_change_the_result(monkeypatch):
    a, b = volume((23, 11, 13)), volume((23, 11, 13), seed=1)
    whole = errors(a, b), ssim(a, b), accuracy(a, b, 30_000)
    monkeypatch.setattr(metrics, "_SLAB_VOXELS", 11 * 13 * 5)
    monkeypatch.setattr(metrics, "_BAND_VOXELS", 13 * 2)
    slabs = errors(a, b), ssim(a, b), accuracy(a, b, 30_000)
    assert slabs[0].squared_error == pytest.approx(whole[0].squared_error, rel=1e-14)
    assert slabs[1] == pytest.approx(whole[1], rel=1e-12)
    assert slabs[2] == whole[2]


@pytest.mark.parametrize("shape", [(20, 30, 25), (40, 16), (3, 9, 12)])
def test_ssim_equals_that_of_scikit_image(shape):
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    a = volume(shape) // 4 + 30_000
    b = np.clip(a + np.random.default_rng(1).normal(0, 3000, shape), 0, 65535).astype(np.uint16)
    window = min(7, *(n - 1 + n % 2 for n in shape))
    expected = structural_similarity(a, b, win_size=window, data_range=float(np.ptp(a)))
    assert ssim(a, b, window=window) == pytest.approx(expected, abs=1e-9)


def test_ssim_over_slices_is_the_mean_of_slices():
    a, b = volume((4, 20, 21)), volume((4, 20, 21), seed=1)
    b = (a // 2 + b // 2).astype(np.uint16)
    peak = float(np.ptp(a))
    slices = [ssim(x, y, peak) for x, y in zip(a, b, strict=True)]
    assert ssim(a, b, peak, ndim=2) == pytest.approx(np.mean(slices))
    assert ssim(a, b, peak, ndim=2) != pytest.approx(ssim(a, b, peak), abs=1e-4)


@pytest.mark.parametrize("shape", [(1, 9, 9), (2, 2, 2), (1, 1, 1), (5,), (6, 1, 8, 1, 8), ()])
def test_short_axes_take_a_shorter_window(shape):
    a = volume(shape)
    assert ssim(a, a, 60_000) == pytest.approx(1)
    # On a change of scale, noise could by chance raise the similarity of a single voxel.
    assert ssim(a, 60_000 - a, 60_000) < 1


def test_ssim_of_flat_volumes():
    flat = np.zeros((8, 8, 8), np.uint8)
    assert ssim(flat, flat) == 1
    assert ssim(flat, flat + 1) == 0


def test_accuracy_counts_voxels_on_the_same_side_of_the_threshold():
    reference = np.array([10, 200, 300, 0])
    test = np.array([199, 201, 100, 0])
    assert accuracy(reference, test, 200) == 0.75
    assert accuracy(reference, np.array([10, 199, 300, 0]), 200) == 0.75  # at the threshold is set


# Thresholds and faces.


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_otsu_equals_that_of_scikit_image(dtype):
    threshold_otsu = pytest.importorskip("skimage.filters").threshold_otsu
    rng = np.random.default_rng(0)
    classes = np.where(rng.random((9, 20, 30)) < 0.2, 150, 40)
    values = np.clip(rng.normal(classes, 12), 0, 250).astype(dtype)
    expected = threshold_otsu(values.ravel() if dtype == np.float32 else values.astype(float))
    assert otsu_threshold(values) == pytest.approx(expected, rel=1e-6)
    assert otsu_threshold(np.full(5, 7)) == 7
    with pytest.raises(ValueError, match="finite"):
        otsu_threshold(np.array([np.nan]))


def test_a_step_at_a_face_is_a_jump():
    z, y, x = np.indices((16, 12, 12))
    smooth = (10 * z + 7 * y + 3 * x).astype(np.uint16)
    faces = ([8], [], [])
    assert block_jump(smooth, smooth, faces) == 1
    stepped = smooth + np.where(z >= 8, 30, 0).astype(np.uint16)
    assert block_jump(smooth, stepped, faces) == pytest.approx(4)  # 40 where it was 10
    assert block_jump(smooth, stepped, ([4], [6], [])) == pytest.approx(1)
    assert block_jump(stepped, stepped, faces) == 1
    assert math.isnan(block_jump(smooth, stepped, ([], [], [])))


def test_faces_lie_inside():
    flat = np.zeros((8, 8))
    with pytest.raises(ValueError, match="face 7 on axis 1 must be from 2 to 6"):
        block_jump(flat, flat, ([4], [7]))
    with pytest.raises(ValueError, match="1 axes were given for 2"):
        block_jump(flat, flat, ([4],))


MEASURES = [
    *(psnr, max_error, ssim),
    *(lambda a, b: accuracy(a, b, 1), lambda a, b: block_jump(a, b, ([], []))),
]


@pytest.mark.parametrize("measure", MEASURES)
def test_shapes_must_agree(measure):
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        measure(np.zeros((2, 3)), np.zeros((3, 2)))


@pytest.mark.parametrize("window", [0, 4, -1])
def test_a_window_is_odd(window):
    with pytest.raises(ValueError, match="odd"):
        ssim(np.zeros((8, 8)), np.ones((8, 8)), window=window)


@pytest.mark.parametrize("ndim", [0, 4])
def test_a_window_spans_one_to_three_axes(ndim):
    with pytest.raises(ValueError, match=f"ndim={ndim} must be from 1 to 3"):
        ssim(np.zeros((8, 8)), np.ones((8, 8)), ndim=ndim)


def test_ssim_along_lines_is_the_mean_over_lines():
    a, b = volume((5, 40)), volume((5, 40), seed=1)
    lines = [ssim(x, y, 60_000) for x, y in zip(a, b, strict=True)]
    assert ssim(a, b, 60_000, ndim=1) == pytest.approx(np.mean(lines))
