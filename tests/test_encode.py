"""encode: every kind of array comes back as it was, within its bytes, and the rest as promised."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import DTYPES, LAYOUTS, arrays, lay_out
from volumes import volume

import tinc_codec
from tinc_codec import InvalidSetting, UnsupportedData, decode, encode, inspect
from tinc_codec.decoding import arrays as decoded_arrays
from tinc_codec.decoding.opened import open_chunk
from tinc_codec.encode import SMALLEST_BUDGET
from tinc_codec.phantom import phantom
from tinc_codec.stream import container
from tinc_codec.stream.container import SectionKind

QUICK: dict[str, Any] = {"effort": 1, "iterations": 3}
SHAPE = (14, 12, 10)


def check(array: np.ndarray, special: np.ndarray | None = None, **options: Any) -> np.ndarray:
    """Encode and decode; assert what holds of every array; return the result."""
    before = array.tobytes()
    flags = array.flags.writeable
    payload = encode(array, **QUICK, **options)
    assert array.tobytes() == before
    assert array.flags.writeable == flags
    assert len(payload) <= array.nbytes / options["ratio"]
    decoded = decode(payload)
    assert decoded.shape == array.shape
    assert decoded.dtype == array.dtype
    assert decoded.dtype.byteorder == array.dtype.byteorder
    if special is None:
        special = np.zeros(array.shape, bool)
    assert decoded[special].tobytes() == array[special].tobytes()
    if not special.all():
        kept, found = array[~special], decoded[~special]
        assert kept.min() <= found.min() <= found.max() <= kept.max()
    return decoded


# Dtypes and layouts.


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_layout(dtype: np.dtype, layout: str) -> None:
    plain = volume(SHAPE, dtype)
    array = lay_out(plain, layout)
    decoded = check(array, ratio=plain.itemsize * 4)
    alone = encode(plain, ratio=plain.itemsize * 4, **QUICK)
    np.testing.assert_array_equal(decoded, decode(alone))


@pytest.mark.parametrize("shape", [(14, 12, 10), (60, 60), (3, 8, 8, 8), (1, 30, 30)])
def test_memory_order_comes_back(shape: tuple[int, ...]) -> None:
    array = volume(shape, "u2")
    for order in ("C", "F"):
        decoded = check(np.asarray(array, order=order), ratio=6)
        assert decoded.flags.f_contiguous == (order == "F")
        assert decoded.flags.c_contiguous == (order == "C")


def test_a_sequence_is_an_array() -> None:
    rows = np.arange(400.0).reshape(20, 20).tolist()
    assert decode(encode(rows, ratio=20, **QUICK)).shape == (20, 20)


@pytest.mark.parametrize(
    "shape", [(3000,), (60, 50), (2, 1, 40, 40), (1, 1, 1, 999, 1), (2, 3, 30, 1, 20), (2, 1500)]
)
def test_shapes(shape: tuple[int, ...]) -> None:
    check(volume(shape, "i2"), ratio=8)


REFUSALS = "bytes; at least 96|special values|distinct bit patterns|at most 4"


@settings(max_examples=80)
@given(arrays(finite=False), st.sampled_from(["default", "paper"]))
def test_any_array_comes_back_or_is_refused(array: np.ndarray, preset: str) -> None:
    special = ~np.isfinite(array) if array.dtype.kind == "f" else None
    try:
        check(array, special, ratio=1, preset=preset)
    except (InvalidSetting, UnsupportedData) as error:
        if re.search(REFUSALS, str(error)) is None:
            raise


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((9, 9), bool), "bool.*uint8"),
        (np.zeros((9, 9), complex), "complex128.*real"),
        (np.zeros((9, 9), "i8"), "int64.*32 bits"),
        (np.zeros((9, 9), "U3"), "U3"),
        (np.zeros((9, 9), object), "object"),
        (np.zeros((0, 9), "u1"), "no elements"),
        (np.zeros((), "u1"), "0 axes"),
        (np.ma.zeros((9, 9)), "masked.*preserve"),
    ],
)
def test_unsupported_arrays(array: np.ndarray, says: str) -> None:
    with pytest.raises(UnsupportedData, match=says):
        encode(array)


# What is restored exactly.


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_nan_and_infinities(dtype: str) -> None:
    array = volume(SHAPE, dtype)
    array[2:4, 3] = np.nan
    array[5, :, 2] = np.inf
    array[6, 6, 6] = -np.inf
    array[7, 0, 0] = np.array(np.nan).astype(dtype) * -1
    check(array, ~np.isfinite(array), ratio=4)


@pytest.mark.parametrize("dtype", ["u1", ">i2", "<f4"])
def test_preserved_values(dtype: str) -> None:
    array = volume(SHAPE, dtype)
    array[np.random.default_rng(0).random(SHAPE) < 0.02] = 0
    array[4] = 120
    decoded = check(array, (array == 0) | (array == 120), ratio=3, preserve=(0, 120))
    ordinary = decoded[(array != 0) & (array != 120)]
    assert ordinary.min() > 0


def test_preserved_values_are_no_signal() -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(100, 5, (32, 32, 32)).clip(50, 150)
    array[20:28, 20:28, 20:28] += 300
    array[:12, :12, :12] = 400  # as bright as anything, but a sentinel
    payload = encode(
        array, ratio=32, preserve=(400,), levels=2, allocation="signal", form="tree", **QUICK
    )
    tree = open_chunk(payload).tree
    assert tree is not None
    width = tree.widths[1][:, 0]
    assert width[7] > 1.5 * width[0]
    assert width[0] == width[1]


def test_preserved_values_beyond_the_dtype_are_ignored() -> None:
    array = volume(SHAPE, "u1")
    plain = encode(array, ratio=4, **QUICK)
    assert encode(array, ratio=4, preserve=(-1, 300, 0.5, 1e9), **QUICK) == plain


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nothing_but_special_values(value: float) -> None:
    array = np.full(SHAPE, value, "f4")
    array[3, 3, 3] = np.nan
    assert check(array, np.ones(SHAPE, bool), ratio=16).tobytes() == array.tobytes()


def test_special_values_of_many_kinds_beside_one_ordinary_value() -> None:
    array = np.where(np.random.default_rng(0).random(SHAPE) < 0.1, np.nan, 5.0)
    assert inspect(encode(array, ratio=8)).form == "constant"
    np.testing.assert_array_equal(decode(encode(array, ratio=8)), array)


@pytest.mark.parametrize("fill", [0, 40, 255])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_padding_of_edge_chunks(fill: int, dtype: str, order: Any) -> None:
    array = np.full((20, 20, 20), fill, dtype, order=order)
    array[:13, :, :7] = volume((13, 20, 7), dtype)
    decoded = check(array, ratio=10)
    outside = np.ones(array.shape, bool)
    outside[:13, :, :7] = False
    assert (decoded[outside] == fill).all()
    # the fill does not widen the range, nor does it take part in the fit
    box = array[:13, :, :7]
    assert box.min() <= decoded[:13, :, :7].min() <= decoded[:13, :, :7].max() <= box.max()
    assert decoded.flags.f_contiguous == (order == "F")


def test_padding_of_nan() -> None:
    array = np.full((20, 20, 20), np.nan, ">f4")
    array[:9, :8] = volume((9, 8, 20), "f4")
    array[2, 2, 2] = np.inf
    decoded = check(array, ~np.isfinite(array), ratio=10)
    assert inspect(encode(array, ratio=10, **QUICK)).section_sizes["crop"] < 20
    assert np.isnan(decoded[9:]).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [0, 1, 127])
def test_constant_chunks_take_tens_of_bytes(dtype: np.dtype, value: int) -> None:
    array = np.full((16, 16, 16), value, dtype)
    payload = encode(array, ratio=40)
    assert len(payload) < 50
    assert decode(payload).tobytes() == array.tobytes()
    assert inspect(payload).form == "constant"
    assert inspect(payload).psnr_db == math.inf


@pytest.mark.parametrize("value", [-0.0, 5e-324, 1.7976931348623157e308])
def test_constant_chunks_keep_every_bit(value: float) -> None:
    array = np.full((6, 6, 6), value)
    assert decode(encode(array, ratio=4)).tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_ends_of_every_dtype(dtype: np.dtype) -> None:
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    array = np.where(volume(SHAPE, "f4") > 60, limits.max, limits.min).astype(dtype)
    decoded = check(array, ratio=2)
    assert np.isfinite(decoded).all()


def test_one_bright_voxel() -> None:
    array = np.zeros((24, 24, 24), "u2")
    array[11, 12, 13] = 60_000
    decoded = check(array, ratio=64)
    assert decoded[0, 0, 0] == 0


def test_two_voxels() -> None:
    array = np.zeros(200, "f4")
    array[50], array[51] = 3, 7
    check(array, ratio=2)


# Bytes.


def used(array: np.ndarray, ratio: float, **options: Any) -> float:
    """Return the share of the budget that the payload takes; never over 1."""
    payload = encode(array, ratio=ratio, **(QUICK | options))
    budget = array.nbytes / ratio
    assert len(payload) <= budget
    record = inspect(payload)
    assert record.form in ("tree", "wavelet", "tree+wavelet", "cosine", "correction")
    assert record.payload_bytes == len(payload)
    assert record.ratio >= ratio
    decoded = decode(payload)
    assert (decoded.shape, decoded.dtype) == (array.shape, array.dtype)
    assert array.min() <= decoded.min() <= decoded.max() <= array.max()
    return len(payload) / budget


def check_budgets(array: np.ndarray, **options: Any) -> None:
    for ratio in (16, 57.3, 256, 1024):
        budget = array.nbytes / ratio
        if budget >= SMALLEST_BUDGET:
            assert used(array, ratio, **options) >= (0.97 if budget > 256 else 0.9)
        else:
            with pytest.raises(InvalidSetting):
                encode(array, ratio=ratio)


@pytest.mark.parametrize("side", [32, 48, 64])
def test_budgets_of_the_phantom(side: int) -> None:
    check_budgets(phantom((side,) * 3, seed=2))


@pytest.mark.parametrize("options", [{"preset": "paper"}, {"allocation": "signal", "levels": 2}])
def test_budgets_of_other_settings(options: dict[str, Any]) -> None:
    array = phantom((40, 40, 40), seed=2)
    for ratio in (16, 100):
        assert used(array, ratio, **options) >= 0.97


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize(
    "name",
    [
        "cells2ch_cellfinder_a",
        "ct_tooth",
        "fibsem_medulla_train1",
        "hipct_brain_slab",
        "lsfm_axons_dense_trailmap",
        "nuclei_embryo_qcanet_16cell",
        "nuclei_root_plantseg_1135",
    ],
)
def test_budgets_of_real_volumes(tinc_data: Path, name: str, side: int) -> None:
    path = tinc_data / f"{name}.npy"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    array = np.load(path, mmap_mode="r")
    corner = array[(0,) * (array.ndim - 3)][:side, :side, :side]
    check_budgets(np.asarray(corner))


def test_the_smallest_budget() -> None:
    array = volume((16, 16, 16), "u2")
    payload = encode(array, ratio=array.nbytes / SMALLEST_BUDGET, **QUICK)
    assert len(payload) <= SMALLEST_BUDGET
    assert inspect(payload).form == "cosine"
    with pytest.raises(InvalidSetting, match=r"8192 bytes.*86.*95 bytes.*96.*85\.33"):
        encode(array, ratio=86)


def test_no_room_beside_the_mask() -> None:
    rng = np.random.default_rng(0)
    array = np.where(rng.random((20, 20, 20)) < 0.5, 0, 7 + rng.random((20, 20, 20)))
    with pytest.raises(InvalidSetting, match=r"mask.*lower ratio, or fewer preserved"):
        encode(array, ratio=100, preserve=(0,))


def test_five_long_axes() -> None:
    with pytest.raises(InvalidSetting, match=r"\(2, 3, 4, 5, 6\).*at most 4"):
        encode(np.zeros((2, 3, 4, 5, 6), "f8"), ratio=8)


def test_low_order_form_only_where_it_is_better() -> None:
    z, y, x = np.meshgrid(*[np.linspace(0, 1, 32)] * 3, indexing="ij")
    smooth = (1000 * (x + y * z)).astype(np.uint16)
    quick = {"form": "tree", **QUICK}
    assert inspect(encode(smooth, ratio=256, **quick)).form == "cosine"
    assert inspect(encode(smooth, ratio=16, **quick)).form == "tree"


# What inspect tells.


@pytest.mark.parametrize("ratio", [16, 400])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "f4", "f8"])
def test_psnr_is_that_of_the_decoded_chunk(dtype: str, ratio: int) -> None:
    array = volume((24, 40, 44) if dtype == "u1" else (24, 30, 28), dtype)
    payload = encode(array, ratio=ratio, **QUICK)
    error = decode(payload).astype(float) - array.astype(float)
    span = float(array.max()) - float(array.min())
    expected = 10 * math.log10(span**2 / (error**2).mean())
    assert inspect(payload).psnr_db == pytest.approx(expected, abs=0.02)


def test_psnr_is_of_the_fitted_voxels() -> None:
    array = np.zeros((24, 24, 24), "f4")
    array[:16] = volume((16, 24, 24), "f4")
    array[3:5, 4:9] = np.nan
    payload = encode(array, ratio=16, **QUICK)
    fitted = np.isfinite(array) & (np.arange(24) < 16)[:, None, None]
    error = (decode(payload)[fitted] - array[fitted]).astype(float)
    span = float(np.ptp(array[fitted]))
    expected = 10 * math.log10(span**2 / (error**2).mean())
    assert inspect(payload).psnr_db == pytest.approx(expected, abs=0.02)


def test_inspection_of_a_tree() -> None:
    array = volume((24, 20, 16), ">i2", order="F")
    payload = encode(array, ratio=8, levels=2, coordinates="block", form="tree", **QUICK)
    record = inspect(payload)
    assert (record.shape, record.dtype, record.order) == (array.shape, array.dtype, "F")
    assert (record.form, record.levels, record.coordinates) == ("tree", 2, "block")
    assert [len(level) for level in record.widths] == [2, 2]
    assert record.ratio == array.nbytes / len(payload)
    parts = container.unpack(payload)
    assert record.section_sizes == {kind.name.lower(): len(d) for kind, d in parts.items()}
    assert record.section_sizes["weights"] * 8 / record.parameters == pytest.approx(6.5, abs=1)
    assert 0 < record.macs_per_voxel < record.parameters


# Same input, same bytes.


def test_same_bytes_again_and_other_bytes_by_the_seed() -> None:
    array = phantom((24, 24, 24), seed=1)
    for form in ("tree", "auto"):
        first = encode(array, ratio=20, form=form, **QUICK)
        assert encode(array.copy(), ratio=20, seed=0, form=form, **QUICK) == first
    assert encode(array, ratio=20, seed=1, form="tree", **QUICK) != encode(
        array, ratio=20, form="tree", **QUICK
    )


def test_only_the_header_knows_byte_and_memory_order() -> None:
    array = phantom((24, 24, 24), seed=1)
    first = container.unpack(encode(array, ratio=20, **QUICK))
    for other in (array.astype(">u2"), np.asfortranarray(array)):
        parts = container.unpack(encode(other, ratio=20, **QUICK))
        assert parts.pop(SectionKind.ARRAY) != first[SectionKind.ARRAY]
        assert parts == {k: v for k, v in first.items() if k != SectionKind.ARRAY}


@pytest.mark.parametrize("options", [{"ratio": 0}, {"effort": 12}, {"rate": 3}])
def test_wrong_settings(options: dict[str, Any]) -> None:
    with pytest.raises((InvalidSetting, TypeError), match=r"ratio|effort|rate"):
        encode(np.zeros((16, 16), "f8"), **options)


# Selections: the spot checks of this path; tests of selections and engines have the rest.


@pytest.mark.parametrize("form", ["tree", "wavelet", "cosine", "crop", "mask"])
def test_a_selection_is_the_part_of_the_whole(form: str) -> None:
    array = volume((30, 20, 25), "f4")
    if form == "crop":
        array[22:] = 0
        array[:, :6] = 0
    elif form == "mask":
        array[3:7, ::5] = np.nan
    options = {"form": "wavelet" if form == "wavelet" else "tree", **QUICK}
    payload = encode(array, ratio=400 if form == "cosine" else 16, **options)
    full = decode(payload)
    rng = np.random.default_rng(0)
    points = tuple(rng.integers(-n, n, 50) for n in array.shape)
    for selection in (
        np.s_[10:20, 5, ::4],
        np.s_[...],
        np.s_[25:],
        np.s_[::-1, 3:4, [1, 1, 0]],
        np.s_[5:5],
        -1,
        points,
        np.isnan(array) | (array > 90),
        np.ix_([29, 0], [3], [2, 24, 2]),
    ):
        part = decode(payload, selection)
        expected = full[selection]
        assert part.shape == expected.shape
        assert part.dtype == expected.dtype
        assert part.tobytes() == expected.tobytes()


@pytest.mark.parametrize("form", ["tree", "wavelet", "cosine", "crop", "mask"])
@pytest.mark.parametrize("size", [1, 61, 5000])
def test_parts_evaluated_at_once_do_not_show(
    monkeypatch: pytest.MonkeyPatch, form: str, size: int
) -> None:
    if size == 1:
        array = volume((9, 1, 40), "f4", order="F")
    else:
        array = volume((30, 1, 20, 25), "f4", order="F")
    if form == "crop":
        array[7:] = 0
    elif form == "mask":
        array[3:5, :, ::5] = np.nan
    payload = encode(array, ratio=array.nbytes / 120 if form == "cosine" else 3, **QUICK)
    points = tuple(np.random.default_rng(0).integers(0, n, 50) for n in array.shape)
    found = []
    for part in (1 << 21, size):
        monkeypatch.setattr(decoded_arrays, "_PART", part)
        whole = decode(payload)
        assert whole.flags.f_contiguous
        found.append(whole.tobytes() + decode(payload, np.s_[2:, :, ::3]).tobytes())
        found[-1] += decode(payload, points).tobytes()
    assert found[0] == found[1]


def test_settings_that_are_none_are_named_with_those_that_are() -> None:
    with pytest.raises(InvalidSetting, match=r"'efort', did you mean 'effort'\? known are .*ratio"):
        encode(volume((8, 8, 8)), efort=3)
    with pytest.raises(InvalidSetting, match=r"unknown setting 'quality'; known are"):
        encode(volume((8, 8, 8)), quality=3)


def test_a_remedy_is_one_that_can_be_taken() -> None:
    with pytest.raises(InvalidSetting, match=r"bytes or more, or a ratio up to \d"):
        encode(volume((8, 8, 8)), ratio=900)
    with pytest.raises(InvalidSetting, match=r"bytes or more$"):
        encode(volume((2, 2, 2)), ratio=64)


def test_what_the_package_offers_is_listed() -> None:
    assert sorted(dir(tinc_codec)) == sorted(tinc_codec.__all__)


@pytest.mark.parametrize(
    ("scale", "bound"), [(5e-324, 3e-323), (5e-324, 6e-323), (1e307, 1e308), (1e307, 1.5e308)]
)
def test_errors_at_the_ends_of_float64_are_no_zeros(scale: float, bound: float) -> None:
    array = np.random.default_rng(0).integers(-17, 18, (9, 9, 9)) * scale
    payload = encode(array, max_error=bound, effort=1)
    assert np.isfinite(inspect(payload).psnr_db) == (not np.array_equal(decode(payload), array))


# Chunks of few values, as of binary masks and segmentations.


@pytest.mark.parametrize(
    "target", [{"ratio": 8}, {"psnr": 30}, {"rmse": 1}, {"ssim": 0.9}, {"max_error": 0}], ids=str
)
def test_few_values_are_exact_and_small(target: dict[str, float]) -> None:
    noise = np.random.default_rng(0).random((32, 32, 32))
    array = np.where(noise < 0.02, 0, 2**32 - 1).astype(np.uint32)
    payload = encode(array, effort=1, **target)
    assert np.array_equal(decode(payload), array)
    assert len(payload) < array.nbytes / 100
    assert np.array_equal(decode(payload, np.s_[3, 4:9, ::5]), array[3, 4:9, ::5])


def test_few_values_that_coefficients_say_in_fewer_bytes() -> None:
    """A target of fidelity takes what is smaller."""
    array = (np.indices((32, 32, 32)).sum(axis=0) // 2).astype(np.uint8)
    payload = encode(array, psnr=30, effort=1)
    assert inspect(payload).form != "constant"
    exact = encode(array, psnr=30, effort=1, preserve=tuple(range(48)))
    assert len(payload) < len(exact)


def test_a_form_that_is_asked_for_is_taken_though_values_are_few() -> None:
    array = np.random.default_rng(0).integers(0, 2, (16, 16, 16)).astype(np.uint8)
    assert inspect(encode(array, ratio=7, effort=1)).form == "constant"
    assert inspect(encode(array, ratio=7, effort=1, form="wavelet")).form != "constant"
