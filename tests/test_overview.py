"""Decoding at a lower resolution: what a sample stands for, and what is not decoded for it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import goldens
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from volumes import QUICK, count_evaluations, volume
from wavelets import cuts_of_plan, in_turn, plans, quantized, section_of, whole

import tinc_codec
from benchmarks.overviews import END, smoothed
from tinc_codec import TINC, InvalidSetting, Settings, TINCSerializer, decode_overview
from tinc_codec.decoding.opened import open_chunk
from tinc_codec.stream.residual.wavelets import section, wavelet
from tinc_codec.stream.residual.wavelets.section import Coefficients, Header


@given(st.data())
def test_a_low_pass_band_is_that_of_the_whole(data: st.DataObject) -> None:
    plan = data.draw(plans(17))
    cuts = data.draw(cuts_of_plan(plan))
    level = data.draw(st.integers(0, len(plan.splits)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = rng.normal(0, 1, plan.shapes[0]).astype(np.float32)
    _, coded = quantized(values, plan.splits, step=0.2, cuts=cuts, closed=plan.closed)
    header = Header(plan=plan, step=float(np.float32(0.2)), offset=0.0, bias=0.0, cuts=cuts)
    read = Coefficients(header, coded.segments)
    band = read.low_pass(level, in_turn)
    voxels = read.values(whole(plan), in_turn)
    again = wavelet.forward(voxels, wavelet.finer(plan, level)).low
    # What voxels of size 1 are rounded by is more than the tolerance of a band of nothing.
    assume(np.abs(again).max() > 0.1)
    np.testing.assert_allclose(band, again, rtol=0, atol=1e-4 * np.abs(again).max() + 1e-6)
    # What was decoded for the band does not change what comes after it, nor the other way round.
    fresh = Coefficients(header, coded.segments).values(whole(plan), in_turn)
    np.testing.assert_array_equal(voxels, fresh)
    np.testing.assert_array_equal(band, read.low_pass(level, in_turn))


def test_finer_tiles_are_not_looked_at() -> None:
    values = volume((20, 18, 19), "f4") / np.float32(120)
    read = section.from_bytes(section_of(values, (7, 7), step=0.02, cuts=7), values.shape)
    band = read.low_pass(1, in_turn)
    nothing = [b"" for _ in read.header.cuts.tiles(read.header.plan)]
    coarse = Coefficients(read.header, [bytes(read._segments[0]), *nothing])
    np.testing.assert_array_equal(coarse.low_pass(1, in_turn), band)
    with pytest.raises(tinc_codec.CorruptPayload, match="end early"):
        coarse.low_pass(0, in_turn)


@pytest.mark.parametrize("closed", [False, True])
def test_places_of_samples(closed: bool) -> None:
    """The low-pass samples of a ramp, in the middle and at closed ends, tell where they are."""
    plan = wavelet.transform_plan((1, 1, 64), (4, 4, 4), closed=closed)
    ramp = np.arange(64, dtype=np.float32).reshape(1, 1, 64)
    for level in range(4):
        low = wavelet.forward(ramp, wavelet.finer(plan, level)).low
        at = wavelet.places(plan, level)[2]
        assert len(at) == low.size
        apart = np.abs(low.ravel() / 2 ** (level / 2) - at)
        inside = slice(3, len(at) - 4)
        assert (apart[inside] < 1e-3).all()
        assert (at[-1] == 63) == (closed or level == 0)


FORMS: dict[str, dict[str, Any]] = {
    "wavelet": {"ratio": 16, "effort": 1},
    "cut": {"psnr": 60, "effort": 1},
    "tree": QUICK | {"form": "tree"},
    "cosine": {"ratio": 300, "effort": 1},
    "bounded": {"max_error": 2},
    "exact": {"max_error": 0},
}


@pytest.mark.parametrize("factor", [1, 2, 4, (1, 2, 8)])
@pytest.mark.parametrize("form", FORMS)
def test_samples_are_low_pass_samples_of_what_is_decoded(form: str, factor: Any) -> None:
    data = volume((33, 40, 46))
    payload = tinc_codec.encode(data, **FORMS[form])
    factors = factor if isinstance(factor, tuple) else (factor,) * 3
    found = decode_overview(payload, factor)
    assert found.dtype == data.dtype
    assert found.shape == tuple(-(-n // f) for n, f in zip(data.shape, factors, strict=True))
    reference = smoothed(tinc_codec.decode(payload), factors)
    inside = tuple(slice(0, n - END * (f > 1)) for n, f in zip(found.shape, factors, strict=True))
    # Decoded voxels are rounded, and clipped to their range; samples once more.
    np.testing.assert_allclose(found[inside], reference[inside], rtol=0, atol=1.3)
    # At closed ends they are other sums.
    assert np.abs(found - reference).max() < 12


@pytest.mark.parametrize("shape", [(50,), (40, 30), (3, 1, 40, 33), (3, 20, 19, 18), (1, 2, 3)])
@pytest.mark.parametrize("dtype", ["uint8", ">i4", "f4", "f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_shape(shape: tuple[int, ...], dtype: str, order: str) -> None:
    data = volume(shape, dtype, order)
    payload = tinc_codec.encode(data, psnr=40, effort=1)
    found = decode_overview(payload, 4)
    assert found.shape == tuple(-(-n // 4) for n in shape)
    assert found.dtype == np.dtype(dtype)
    reference = smoothed(tinc_codec.decode(payload), (4,) * len(shape))
    inside = tuple(slice(0, max(1, n - END)) for n in found.shape)
    scale = np.ptp(data.astype(float))
    np.testing.assert_allclose(found[inside], reference[inside], rtol=0, atol=0.03 * scale + 1)


# Two by hand, of values far beyond the range, which are clipped once they are filtered; and one of
# axes so short that closed ends are all there is.
OTHERWISE = {"v1/by_hand", "v1/smooth_faces", "v1/closed", "v2/closed"}


@pytest.mark.parametrize("name", [name for name in goldens.NAMES if name not in OTHERWISE])
def test_of_every_kind_of_payload(name: str) -> None:
    """Trees of voxels and of bands, tiles, filters: what is decoded early is the same thing."""
    payload, decoded = goldens.payload(name), goldens.stored(name)
    found = decode_overview(payload, 2)
    assert found.shape == tuple(-(-n // 2) for n in decoded.shape)
    assert found.dtype == decoded.dtype
    chunk = open_chunk(payload)
    if chunk.crop is None and chunk.mask is None:
        reference = smoothed(decoded, (2,) * decoded.ndim)
        inside = tuple(slice(0, max(1, n - END)) for n in found.shape)
        apart = np.abs(found.astype(np.float64) - reference)[inside]
        assert apart.max() <= 0.05 * np.ptp(decoded.astype(np.float64)) + 1


def test_padding_and_special_values_stay() -> None:
    data = np.full((40, 36, 30), 9, np.float32)
    data[3:31, 5:33, 2:29] = volume((28, 28, 27), "f4")
    data[8, 16, 8], data[20, 20, 20] = np.nan, np.inf
    payload = tinc_codec.encode(data, psnr=50, effort=1)
    assert set(tinc_codec.inspect(payload).section_sizes) >= {"crop", "mask", "wavelet"}
    found = decode_overview(payload, 4)
    assert np.isnan(found[2, 4, 2])
    assert found[5, 5, 5] == np.inf
    assert np.isfinite(found).sum() == found.size - 2
    outside = np.ones(data.shape, bool)
    outside[3:31, 5:33, 2:29] = False
    np.testing.assert_array_equal(found[outside[::4, ::4, ::4]], 9)
    # The box begins between samples: they are taken between its own.
    between = smoothed(np.where(np.isfinite(data), data, 60)[3:31, 5:33, 2:29], (4, 4, 4))
    for axis, start in enumerate((3, 5, 2)):
        at = np.arange(-start % 4, 4 * between.shape[axis] - 4, 4)
        between = np.apply_along_axis(
            lambda line, at=at: np.interp(at, 4 * np.arange(len(line)), line), axis, between
        )
    apart = np.abs(found[1:, 2:, 1:][tuple(map(slice, between.shape))] - between)
    assert np.nanmedian(apart) < 1
    assert np.sort(apart.ravel())[-20] < 8  # but near the special values, and at closed ends


@pytest.mark.parametrize("name", goldens.NAMES)
def test_a_factor_of_one_decodes(name: str) -> None:
    payload = goldens.payload(name)
    found, decoded = decode_overview(payload, 1), tinc_codec.decode(payload)
    np.testing.assert_array_equal(found, decoded)
    assert found.flags.c_contiguous


@pytest.mark.parametrize("name", ["v2/filter", "v2/filter_of_tree_and_wavelet"])
def test_where_little_is_left_out_values_are_filtered(name: str) -> None:
    payload = goldens.payload(name)
    decoded = tinc_codec.decode(payload)
    reference = smoothed(decoded, (2,) * decoded.ndim)
    inside = tuple(slice(0, max(1, n - END)) for n in reference.shape)
    apart = np.abs(decode_overview(payload, 2).astype(float) - reference)[inside]
    assert apart.max() < 4  # clipped before and after; without the filter 8 and 6


@pytest.mark.parametrize("settings", [{"max_error": 4}, {"psnr": 60, "effort": 1}])
def test_special_values_do_not_reach_others(settings: dict[str, Any]) -> None:
    data = 1000 + volume((40, 36, 30), "f4")
    smooth = smoothed(data, (4, 4, 4))
    data[:, 16], data[20, 20, 20] = 0, np.inf
    payload = tinc_codec.encode(data, preserve=(0,), **settings)
    found = decode_overview(payload, 4)
    assert (found[:, 4] == 0).all()
    assert found[5, 5, 5] == np.inf
    found[:, 4], found[5, 5, 5] = smooth[:, 4], smooth[5, 5, 5]
    assert np.abs(found - smooth).max() < 40


def test_constants() -> None:
    payload = tinc_codec.encode(np.full((9, 7), 5, np.int16), psnr=40)
    np.testing.assert_array_equal(decode_overview(payload, 2), np.full((5, 4), 5))


@pytest.mark.parametrize("factor", [0, 3, -2, 2.0, True, 1 << 17, "2", (2, 2), (2, 2, 2, 2)])
def test_factors_are_checked(factor: Any) -> None:
    payload = tinc_codec.encode(volume((8, 8, 8)), ratio=4, effort=1)
    with pytest.raises(InvalidSetting, match="overview"):
        decode_overview(payload, factor)


def test_wavelets_are_not_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = count_evaluations(monkeypatch)
    payload = tinc_codec.encode(volume((40, 40, 40)), ratio=16, effort=1)
    evaluated.clear()
    decode_overview(payload, 2)
    assert not evaluated


def test_memory_of_wavelets() -> None:
    data = volume((96, 96, 96))
    payload = tinc_codec.encode(data, ratio=64, effort=1)
    decode_overview(payload, 4)  # compiles, and opens the chunk
    tracemalloc.start()
    try:
        decode_overview(payload, 4)
        assert tracemalloc.get_traced_memory()[1] < data.size
    finally:
        tracemalloc.stop()


# Archives.

zarr = pytest.importorskip("zarr", minversion="3.1")
xr = pytest.importorskip("xarray")

V2 = {"zarr_format": 2, "compressors": TINC(ratio=8, effort=1)}
V3 = {"serializer": TINCSerializer(ratio=8, effort=1), "compressors": None}
SHARDED = {**V3, "shards": (40, 40, 40)}


@pytest.mark.parametrize("options", [V2, V2 | {"order": "F"}, V3, SHARDED])
def test_archives_open_at_a_lower_resolution(tmp_path: Path, options: dict[str, Any]) -> None:
    data = volume((50, 33, 20))
    data[20:40, :20, :20] = 0  # a chunk that zarr leaves out
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=data.shape, dtype=data.dtype, chunks=(20, 20, 20), **options,
        config={"write_empty_chunks": False},
    )  # fmt: skip
    array[...] = data
    opened = tinc_codec.open(tmp_path / "a.zarr", overview=8)
    names = opened.dims
    places = [[0, 8, 16, 20, 28, 36, 40, 48], [0, 8, 16, 20, 28], [0, 8, 16]]
    assert opened.shape == (8, 5, 3)
    for name, at in zip(names, places, strict=True):
        np.testing.assert_array_equal(opened[name], at)
    found = opened.to_numpy()
    assert found.dtype == data.dtype
    np.testing.assert_array_equal(found[3:6, :3], 0)
    chunk = np.ascontiguousarray(array[:20, :20, :20])
    np.testing.assert_allclose(found[:2, :2, :2], smoothed(chunk, (8, 8, 8))[:2, :2, :2], atol=8)
    np.testing.assert_array_equal(opened[6:, 3:].to_numpy(), found[6:, 3:])


def test_payloads_of_other_arrays_are_refused(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(16, 16), chunks=(16, 16), dtype="u1", compressors=None,
        serializer=TINCSerializer(psnr=40, effort=1),
    )  # fmt: skip
    array[...] = volume((16, 16), "u1")
    (stored,) = (path for path in (tmp_path / "a.zarr").rglob("0") if path.is_file())
    for other in (volume((16, 16), "f4"), volume((16, 15), "u1")):
        stored.write_bytes(tinc_codec.encode(other, psnr=40, effort=1))
        with pytest.raises(tinc_codec.CorruptPayload, match="belongs to another array"):
            tinc_codec.open(tmp_path / "a.zarr", overview=2).compute()


def test_nothing_has_an_overview_of_nothing(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(0, 20), chunks=(8, 8), dtype="u2", **V3)
    assert tinc_codec.open(tmp_path / "a.zarr", overview=4).compute().shape == (0, 5)


def test_of_a_converted_volume(tmp_path: Path) -> None:
    from tinc_codec.archive import convert, plan, run

    settings = Settings(ratio=16, effort=1)
    data = np.stack([volume((24, 40, 40)), 2 * volume((24, 40, 40))])
    np.save(tmp_path / "v.npy", data)
    convert(tmp_path / "v.npy", tmp_path / "a.zarr", settings)
    whole_ = tinc_codec.open(tmp_path / "a.zarr")
    opened = tinc_codec.open(tmp_path / "a.zarr", overview=4)
    assert opened.shape == (2, 6, 10, 10)
    assert opened.dims == whole_.dims
    np.testing.assert_allclose(opened.mean(("z", "y", "x")), whole_.mean(("z", "y", "x")), rtol=0.1)
    assert tinc_codec.open(tmp_path / "a.zarr", overview=(1, 1, 2, 2)).shape == (2, 24, 20, 20)
    run(plan(tmp_path / "v.npy", tmp_path / "p.zarr", settings, levels=2))
    with pytest.raises(InvalidSetting, match="pyramid of 2 levels"):
        tinc_codec.open(tmp_path / "p.zarr", overview=4)
    level = tinc_codec.open(tmp_path / "p.zarr/0", overview=4)
    np.testing.assert_array_equal(level, opened)


def test_other_codecs_have_no_overviews(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("plain", shape=(8, 8), dtype="u2")
    with pytest.raises(InvalidSetting, match="TINC alone"):
        tinc_codec.open(tmp_path / "a.zarr/plain", overview=2)
    with pytest.raises(InvalidSetting, match="arrays: plain"):
        tinc_codec.open(tmp_path / "a.zarr", overview=2)
    zarr.create_array(tmp_path / "b.zarr", shape=(8, 8), dtype="u2", **V3)
    with pytest.raises(InvalidSetting, match="power of two"):
        tinc_codec.open(tmp_path / "b.zarr", overview=3)
