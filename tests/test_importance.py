"""importance: what voxels weigh, where the bytes go by it, and where it may be said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

import tinc_codec
from tinc_codec import TINC, InvalidSetting, Settings, decode, encode, inspect, metrics
from tinc_codec.fit.postfilter import _sample
from tinc_codec.importance import LEAST, OTHERS, by_threshold, by_weights
from tinc_codec.tree.allocation import geometry_of
from tinc_codec.tree.allocation import importance as shares_of

THRESHOLD = 2000
WAVELET: dict[str, Any] = {"ratio": 40, "form": "wavelet", "effort": 1}
TREE: dict[str, Any] = {"ratio": 40, "form": "tree", "effort": 1, "iterations": 400}


def sparse(side: int = 40) -> npt.NDArray[np.uint16]:
    """A bright crooked fibre, three voxels thick, through a rough background."""
    rng = np.random.default_rng(0)
    found = rng.normal(500, 150, (side,) * 3)
    t = np.linspace(0, 1, 4 * side)
    line = np.stack([t, 0.5 + 0.3 * np.sin(4 * t), 0.5 + 0.3 * np.cos(3 * t)])
    z, y, x = np.rint(1 + line * (side - 3)).astype(int)
    for dy, dx in np.ndindex(3, 3):
        found[z, y + dy - 1, x + dx - 1] = 4000 + 1000 * np.sin(8 * t)
    return found.clip(0, 65535).astype(np.uint16)


def fidelity(array: npt.NDArray[Any], payload: bytes) -> tuple[float, float]:
    return psnr_by_region(array, decode(payload))


def psnr_by_region(array: npt.NDArray[Any], found: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the PSNR of the voxels that reach the threshold, and of the others."""
    bright, dark = metrics.errors_by_threshold(array, found, THRESHOLD)
    peak = (bright + dark).data_range
    return bright.psnr(peak), dark.psnr(peak)


# What voxels weigh.


def test_what_reaches_the_threshold_and_what_is_beside_it_counts_in_full() -> None:
    box = np.zeros((1, 7, 7), np.int16)
    box[0, 3, 3] = 10
    wanted = np.full((1, 7, 7), OTHERS, np.float32)
    wanted[0, 2:5, 2:5] = 1
    found = by_threshold(box, 10)
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("threshold", [5, 11])
def test_a_box_of_one_side_of_the_threshold_has_no_weights(threshold: float) -> None:
    assert by_threshold(np.full((4, 4), 10, np.uint8), threshold) is None


@pytest.mark.parametrize("dtype", ["f2", "f4", "u1", "i4"])
def test_nothing_reaches_a_threshold_beyond_the_dtype(dtype: str) -> None:
    assert by_threshold(np.arange(100).reshape(4, 5, 5).astype(dtype), 1e39) is None


def test_nan_reaches_nothing() -> None:
    box = np.full((9, 9), np.nan)
    box[4, 4] = 1
    found = by_threshold(box, 0)
    assert found is not None
    assert (found == 1).sum() == 9


def test_only_ratios_of_weights_matter_and_none_is_nothing() -> None:
    weights = np.array([[0, 1], [2, 4]])
    found = by_weights(weights)
    assert found is not None
    np.testing.assert_array_equal(found, np.float32([[LEAST, 0.25], [0.5, 1]]))
    np.testing.assert_array_equal(found, by_weights(weights * 1000.0))
    assert by_weights(np.zeros((3, 3))) is None
    assert by_weights(np.full((3, 3), 7)) is None


# Where the bytes go.


@pytest.mark.parametrize(("options", "gain"), [(WAVELET, 2.0), (TREE, 1.0)])
def test_important_voxels_gain_at_equal_bytes_and_others_pay(
    options: dict[str, Any], gain: float
) -> None:
    array = sparse()
    without, given = encode(array, **options), encode(array, importance=THRESHOLD, **options)
    assert max(len(without), len(given)) <= array.nbytes / options["ratio"]
    (bright, dark), (brighter, darker) = fidelity(array, without), fidelity(array, given)
    assert brighter > bright + gain
    assert darker < dark


def test_an_array_of_weights_says_it_voxel_by_voxel() -> None:
    array = sparse()
    weights = np.full(array.shape, 0.02)
    weights[:20] = 1
    found = decode(encode(array, importance=weights, **WAVELET))
    plain = decode(encode(array, **WAVELET))
    peak = float(np.ptp(array))
    assert metrics.psnr(array[:20], found[:20], peak) > metrics.psnr(array[:20], plain[:20], peak)
    assert metrics.psnr(array[20:], found[20:], peak) < metrics.psnr(array[20:], plain[20:], peak)


def test_weights_follow_the_box_within_padding() -> None:
    inner = sparse(32)
    weights = np.where(inner > THRESHOLD, 1.0, 0.1)
    padded, padded_weights = np.zeros((2, 40, 32, 32))
    padded[:32], padded_weights[:32] = inner, weights
    reached = []
    for ratio in (39, 40, 41):
        options = WAVELET | {"ratio": ratio}
        payload = encode(padded.astype(np.uint16), importance=padded_weights, **options)
        found = decode(payload)
        assert not found[32:].any()
        options = WAVELET | {"ratio": ratio * 32 / 40}  # as many bytes
        alone = decode(encode(inner, importance=weights, **options))
        reached.append([psnr_by_region(inner, f)[0] for f in (found[:32], alone)])
    padded_db, alone_db = np.mean(reached, axis=0)
    assert padded_db == pytest.approx(alone_db, abs=0.5)


@pytest.mark.parametrize("options", [WAVELET, TREE])
def test_equal_weights_change_nothing(options: dict[str, Any]) -> None:
    array = sparse(24)
    plain = encode(array, **options)
    assert encode(array, importance=np.full(array.shape, 3.5), **options) == plain
    assert encode(array, importance=60000, **options) == plain


def test_special_values_come_back_beside_importance() -> None:
    array = sparse(32)
    array[:8, :8] = 0
    payload = encode(array, importance=THRESHOLD, preserve=0, **WAVELET)
    assert len(payload) <= array.nbytes / WAVELET["ratio"]
    assert not decode(payload)[array == 0].any()


@pytest.mark.parametrize("options", [WAVELET, TREE])
def test_the_psnr_told_is_of_all_voxels_alike(options: dict[str, Any]) -> None:
    array = sparse(32)
    payload = encode(array, importance=THRESHOLD, **options)
    assert inspect(payload).psnr_db == pytest.approx(metrics.psnr(array, decode(payload)), abs=0.01)


def test_nodes_share_parameters_by_the_weight_of_their_voxels() -> None:
    unit = np.random.default_rng(0).random((16, 16), np.float32)
    weight = np.zeros((16, 16), np.float32)
    weight[:8, 8:], weight[8:, 8:] = 0.25, 0.75
    leaves = shares_of(unit, geometry_of((16, 16), 2, "global"), "weight", weight)[1]
    np.testing.assert_allclose(leaves, [0.25, 1.0, 0.25, 2.5], rtol=1e-6)


def test_the_filter_is_fitted_to_voxels_as_often_as_they_weigh() -> None:
    weight = np.zeros(1 << 18, np.float32)
    weight[: 1 << 17], weight[3 << 16 :] = 0.25, 0.75
    found = _sample(weight.size, weight)
    assert (np.diff(found) >= 0).all()
    counts = np.histogram(found, [0, 1 << 17, 3 << 16, 1 << 18])[0] / len(found)
    np.testing.assert_allclose(counts, [0.4, 0, 0.6], atol=1e-3)


# Where it is said.


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (np.ones((8, 8, 7)), r"\(8, 8, 7\).*\(8, 8, 8\)"),
        (np.full((8, 8, 8), -1.0), "holds -1.0.*0 or more"),
        (np.full((8, 8, 8), math.nan), "holds nan"),
        (np.full((8, 8, 8), math.inf), "holds inf"),
        (np.ones((8, 8, 8), complex), "complex128"),
        (np.full((8, 8, 8), "x"), "real numbers"),
    ],
)
def test_wrong_weights_are_refused(weights: npt.NDArray[Any], says: str) -> None:
    with pytest.raises(InvalidSetting, match=says):
        encode(np.arange(512, dtype=np.uint16).reshape(8, 8, 8), ratio=4, importance=weights)


@pytest.mark.parametrize("target", [{"psnr": 40}, {"rmse": 4}, {"ssim": 0.9}, {"max_error": 3}])
def test_it_needs_a_ratio(target: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting, match="Give a ratio, or omit importance"):
        Settings(importance=3, **target)
    with pytest.raises(InvalidSetting, match="Give a ratio, or omit importance"):
        encode(np.ones((8, 8, 8), np.uint16), importance=np.ones((8, 8, 8)), **target)


def test_threshold_and_weights_exclude_each_other() -> None:
    with pytest.raises(InvalidSetting, match="give one of them"):
        tinc_codec.encode_chunks(
            [np.ones((8, 8, 8), np.uint16)],
            Settings(ratio=4, importance=3),
            [np.ones((8, 8, 8))],
        )


def test_zarr_keeps_the_threshold_and_uses_it(tmp_path: Path) -> None:
    array = sparse()
    stored = []
    for number, options in enumerate((WAVELET, {**WAVELET, "importance": np.int64(THRESHOLD)})):
        path = tmp_path / f"{number}.zarr"
        made = zarr.create(
            store=path, shape=array.shape, chunks=array.shape, dtype=array.dtype,
            compressor=TINC(**options), zarr_format=2,
        )  # fmt: skip
        made[:] = array
        stored.append(zarr.open(path, mode="r"))
    assert stored[1].compressors[0].settings.importance == THRESHOLD
    bright, brighter = (psnr_by_region(array, s[:])[0] for s in stored)
    assert brighter > bright + 2


def test_the_command_takes_a_threshold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tinc_codec.cli import main

    array = sparse()
    np.save(tmp_path / "source.npy", array)
    found = []
    for options in ([], ["--importance", str(THRESHOLD)]):
        target = tmp_path / f"{len(options)}.zarr"
        command = ["convert", str(tmp_path / "source.npy"), str(target), "--workers", "1"]
        command += ["--ratio", "40", "--effort", "1", "--form", "wavelet"]
        assert main([*command, *options]) == 0, capsys.readouterr().err
        found.append(np.asarray(tinc_codec.open(target)))
    bright, brighter = (psnr_by_region(array, f)[0] for f in found)
    assert brighter > bright + 2
    refused = ["convert", str(tmp_path / "source.npy"), str(tmp_path / "x.zarr"), "--psnr", "40"]
    assert main([*refused, "--importance", "3"]) == 1
    assert "Give a ratio" in capsys.readouterr().err
