"""Many payloads at once, on the torch device: the values of one at a time, bit for bit."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as with_settings
from hypothesis import strategies as st
from volumes import DTYPES, volume

from tinc_codec import CorruptPayload, Settings, decode, encode, runtime
from tinc_codec.decoding.opened import open_chunk
from tinc_codec.decoding.together import decode_chunks, decode_resident
from tinc_codec.encode import _prepare, encode_chunks
from tinc_codec.engines.gpu import values
from tinc_codec.stream import container, normalize
from tinc_codec.stream.container import SectionKind
from tinc_codec.tree import weights

pytestmark = pytest.mark.usefixtures("torch")

SHAPE = (16, 12, 10)
DEVICES = ["torch", pytest.param("cuda", marks=pytest.mark.gpu)]


def mapped(unit: npt.NDArray[np.float32], low: Any, high: Any, dtype: Any, device: str) -> Any:
    import torch

    given_there = torch.tensor(unit, device="cuda" if device == "cuda" else "cpu")
    bits = values.denormalize(given_there, low, high, np.dtype(dtype))
    return values.to_numpy(bits, np.dtype(dtype))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [*DTYPES, ">u2", ">f8", ">i4"])
def test_values_are_mapped_as_on_the_host_bit_for_bit(device: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    info = np.finfo(dtype) if np.dtype(dtype).kind == "f" else np.iinfo(dtype)
    special = [np.nan, np.inf, -np.inf, -0.0, 0, 1, -0.1, 1.1, 0.5, 1e-30, 1 - 2**-24]
    unit = np.concatenate([special, rng.random(20_000)]).astype(np.float32).reshape(-1, 1)
    for low, high in [(info.min, info.max), (0, info.max), (3, 17), (info.min / 3, 2.25)]:
        low, high = (np.array(v).astype(dtype).item() for v in (low, high))
        expected = normalize.denormalize(unit, low, high, np.dtype(dtype))
        found = mapped(unit, low, high, dtype, device)
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_normalised_as_on_the_host_bit_for_bit(device: str, dtype: str) -> None:
    import torch

    info = np.finfo(dtype) if np.dtype(dtype).kind == "f" else np.iinfo(dtype)
    found = np.frombuffer(np.random.default_rng(0).bytes(8 * 4001), np.dtype(dtype))
    given_there = torch.tensor(found.view(f"i{found.itemsize}")).to(
        "cuda" if device == "cuda" else "cpu"
    )
    for low, high in [(info.min, info.max), (0, info.max), (3, 17), (info.min / 3, 2.25)]:
        low, high = (np.array(v).astype(dtype).item() for v in (low, high))
        expected = normalize.normalize(found, low, high)
        with np.errstate(over="ignore"):
            unit = values.normalize(given_there, low, high, np.dtype(dtype))
        np.testing.assert_array_equal(unit.cpu().numpy(), expected, strict=True)


def test_raw_weights_do_not_change_how_others_are_decoded(
    payloads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk of the same tree whose weights count no steps is an evaluation of its own."""
    from tinc_codec.engines.gpu import engine

    parts = container.unpack(payloads[0])
    chunk, evaluate = open_chunk(payloads[0]), engine.evaluate
    assert chunk.parameters is not None
    raw = container.pack({**parts, SectionKind.WEIGHTS: weights.pack_raw(chunk.parameters)})
    steps: list[Any] = []

    def noted(tree: Any, parameters: Any, axes: Any, counted: Any, **how: Any) -> Any:
        steps.append(counted)
        return evaluate(tree, parameters, axes, counted, **how)

    monkeypatch.setattr(engine, "evaluate", noted)
    with runtime(device="torch"):
        quantised, also = decode_chunks([payloads[0], raw])
    np.testing.assert_array_equal(also, quantised)
    assert [counted is None for counted in steps] == [False, True]


@pytest.mark.parametrize("device", DEVICES)
def test_special_values_of_float64_are_exact_to_the_last_bit(device: str) -> None:
    array = volume((16, 12, 10), "f8")
    bits = array.view(np.uint64)
    bits[3, 4, :3] = 0x7FF8000000000001, 0xFFFFFFFFFFFFFFFF, 0xFFF0000000000000
    array[5, 5, 5] = 1e20 / 3
    payload = encode(array, ratio=8, form="tree", iterations=10, preserve=1e20 / 3)
    with runtime(device=device):
        (found,) = decode_chunks([payload])
    special = ~np.isfinite(array)
    special[5, 5, 5] = True
    np.testing.assert_array_equal(found.view(np.uint64)[special], bits[special])


@pytest.mark.parametrize("device", DEVICES)
def test_trees_are_scored_on_the_device_as_on_the_host(
    payloads: list[bytes], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches that memory holds; padded ones, and those too large for it, are the host's."""
    import torch

    from tinc_codec.engines.gpu import memory, scores
    from tinc_codec.forms import candidate

    scored: list[Any] = []
    mean_square = scores.mean_square

    def counted(*given: Any) -> float:
        scored.append(given)
        return mean_square(*given)

    monkeypatch.setattr(scores, "mean_square", counted)
    monkeypatch.setattr(scores, "most_scored", lambda voxels: 4)
    volumes, sections = [], []
    padded = np.pad(volume(SHAPE), ((0, 3), (0, 0), (0, 0)))
    (first,) = encode_chunks([padded], Settings(ratio=2, iterations=10, form="tree"))
    for array, payload in zip([padded, *arrays()], [first, *payloads], strict=True):
        prepared, parts = _prepare(array, None, Settings(ratio=2)), container.unpack(payload)
        if not isinstance(prepared, bytes) and SectionKind.TREE in parts:
            volumes.append(prepared)
            sections.append({k: parts[k] for k in (SectionKind.TREE, SectionKind.WEIGHTS)})
    assert SectionKind.CROP in volumes[0].exact
    assert len(volumes) > 6
    expected = candidate.forms_of(volumes, sections)
    assert not scored

    def full(*given: Any) -> float:
        refused.append(given)
        raise torch.cuda.OutOfMemoryError("no room")

    refused: list[Any] = []
    with runtime(device=device):
        found = candidate.forms_of(volumes, sections)
        assert len(scored) == len(volumes) - 1
        assert candidate.forms_of([], []) == []
        monkeypatch.setattr(scores, "mean_square", full)
        monkeypatch.setattr(memory, "_empty_cache", lambda: None)
        again = candidate.forms_of(volumes, sections)
    assert refused
    for form, right in zip(found, expected, strict=True):
        assert form.payload == right.payload
        assert form.psnr_db == pytest.approx(right.psnr_db, abs=1e-3)
    assert [form.psnr_db for form in again] == pytest.approx([f.psnr_db for f in found], abs=1e-3)


@with_settings(max_examples=200)
@given(low=st.floats(width=16), span=st.floats(0, 1, width=32), seed=st.integers(0, 99))
def test_float16_is_rounded_once(low: float, span: float, seed: int) -> None:
    """By way of float32 it would be rounded twice, some in 2^13 of the values wrongly."""
    limit = float(np.finfo("f2").max)
    low = 0.0 if not np.isfinite(low) else low
    high = float(np.float16(min(low + span * limit, limit)))
    if not low < high:
        return
    ties = np.linspace(0, 1, 2049)
    near = ties + np.random.default_rng(seed).choice([0, 2**-24, -(2**-24)], ties.shape)
    unit = near.astype(np.float32)
    expected = normalize.denormalize(unit, low, high, np.dtype("f2"))
    np.testing.assert_array_equal(mapped(unit, low, high, "f2", "torch"), expected)


def arrays() -> list[npt.NDArray[Any]]:
    """Return chunks: three alike, masked, padded, constant, with an axis of one, big-endian."""
    masked = volume(SHAPE, "f4")
    masked[3:5, 2] = np.nan
    masked[7, 7, 7] = -np.inf
    padded = volume(SHAPE, "u1")
    padded[10:] = 0
    return [
        volume(SHAPE),
        volume(SHAPE)[::-1],
        volume(SHAPE) + 5,
        masked,
        padded,
        np.full(SHAPE, 9, "i2"),
        volume((1, 32, 32), "u4"),
        np.asfortranarray(volume(SHAPE, ">i4")),
        volume(SHAPE, "f2"),
        volume(SHAPE, "f8"),
    ]


@pytest.fixture(scope="module")
def payloads() -> list[bytes]:
    return encode_chunks(
        arrays(), Settings(ratio=2, levels=2, level_ratio=0.3, iterations=10, form="tree")
    )


SELECTIONS = [
    None,
    np.s_[3],
    np.s_[..., ::4],
    np.s_[0, 5, 7],
    np.s_[:, 2:2],
    (np.array([0, 0, 0]), np.array([7, 0, 3]), np.array([9, 9, 1])),
]


@pytest.mark.parametrize("device", ["cpu", *DEVICES])
@pytest.mark.parametrize("selection", SELECTIONS, ids=range(len(SELECTIONS)))
def test_many_payloads_decode_as_each_alone(
    payloads: list[bytes], selection: Any, device: str
) -> None:
    chosen = [selection] * len(payloads)
    if selection is not None and selection == np.s_[3]:
        chosen[6] = np.s_[0]
    with runtime(device=device):
        found = decode_chunks(payloads, chosen)
        for payload, some, array in zip(payloads, chosen, found, strict=True):
            expected = decode(payload, some)
            assert array.dtype == expected.dtype
            assert array.flags.f_contiguous == expected.flags.f_contiguous
            np.testing.assert_array_equal(array, expected, strict=True)
    assert decode_chunks([]) == []


def test_equal_trees_are_one_evaluation(
    payloads: list[bytes], monkeypatch: pytest.MonkeyPatch, torch: ModuleType
) -> None:
    from tinc_codec.engines.gpu import engine, memory

    sizes: list[int] = []
    plain = engine.evaluate

    def evaluate(tree: Any, parameters: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(parameters))
        if len(parameters) > most:
            raise torch.cuda.OutOfMemoryError("no room")
        return plain(tree, parameters, *args, **kwargs)

    monkeypatch.setattr(engine, "evaluate", evaluate)
    with runtime(device="torch"):
        most = 3
        decode_resident(payloads[:3], [None] * 3)
        assert sizes == [3]
        most, sizes[:] = 1, []
        halved = decode_resident(payloads[:3], [None] * 3)
        assert sizes == [3, 2, 1, 1, 1]
        assert all(bits is not None for bits in halved)
        voxels = int(np.prod(SHAPE))
        # 40 bytes for one chunk's rescaling, then 4 + 8 + 2 each.
        monkeypatch.setattr(memory, "available", lambda device: (40 + 2 * 14) * voxels)
        most, sizes[:] = 3, []
        decode_resident(payloads[:3], [None, ..., np.s_[:]])
        assert sizes == [2, 1]


def test_what_has_no_tree_or_is_padded_is_left_to_the_host(payloads: list[bytes]) -> None:
    with runtime(device="torch"):
        resident = decode_resident(payloads, [None] * len(payloads))
    kinds = [None if bits is None else bits.element_size() for bits in resident]
    assert kinds == [2, 2, 2, 4, None, None, 4, 4, 2, 8]


def test_damage_is_told(payloads: list[bytes]) -> None:
    damaged = payloads[0][:-9] + bytes(9)
    with runtime(device="torch"), pytest.raises(CorruptPayload):
        decode_chunks([payloads[1], damaged])
    with runtime(device="torch"), pytest.raises(IndexError):
        decode_chunks(payloads[:1], [np.s_[99]])


def test_cupy_views_the_same_memory(monkeypatch: pytest.MonkeyPatch, torch: ModuleType) -> None:
    """Numpy in the place of cupy."""
    fake = SimpleNamespace(from_dlpack=np.from_dlpack)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    bits = torch.tensor([[-1, 5]], dtype=torch.int16)
    found = values.to_cupy(bits, np.dtype("u2"))
    np.testing.assert_array_equal(found, np.array([[65535, 5]], "u2"), strict=True)
    bits[0, 1] = 6
    assert found[0, 1] == 6
