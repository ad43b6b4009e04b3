"""Borders between chunks made smooth on reading: what changes, by how much, and what never does."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinc_codec
from benchmarks.borders import step_ratio
from tinc_codec import TINC, InvalidSetting, TINCSerializer
from tinc_codec.decoding import cache as decoded_cache
from tinc_codec.phantom import phantom

zarr = pytest.importorskip("zarr", minversion="3.1")
pytest.importorskip("xarray")

from tinc_codec.archive.borders import Smoothed, Special, Strength  # noqa: E402

EDGE = 24
ALL = Strength(share=1.0, limit=50.0)
SETTINGS: dict[str, Any] = {"ratio": 100, "effort": 1}


def archive(path: Path, data: np.ndarray, settings: dict[str, Any] = SETTINGS, **more: Any) -> Any:
    options: dict[str, Any] = {"serializer": TINCSerializer(**settings), "compressors": None}
    if more.get("zarr_format") == 2:
        options = {"compressors": TINC(**settings)}
    array = zarr.create_array(
        path, shape=data.shape, chunks=(EDGE,) * data.ndim, dtype=data.dtype, **options | more
    )
    array[...] = data
    return array


def steps(values: np.ndarray, p: int) -> np.ndarray:
    a, b, c, d = values[p - 2 : p + 2].astype(np.float64)
    found: np.ndarray = (c - b) - ((b - a) + (d - c)) / 2
    return found


# Along one axis, by hand.


def smooth(line: np.ndarray, strength: Strength = ALL, special: tuple[float, ...] = ()) -> Any:
    return Smoothed(line, (16,), Special(special, fill=-1), {(): (strength,)})


def test_a_step_is_taken_out_wholly_by_a_share_of_one() -> None:
    line = np.repeat([100.0, 140.0], 16)
    found = smooth(line)[:]
    assert steps(found, 16) == pytest.approx(0)
    assert found[13:19] == pytest.approx([100, 108, 116, 124, 132, 140])
    half = smooth(line, Strength(share=0.5, limit=50.0))[:]
    assert steps(half, 16) == pytest.approx(20)


def test_slopes_stay() -> None:
    line = 3.0 * np.arange(48)
    np.testing.assert_array_equal(smooth(line)[:], line)


@pytest.mark.parametrize(("height", "left"), [(40, 0), (75, 50), (100, 100), (400, 400)])
def test_edges_of_the_image_stay(height: float, left: float) -> None:
    line = np.repeat([1000.0, 1000.0 + height], 16)
    assert steps(smooth(line)[:], 16) == pytest.approx(left)


def test_special_values_and_what_is_beside_them_stay() -> None:
    volume = np.repeat([[100.0] * 4, [140.0] * 4], 16, axis=0)
    volume[16, 1], volume[14, 2], volume[15, 3] = np.nan, 7, np.inf
    strengths = {(): (ALL, Strength(share=0.0, limit=0.0))}
    found = Smoothed(volume, (16, 4), Special((7,), fill=-1), strengths)[:]
    np.testing.assert_array_equal(found[:, 1:], volume[:, 1:])
    assert steps(found[:, 0], 16) == pytest.approx(0)


def test_nothing_becomes_special_and_bits_stay() -> None:
    line = np.array([5.0] * 14 + [1, 3, 1, 1] + [5] * 14, np.float32)
    assert (smooth(line, special=(0,))[:] != 0).all()
    bits = np.full(32, 0x7FA12345, np.uint32)
    bits[16:] = 0x80000000  # a signalling NaN, and -0.0
    np.testing.assert_array_equal(smooth(bits.view(np.float32))[:].view(np.uint32), bits)
    large = np.repeat([65504, 20000, 65504], [15, 1, 16]).astype(np.float16)
    found = smooth(large, Strength(share=1.0, limit=1e9))[:]
    assert found.max() == 65504
    assert found.min() >= 20000


def test_what_is_not_stored_stays_empty() -> None:
    for line in (np.repeat([0.0, 40.0], 16), np.repeat([40.0, 0.0], 16)):
        found = Smoothed(line, (16,), Special((), fill=0), {(): (ALL,)})[:]
        np.testing.assert_array_equal(found, line)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", ">u2"])
def test_values_are_rounded_and_stay_in_range(dtype: str) -> None:
    line = np.repeat([0, 40], 16).astype(dtype)
    found = smooth(line)[:]
    assert found.dtype == np.dtype(dtype)
    assert found[13:19].tolist() == [0, 8, 16, 24, 32, 40]
    low = np.repeat([3, 0], 16).astype(dtype)
    assert smooth(low)[:].max() <= 3
    assert smooth(low)[:].min() >= 0


# Archives.


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return np.ascontiguousarray(phantom((60, 60, 60)))


OPTIONS = pytest.mark.parametrize(
    "more", [{}, {"shards": (48, 48, 48)}, {"zarr_format": 2}], ids=["v3", "sharded", "v2"]
)


@OPTIONS
def test_steps_become_those_within_chunks(
    tmp_path: Path, data: np.ndarray, more: dict[str, Any]
) -> None:
    stored = archive(tmp_path / "a.zarr", data, **more)[...]
    found = tinc_codec.open(tmp_path / "a.zarr", smooth_borders=True).to_numpy()
    before, after = (step_ratio(values, (EDGE,) * 3) for values in (stored, found))
    assert before > 3
    assert after < 1 + 0.25 * (before - 1)
    errors = [np.square(values.astype(float) - data).mean() for values in (stored, found)]
    assert errors[1] < errors[0]
    changed = np.nonzero(stored != found)
    near = np.min([np.abs(at - p + 0.5) for at in changed for p in (24, 48)], axis=0)
    assert np.min(near) < 2
    inner = [(at % EDGE >= 2) & (at % EDGE < EDGE - 2) for at in changed]
    assert not np.logical_and.reduce(inner).any()


def test_parts_are_those_of_the_whole(tmp_path: Path, data: np.ndarray) -> None:
    archive(tmp_path / "a.zarr", data)
    opened = tinc_codec.open(tmp_path / "a.zarr", smooth_borders=True)
    whole = opened.to_numpy()
    parts = [np.s_[k] for k in (0, 21, 22, 23, 24, 25, 26, 59)]
    parts += [np.s_[:, 24], np.s_[..., 23], np.s_[20:28, 47, ::3], np.s_[::-1, 10:50:7, 25:22:-1]]
    parts += [np.s_[25:25], np.s_[[3, 24, 25]], np.s_[:, [22, 59, 24], 5]]
    for part in parts:
        np.testing.assert_array_equal(opened[part].to_numpy(), whole[part])
    again = tinc_codec.open(tmp_path / "a.zarr", smooth_borders=True)
    np.testing.assert_array_equal(again, whole)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(opened)).to_numpy(), whole)


@pytest.mark.parametrize("background", [0, 100])
def test_empty_chunks_do_not_count(tmp_path: Path, data: np.ndarray, background: int) -> None:
    """Beside tissue they make the largest steps of all, and none that is to be smooth."""
    scene = data + np.uint16(2000)
    scene[:EDGE, :EDGE] = scene[EDGE : 2 * EDGE, 2 * EDGE :, :EDGE] = background
    stored = archive(tmp_path / "a.zarr", scene, config={"write_empty_chunks": False})[...]
    found = tinc_codec.open(tmp_path / "a.zarr", smooth_borders=True).to_numpy()
    errors = [np.square(values.astype(float) - scene).mean() for values in (stored, found)]
    assert errors[1] < errors[0]
    np.testing.assert_array_equal(found[scene == background], background)


def test_channels_have_strengths_of_their_own(tmp_path: Path, data: np.ndarray) -> None:
    grids = np.meshgrid(*(np.linspace(0, 9, 60),) * 3, indexing="ij")
    calm = (2000 + 900 * np.sin(grids[0]) * np.cos(grids[1] + grids[2])).astype("u2")
    both = np.stack([10 * data, calm])
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=both.shape, chunks=(1, EDGE, EDGE, EDGE), dtype="u2",
        serializer=TINCSerializer(rmse=40, effort=1), compressors=None,
    )  # fmt: skip
    array[...] = both
    opened = tinc_codec.open(tmp_path / "a.zarr", smooth_borders=True)
    for k in range(2):
        alone = zarr.create_array(
            tmp_path / f"{k}.zarr", shape=data.shape, chunks=(EDGE,) * 3, dtype="u2",
            serializer=TINCSerializer(rmse=40, effort=1), compressors=None,
        )  # fmt: skip
        alone[...] = both[k]
        single = tinc_codec.open(tmp_path / f"{k}.zarr", smooth_borders=True)
        np.testing.assert_array_equal(opened[k], single)
    np.testing.assert_array_equal(opened[:, 23:25], opened.to_numpy()[:, 23:25])


def test_a_short_last_chunk(tmp_path: Path, data: np.ndarray) -> None:
    short = np.ascontiguousarray(data[:29])
    stored = archive(tmp_path / "a.zarr", short)[...]
    found = tinc_codec.open(tmp_path / "a.zarr", smooth_borders=True).to_numpy()
    assert np.abs(steps(found, 24)).mean() < 0.6 * np.abs(steps(stored, 24)).mean()


def test_chunks_beside_borders_are_kept(tmp_path: Path, data: np.ndarray) -> None:
    archive(tmp_path / "a.zarr", data)
    decoded_cache.forget_decoded()
    opened = tinc_codec.open(tmp_path / "a.zarr", smooth_borders=True)
    before = opened.to_numpy()
    assert 0 < decoded_cache.current_cache().nbytes < 1 << 20
    decoded_cache.forget_decoded()
    with tinc_codec.runtime(cache_bytes=10_000):
        little = tinc_codec.open(tmp_path / "a.zarr", smooth_borders=True)
    np.testing.assert_array_equal(little, before)
    assert decoded_cache.current_cache().nbytes <= 10_000


def test_where_borders_do_not_show_nothing_changes(tmp_path: Path) -> None:
    grids = np.meshgrid(*(np.linspace(0, 9, 60),) * 3, indexing="ij")
    smooth_one = (2000 + 900 * np.sin(grids[0]) * np.cos(grids[1] + grids[2])).astype("u2")
    stored = archive(tmp_path / "a.zarr", smooth_one, {"psnr": 90, "effort": 1})[...]
    found = tinc_codec.open(tmp_path / "a.zarr", smooth_borders=True).to_numpy()
    assert np.abs(found.astype(int) - stored).max() <= 1


def test_what_is_refused(tmp_path: Path, data: np.ndarray) -> None:
    archive(tmp_path / "bounded.zarr", data, {"max_error": 5})
    with pytest.raises(InvalidSetting, match="max_error"):
        tinc_codec.open(tmp_path / "bounded.zarr", smooth_borders=True)
    partly = archive(tmp_path / "partly.zarr", data)
    partly.attrs["tinc_codec"] = {"lossless_chunks": 1}  # as conversions with --min-psnr tell
    with pytest.raises(InvalidSetting, match="--min-psnr"):
        tinc_codec.open(tmp_path / "partly.zarr", smooth_borders=True)
    group = zarr.create_group(tmp_path / "g.zarr")
    group.create_array("plain", shape=(8, 8), dtype="u2")
    with pytest.raises(InvalidSetting, match="another codec"):
        tinc_codec.open(tmp_path / "g.zarr/plain", smooth_borders=True)
    with pytest.raises(InvalidSetting, match="arrays: plain"):
        tinc_codec.open(tmp_path / "g.zarr", smooth_borders=True)
    with pytest.raises(InvalidSetting, match="exclude each other"):
        tinc_codec.open(tmp_path / "bounded.zarr", smooth_borders=True, overview=4)


def test_chunks_without_neighbours_and_small_ones(tmp_path: Path) -> None:
    for k, shape in enumerate([(20, 24), (25, 30), (60, 7)]):
        data = np.ascontiguousarray(phantom((60, 60, 60))[30][tuple(map(slice, shape))])
        path = tmp_path / f"{k}.zarr"
        stored = archive(path, data, {"psnr": 30, "effort": 1})[...]
        found = tinc_codec.open(path, smooth_borders=True).to_numpy()
        assert found.shape == stored.shape
        assert np.abs(found.astype(float) - stored).max() < np.ptp(stored.astype(float))
