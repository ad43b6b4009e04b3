"""FORMAT.md: a reader written from it alone reads what the package writes; its examples hold."""

from __future__ import annotations

import ast
import re
import struct
from pathlib import Path
from typing import Any

import goldens
import google_crc32c
import numpy as np
import pytest
import second_reader
import second_reader_coder as coder_reader
import second_reader_correction as correction_reader
import second_reader_filter as filter_reader
import second_reader_wavelet as wavelet_reader
from corrections import coded, textures
from goldens import NAMES, TOLERANCE, assert_within_tolerance
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import arrays
from trees import parameters_of, trees
from wavelets import cuts_of_plan, in_turn, section_of, whole

import tinc_codec
from tinc_codec import decode, runtime
from tinc_codec.decoding.opened import LARGEST_RATIO, PARAMETERS_PER_BYTE, SPARE_PARAMETERS
from tinc_codec.errors import CorruptPayload
from tinc_codec.stream import container, cosine, entropy, normalize, quantize, special_values
from tinc_codec.stream.container import FORMAT_VERSION, SectionKind
from tinc_codec.stream.normalize import ArrayInfo
from tinc_codec.stream.residual.axes import three_axes
from tinc_codec.stream.residual.coder import binary
from tinc_codec.stream.residual.corrections import differences, predictive
from tinc_codec.stream.residual.wavelets import cdf97, coefficients, prior, tiles, wavelet
from tinc_codec.stream.residual.wavelets import section as wavelet_section
from tinc_codec.tree import geometry, section, weights
from tinc_codec.tree.network import Tree, layout

READERS = (second_reader, coder_reader, correction_reader, filter_reader, wavelet_reader)
FUTURE = "from __future__ import annotations"
PACKAGE = Path(tinc_codec.__file__).parent
TEXT = (PACKAGE / "FORMAT.md").read_text(encoding="utf-8")


def part(heading: str) -> str:
    """Return the text of a section of FORMAT.md."""
    (found,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    return str(found)


def numbers(pattern: str, text: str = TEXT) -> list[int]:
    """Return the integers of the list that a pattern's only group matches."""
    (found,) = re.findall(pattern, text)
    return [int(n, 0) for n in re.split(r"[,\s]+", found) if n]


# The second reader.


def test_the_second_reader_knows_nothing_of_the_package() -> None:
    texts = [Path(module.__file__).read_text() for module in READERS]
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse("".join(t.replace(FUTURE, "") for t in texts)))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
        + [alias.name for alias in node.names if isinstance(node, ast.Import)]
    }
    assert "numpy" in imported
    ours = {path.stem for path in Path(__file__).parent.glob("*.py")} | {"tinc_codec", "numba"}
    assert not imported & (ours - {module.__name__ for module in READERS})


@pytest.mark.parametrize("name", NAMES)
def test_the_second_reader_reads_golden_payloads(name: str) -> None:
    payload = goldens.payload(name)
    assert_within_tolerance(second_reader.decode(payload), goldens.stored(name), payload)


def forged(tree: Tree, coded: bytes, **array: Any) -> bytes:
    info = ArrayInfo(shape=tree.geometry.shape, dtype=np.dtype("<u2"), order="C", **array)
    return container.pack(
        {
            SectionKind.ARRAY: info.to_bytes(),
            SectionKind.TREE: section.to_bytes(tree),
            SectionKind.WEIGHTS: coded,
        }
    )


def quantized(tree: Tree, parameters: np.ndarray, seed: int) -> bytes:
    """Return a WEIGHTS section with steps and models of all sorts."""
    rng = np.random.default_rng(seed)
    codes, groups = [], []
    for group in layout(tree).groups:
        codes.append(int(rng.integers(100, 150)))
        step = quantize.step_size(0.01, codes[-1])
        values = parameters[group.start : group.stop]
        groups.append(quantize.quantize(values, step))
    packed = weights.QuantizedWeights(base=0.01, codes=tuple(codes), groups=tuple(groups))
    return weights.pack_quantized(packed)


@settings(max_examples=40)
@given(trees(), st.integers(0, 2**32 - 1), st.booleans())
def test_the_second_reader_reads_any_tree(tree: Tree, seed: int, raw: bool) -> None:
    parameters = parameters_of(tree, seed, gain=0.5)
    coded = weights.pack_raw(parameters) if raw else quantized(tree, parameters, seed)
    payload = forged(tree, coded, low=7, high=60_000)
    with runtime(device="reference"):
        expected = decode(payload)
    # Both are the reference, but for the order of sums.
    found = second_reader.decode(payload).astype(np.int64)
    assert np.abs(found - expected).max() <= 1


@settings(max_examples=60)
@given(arrays(finite=False), st.data())
def test_the_second_reader_reads_what_is_exact(array: np.ndarray, data: st.DataObject) -> None:
    """CROP, MASK and constants of any dtype, order and bit patterns."""
    crop = special_values.find_crop(array)
    box = array if crop is None else array[crop.slices]
    try:
        mask = special_values.find_mask(box, data.draw(st.sampled_from([(), (0,), (1, 5)])))
    except tinc_codec.UnsupportedData:
        return  # more bit patterns than a mask holds
    info = ArrayInfo(
        shape=array.shape, dtype=array.dtype, order=normalize.memory_order(array), low=3, high=3
    )
    sections = {SectionKind.ARRAY: info.to_bytes()}
    if crop is not None:
        sections[SectionKind.CROP] = crop.to_bytes(array.dtype.itemsize)
    if mask is not None:
        sections[SectionKind.MASK] = mask.to_bytes()
    payload = container.pack(sections)
    found, expected = second_reader.decode(payload), decode(payload)
    assert found.dtype == expected.dtype
    assert found.flags.f_contiguous == expected.flags.f_contiguous
    assert found.tobytes() == expected.tobytes()
    if mask is not None:
        special = mask.labels != 0
        kept = found if crop is None else found[crop.slices]
        assert kept[special].tobytes() == box[special].tobytes()


@settings(max_examples=40)
@given(st.lists(st.integers(2, 14), min_size=1, max_size=4), st.data())
def test_the_second_reader_reads_cosines(shape: list[int], data: st.DataObject) -> None:
    unit = np.random.default_rng(len(shape)).random(shape, np.float32)
    coded = cosine.fit(unit, None, data.draw(st.integers(6, 300)))
    axes = [np.arange(n) for n in shape]
    expected = cosine.evaluate_grid(cosine.read(coded, shape), shape, axes)
    found = second_reader.evaluate_cosine(coded, tuple(shape))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@st.composite
def wavelet_sections(draw: st.DrawFn) -> tuple[tuple[int, ...], bytes]:
    """Draw a shape of 1 to 4 axes and a section over it: any plan, cuts where they fit."""
    shape = tuple(draw(st.lists(st.integers(2, 11), min_size=1, max_size=4)))
    if draw(st.booleans()):
        shape = (16, *shape[:2])
    lengths, splits = list(three_axes(shape)), []
    for _ in range(draw(st.integers(0, 4))):
        longer = [k for k in range(3) if lengths[k] > 1]
        if longer:
            chosen = draw(st.sets(st.sampled_from(longer), min_size=1))
            splits.append(sum(1 << k for k in chosen))
            lengths = [(n + 1) // 2 if k in chosen else n for k, n in enumerate(lengths)]
    plan = wavelet.transform_plan(three_axes(shape), splits)
    if draw(st.booleans()):
        plan = plan.closed_where_possible()
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.normal(0.5, 0.2, shape).astype(np.float32)
    data = section_of(
        values * (rng.random(shape) < draw(st.sampled_from((0.05, 1.0)))),
        splits,
        step=draw(st.sampled_from((1e-6, 0.003, 0.05, 0.3))),
        bias=draw(st.integers(0, 255)) / 256,
        cuts=draw(cuts_of_plan(plan)),
        closed=plan.closed,
    )
    return shape, data


@settings(max_examples=25)
@given(wavelet_sections())
def test_the_second_reader_reads_wavelets(coded: tuple[tuple[int, ...], bytes]) -> None:
    shape, data = coded
    header = wavelet_section.from_bytes(data, shape)
    expected = header.values(whole(header.header.plan), in_turn)
    expected = expected + np.float32(header.header.offset)
    found = wavelet_reader.evaluate_wavelet(data, shape)
    assert found.dtype == np.float32
    assert found.tobytes() == expected.tobytes()


@settings(max_examples=40)
@given(textures(), st.integers(0, 2), st.integers(1, 3), st.sampled_from((0, 1, 6, 2**31)))
def test_the_second_reader_reads_corrections(
    field: np.ndarray, mode: int, slabs: int, bound: int
) -> None:
    data = coded(field, bound, mode=mode, slabs=slabs)
    header, _ = correction_reader.read_header(data)
    assert (header.mode, header.bound, header.slabs) == (mode, bound, min(slabs, len(field)))
    found = correction_reader.evaluate_correction(data, field.shape)
    np.testing.assert_array_equal(found, predictive.decode(data, field.shape))


@pytest.mark.parametrize("mode", range(3))
def test_no_integer_of_a_correction_is_beyond_64_bits(mode: int) -> None:
    """The largest numbers of a header, over any bits: as in the second reader's, of no limit."""
    weights = b"\xfe\x7f" * (0, 17, 96)[mode]
    rng = np.random.default_rng(mode)
    slabs = (bytes(4000), b"\xff" * 4000, *(rng.bytes(4000) for _ in range(4)))
    for bound in (b"\0", b"\xff\xff\xff\xff\x1f"):
        header = bytes([mode]) + bound + b"\xfd\xff\xff\xff\x3f\xfe\xff\xff\xff\x3f\x01"
        for slab in slabs:
            data = header + weights + slab
            assert correction_reader.read_header(data)[0].highest == 2**33 - 1
            found = correction_reader.evaluate_correction(data, (4, 5, 7))
            np.testing.assert_array_equal(found, predictive.decode(data, (4, 5, 7)))


@pytest.mark.parametrize("at", [0, 4, 5, 6, 7, 20, -1])
@pytest.mark.parametrize("name", ["v1/tree", "v2/tree"])
def test_the_second_reader_notices_damage(name: str, at: int) -> None:
    damaged = bytearray(goldens.payload(name))
    damaged[at] ^= 0x41
    with pytest.raises(second_reader.NotAPayload):
        second_reader.decode(bytes(damaged))


# The text: its examples, tables and constants.


def test_no_placeholder_is_left() -> None:
    assert "@" not in TEXT
    assert "TODO" not in TEXT


def test_versions() -> None:
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \|", TEXT, re.MULTILINE)
    versions = [int(version) for version, _ in rows]
    assert versions == sorted(versions)
    assert set(versions) == set(range(1, FORMAT_VERSION + 1))


def test_errors_are_those_of_the_package() -> None:
    named = re.findall(r"^\| `(\w+)`", part("Errors"), re.MULTILINE)
    assert named == ["TruncatedPayload", "CorruptPayload", "UnsupportedVersion"]
    assert all(issubclass(getattr(tinc_codec, name), tinc_codec.TincError) for name in named)


def test_checksum_example() -> None:
    (value,) = numbers(r"`123456789` is (0x\w+)")
    assert value == google_crc32c.value(b"123456789") == second_reader.crc32c(b"123456789")


def test_container_example() -> None:
    example = r"Example: a payload.*?```\n(.*?)```.*?version 1:.*?```\n(.*?)```"
    (blocks,) = re.findall(example, TEXT, re.DOTALL)
    for payload in map(bytes.fromhex, blocks):
        assert container.unpack(payload) == {SectionKind.ARRAY: b"a", SectionKind.TREE: b"bb"}
        assert second_reader.sections(payload) == {1: b"a", 2: b"bb"}
    written = container.pack({SectionKind.ARRAY: b"a", SectionKind.TREE: b"bb"})
    assert written == bytes.fromhex(blocks[0])


def test_section_sizes_are_as_stated() -> None:
    assert "takes n + 1 + (bytes of the varint n) bytes; magic and checksum take 6" in TEXT
    assert container.HEADER_BYTES == 6
    assert container.section_overhead(127) == 1 + 1
    assert container.section_overhead(128) == 1 + 2


def test_kinds() -> None:
    rows = re.findall(r"^\| (\d) \| ([A-Z]+) \|", part("Container"), re.MULTILINE)
    assert {int(number): name for number, name in rows} == {k.value: k.name for k in SectionKind}
    headings = re.findall(r"^## ([A-Z]+) section", TEXT, re.MULTILINE)
    assert headings == [kind.name for kind in SectionKind]


def test_dtype_codes() -> None:
    """The table lists all that a reader takes, and nothing else."""
    cells = re.findall(r"((?:0x\w\w(?:, )?)+) \| (\w+\d+)", part("ARRAY section"))
    listed = {}
    for codes, name in cells:
        for code, order in zip(codes.split(", "), "<>", strict=False):
            listed[int(code, 16)] = np.dtype(name).newbyteorder(order)
    assert len(cells) == 9
    for code in range(256):
        data = bytes([code, 0, 1, 5]) + bytes(16)
        if code in listed:
            size = listed[code].itemsize
            found = ArrayInfo.from_bytes(data[: 4 + 2 * size] + bytes(2)).dtype
            assert found == listed[code] == second_reader.dtype_of(code)
        else:
            with pytest.raises(CorruptPayload, match="dtype code"):
                ArrayInfo.from_bytes(data)


def test_constants() -> None:
    assert tuple(numbers(r"with mod never negative and M = ([\d,\s]+)\.")) == quantize._MANTISSA
    assert tuple(numbers(r"G = ([\d,\s]+);")) == entropy._GROW
    assert tuple(numbers(r"H = ([\d,\s]+);")) == entropy._SHRINK
    assert tuple(numbers(r"F = ([\d,\s]+) for 1, 2, 3, 4 axes")) == cosine.MAX_FREQUENCY[1:]
    assert numbers(r"T = min\((\d+), 2 \+") == [entropy.MAX_MAGNITUDE]
    assert numbers(r"the other integers; 0 to (\d+) of them") == [cosine.MAX_TERMS - 1]


def test_limits() -> None:
    assert f"{PARAMETERS_PER_BYTE} × (bytes of WEIGHTS) + {SPARE_PARAMETERS}" in TEXT
    assert f"L, 1 to {geometry.MAX_LEVELS} |" in TEXT
    assert f"sine layers of each node of the level, 1 to {section.MAX_DEPTH} |" in TEXT
    assert f"Widths are 1 to {section.MAX_WIDTH}." in TEXT
    assert f"| axes | u8 | 1 to {normalize.MAX_DIMENSIONS} |" in TEXT
    assert "is at most 2^31." in TEXT
    assert normalize.MAX_BYTES == 2**31
    assert "at most 10^6 times the bytes" in TEXT
    assert LARGEST_RATIO == 10**6


def test_tables_of_the_models() -> None:
    (found,) = re.findall(r"CRC32C of the tables as u32: (.*?)\.\n", TEXT, re.DOTALL)
    stated = [int(code, 16) for code in re.findall(r"0x\w+", found)]
    for shape in range(3):
        table = [int(2**24 * second_reader.P[shape](j / 32) + 0.5) for j in range(321)]
        assert google_crc32c.value(struct.pack("<321I", *table)) == stated[shape]


@pytest.mark.parametrize(
    ("stated", "code", "table", "ours"),
    [
        ("CRC32C of the 1024 bytes", "B", wavelet_reader.LEVEL, coefficients.LEVEL),
        ("CRC32C\\s+of the 256 entries as u8:", "B", correction_reader.LEVEL, differences.LEVEL),
        ("CRC32C of the list\\s+as i16", "h", coder_reader.STRETCH, binary.STRETCH),
        ("CRC32C of the list\\s+as u16", "H", coder_reader.SQUASH, binary.SQUASH),
    ],
)
def test_tables_of_the_binary_coders(
    stated: str, code: str, table: list[int], ours: np.ndarray
) -> None:
    packed = struct.pack(f"<{len(table)}{code}", *table)
    assert numbers(rf"{stated} (0x\w+)") == [google_crc32c.value(packed)]
    assert ours.tolist() == table


def test_numbers_of_the_wavelet_coder() -> None:
    assert numbers(r"a list of (\d+) probabilities") == [coefficients.SLOTS]
    assert numbers(r"and (\d+) rows of 8 weights") == [coefficients.ROWS]
    assert numbers(r"\| levels \| u8 \| bits 0 to 6: D, 0 to (\d+);") == [wavelet.MOST_LEVELS]
    assert numbers(r"length m of level C − 1 \((\d+) or more\)") == [tiles.LEAST_CUT]
    assert numbers(r"more\s+than (\d+)\s+bytes beyond the end of a\s+segment") == [binary.SLACK]


def test_the_prior() -> None:
    data = wavelet_reader.PRIOR.read_bytes()
    (size, checksum) = re.findall(r"row by row; (\d+) bytes, CRC32C (0x\w+)", TEXT)[0]
    assert len(data) == int(size)
    assert google_crc32c.value(data) == int(checksum, 16)
    model = wavelet_reader.Model(from_prior=True)
    words, weights = prior.learnt()
    assert model.p == (words & 0xFFFF).tolist()
    assert model.count == (words >> 16).tolist()
    assert model.rows == weights.tolist()
    even, (words, weights) = wavelet_reader.Model(from_prior=False), prior.even()
    assert (even.p, even.count, even.rows) == (words.tolist(), [0] * 8598, weights.tolist())


def test_ends_of_closed_axes() -> None:
    text = part("WAVELET section")
    rows = re.findall(r"^\| (\d) \| (.*), (.*) \| (.*), (.*) \|$", text, re.MULTILINE)
    found = {int(step): [float(v.replace("−", "-")) for v in ends] for step, *ends in rows}
    # Steps of the synthesis undo those of the analysis, the last one first.
    assert found == {
        5 - k: pytest.approx([float(v) for v in ends]) for k, ends in enumerate(cdf97.ENDS)
    }
    assert found == {2 + k: list(ends) for k, ends in enumerate(wavelet_reader.ENDS)}
    assert numbers(r"if n is even\s+and at least (\d+)", text) == [cdf97.LEAST_CLOSED]


def test_numbers_of_the_correction_coder() -> None:
    text = part("CORRECTION section")
    lengths = numbers(r"Lengths of T0 … T8: ([\d,\s]+)\.", text)
    assert tuple(lengths) == differences._TABLES
    assert (0, *np.cumsum(lengths[:5])) == correction_reader.MIXED
    assert {k: len(q) for k, q in correction_reader.Differences(b"", 1).plain.items()} == {
        k: lengths[k] for k in range(5, 9)
    }
    assert numbers(r"with (\d+) rows of 5 weights", text) == [differences.ROWS]
    assert numbers(r"rows of 5 weights, at first (\d+)", text) == [differences.FIRST_WEIGHT]
    assert numbers(r"the gain is (\d+)", text) == [differences._RATE]
    assert numbers(r"counts are limited to (\d+)", text) == [differences._LIMIT]
    assert numbers(r"magnitude below 2\^(\d+)\. Mode 0", text) == [13]
    assert predictive.WEIGHT_LIMIT == 2**13
    assert set(numbers(r"largest error, below 2\^(\d+)", text)) == {33}
    assert predictive.LIMIT == 2**33
    assert numbers(r"with\s+L = (\d+) or", text) == [predictive.MOST_LEVELS]


def test_neighbours_of_the_correction_coder() -> None:
    lists = dict(re.findall(r"^- (B|T_\d): (.*)$", part("CORRECTION section"), re.MULTILINE))
    ours = {"B": predictive._BEFORE}
    ours |= {f"T_{axis}": near for axis, near in enumerate(predictive._BETWEEN)}
    theirs = {"B": correction_reader.B}
    theirs |= {f"T_{axis}": near for axis, near in enumerate(correction_reader.T)}
    for name, text in lists.items():
        signs = text.replace("−", "-").replace(", ", " ")
        assert correction_reader.offsets(signs) == theirs[name] == list(ours[name])
    assert len(lists) == len(ours)


def test_range_coder_example() -> None:
    (found,) = re.findall(r"under model 8 are coded as `([\w ]+)`", TEXT)
    coded = bytes.fromhex(found)
    values = np.array([0, 1, -1, 2], np.int32)
    assert entropy.encode([values], [8]) == coded
    assert second_reader.decode_groups(coded, [4], [8]) == [values.tolist()]


@pytest.mark.parametrize("model", [0, 8, 33, 63, 64, 90, 127, 128, 160, 191])
def test_models_of_the_second_reader(model: int) -> None:
    assert second_reader.cumulative(model) == entropy.cumulative(model).tolist()


def test_steps_of_the_second_reader() -> None:
    for base in (0.01, 3.3e-5, 1.0, 7e30):
        base32 = float(np.float32(base))
        for code in range(256):
            assert second_reader.step_of(base32, code) == quantize.step_size(base32, code)


def test_tolerance_is_the_one_stated() -> None:
    found = re.findall(r"T = 10\^−(\d) with WEIGHTS of mode (\d)", TEXT)
    assert {int(mode): float(f"1e-{digits}") for digits, mode in found} == TOLERANCE
