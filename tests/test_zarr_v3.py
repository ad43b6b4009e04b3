"""The zarr v3 serializer: arrays, shards, selections, batches and what zarr 3.4 calls in sync."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from volumes import DTYPES, QUICK, count_evaluations, volume

zarr = pytest.importorskip("zarr", minversion="3.1")

from zarr.core.array_spec import ArrayConfig, ArraySpec  # noqa: E402
from zarr.core.buffer import default_buffer_prototype  # noqa: E402
from zarr.core.dtype import get_data_type_from_native_dtype  # noqa: E402
from zarr.registry import register_buffer  # noqa: E402

from tinc_codec import (  # noqa: E402
    CorruptPayload,
    InvalidSetting,
    TincError,
    TINCSerializer,
    UnsupportedData,
    decode,
    runtime,
)

CODEC = TINCSerializer(**QUICK)
PROTOTYPE = default_buffer_prototype()


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return count_evaluations(monkeypatch)


def write(store: Any, data: npt.NDArray[Any], **kwargs: Any) -> Any:
    """Write an array in 16³ chunks and open it again."""
    kwargs = {"chunks": (16,) * data.ndim, "serializer": CODEC, "compressors": None, **kwargs}
    zarr.create_array(store, shape=data.shape, dtype=data.dtype, **kwargs)[...] = data
    return zarr.open_array(store, mode="r")


def spec(shape: tuple[int, ...], dtype: Any) -> ArraySpec:
    return ArraySpec(
        shape,
        get_data_type_from_native_dtype(np.dtype(dtype)),
        0,
        ArrayConfig("C", False),
        PROTOTYPE,
    )


def buffer(array: npt.NDArray[Any]) -> Any:
    return PROTOTYPE.nd_buffer.from_numpy_array(array)


@pytest.fixture(scope="module", params=[None, (32, 32, 32)], ids=["chunks", "shards"])
def array(request: pytest.FixtureRequest) -> Any:
    data = volume((32, 40, 48))
    return write(zarr.storage.MemoryStore(), data, shards=request.param)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_keep_shape_and_dtype(dtype: str) -> None:
    data = volume((16, 20, 16), dtype)
    read = write({}, data)
    assert read.dtype == np.dtype(dtype)
    assert read[:].shape == data.shape


@pytest.mark.parametrize("dtype", [">u2", ">f4", ">i4"])
def test_big_endian_chunks_are_stored_as_the_metadata_says(dtype: str) -> None:
    chunk = volume((16, 16, 16), dtype)
    little = CODEC._encode_sync(buffer(chunk), spec(chunk.shape, chunk.dtype.newbyteorder("<")))
    assert decode(little.to_bytes()).dtype == chunk.dtype.newbyteorder("<")
    big = CODEC._encode_sync(buffer(chunk), spec(chunk.shape, chunk.dtype))
    assert decode(big.to_bytes()).dtype == chunk.dtype
    native = CODEC._decode_sync(big, spec(chunk.shape, chunk.dtype.newbyteorder("=")))
    assert native.as_numpy_array().dtype == chunk.dtype.newbyteorder("=")
    np.testing.assert_array_equal(native.as_numpy_array(), decode(big.to_bytes()))


def test_fortran_order_in_memory_changes_neither_bytes_nor_voxels() -> None:
    chunk = volume((16, 16, 16))
    whole = spec(chunk.shape, chunk.dtype)
    payload = CODEC._encode_sync(buffer(chunk), whole).to_bytes()
    assert CODEC._encode_sync(buffer(np.asfortranarray(chunk)), whole).to_bytes() == payload
    read = write({}, chunk, config={"order": "F"})
    np.testing.assert_array_equal(read[:], decode(payload))


def test_edge_chunks_and_missing_chunks() -> None:
    data = volume((16, 24, 16))
    target = zarr.create_array(
        {}, shape=(32, 24, 16), dtype="u2", chunks=(16, 16, 16), fill_value=7,
        serializer=CODEC, compressors=None,
    )  # fmt: skip
    target[:16] = data
    assert (target[16:] == 7).all()
    padded = np.full((16, 16, 16), 7, "u2")
    padded[:, :8] = data[:, 16:]
    expected = decode(CODEC._encode_sync(buffer(padded), spec(padded.shape, "u2")).to_bytes())
    np.testing.assert_array_equal(target[:16, 16:], expected[:, :8])


def test_groups(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path), mode="w", zarr_format=3)
    data = volume((16, 16, 16))
    for name in ("raw", "more"):
        group.create_array(name, data=data, chunks=(16, 16, 16), serializer=CODEC, compressors=None)
    group = zarr.open_group(str(tmp_path), mode="r")
    assert sorted(group.array_keys()) == ["more", "raw"]
    np.testing.assert_array_equal(group["raw"][:], group["more"][:])


@pytest.mark.parametrize(
    "selection",
    [
        np.s_[10:20, 5, ::4],
        np.s_[...],
        np.s_[3],
        np.s_[-1, ..., 7],
        np.s_[1::7, 17:39:5, 2:3],
        np.s_[5, 6, 7],
        np.s_[15:17, 15:17, 31:33],
        np.s_[4:4],
    ],
    ids=str,
)
def test_slices_equal_the_whole_decode(array: Any, selection: Any) -> None:
    np.testing.assert_array_equal(array[selection], array[:][selection])


def test_orthogonal_selections_equal_the_whole_decode(array: Any) -> None:
    whole = array[:]
    rows, columns = np.array([3, 17, 18, 31]), np.array([0, 20, 39])
    mask = np.zeros(48, bool)
    mask[[0, 15, 16, 47]] = True
    found = array.oindex[rows, columns, mask]
    np.testing.assert_array_equal(found, whole[np.ix_(rows, columns, mask)])
    np.testing.assert_array_equal(array.oindex[::9, columns[::-1]], whole[::9, columns[::-1]])


@pytest.mark.skipif(
    tuple(int(part) for part in zarr.__version__.split(".")[:3]) < (3, 1, 6),
    reason="older zarr fails here for any partial decode, plain shards too",
)
def test_orthogonal_selections_drop_integer_axes(array: Any) -> None:
    rows = np.array([3, 17, 18, 31])
    np.testing.assert_array_equal(array.oindex[rows, 5, ::4], array[:][rows, 5, ::4])


def test_coordinates_and_masks_equal_the_whole_decode(array: Any) -> None:
    whole = array[:]
    rng = np.random.default_rng(1)
    points = tuple(rng.integers(0, size, 30) for size in whole.shape)
    np.testing.assert_array_equal(array.vindex[points], whole[points])
    mask = rng.random(whole.shape) > 0.99
    np.testing.assert_array_equal(array.vindex[mask], whole[mask])
    np.testing.assert_array_equal(array.get_mask_selection(mask), whole[mask])
    np.testing.assert_array_equal(array.blocks[0], whole[: array.shards[0] if array.shards else 16])


def test_only_the_voxels_asked_for_are_decoded(array: Any, evaluated: list[int]) -> None:
    assert array[10:14, 5, ::4].size == sum(evaluated) == 4 * 12
    evaluated.clear()
    assert array.vindex[[1, 2, 30], [1, 39, 5], [0, 47, 9]].size == sum(evaluated) == 3


def test_a_slice_of_a_large_chunk_costs_its_own_voxels(evaluated: list[int]) -> None:
    data = volume((128, 128, 128))
    codec = TINCSerializer(**{**QUICK, "ratio": 512})
    read = write({}, data, chunks=(128, 128, 128), serializer=codec)
    evaluated.clear()
    part = read[10:20, 5, ::4]
    assert sum(evaluated) == part.size == 10 * 32
    np.testing.assert_array_equal(part, read[:][10:20, 5, ::4])


def test_compressors_switch_partial_decode_off(evaluated: list[int]) -> None:
    read = write({}, volume((16, 16, 16)), compressors="auto")
    assert read[3, 4, 5] == read[:][3, 4, 5]
    assert set(evaluated) == {16**3}


@pytest.mark.parametrize(
    "codec",
    [
        TINCSerializer(),
        TINCSerializer(128, levels=3, level_ratio=1.5, allocation="even", effort=9, seed=7),
        TINCSerializer(preserve=[-32768, 0.5], coordinates="global", iterations=40),
        TINCSerializer(preset="paper", milestones=[2000, 5000]),
    ],
    ids=repr,
)
def test_codecs_travel(codec: TINCSerializer) -> None:
    config = json.loads(json.dumps(codec.to_dict(), allow_nan=False))
    assert config["name"] == "tinc_codec.tinc"
    found = zarr.registry.get_codec_class("tinc_codec.tinc")
    for copy in (found.from_dict(config), eval(repr(codec)), pickle.loads(pickle.dumps(codec))):
        assert type(copy) is TINCSerializer
        assert copy == codec
        assert hash(copy) == hash(codec)


def test_metadata_is_the_settings_and_no_more(tmp_path: Path) -> None:
    write(str(tmp_path), volume((16, 16, 16)))
    codecs = json.loads((tmp_path / "zarr.json").read_text())["codecs"]
    assert codecs == [{"name": "tinc_codec.tinc", "configuration": CODEC.settings.to_json()}]


def test_a_name_alone_means_the_defaults() -> None:
    assert TINCSerializer.from_dict({"name": "tinc_codec.tinc"}) == TINCSerializer()


def test_unknown_configuration_is_refused(tmp_path: Path) -> None:
    write(str(tmp_path), volume((16, 16, 16)))
    metadata = json.loads((tmp_path / "zarr.json").read_text())
    metadata["codecs"][0]["configuration"]["colour"] = "red"
    (tmp_path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(InvalidSetting, match=r"unknown setting 'colour'.*upgrade"):
        zarr.open_array(str(tmp_path), mode="r")


def test_wrong_settings_raise_at_construction() -> None:
    with pytest.raises(InvalidSetting, match="effort=0 must be an integer from 1 to 9"):
        TINCSerializer(effort=0)


READ_WITHOUT_THE_PACKAGE = """
import sys
import importlib.metadata as metadata
points = [point for found in metadata.distributions() for point in found.entry_points]
found = metadata.EntryPoints(point for point in points if "tinc" not in point.name)
metadata.entry_points = lambda **params: found.select(**params)
import zarr
zarr.open_array(sys.argv[1], mode="r")
"""


def test_without_the_package_the_error_names_it(tmp_path: Path) -> None:
    write(str(tmp_path), volume((16, 16, 16)))
    run = subprocess.run(
        [sys.executable, "-c", READ_WITHOUT_THE_PACKAGE, str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert "tinc_codec.tinc" in run.stderr.splitlines()[-1]


@pytest.mark.parametrize("shards", [None, (32, 32, 32)])
@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64"])
def test_unsupported_dtypes_are_named(dtype: str, shards: Any) -> None:
    with pytest.raises(UnsupportedData, match=dtype):
        write({}, np.ones((32, 32, 32), dtype), shards=shards)


def test_a_chunk_too_small_for_the_ratio_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="ratio"):
        write({}, volume((8, 8, 8), "u1"), chunks=(8, 8, 8), serializer=TINCSerializer(64))


@pytest.mark.parametrize(
    ("shape", "dtype"), [((16, 16, 8), "u2"), ((8, 16, 16), "u2"), ((16, 16, 16), "i2")]
)
def test_payloads_of_another_array_are_refused(shape: tuple[int, ...], dtype: str) -> None:
    payload = CODEC._encode_sync(buffer(volume((16, 16, 16))), spec((16, 16, 16), "u2"))
    named = rf"uint16 \(16, 16, 16\).* {np.dtype(dtype)} \({shape[0]}, {shape[1]}, {shape[2]}\)"
    for selection in (None, (slice(0, 3), 2, slice(1, 4))):
        with pytest.raises(CorruptPayload, match=named):
            CODEC._decode_sync(payload, spec(shape, dtype), selection)


def test_damaged_chunks_are_tinc_errors(tmp_path: Path) -> None:
    read = write(str(tmp_path), volume((16, 16, 16)))
    (chunk,) = (path for path in tmp_path.rglob("0") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:40])
    with pytest.raises(TincError):
        read[:]


def test_batches_keep_their_order_and_their_gaps() -> None:
    chunks = [volume((16, 16, 16)), None, volume((16, 16, 16))[::-1], volume((20, 16, 16), "f4")]
    specs = [spec((16, 16, 16), "u2")] * 3 + [spec((20, 16, 16), "f4")]
    given = [None if chunk is None else buffer(chunk) for chunk in chunks]
    payloads = asyncio.run(CODEC.encode(zip(given, specs, strict=True)))
    assert payloads[1] is None
    decoded = asyncio.run(CODEC.decode(zip(payloads, specs, strict=True)))
    assert decoded[1] is None
    for at in (0, 2, 3):
        alone = CODEC._encode_sync(given[at], specs[at])
        assert payloads[at].to_bytes() == alone.to_bytes()
        np.testing.assert_array_equal(decoded[at].as_numpy_array(), decode(alone.to_bytes()))


def test_a_batch_reaches_the_codec_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    async def spy(self: TINCSerializer, chunks_and_specs: Any) -> Any:
        batch = list(chunks_and_specs)
        sizes.append(len(batch))
        return await original(self, batch)

    original = TINCSerializer.encode
    monkeypatch.setattr(TINCSerializer, "encode", spy)
    with zarr.config.set({"codec_pipeline.batch_size": 8}):
        write({}, volume((32, 32, 32)), shards=(32, 32, 32))
        write({}, volume((32, 32, 32)))
    assert sizes == [8, 8]


def test_torch_is_given_the_whole_batch(monkeypatch: pytest.MonkeyPatch, torch: ModuleType) -> None:
    import tinc_codec.zarr_v3 as module

    sizes: list[int] = []

    def encode_chunks(arrays: Any, settings: Any) -> Any:
        sizes.append(len(arrays))
        return original(arrays, settings)

    original = module.encode_chunks
    monkeypatch.setattr(module, "encode_chunks", encode_chunks)
    chunks = [volume((16, 16, 16)), None, volume((16, 16, 16))[::-1], volume((20, 16, 16), "f4")]
    specs = [spec((16, 16, 16), "u2")] * 3 + [spec((20, 16, 16), "f4")]
    given = [None if chunk is None else buffer(chunk) for chunk in chunks]
    with runtime(device="torch"):
        payloads = asyncio.run(CODEC.encode(zip(given, specs, strict=True)))
    assert sizes == [3]
    assert payloads[1] is None
    for chunk, payload in zip(chunks, payloads, strict=True):
        if chunk is not None:
            decoded = decode(payload.to_bytes())
            assert decoded.dtype == chunk.dtype
            assert np.abs(decoded.astype(float) - chunk).mean() < 0.2 * np.ptp(chunk)


@pytest.mark.parametrize("partial", [False, True])
def test_torch_reads_a_batch_at_once(
    monkeypatch: pytest.MonkeyPatch, torch: ModuleType, partial: bool
) -> None:
    import tinc_codec.zarr_v3 as module

    sizes: list[int] = []
    original = module.decode_remembered

    def decode_chunks(payloads: Any, parts: Any) -> Any:
        sizes.append(len(payloads))
        return original(payloads, parts)

    monkeypatch.setattr(module, "decode_remembered", decode_chunks)
    compressors = None if partial else "auto"
    with zarr.config.set({"codec_pipeline.batch_size": 8}):
        read = write({}, volume((32, 32, 32)), compressors=compressors)
        expected = read[3:29, 7, ::3]
        assert set(sizes) == {1}
        sizes.clear()
        with runtime(device="torch"):
            found = read[3:29, 7, ::3]
            assert sizes == [4]
            assert read[:].dtype == read.dtype
    np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=1)
    with runtime(device="torch"):
        missing = zarr.create_array({}, shape=(32, 16, 16), dtype="u2", chunks=(16, 16, 16),
                                    fill_value=7, serializer=CODEC, compressors=None)  # fmt: skip
        assert (missing[:] == 7).all()


def test_what_zarr_wants_on_the_gpu_stays_there(
    monkeypatch: pytest.MonkeyPatch, torch: ModuleType
) -> None:
    """The CPU in the place of the GPU, numpy in that of cupy."""
    import tinc_codec.zarr_v3 as module
    from tinc_codec.engines.gpu import device, engine, memory, values

    class OnGPU(PROTOTYPE.nd_buffer):  # type: ignore[name-defined]
        pass

    seen: list[Any] = []

    def to_cupy(bits: Any, dtype: Any) -> Any:
        seen.append(bits)
        return bits.numpy().view(dtype)

    def to_numpy(bits: Any, dtype: Any) -> Any:
        raise AssertionError("copied to the host")

    monkeypatch.setattr(module.gpu, "NDBuffer", OnGPU)
    monkeypatch.setattr(values, "to_cupy", to_cupy)
    monkeypatch.setattr(values, "to_numpy", to_numpy)
    for used in (device, engine, memory):
        monkeypatch.setattr(used, "current_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    shape = (16, 16, 16)
    there = replace(spec(shape, "u2"), prototype=PROTOTYPE._replace(nd_buffer=OnGPU))
    codec = TINCSerializer(ratio=4, iterations=10, form="tree")
    payload = codec._encode_sync(buffer(volume(shape)), there)
    (found,) = asyncio.run(codec.decode([(payload, there)]))
    assert type(found) is OnGPU
    assert len(seen) == 1
    expected = decode(payload.to_bytes())
    assert found.as_numpy_array().dtype == expected.dtype
    np.testing.assert_allclose(found.as_numpy_array().astype(int), expected.astype(int), atol=1)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Creating a zarr.buffer.gpu")  # zarr's own, of shards
@pytest.mark.parametrize("options", [{}, {"shards": (32, 32, 32)}], ids=["chunks", "shards"])
def test_zarrs_gpu_buffers_hold_what_was_read(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinc_codec.engines.gpu import values

    cupy = pytest.importorskip("cupy", reason="cupy is not installed")
    stayed: list[int] = []
    to_cupy = values.to_cupy
    monkeypatch.setattr(values, "to_cupy", lambda *of: stayed.append(1) or to_cupy(*of))
    store: dict[str, Any] = {}
    serializer = TINCSerializer(ratio=8, iterations=20, form="tree")
    write(store, volume((32, 32, 32)), serializer=serializer, **options)
    with runtime(device="cuda"):
        expected = zarr.open_array(store, mode="r")[...]
    with zarr.config.enable_gpu():
        found = zarr.open_array(store, mode="r")
        whole, part = found[...], found[3:20, 5, ::2]
    assert isinstance(whole, cupy.ndarray)
    assert stayed
    np.testing.assert_array_equal(cupy.asnumpy(whole), expected)
    np.testing.assert_array_equal(cupy.asnumpy(part), expected[3:20, 5, ::2])


def test_single_and_synchronous_calls_agree() -> None:
    class Getter:
        def get_sync(self, prototype: Any) -> Any:
            return payload

    class Nothing:
        def get_sync(self, prototype: Any) -> None:
            return None

        async def get(self, prototype: Any) -> None:
            return None

    chunk, whole = buffer(volume((16, 16, 16))), spec((16, 16, 16), "u2")
    payload = asyncio.run(CODEC._encode_single(chunk, whole))
    assert payload.to_bytes() == CODEC._encode_sync(chunk, whole).to_bytes()
    full = asyncio.run(CODEC._decode_single(payload, whole)).as_numpy_array()
    part = CODEC._decode_partial_sync(Getter(), np.s_[1:4, 2, ::3], whole)
    np.testing.assert_array_equal(part.as_numpy_array(), full[1:4, 2, ::3])
    assert CODEC._decode_partial_sync(Nothing(), np.s_[:], whole) is None
    assert asyncio.run(CODEC._decode_partial_single(Nothing(), np.s_[:], whole)) is None


@pytest.mark.skipif(
    not hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline"), reason="zarr 3.4 and later"
)
def test_the_fused_pipeline_gives_the_same_voxels(array: Any) -> None:
    path = "zarr.core.codec_pipeline.FusedCodecPipeline"
    with zarr.config.set({"codec_pipeline.path": path}):
        fused = zarr.open_array(array.store, mode="r")
        np.testing.assert_array_equal(fused[10:20, 5, ::4], array[10:20, 5, ::4])
        np.testing.assert_array_equal(fused[:], array[:])
        np.testing.assert_array_equal(write({}, volume((32, 40, 48)))[:], array[:])


def test_sizes_vary() -> None:
    with pytest.raises(NotImplementedError, match="size"):
        CODEC.compute_encoded_size(4096, spec((16, 16, 16), "u2"))


@pytest.mark.parametrize("dtype", ["bool", "i8", "c8", "M8[s]"])
def test_dtypes_are_refused_when_an_array_with_shards_is_created(dtype: str) -> None:
    with pytest.raises(UnsupportedData):
        zarr.create_array(
            {}, shape=(8, 8, 8), chunks=(4, 4, 4), shards=(8, 8, 8), dtype=dtype,
            serializer=TINCSerializer(**QUICK), compressors=None,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "expected"), [((4,) * 5, "at most 4"), ((2048, 2048, 1024), "use smaller chunks")]
)
def test_chunks_that_are_never_encoded_are_refused_when_an_array_is_created(
    shape: tuple[int, ...], expected: str
) -> None:
    with pytest.raises(TincError, match=expected):
        zarr.create_array(
            {}, shape=shape, chunks=shape, dtype="u2", serializer=TINCSerializer(**QUICK),
            compressors=None,
        )  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"shards": (32, 32, 32)}], ids=["chunks", "shards"])
@pytest.mark.parametrize(
    ("name", "configuration", "apart"),
    [
        ("FixedScaleOffset", {"offset": 60, "scale": 100, "dtype": "<f4", "astype": "<i2"}, 0.02),
        ("BitRound", {"keepbits": 10}, 0.04),
        ("AsType", {"encode_dtype": "<f8", "decode_dtype": "<f4"}, 1e-5),
    ],
)
def test_filters_of_numcodecs_come_before_it(
    options: dict[str, Any], name: str, configuration: dict[str, Any], apart: float
) -> None:
    """They give chunks as one axis, and floats as the integers that their bits are."""
    from zarr.codecs import numcodecs

    data = volume((32, 32, 32), "f4")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr's, that these are not in its specification
        array = zarr.create_array(
            {}, shape=data.shape, dtype="f4", chunks=(16, 16, 16), compressors=None, **options,
            filters=[getattr(numcodecs, name)(**configuration)],
            serializer=TINCSerializer(psnr=110, effort=1),
        )  # fmt: skip
        array[:] = data
        np.testing.assert_allclose(array[:], data, rtol=0, atol=apart + 1e-3)
        np.testing.assert_allclose(array[3:20, 5], data[3:20, 5], rtol=0, atol=apart + 1e-3)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.zeros(4096, "u1"), "a filter made uint8 of a chunk that it announced as uint16"),
        (np.zeros(4095, "u2"), r"a filter made \(4095,\) of a chunk of shape"),
    ],
)
def test_filters_that_say_one_thing_and_do_another_are_refused(
    chunk: np.ndarray, message: str
) -> None:
    buffer = spec((16, 16, 16), "u2").prototype.nd_buffer.from_numpy_array(chunk)
    with pytest.raises(UnsupportedData, match=message):
        CODEC._encode_sync(buffer, spec((16, 16, 16), "u2"))


def test_payloads_within_shards_are_asked_for_as_zarr_gives_them(
    monkeypatch: pytest.MonkeyPatch, torch: ModuleType
) -> None:
    """zarr's own buffers stand for those of the GPU; within shards it gives no others."""
    array = write({}, volume((32, 32, 32)), shards=(32, 32, 32))
    expected = array[3:20, 5, ::2]

    class Buffer(PROTOTYPE.buffer):  # type: ignore[name-defined]
        pass

    name = "tinc_codec_test_buffer"
    monkeypatch.setattr(Buffer, "__module__", name)
    module = ModuleType(name)
    module.Buffer = Buffer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    register_buffer(Buffer, qualname=f"{name}.Buffer")
    with zarr.config.set({"buffer": f"{name}.Buffer"}), runtime(device="torch"):
        found = zarr.open_array(array.store, mode="r")[3:20, 5, ::2]
    np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=1)
