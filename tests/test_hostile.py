"""Damaged and forged payloads: a TincError or an array as the header says, in bounded resources."""

from __future__ import annotations

import math
import random
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import goldens
import numpy as np
import pytest
from corrections import coded, texture
from filters import filtered, some_filter
from trees import parameters_of
from volumes import volume
from wavelets import section_of

from tinc_codec import TincError, decode, decode_overview, encode, inspect, runtime
from tinc_codec.decoding.opened import open_chunk
from tinc_codec.errors import CorruptPayload, TruncatedPayload
from tinc_codec.stream import container, entropy, normalize
from tinc_codec.stream.container import SectionKind
from tinc_codec.stream.normalize import MAX_BYTES, ArrayInfo
from tinc_codec.stream.residual.corrections.lattices import CAUSAL, INTERPOLATED, SPARSE
from tinc_codec.tree import section, weights
from tinc_codec.tree.allocation import geometry_of
from tinc_codec.tree.faces import Smoothing
from tinc_codec.tree.network import Tree, layout

FORMS = ("even", "uneven", "raw", "cosine", "constant", "crop", "mask", "float64", "1-D", "4-D")
FORMS += ("wavelet", "wavelet-tiles", "tree+wavelet", "wavelet-1-D", "wavelet-4-D", "wavelet-mask")
FORMS += (
    "band-tree+wavelet",
    "wavelet-deep-tiles",
    "wavelet-filter",
    "correction",
    "correction-slabs",
    "wavelet+correction",
    "correction-mask",
)
Sections = dict[SectionKind, bytes]
# What a decoder may take beside twice the declared array: parts, tables of a small tree; and for a
# wavelet section, for each voxel: an integer of four bytes, and magnitudes while bands are decoded;
# for a correction section: an integer of eight bytes, a difference of two, and flags of blocks.
FIXED_BYTES = 48 << 20
WAVELET_BYTES = 8
CORRECTION_BYTES = 10.25


@cache
def payload_of(form: str) -> bytes:
    """A payload of about a kilobyte or less."""
    if form == "constant":
        return encode(np.full((16, 16, 16), 7, ">i2"), ratio=16)
    if "correction" in form:
        return corrected_payload_of(form)
    if form == "band-tree+wavelet":
        return goldens.payload("v2/low_pass_tree_one_level")
    if form == "wavelet-deep-tiles":
        return goldens.payload("v2/wavelet_tiles_at_places")
    if form.startswith("wavelet") or form == "tree+wavelet":
        return wavelet_payload_of(form)
    array, options = volume((16, 16, 16)), {"ratio": 8.0, "levels": 2, "form": "tree"}
    if form == "uneven":
        array[:8] //= 8
        options["allocation"] = "variance"
    elif form == "raw":
        options = {"ratio": 12, "preset": "paper", "levels": 2}
    elif form == "cosine":
        options = {"ratio": 80, "form": "tree"}
    elif form == "crop":
        array = np.zeros((16, 16, 16), "f4")
        array[1:9, :12] = volume((8, 12, 16), "f4")
        options["ratio"] = 16
    elif form == "mask":
        array = volume((16, 16, 16), "f4")
        array[3:5, 2:9, 1], array[7] = np.nan, -1
        options |= {"ratio": 16, "preserve": (-1,)}
    elif form == "float64":
        array = volume((16, 16, 16), ">f8", order="F")
        options["ratio"] = 32
    elif form == "1-D":
        array = volume((2000,), "u1")
        options |= {"ratio": 1.9, "levels": 3}
    elif form == "4-D":
        array = volume((2, 8, 12, 12), "i4")
        options["ratio"] = 9
    return encode(array, iterations=2, **options)


def wavelet_payload_of(form: str) -> bytes:
    if form == "wavelet-tiles":
        array = volume((17, 16, 18))
        low, high = normalize.value_range(array, None)
        unit = normalize.normalize(array, low, high)
        info = ArrayInfo(shape=array.shape, dtype=array.dtype, order="C", low=low, high=high)
        coded = section_of(unit, (7, 3, 5), step=0.08, cuts=7)
        return container.pack({SectionKind.ARRAY: info.to_bytes(), SectionKind.WAVELET: coded})
    if form == "tree+wavelet":
        unit = np.random.default_rng(0).normal(0, 0.1, (16, 16, 16)).astype("f4")
        coded = section_of(unit, (7, 7), step=0.2, offset=0)
        return container.pack(sections_of("even") | {SectionKind.WAVELET: coded})
    if form == "wavelet-filter":
        return filtered(payload_of("wavelet"), some_filter(3))
    array = volume((16, 16, 16))
    if form == "wavelet-1-D":
        array = volume((2000,), ">i2")
    elif form == "wavelet-4-D":
        array = volume((3, 5, 12, 12), "u1")
    elif form == "wavelet-mask":
        array = np.zeros((16, 16, 16), "f4")
        array[1:9, :12] = volume((8, 12, 16), "f4")
        array[3:5, 2:9, 1] = np.nan
    return encode(array, ratio=array.nbytes / 700, form="wavelet", effort=1)


def corrected_payload_of(form: str) -> bytes:
    """All three modes, the unit of floats, and slabs."""
    if form == "correction-mask":
        array = np.zeros((8, 9, 10), "f4")
        array[1:7, :8] = volume((6, 8, 10), "f4")
        array[3:5, 2:7, 1] = np.nan
        return encode(array, max_error=3, effort=1)
    mode, slabs, base = CAUSAL, 1, {}
    field = texture((12, 8, 9), 40, seed=1) + 40
    if form == "correction-slabs":
        mode, slabs = INTERPOLATED, 3
    elif form == "wavelet+correction":
        mode, slabs = SPARSE, 2
        field[(field > 45) | (np.arange(9) > 5)] = 0
        unit = np.random.default_rng(0).random(field.shape, np.float32)
        base = {SectionKind.WAVELET: section_of(unit, (7, 7), step=0.3)}
    info = ArrayInfo(shape=field.shape, dtype=np.dtype("u2"), order="C", low=100, high=220)
    section = {SectionKind.CORRECTION: coded(field, 2, mode=mode, slabs=slabs)}
    return container.pack({SectionKind.ARRAY: info.to_bytes()} | base | section)


def sections_of(form: str) -> Sections:
    return container.unpack(payload_of(form))


def test_a_tree_is_not_corrected() -> None:
    """Engines may differ on trees; what a correction bounds is the same everywhere."""
    both = sections_of("even") | {
        SectionKind.CORRECTION: sections_of("correction")[SectionKind.CORRECTION]
    }
    with pytest.raises(CorruptPayload, match="contradict"):
        decode(container.pack(both))


def test_forms_are_what_they_are_called() -> None:
    forms = {form: inspect(payload_of(form)).form for form in FORMS}
    expected = dict.fromkeys(FORMS, "tree") | {"cosine": "cosine", "constant": "constant"}
    expected |= {form: "wavelet" for form in FORMS if form.startswith("wavelet")}
    expected |= {form: "correction" for form in FORMS if form.startswith("correction")}
    sums = ("tree+wavelet", "wavelet+correction")
    expected |= {form: form for form in sums} | {"band-tree+wavelet": "tree+wavelet"}
    assert forms == expected
    assert {SectionKind.CROP, SectionKind.MASK} < sections_of("correction-mask").keys()
    assert SectionKind.CROP in sections_of("crop")
    assert SectionKind.MASK in sections_of("mask")
    tree = section.from_bytes(sections_of("uneven")[SectionKind.TREE], (16, 16, 16), 10_000)
    assert np.ptp(tree.widths[-1]) > 0


@pytest.mark.parametrize("form", FORMS)
def test_truncation_at_every_byte(form: str) -> None:
    payload = payload_of(form)
    for length in range(len(payload)):
        with pytest.raises(TruncatedPayload):
            decode(payload[:length])


@pytest.mark.parametrize("form", FORMS)
def test_a_thousand_byte_flips(form: str) -> None:
    payload = payload_of(form)
    rng = random.Random(form)
    for _ in range(1000):
        damaged = bytearray(payload)
        damaged[rng.randrange(len(payload))] ^= rng.randrange(1, 256)
        with pytest.raises(TincError):
            decode(bytes(damaged))


@pytest.mark.parametrize("form", FORMS)
def test_bytes_after_the_end(form: str) -> None:
    with pytest.raises(CorruptPayload, match="after its end"):
        decode(payload_of(form) + b"\0")


# Forged payloads: sections altered at will, under correct checksums.


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Alter some bytes, more often near the start, where the structure is."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(out) + 1)
        if rng.random() < 0.5:
            at = min(at, rng.randrange(24))
        kind = rng.randrange(7)
        if kind == 0:
            out[at : at + 1] = rng.randbytes(1)
        elif kind == 1 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            out[at:at] = rng.randbytes(1)
        elif kind == 3:
            del out[at : at + rng.choice((1, 1, 100))]
        elif kind == 4:
            size = rng.choice((1, 2, 4, 8))
            out[at : at + size] = bytes([rng.choice((0, 255, 127, 128))]) * size
        elif kind == 5:
            source = rng.randrange(len(out) + 1)
            out[at:at] = out[source : source + rng.randrange(16)]
        else:
            out[at : at + 1] = bytes([rng.choice((0, 1, 2, 31, 32, 127, 128, 254, 255))])
    return bytes(out)


def forged(rng: random.Random, form: str) -> Sections:
    """Alter sections, or take them from another payload."""
    parts = sections_of(form)
    for _ in range(rng.choice((1, 1, 2))):
        chance = rng.random()
        kind = rng.choice(sorted(parts))
        if chance < 0.85:
            parts[kind] = mutated(rng, parts[kind])
        elif chance < 0.95:
            other = sections_of(rng.choice(FORMS))
            kind = rng.choice(sorted(other))
            parts[kind] = other[kind]
        elif len(parts) > 1:
            del parts[kind]
    return parts


@contextmanager
def traced_peak() -> Iterator[Callable[[], int]]:
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def check_forged(parts: Sections) -> str:
    """Decode sealed sections; return how it ended."""
    payload = container.pack(parts)
    try:
        info = ArrayInfo.from_bytes(parts.get(SectionKind.ARRAY, b""))
    except TincError:
        info = None
    declared = info.nbytes if info else 0
    started = time.process_time()
    with traced_peak() as peak:
        try:
            if declared > 1 << 22:  # sound but long to evaluate in full
                corner = decode(payload, (-1,) * len(info.shape))
                assert corner.shape == ()
                assert corner.dtype == info.dtype
                return "corner"
            array = decode(payload)
        except TincError as error:
            return type(error).__name__
        finally:
            most = 2 * declared + FIXED_BYTES
            if info and SectionKind.WAVELET in parts:
                most += WAVELET_BYTES * math.prod(info.shape)
            if info and SectionKind.CORRECTION in parts:
                most += CORRECTION_BYTES * math.prod(info.shape)
            assert peak() <= most, (peak(), declared)
            assert time.process_time() - started < 10
    assert info is not None
    assert (array.shape, array.dtype) == (info.shape, info.dtype)
    return "array"


@pytest.mark.parametrize("form", FORMS)
def test_forged_sections(form: str) -> None:
    rng = random.Random(form)
    ends = {check_forged(forged(rng, form)) for _ in range(400)}
    assert {"CorruptPayload", "TruncatedPayload", "array"} <= ends


@pytest.mark.parametrize("form", FORMS)
def test_overviews_of_forged_sections(form: str) -> None:
    rng = random.Random(form)
    for _ in range(200):
        parts = forged(rng, form)
        started = time.process_time()
        try:
            info = ArrayInfo.from_bytes(parts.get(SectionKind.ARRAY, b""))
            if info.nbytes <= 1 << 22:
                found = decode_overview(container.pack(parts), 4)
                assert found.shape == tuple(-(-n // 4) for n in info.shape)
        except TincError:
            pass
        assert time.process_time() - started < 10


@pytest.mark.parametrize("kind", SectionKind)
def test_sections_of_noise(kind: SectionKind) -> None:
    rng = random.Random(int(kind))
    for _ in range(200):
        parts = sections_of(rng.choice(FORMS))
        parts[kind] = rng.randbytes(rng.randrange(60))
        check_forged(parts)


def with_shape(form: str, shape: tuple[int, ...], dtype: str) -> Sections:
    parts = sections_of(form)
    constant = form == "constant"
    info = ArrayInfo(
        shape=shape, dtype=np.dtype(dtype), order="C", low=0, high=0 if constant else 9
    )
    return parts | {SectionKind.ARRAY: info.to_bytes()}


@pytest.mark.parametrize("shape", [(1 << 27,), (1 << 13, 1 << 14), (1, 1 << 27, 1), (2, 1 << 26)])
def test_a_huge_constant_takes_its_own_bytes_only(shape: tuple[int, ...]) -> None:
    payload = container.pack(with_shape("constant", shape, "u1"))
    with traced_peak() as peak:
        array = decode(payload)
        assert peak() <= array.nbytes + FIXED_BYTES
    assert array.shape == shape
    assert not array[(-1,) * len(shape)].any()


@pytest.mark.parametrize("form", ["even", "raw", "cosine"])
@pytest.mark.parametrize("shape", [(1 << 8, 1 << 8, 1 << 8), (40, 5, 1 << 16), (1 << 16, 5, 40)])
def test_a_huge_array_takes_twice_its_bytes_at_most(form: str, shape: tuple[int, ...]) -> None:
    # A ratio of 25 000 to 250 000: nothing forbids it, so it decodes, in parts.
    payload = container.pack(with_shape(form, shape, "u1"))
    with traced_peak() as peak:
        array = decode(payload)
        assert peak() <= 2 * array.nbytes + FIXED_BYTES
    assert (array.shape, array.dtype) == (shape, np.uint8)


@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("shape", [(1 << 8, 1 << 8, 1 << 7), (24, 17, 1 << 15), (1 << 15, 17, 24)])
def test_a_huge_wavelet_takes_its_bytes_a_voxel_at_most(
    levels: int, shape: tuple[int, ...]
) -> None:
    """All flags are 0, so that few bytes are enough for any shape; the memory is the same."""
    cuts = (0, 7, 8 + (1 << shape.index(max(shape))))[levels]
    coded = struct.pack("<BB3BfHB", cuts, 3, 7, 7, 7, 0.1, 65535, 0)
    segment = b"\xff" * 400
    tiles = (0, 8, 2)[levels]
    coded += tiles * b"\x90\x03" + (tiles + 1) * segment
    parts = with_shape("wavelet", shape, "u1") | {SectionKind.WAVELET: coded}
    with traced_peak() as peak:
        array = decode(container.pack(parts))
        size = math.prod(shape)
        assert peak() <= (2 + WAVELET_BYTES) * size + FIXED_BYTES, peak() / size
    assert array.shape == shape
    assert (array == 9).all()


@pytest.mark.parametrize("levels", [0, 1, 3])
@pytest.mark.parametrize(
    ("shape", "most"), [((1 << 21,), 40), ((2, 1 << 20), 50), ((1 << 20, 2, 2), 90)]
)
def test_a_thin_wavelet_takes_little_more_than_a_thick_one(
    shape: tuple[int, ...], most: int, levels: int
) -> None:
    """Zeros around its bands are along the axes that it has: three places to one of two."""
    split = 1 << 2 - len(shape) + 1 + shape.index(max(shape))
    coded = struct.pack(f"<BB{levels}BfHB", 0, levels, *[split] * levels, 0.1, 65535, 0)
    parts = with_shape("wavelet", shape, "u1") | {SectionKind.WAVELET: coded + b"\xff" * 400}
    with traced_peak() as peak:
        assert decode(container.pack(parts)).shape == shape
        size = math.prod(shape)
        assert peak() <= most * size, peak() / size


@pytest.mark.parametrize("mode", [SPARSE, CAUSAL, INTERPOLATED])
@pytest.mark.parametrize(("shape", "slabs"), [((128, 128, 256), 1), ((64, 17, 4096), 8)])
def test_a_huge_correction_takes_its_bytes_a_voxel_at_most(
    mode: int, shape: tuple[int, ...], slabs: int
) -> None:
    """All flags are 0, so that few bytes are enough for any shape; the memory is the same."""
    data = bytes([mode, 3, 0, 9, slabs]) + bytes((0, 17, 96)[mode]) + b"\x90\x03" * (slabs - 1)
    data += slabs * b"\xff" * 400
    info = with_shape("correction", shape, "u1")[SectionKind.ARRAY]
    payload = container.pack({SectionKind.ARRAY: info, SectionKind.CORRECTION: data})
    with traced_peak() as peak:
        array = decode(payload)
        size = math.prod(shape)
        # Beside them the values of one part, 2**21 voxels.
        assert peak() <= (2 + CORRECTION_BYTES) * size + (16 << 20), peak() / size
    assert array.shape == shape
    assert not array.any()


def with_unit(unit: float) -> Sections:
    parts = sections_of("correction-mask")
    parts[SectionKind.CORRECTION] = struct.pack("<d", unit) + parts[SectionKind.CORRECTION][8:]
    return parts


@pytest.mark.parametrize("unit", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_units_are_positive_and_finite(unit: float) -> None:
    parts = with_unit(unit)
    with pytest.raises(CorruptPayload, match="unit"):
        decode(container.pack(parts))


@pytest.mark.parametrize("unit", [5e-324, 1e300, 1.7e308])
def test_any_unit_stays_in_range(unit: float) -> None:
    parts = with_unit(unit)
    info = ArrayInfo.from_bytes(parts[SectionKind.ARRAY])
    array = decode(container.pack(parts))[1:7, :8]  # without the padding
    found = array[np.isfinite(array)]
    assert info.low <= found.min() <= found.max() <= info.high


@pytest.mark.parametrize("form", [form for form in FORMS if form != "constant"])
@pytest.mark.parametrize("decoder", [decode, inspect, lambda payload: decode(payload, 0)])
def test_a_lie_about_the_shape_is_refused_before_it_costs(
    form: str, decoder: Callable[[bytes], object]
) -> None:
    parts = with_shape(form, (MAX_BYTES >> 2, 2), "u2")
    with traced_peak() as peak:
        with pytest.raises(CorruptPayload):
            decoder(container.pack(parts))
        assert peak() < 1 << 20


def test_more_than_the_limit_is_refused() -> None:
    array = bytearray(with_shape("constant", (1 << 27, 16), "u1")[SectionKind.ARRAY])
    array[7] = 17  # the varint of the second axis
    with pytest.raises(CorruptPayload, match="limit"):
        decode(container.pack({SectionKind.ARRAY: bytes(array)}))


@pytest.mark.parametrize("form", ["even", "cosine", "wavelet-filter", "correction"])
@pytest.mark.parametrize("shape", [(1, 1), (2,) * 5])
def test_forms_take_one_to_four_long_axes(form: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(CorruptPayload, match="axes"):
        decode(container.pack(with_shape(form, shape, "f8")))


@pytest.mark.parametrize(("low", "high", "form"), [(3, 3, "even"), (3, 4, "constant")])
def test_values_and_form_agree(low: int, high: int, form: str) -> None:
    info = ArrayInfo(shape=(16, 16, 16), dtype=np.dtype("u2"), order="C", low=low, high=high)
    parts = sections_of(form) | {SectionKind.ARRAY: info.to_bytes()}
    with pytest.raises(CorruptPayload, match="low and high"):
        decode(container.pack(parts))


# Weights that no encoder writes.


def tree_of(
    shape: tuple[int, ...], levels: int, width: int, smoothing: Smoothing | None = None
) -> Tree:
    geometry = geometry_of(shape, levels, "global")
    widths = tuple(np.full((nodes, 2), width) for nodes in geometry.node_counts)
    return Tree(geometry=geometry, widths=widths, smoothing=smoothing)


def sealed(tree: Tree, coded: bytes) -> bytes:
    shape = tree.geometry.shape
    info = ArrayInfo(shape=shape, dtype=np.dtype("i2"), order="C", low=-5, high=9)
    return container.pack(
        {
            SectionKind.ARRAY: info.to_bytes(),
            SectionKind.TREE: section.to_bytes(tree),
            SectionKind.WEIGHTS: coded,
        }
    )


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("size", [1e6, 1e12, 1e30, 3e38])
def test_wild_weights_stay_in_range(device: str, size: float) -> None:
    tree = tree_of((16, 12, 8), 2, 6, Smoothing(reach=255, strength=16))
    wild = np.copysign(np.float32(size), parameters_of(tree))
    payload = sealed(tree, weights.pack_raw(wild))
    with runtime(device=device):
        array = decode(payload)
        points = decode(payload, ([3, 1], [2, 7], [7, 0]))
    assert -5 <= array.min() <= array.max() <= 9
    assert points.shape == (2,)


def test_faces_of_many_points_take_bounded_memory() -> None:
    """Near faces along four axes a voxel takes 625, evaluated some at a time."""
    tree = tree_of((16, 16, 16, 16), 2, 1, Smoothing(reach=255, strength=16))
    payload = sealed(tree, weights.pack_raw(parameters_of(tree)))
    points = (np.tile([6, 7, 8, 9], 2000),) * 4
    decode(payload, tuple(p[:1] for p in points))
    with traced_peak() as peak:
        decode(payload, points)
        assert peak() <= FIXED_BYTES


@pytest.mark.parametrize("base", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_base_steps_are_positive_and_finite(base: float) -> None:
    tree = tree_of((16, 12, 8), 2, 3)
    groups = layout(tree).groups
    coded = weights.pack_quantized(
        weights.QuantizedWeights(
            base=base,
            codes=(128,) * len(groups),
            groups=tuple(np.ones(g.stop - g.start, np.int32) for g in groups),
        )
    )
    with pytest.raises(CorruptPayload, match="base step"):
        decode(sealed(tree, coded))


@pytest.mark.parametrize("code", [0, 128, 255])
@pytest.mark.parametrize("base", [1e-45, 1.0, 3.4e38])
def test_any_step_gives_finite_weights_or_an_error(base: float, code: int) -> None:
    tree = tree_of((16, 12, 8), 2, 3)
    groups = layout(tree).groups
    coded = weights.pack_quantized(
        weights.QuantizedWeights(
            base=base,
            codes=(code,) * len(groups),
            groups=tuple(np.arange(g.stop - g.start, dtype=np.int32) * 300 for g in groups),
        )
    )
    payload = sealed(tree, coded)
    if base > 1 and code >= 128:
        with pytest.raises(CorruptPayload, match="finite"):
            decode(payload)
    else:
        assert decode(payload).shape == (16, 12, 8)


@pytest.mark.parametrize("model", range(0, 256, 3))
def test_any_model_reads_any_bytes(model: int) -> None:
    rng = np.random.default_rng(model)
    for data in (b"", b"\xff" * 8, b"\xff" * 400, bytes(40), rng.bytes(3), rng.bytes(1200)):
        try:
            (values,) = entropy.decode(data, [600], [model])
        except CorruptPayload:
            continue
        assert values.shape == (600,)
        assert np.abs(values).max() <= entropy.MAX_MAGNITUDE


@pytest.mark.parametrize("size", [(1 << 16) + 1, 64 * 400 + 1025])
def test_more_parameters_than_bytes_can_hold_are_refused_early(size: int) -> None:
    width = round(math.sqrt(size))
    tree = tree_of((64, 64, 64), 1, width)
    groups = len(layout(tree).groups)
    coded = bytes([weights.QUANTIZED, 0, 0, 128, 63]) + bytes([128] * groups + [255] * groups)
    with traced_peak() as peak:
        with pytest.raises(CorruptPayload, match="parameters exceed"):
            decode(sealed(tree, coded))
        assert peak() < 1 << 20


def test_deepest_tables_of_a_small_payload() -> None:
    # The most layers and leaves that a kilobyte of weights may claim.
    geometry = geometry_of((128, 128, 128), 5, "global")
    depths = (16, 16, 16, 16, 1)
    nodes = zip(geometry.node_counts, depths, strict=True)
    tree = Tree(geometry=geometry, widths=tuple(np.ones(pair, np.int64) for pair in nodes))
    groups = len(layout(tree).groups)
    coded = bytes([weights.QUANTIZED, 0, 0, 128, 63]) + bytes([128] * groups + [255] * groups)
    coded += bytes(1024 - len(coded))  # 34 parameters a byte
    started = time.process_time()
    with traced_peak() as peak:
        array = decode(sealed(tree, coded))
        assert peak() <= 2 * 2 * 128**3 + FIXED_BYTES
    assert (array == -5).all()
    assert time.process_time() - started < 20


def test_single_voxels_of_cosines_take_bounded_memory() -> None:
    """Whether they are scattered or all of a mask."""
    shape = (24,) * 4
    data = struct.pack("<fh", 0.01, 3) + bytes(4095)
    info = with_shape("cosine", shape, "u1")[SectionKind.ARRAY]
    payload = container.pack({SectionKind.ARRAY: info, SectionKind.COSINE: data})
    whole = decode(payload)
    few = np.random.default_rng(0).random(shape) < 1e-3
    with traced_peak() as peak:
        assert np.array_equal(decode(payload, few), whole[few])
        assert np.array_equal(decode(payload, whole >= 0), whole.reshape(-1))
        assert peak() <= FIXED_BYTES


def test_a_damaged_correction_is_noticed_before_it_is_decoded() -> None:
    parts = sections_of("correction") | {SectionKind.CORRECTION: b"\xff" * 9}
    with pytest.raises(CorruptPayload, match="CORRECTION section"):
        inspect(container.pack(parts))


@pytest.mark.parametrize("step", [1e37, 1e38, 3e38])
def test_overviews_of_infinite_values_do_not_warn(step: float) -> None:
    """With a header as of before 0.12.0: the step of a compact one is too small to overflow.

    The axes are closed, so that samples are interpolated: an infinite one times 0 is where numpy
    would warn.
    """
    parts = container.unpack(goldens.payload("v1/closed"))
    data = bytearray(parts[SectionKind.WAVELET])
    at = 2 + (data[1] & 127)
    data[at : at + 4] = struct.pack("<f", step)
    payload = container.pack(parts | {SectionKind.WAVELET: bytes(data)})
    chunk = open_chunk(payload)
    assert chunk.wavelet is not None
    assert not np.isfinite(chunk.wavelet.low_pass(1, map)).all()
    for factor in (2, 4, 8):
        decode_overview(payload, factor)
