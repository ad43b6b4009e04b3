"""Golden payloads: what was ever written as a version of the format is decoded for ever.

Encoders may change as they like: their output is compared with nothing here.
"""

from __future__ import annotations

import hashlib
from itertools import product

import goldens
import make_golden
import numpy as np
import pytest
from goldens import FOLDER, NAMES, assert_within_tolerance

from tinc_codec import decode, inspect, runtime
from tinc_codec.decoding.opened import long_axes, open_chunk
from tinc_codec.stream import container
from tinc_codec.stream.container import SectionKind
from tinc_codec.stream.residual.axes import three_axes
from tinc_codec.stream.residual.corrections.header import from_bytes
from tinc_codec.stream.residual.corrections.lattices import CAUSAL, INTERPOLATED, SPARSE

ENGINES = ("cpu", "reference", "torch")
# Those of the first version, made case by case; the second has some of the same.
FIRST = [name for name in NAMES if name.startswith("v1/")]
# Of the first byte of a section: what the second version writes.
NEW_BITS = {SectionKind.WAVELET: 7, SectionKind.FILTER: 2}


@pytest.mark.parametrize("device", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_decodes_to_the_stored_array(name: str, device: str) -> None:
    if device == "torch":
        pytest.importorskip("torch")
    payload = goldens.payload(name)
    with runtime(device=device):
        decoded = decode(payload)
    assert_within_tolerance(decoded, goldens.stored(name), payload)


@pytest.mark.parametrize("name", NAMES)
def test_inspect_gives_the_stored_facts(name: str) -> None:
    assert goldens.inspection(goldens.payload(name)) == goldens.facts(name)["inspect"]


def test_every_case_is_there() -> None:
    every = {*make_golden.ENCODED, *make_golden.BUILT}
    wanted = {1: every - {*make_golden.ONLY_IN_2}, 2: every & set(make_golden.NEW_IN_2)}
    assert len(wanted[2]) == len(make_golden.NEW_IN_2)
    assert sorted(f"v{n}/{name}" for n, names in wanted.items() for name in names) == NAMES
    for suffix in (".npy", ".json"):
        assert all((FOLDER / f"{name}{suffix}").exists() for name in NAMES)
    for version in wanted:
        files = [*(FOLDER / f"v{version}").iterdir()]
        assert len(files) == 3 * len(wanted[version])
        assert sum(path.stat().st_size for path in files) < 600_000


def test_cases_of_the_first_version_are_as_they_were() -> None:
    """Nobody writes that version any more."""
    folder = FOLDER / "v1"
    texts = "".join(hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()))
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == "5c2912f30c4762c5"


def test_the_cases_reach_what_the_format_has() -> None:
    found = [inspect(goldens.payload(name)) for name in NAMES]
    assert {f.form for f in found} == {
        *("tree", "wavelet", "tree+wavelet", "cosine", "constant"),
        *("correction", "wavelet+correction"),
    }
    assert {f.coordinates for f in found} == {"global", "block", ""}
    assert {f.levels for f in found} == {0, 1, 2, 3, 4}
    assert {f.order for f in found} == {"C", "F"}
    assert {f.dtype.newbyteorder("<").str[1:] for f in found} == {
        *("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8")
    }
    assert {len(f.shape) for f in found if f.form == "tree"} == {1, 2, 3, 4}
    assert {sum(n > 1 for n in f.shape) for f in found if f.form == "wavelet"} == {1, 2, 3, 4}
    assert {sum(n > 1 for n in f.shape) for f in found if f.form == "correction"} == {1, 2, 3, 4}
    assert {section for f in found for section in f.section_sizes} == {
        kind.name.lower() for kind in SectionKind
    }


def test_the_tree_cases_reach_what_faces_have() -> None:
    chunks = [open_chunk(goldens.payload(name)) for name in FIRST]
    found = {
        (chunk.form, chunk.tree.smoothing.reach > 2, chunk.tree.geometry.coordinates)
        for chunk in chunks
        if chunk.tree is not None and chunk.tree.smoothing is not None
        if not chunk.tree.halvings
    }
    assert found == {("tree", False, "block"), ("tree+wavelet", True, "global")}


def test_the_cases_reach_what_trees_of_a_low_pass_band_have() -> None:
    chunks = [open_chunk(goldens.payload(name)) for name in FIRST]
    found = {
        (
            len(long_axes(chunk.box_shape)), len(chunk.tree.geometry.shape),
            chunk.tree.halvings, len(chunk.wavelet.header.plan.splits) - chunk.tree.halvings,
            chunk.wavelet.header.cuts.axes, chunk.tree.smoothing is not None,
        )
        for chunk in chunks
        if chunk.tree is not None and chunk.tree.halvings and chunk.wavelet is not None
    }  # fmt: skip
    assert found == {
        (3, 3, 1, 2, 0, True), (3, 3, 1, 0, 0, True), (4, 2, 1, 1, 0, True), (2, 2, 2, 0, 6, False),
        (3, 3, 1, 1, 1, False),
    }  # fmt: skip


def test_the_wavelet_cases_reach_what_their_section_has() -> None:
    chunks = [open_chunk(goldens.payload(name)) for name in FIRST]
    coded = [chunk.wavelet for chunk in chunks if chunk.wavelet is not None]
    assert {wavelet.header.cuts.axes for wavelet in coded} == {0, 1, 5, 6, 7}
    assert {wavelet.header.cuts.levels for wavelet in coded} == {0, 1, 2, 3}
    splits = {split for wavelet in coded for split in wavelet.header.plan.splits}
    assert splits == set(range(1, 8))
    assert 0 in {len(wavelet.header.plan.splits) for wavelet in coded}
    closed = [wavelet.header.plan for wavelet in coded if wavelet.header.plan.closed]
    assert [[k for k in range(3) if p.closes(n, k)] for p in closed for n in range(2)] == [
        [0, 1], [0]
    ]  # fmt: skip
    assert any(chunk.wavelet and chunk.crop for chunk in chunks)
    assert any(chunk.wavelet and chunk.mask for chunk in chunks)


def test_what_is_written_is_compact() -> None:
    for name in NAMES:
        data = container.unpack(goldens.payload(name))
        flags = [data[kind][0] >> bit & 1 for kind, bit in NEW_BITS.items() if kind in data]
        assert all(flags) if name.startswith("v2/") else not any(flags)
    assert {kind for name in NAMES for kind in container.unpack(goldens.payload(name))} == {
        *SectionKind
    }


def test_the_correction_cases_reach_what_their_section_has() -> None:
    chunks = [open_chunk(goldens.payload(name)) for name in FIRST]
    chunks = [chunk for chunk in chunks if chunk.correction is not None]
    found = set()
    for chunk in chunks:
        is_float = chunk.info.dtype.kind == "f"
        depth = three_axes(long_axes(chunk.box_shape))[0]
        header, slabs = from_bytes(chunk.correction[8 * is_float :], depth)
        found.add((chunk.wavelet is not None, header.mode, len(slabs) > 1))
        assert header.bound == 0 or not is_float
    assert {(mode, slabs) for transformed, mode, slabs in found if not transformed} >= {
        *product((CAUSAL, INTERPOLATED), (False, True))
    }
    assert (True, SPARSE, True) in found
    kinds = {chunk.info.dtype.newbyteorder("<").str[1:] for chunk in chunks}
    assert kinds == {"u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"}
    assert any(chunk.crop for chunk in chunks)
    assert any(chunk.mask for chunk in chunks)
    assert any(chunk.crop and chunk.mask for chunk in chunks)
    assert any(inspect(goldens.payload(n)).psnr_db == np.inf for n in FIRST if "lossless" in n)


def test_nothing_is_ever_overwritten(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    there = tmp_path / "constant.tinc"
    there.write_bytes(b"from long ago")
    with pytest.raises(FileExistsError):
        make_golden.write("constant", tmp_path)
    assert there.read_bytes() == b"from long ago"
    monkeypatch.setattr(make_golden, "WRITTEN", tmp_path)
    monkeypatch.setattr(make_golden, "NEW_IN_2", ("constant",))
    make_golden.main()
    assert [path.name for path in tmp_path.iterdir()] == ["constant.tinc"]


def test_the_comparison_can_fail() -> None:
    payload, expected = goldens.payload("v1/edge_chunk"), goldens.stored("v1/edge_chunk")
    assert_within_tolerance(expected + (expected < 65535) * np.uint16(0), expected, payload)
    inside = expected.copy()
    inside[5, 5, 5] += 2
    with pytest.raises(AssertionError):
        assert_within_tolerance(inside, expected, payload)
    padding = expected.copy()
    padding[-1, -1, -1] -= 1
    with pytest.raises(AssertionError, match="not equal"):
        assert_within_tolerance(padding, expected, payload)
    with pytest.raises(AssertionError):
        assert_within_tolerance(np.asfortranarray(expected), expected, payload)
    with pytest.raises(AssertionError):
        assert_within_tolerance(expected.astype(">u2"), expected, payload)
