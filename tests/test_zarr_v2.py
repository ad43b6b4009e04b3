"""The numcodecs codec: numcodecs' contract, and arrays of zarr format 2 (zarr 2 and 3)."""

from __future__ import annotations

import array as stdlib_array
import dataclasses
import json
import pickle
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numcodecs.registry
import numpy as np
import pytest
import zarr
from volumes import DTYPES, QUICK, count_evaluations, volume

from tinc_codec import (
    TINC,
    InvalidSetting,
    Settings,
    TincError,
    UnsupportedData,
    runtime,
)
from tinc_codec.configured import warn_if_not_installed
from tinc_codec.decoding import cache as decoded_cache

CODEC = TINC(**QUICK)
ZARR_3 = not zarr.__version__.startswith("2.")


def create(store: Any, **kwargs: Any) -> Any:
    """Make an array of zarr format 2 with whichever zarr is installed."""
    if ZARR_3:
        kwargs["zarr_format"] = 2
    return zarr.create(store=str(store), compressor=kwargs.pop("codec", CODEC), **kwargs)


def order_of(array: np.ndarray) -> str:
    return "C" if array.flags.c_contiguous else "F"


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_decode_gives_the_dtype_shape_and_order_encoded(
    dtype: str, byte_order: str, order: str
) -> None:
    chunk = volume((12, 16, 20), np.dtype(dtype).newbyteorder(byte_order), order)
    chunk.setflags(write=False)
    before = chunk.copy("K")
    decoded = CODEC.decode(CODEC.encode(chunk))
    assert decoded.dtype == chunk.dtype
    assert decoded.shape == chunk.shape
    assert order_of(decoded) == order
    np.testing.assert_array_equal(chunk, before)


@pytest.mark.parametrize("order", ["C", "F"])
def test_voxels_come_back_in_their_places(order: Any) -> None:
    ramp = np.broadcast_to(np.arange(24)[:, None, None] * 1000.0, (24, 16, 12))
    decoded = TINC(ratio=16, effort=1).decode(TINC(ratio=16, effort=1).encode(ramp.copy(order)))
    assert np.corrcoef(ramp.ravel(), decoded.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    "wrap",
    [bytes, bytearray, memoryview, lambda raw: stdlib_array.array("B", raw)],
    ids=["bytes", "bytearray", "memoryview", "array"],
)
def test_any_buffer_encodes_as_bytes_do(wrap: Any) -> None:
    flat = volume((4096,), "uint8")
    assert bytes(CODEC.encode(wrap(flat.tobytes()))) == bytes(CODEC.encode(flat))
    assert CODEC.decode(CODEC.encode(wrap(flat.tobytes()))).shape == (4096,)


def test_typed_buffers_keep_their_type() -> None:
    signed = stdlib_array.array("h", volume((2048,), "int16").tolist())
    assert CODEC.decode(CODEC.encode(signed)).dtype == np.int16
    cube = memoryview(volume((16, 16, 16), "uint8"))
    assert CODEC.decode(CODEC.encode(cube)).shape == (16, 16, 16)


def test_strided_input_encodes_as_its_copy() -> None:
    whole = volume((32, 16, 24))
    part = whole[::2, :, ::-1]
    before = whole.copy()
    np.testing.assert_array_equal(
        CODEC.decode(CODEC.encode(part)), CODEC.decode(CODEC.encode(part.copy()))
    )
    np.testing.assert_array_equal(whole, before)


@pytest.mark.parametrize(
    "wrap",
    [
        bytearray,
        memoryview,
        lambda raw: stdlib_array.array("b", raw),
        lambda raw: np.frombuffer(raw, np.uint8),
        lambda raw: np.frombuffer(raw, np.int8),
    ],
    ids=["bytearray", "memoryview", "array", "uint8", "int8"],
)
def test_any_buffer_decodes_as_bytes_do(wrap: Any) -> None:
    payload = bytes(CODEC.encode(volume((16, 16, 16))))
    np.testing.assert_array_equal(CODEC.decode(wrap(payload)), CODEC.decode(payload))


@pytest.mark.parametrize("order", ["C", "F"])
def test_out_is_filled_and_returned(order: Any) -> None:
    chunk = volume((12, 16, 20), ">u2", order)
    payload = CODEC.encode(chunk)
    decoded = CODEC.decode(payload)
    for out in (
        np.zeros_like(chunk),
        np.zeros((12, 16, 20), ">u2"),
        np.zeros((20, 16, 12), ">u2").T,
    ):
        assert CODEC.decode(payload, out=out) is out
        np.testing.assert_array_equal(out, decoded)
    raw = bytearray(chunk.nbytes)
    CODEC.decode(payload, out=raw)
    assert raw == decoded.tobytes(order="A")


def test_out_that_cannot_hold_the_chunk_is_refused() -> None:
    payload = CODEC.encode(volume((12, 16, 20)))
    with pytest.raises(ValueError, match="size"):
        CODEC.decode(payload, out=np.zeros(10, np.uint16))
    with pytest.raises(UnsupportedData, match="object"):
        CODEC.decode(payload, out=np.zeros((12, 16, 20), object))


@pytest.mark.parametrize(
    "codec",
    [
        TINC(),
        TINC(128, levels=3, level_ratio=1.5, allocation="signal", effort=9, seed=7),
        TINC(preserve=[-32768, 0.5], coordinates="block", iterations=40),
        TINC(preset="paper", milestones=[2000, 5000]),
        TINC(ratio=np.float32(64), levels=np.int64(2), preserve=(np.int16(-1),)),
    ],
    ids=repr,
)
def test_codecs_travel(codec: TINC) -> None:
    config = json.loads(json.dumps(codec.get_config(), allow_nan=False))
    for copy in (
        numcodecs.registry.get_codec(config),
        TINC.from_config(config),
        eval(repr(codec)),
        pickle.loads(pickle.dumps(codec)),
    ):
        assert type(copy) is TINC
        assert copy == codec
        assert hash(copy) == hash(codec)


def test_config_is_the_settings_and_no_more() -> None:
    said = (f.name for f in dataclasses.fields(Settings) if f.default is not None)
    names = {"ratio", *said}  # what is None is left out, but for the target in force
    assert set(TINC().get_config()) == names | {"id"}
    assert set(TINC(psnr=40).get_config()) == (names - {"ratio"}) | {"id", "psnr"}
    assert TINC().get_config()["id"] == "tinc"
    assert TINC().get_config() == {"id": "tinc", **Settings().to_json()}


def test_codecs_differ_by_their_settings() -> None:
    assert TINC(64) != TINC(65)
    assert TINC(64) != "tinc"
    with pytest.raises(AttributeError):
        TINC().settings = Settings()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ratio": 0.5}, "ratio=0.5 must be a number from 1"),
        ({"effort": 10}, "effort=10 must be an integer from 1 to 9"),
        ({"levels": "deep"}, "levels='deep' must be"),
        ({"allocation": "odd"}, "allocation='odd' must be one of"),
        ({"preserve": (float("nan"),)}, "NaN and infinities are always restored"),
    ],
)
def test_wrong_settings_raise_at_construction(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        TINC(**wrong)


def test_unknown_settings_of_a_later_version_are_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"unknown setting 'colour'.*upgrade"):
        numcodecs.registry.get_codec({"id": "tinc", "ratio": 64, "colour": "red"})


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint64", "complex64", "object", "U3", "M8[s]"])
def test_unsupported_dtypes_are_named(dtype: str) -> None:
    with pytest.raises(UnsupportedData, match=r"(?s)(bool|int64|complex64|object|<U3|datetime64)"):
        CODEC.encode(np.zeros((16, 16, 16)).astype(dtype))


def test_damaged_payloads_are_tinc_errors() -> None:
    with pytest.raises(TincError):
        CODEC.decode(b"not a payload at all")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<f4", ">i4", "|u1"])
def test_zarr_arrays_hold_what_the_codec_gives(tmp_path: Path, dtype: str, order: Any) -> None:
    data = volume((16, 20, 12), dtype)
    create(
        tmp_path / "a.zarr",
        shape=data.shape,
        chunks=(16, 12, 12),
        dtype=dtype,
        order=order,
        fill_value=3,
    )[:] = data
    read = zarr.open(str(tmp_path / "a.zarr"), mode="r")
    padded = np.full((16, 24, 12), 3, dtype)
    padded[:, :20] = data
    expected = [CODEC.decode(CODEC.encode(padded[:, at : at + 12].copy(order))) for at in (0, 12)]
    assert read.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read[:], np.concatenate(expected, axis=1)[:, :20])
    np.testing.assert_array_equal(read[2:9, 11:14, ::5], read[:][2:9, 11:14, ::5])


def test_groups_and_partial_writes(tmp_path: Path) -> None:
    settings = {"zarr_format": 2} if ZARR_3 else {}
    zarr.open_group(str(tmp_path), mode="w", **settings)
    array = create(tmp_path / "raw", shape=(16, 16, 16), chunks=(16, 16, 16), dtype="u2")
    array[:] = volume((16, 16, 16))
    array[2:4, 3] = 100
    group = zarr.open_group(str(tmp_path), mode="r")
    assert list(group.array_keys()) == ["raw"]
    assert group["raw"][:].shape == (16, 16, 16)


def test_missing_chunks_are_fill_value(tmp_path: Path) -> None:
    array = create(
        tmp_path / "a", shape=(32, 16, 16), chunks=(16, 16, 16), dtype="u2", fill_value=9
    )
    array[:16] = volume((16, 16, 16))
    assert (array[16:] == 9).all()


def test_zarr_says_what_the_codec_says(tmp_path: Path) -> None:
    array = create(tmp_path / "a", shape=(16, 16, 16), chunks=(16, 16, 16), dtype="i8")
    with pytest.raises(UnsupportedData, match="int64"):
        array[:] = volume((16, 16, 16))
    small = create(tmp_path / "b", shape=(8, 8, 8), chunks=(8, 8, 8), dtype="u1", codec=TINC(64))
    with pytest.raises(InvalidSetting, match="ratio"):
        small[:] = volume((8, 8, 8), "u1")


READ_ALONE = """
import sys, warnings
warnings.simplefilter("error")
import zarr
print(zarr.open(sys.argv[1], mode="r")[3, 4, 5])
assert "torch" not in sys.modules
"""


def test_a_reader_needs_only_the_installed_package(tmp_path: Path) -> None:
    array = create(tmp_path / "a", shape=(16, 16, 16), chunks=(16, 16, 16), dtype="u2")
    array[:] = volume((16, 16, 16))
    run = subprocess.run(
        [sys.executable, "-c", READ_ALONE, str(tmp_path / "a")], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == array[3, 4, 5]


def test_without_the_package_the_error_names_the_codec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(tmp_path / "a", shape=(16, 16, 16), chunks=(16, 16, 16), dtype="u2")
    monkeypatch.delitem(numcodecs.registry.codec_registry, "tinc")
    monkeypatch.delitem(numcodecs.registry.entries, "tinc", raising=False)
    with pytest.raises(ValueError, match="tinc"):
        zarr.open(str(tmp_path / "a"), mode="r")


def test_a_writer_that_is_not_installed_is_told_how_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def distribution(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("tinc_codec.configured.distribution", distribution)
    with pytest.warns(UserWarning, match=r"not installed.*pip install \."):
        warn_if_not_installed()


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_cache_keeps_chunks(tmp_path: Path, order: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    array = create(
        tmp_path / "a.zarr", shape=(16, 16, 16), chunks=(16, 16, 16), dtype="u2", order=order
    )
    array[...] = volume((16, 16, 16))
    whole = array[...]
    evaluated = count_evaluations(monkeypatch)
    decoded_cache.forget_decoded()
    with runtime(cache_bytes=1 << 20):
        for z in range(16):
            np.testing.assert_array_equal(array[z], whole[z])
            array[z].fill(0)
    assert evaluated == [whole.size] * 2  # read again, it is kept
    evaluated.clear()
    np.testing.assert_array_equal(array[3], whole[3])
    assert evaluated == [whole.size]
