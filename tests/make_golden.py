"""Writes the golden payloads that are missing: ``python tests/make_golden.py``.

What is there is never touched: it is what decoders must read for ever. Remove none of it, and add a
case only for something that none of the others holds. Payloads of the first version, of all cases
here, were written by releases before 0.12.0; those of the second are of cases that differ in more
than the container, and a few that do not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from corrections import coded
from filters import filtered, some_filter
from goldens import FOLDER, Array, assert_within_tolerance, inspection
from trees import parameters_of
from volumes import volume
from wavelets import section_of

from tinc_codec import __version__, decode, encode, runtime
from tinc_codec.decoding.opened import long_axes, open_chunk
from tinc_codec.decoding.voxels import unit_values
from tinc_codec.phantom import phantom
from tinc_codec.stream import container, normalize
from tinc_codec.stream.container import SectionKind
from tinc_codec.stream.entropy import ALL_ZERO, SCALES
from tinc_codec.stream.normalize import ArrayInfo
from tinc_codec.stream.residual.corrections.lattices import CAUSAL, INTERPOLATED, SPARSE
from tinc_codec.stream.residual.wavelets.section import from_bytes
from tinc_codec.stream.residual.wavelets.tiles import Cuts
from tinc_codec.stream.wire import pack_varint
from tinc_codec.tree import section, weights
from tinc_codec.tree.faces import Smoothing
from tinc_codec.tree.geometry import Geometry
from tinc_codec.tree.network import Tree, layout

QUICK = {"iterations": 60, "levels": 2, "form": "tree"}
WAVELET = {"form": "wavelet", "effort": 3}
LOSSLESS = {"max_error": 0, "effort": 1}
# Below about a kilobyte the low-order form may take the place of a tree.
TREE_BYTES = 1100


def uneven() -> Array:
    array = volume((16, 16, 16), "u2")
    array[:8] //= 8
    return array


def edge_chunk() -> Array:
    """A chunk that ends outside of its array, which zarr pads with the fill value."""
    array = np.full((16, 16, 16), 65535, "u2")
    array[:11, :, :13] = phantom((11, 16, 13))
    return array


def ct_with_holes() -> Array:
    """NaN outside of a scanner's field of view, the same in every slice, and some single faults."""
    array = volume((12, 16, 16), "f4")
    y, x = np.indices((16, 16)) - 7.5
    array[:, y * y + x * x > 60] = np.nan
    array[3, 8, 8:10], array[5, 7, 7], array[9, 9, 6] = np.inf, -np.inf, np.nan
    return array


def with_sentinel() -> Array:
    array = volume((16, 16, 16), "i2") * np.int16(200) - np.int16(9000)
    array[4:7, 2:9, 3] = array[11, 11] = -32768
    return array


def padded_with_nan() -> Array:
    """Padding and special values at once."""
    array = np.zeros((30, 18), ">f4")
    array[2:28, 3:] = volume((26, 15), "f4")
    array[5:9, 6] = np.nan
    return array


def extremes() -> Array:
    """The least and largest values of int32, so that differences are as large as they get."""
    array = volume((7, 8, 9), "i4") - 50
    rng = np.random.default_rng(3)
    some = rng.random(array.shape) < 0.3
    array[some] = rng.choice([-(2**31), 2**31 - 1], int(some.sum()))
    return array


def wide(dtype: str) -> Array:
    """A texture over nearly all values of an integer dtype."""
    limits = np.iinfo(dtype)
    texture = volume((12, 13, 14), "f8") / 120
    return np.rint(limits.min + texture * (float(limits.max) - limits.min)).astype(dtype)


ENCODED: dict[str, tuple[Callable[[], Array], dict[str, Any]]] = {
    "tree": (lambda: phantom((16, 16, 16)), QUICK),
    "uneven_widths": (uneven, QUICK | {"allocation": "variance"}),
    "block_coordinates": (lambda: phantom((15, 16, 17)), QUICK | {"coordinates": "block"}),
    "three_levels": (lambda: phantom((16, 16, 16)), QUICK | {"levels": 3, "ratio": 5}),
    "one_level": (lambda: phantom((8, 20, 20)), QUICK | {"levels": 1}),
    "one_axis": (lambda: volume((3000,), "u2"), QUICK),
    "two_axes": (lambda: volume((50, 61), "u2"), QUICK),
    "four_axes": (lambda: volume((2, 9, 12, 11), "u2"), QUICK),
    "axes_of_one": (lambda: volume((1, 40, 1, 33), "u2"), QUICK),
    "paper": (
        lambda: phantom((16, 16, 16)).astype("f4"),
        QUICK | {"preset": "paper", "iterations": 8000},
    ),
    "cosine": (lambda: phantom((16, 16, 16)), {"ratio": 80, "iterations": 5, "form": "tree"}),
    "cosine_one_axis": (
        lambda: volume((1000,), "u2"),
        {"ratio": 20, "iterations": 5, "form": "tree"},
    ),
    "constant": (lambda: np.full((16, 16, 16), -7, ">i2"), {"ratio": 64}),
    "all_nan": (lambda: np.full((16, 16, 16), np.nan, "f4"), {"ratio": 64}),
    "edge_chunk": (edge_chunk, QUICK),
    "nan_and_infinities": (ct_with_holes, QUICK),
    "sentinel": (with_sentinel, QUICK | {"preserve": [-32768]}),
    "padded_with_nan": (padded_with_nan, QUICK),
    "float64": (lambda: volume((12, 14, 13), "f8") * 1e9 - 3e10, QUICK),
    "float16": (lambda: volume((12, 14, 13), "f2"), QUICK),
    "float64_big_endian": (lambda: volume((12, 14, 13), ">f8"), QUICK),
    "big_endian": (lambda: volume((12, 14, 13), ">u2"), QUICK),
    "fortran_order": (lambda: volume((12, 14, 13), "u2", order="F"), QUICK),
    "uint8": (lambda: wide("u1"), QUICK),
    "int8": (lambda: wide("i1"), QUICK),
    "uint16_full_range": (lambda: wide("u2"), QUICK),
    "int32": (lambda: wide("i4"), QUICK),
    "uint32": (lambda: wide("u4"), QUICK),
    "wavelet": (lambda: phantom((16, 16, 16)), WAVELET | {"ratio": 8}),
    "wavelet_one_axis": (lambda: volume((1500,), "u2"), WAVELET | {"psnr": 40}),
    "wavelet_two_axes": (lambda: volume((50, 61), "u2"), WAVELET | {"ratio": 8}),
    "wavelet_four_axes": (lambda: volume((2, 9, 12, 11), "u2"), WAVELET | {"ratio": 8}),
    "wavelet_axes_of_one": (lambda: volume((1, 20, 1, 33), ">i2", order="F"), WAVELET),
    "wavelet_edge_chunk": (edge_chunk, WAVELET | {"ratio": 8}),
    "wavelet_nan_and_infinities": (ct_with_holes, WAVELET),
    "wavelet_padded_with_nan": (padded_with_nan, WAVELET | {"psnr": 35}),
    "wavelet_uint8": (lambda: wide("u1"), WAVELET | {"psnr": 45}),
    "wavelet_int32": (lambda: wide("i4"), WAVELET | {"psnr": 110}),
    "filter": (lambda: phantom((32, 32, 32)), WAVELET | {"ratio": 32}),
    "correction_lossless": (lambda: volume((8, 11, 9), ">u2", order="F"), LOSSLESS),
    "correction_one_axis": (lambda: volume((700,), "u1"), {"max_error": 1, "effort": 1}),
    "correction_two_axes": (lambda: volume((30, 21), "u2"), {"max_error": 2, "effort": 1}),
    "correction_four_axes": (lambda: volume((2, 7, 8, 9), "i2"), LOSSLESS),
    "correction_extremes": (extremes, LOSSLESS),
    "correction_edge_chunk": (edge_chunk, {"max_error": 40, "effort": 1}),
    "correction_nan_and_infinities": (ct_with_holes, {"max_error": 4, "effort": 1}),
    "correction_padded_with_nan": (padded_with_nan, {"max_error": 2, "effort": 1}),
    "correction_float16": (lambda: volume((6, 9, 8), "f2"), {"max_error": 0.4, "effort": 1}),
    "correction_float32": (lambda: volume((6, 9, 8), "f4"), {"max_error": 2.5, "effort": 1}),
    "correction_float64": (lambda: volume((6, 9, 8), ">f8") * 1e9, {"max_error": 1e5, "effort": 1}),
}


def coarse_parameters(tree: Tree) -> weights.QuantizedWeights:
    """Return weights whose groups are of all the distributions that there are models for."""
    rng = np.random.default_rng(4)
    parameters = parameters_of(tree, seed=4, gain=0.3)
    codes, groups = [], []
    draws = (rng.normal, rng.logistic, rng.laplace)
    for number, group in enumerate(layout(tree).groups):
        size = group.stop - group.start
        spread = float(np.abs(parameters[group.start : group.stop]).mean())
        scale = 2.0 ** (1 + number % 5)
        integers = np.rint(draws[number % 3](0, scale, size)).astype(np.int32)
        if number == 3:
            integers[:] = 0
        codes.append(round(128 + 8 * np.log2(spread / scale / 0.01)))
        groups.append(integers)
    return weights.QuantizedWeights(base=0.01, codes=tuple(codes), groups=tuple(groups))


def by_hand(smoothing: Smoothing | None = None) -> bytes:
    """What no encoder writes today: axes halved in turn, depths and widths of all sorts."""
    geometry = Geometry(shape=(5, 22, 9), splits=((1,), (0, 2), (1,)), coordinates="block")
    rng = np.random.default_rng(7)
    widths = tuple(
        rng.integers(1, 12, (nodes, depth))
        for nodes, depth in zip(geometry.node_counts, (3, 1, 2, 1), strict=True)
    )
    tree = Tree(geometry=geometry, widths=widths, smoothing=smoothing)
    coded = weights.pack_quantized(coarse_parameters(tree))
    groups = len(layout(tree).groups)
    models = coded[5 + groups : 5 + 2 * groups]
    assert {model // SCALES for model in models} == {0, 1, 2, ALL_ZERO // SCALES}
    info = ArrayInfo(shape=(5, 1, 22, 9), dtype=np.dtype("<u2"), order="C", low=100, high=4195)
    sections = {
        SectionKind.ARRAY: info.to_bytes(),
        SectionKind.TREE: section.to_bytes(tree),
        SectionKind.WEIGHTS: coded,
    }
    return container.pack(sections)


def with_later_section() -> bytes:
    """An optional section that only later versions know: skipped."""
    today = encode(volume((12, 12, 12), "u2"), ratio=3, **QUICK)
    parts = [
        bytes([kind]) + pack_varint(len(data)) + data
        for kind, data in container.unpack(today).items()
    ]
    framed = b"T2" + b"".join(parts) + bytes([0xC0 | 40, 3]) + b"any"
    return framed + int(google_crc32c.value(framed)).to_bytes(4, "little")


def sealed(array: Array, sections: Callable[[Array], dict[SectionKind, bytes]]) -> bytes:
    """Return a payload of the sections that a function makes of an array's normalised values."""
    low, high = normalize.value_range(array, None)
    info = ArrayInfo(shape=array.shape, dtype=array.dtype, order="C", low=low, high=high)
    unit = normalize.normalize(array, low, high)
    return container.pack({SectionKind.ARRAY: info.to_bytes(), **sections(unit)})


def wavelet_by_hand(array: Array, splits: tuple[int, ...], **options: Any) -> bytes:
    """Plans and cuts that no encoder takes for a volume so small."""
    return sealed(array, lambda unit: {SectionKind.WAVELET: section_of(unit, splits, **options)})


def tree_and_wavelet(smoothing: Smoothing | None = None) -> bytes:
    array = phantom((16, 16, 16))
    tree = smoothed(encode(array, ratio=7, **QUICK), smoothing)

    def sections(unit: Array) -> dict[SectionKind, bytes]:
        chunk = open_chunk(tree)
        said = unit_values(chunk, [np.arange(16)] * 3, pointwise=False)
        rest = section_of(unit - said, (7, 7), step=0.05, offset=0, cuts=5)
        return container.unpack(tree) | {SectionKind.WAVELET: rest}

    return sealed(array, sections)


def low_pass_tree(
    array: Array,
    splits: tuple[int, ...],
    depth: int,
    halved: tuple[tuple[int, ...], ...],
    **options: Any,
) -> bytes:
    """A tree of the low-pass band of a transform, drawn and not fitted."""

    def sections(unit: Array) -> dict[SectionKind, bytes]:
        rest = section_of(unit, splits, **options)
        coded = from_bytes(rest, long_axes(unit.shape))
        geometry = Geometry(
            shape=long_axes(coded.header.plan.shapes[depth]), splits=halved, coordinates="global"
        )
        widths = tuple(np.full((nodes, 2), 5) for nodes in geometry.node_counts)
        smoothing = Smoothing(reach=2, strength=11) if halved else None
        tree = Tree(geometry=geometry, widths=widths, smoothing=smoothing, halvings=depth)
        return {
            SectionKind.TREE: section.to_bytes(tree),
            SectionKind.WEIGHTS: weights.pack_raw(parameters_of(tree, seed=4, gain=0.1)),
            SectionKind.WAVELET: rest,
        }

    return sealed(array, sections)


def smoothed(payload: bytes, smoothing: Smoothing | None) -> bytes:
    """Return the payload of a tree, its faces made smooth in this way."""
    tree = open_chunk(payload).tree
    assert tree is not None
    data = section.to_bytes(replace(tree, smoothing=smoothing))
    return container.pack(container.unpack(payload) | {SectionKind.TREE: data})


def corrected(array: Array, bound: int, *, mode: int, slabs: int = 1) -> bytes:
    """A correction alone, in a mode and of slabs that no encoder takes for a volume so small."""

    def sections(unit: Array) -> dict[SectionKind, bytes]:
        field = array.astype(np.int64) - int(array.min())
        return {SectionKind.CORRECTION: coded(field, bound, mode=mode, slabs=slabs)}

    return sealed(array, sections)


def wavelet_and_correction(array: Array, bound: int, *, step: float, mode: int) -> bytes:
    """What a coarse transform leaves, corrected."""

    def sections(unit: Array) -> dict[SectionKind, bytes]:
        coarse = {SectionKind.WAVELET: section_of(unit, (7, 7), step=step, cuts=1)}
        given = decode(sealed(array, lambda _: coarse))
        field = array.astype(np.int64) - given.astype(np.int64)
        return coarse | {SectionKind.CORRECTION: coded(field, bound, mode=mode, slabs=2)}

    return sealed(array, sections)


BUILT: dict[str, Callable[[], bytes]] = {
    "by_hand": by_hand,
    "later_section": with_later_section,
    "tree_and_wavelet": tree_and_wavelet,
    # Leaves of two to six voxels along an axis, some shorter than twice the reach.
    "smooth_faces": lambda: by_hand(Smoothing(reach=2, strength=13)),
    "smooth_faces_and_wavelet": lambda: tree_and_wavelet(Smoothing(reach=3, strength=9)),
    "low_pass_tree": lambda: low_pass_tree(
        phantom((16, 14, 15)), (7, 7, 7), 1, ((0, 1, 2),), step=0.04
    ),
    "low_pass_tree_one_level": lambda: low_pass_tree(
        volume((9, 10, 11), "u2"), (7,), 1, ((0, 2),), step=0.04
    ),
    # The first two axes are one for both; the last has one sample in the band.
    "low_pass_tree_four_axes": lambda: low_pass_tree(
        volume((2, 9, 12, 2), "u2"), (7, 3), 1, ((1,),), step=0.04
    ),
    "low_pass_tree_tiles": lambda: low_pass_tree(
        volume((19, 34), "i2"), (6, 6), 2, (), step=0.04, cuts=6
    ),
    "filter_one_axis": lambda: filtered(
        wavelet_by_hand(volume((70,), "u2"), (4, 4), step=0.04), some_filter(1)
    ),
    "filter_four_axes": lambda: filtered(
        wavelet_by_hand(volume((2, 9, 8, 11), "f4"), (7, 7), step=0.04), some_filter(4)
    ),
    "filter_by_activity": lambda: filtered(
        wavelet_by_hand(volume((2, 13), "u2"), (6,), step=0.04), some_filter(2, by_value=False)
    ),
    "filter_tone": lambda: filtered(
        wavelet_by_hand(volume((5, 6, 7), "i2"), (7,), step=0.04),
        some_filter(3, by_activity=False, by_value=False),
    ),
    "filter_of_tree_and_wavelet": lambda: filtered(
        tree_and_wavelet(), some_filter(3, by_activity=False)
    ),
    "filter_and_correction": lambda: filtered(
        wavelet_and_correction(phantom((16, 14, 15)), 30, step=0.05, mode=SPARSE), some_filter(3)
    ),
    # Closed at level 0 along two axes and at level 1 along one.
    "closed": lambda: low_pass_tree(
        volume((16, 6, 3), "u1"), (7, 1), 1, (), step=0.04, cuts=1, closed=True
    ),
    "wavelet_tiles": lambda: wavelet_by_hand(
        volume((17, 15, 16), "u2"), (7, 7, 7), step=0.04, cuts=7
    ),
    # Tiles of bands with none above them, and a cut along an axis that is not halved.
    "wavelet_tiles_by_axis": lambda: wavelet_by_hand(
        volume((24, 4, 9), "f4"), (3, 5, 1, 1), step=0.02, cuts=5
    ),
    "wavelet_tiles_of_two_levels": lambda: wavelet_by_hand(
        volume((2, 36, 35), "u1"), (6, 7), step=0.04, cuts=Cuts(levels=2, at=(0, 2, 2))
    ),
    # The coarsest level that is cut halves one of the axes that are cut, but not the other.
    "wavelet_tiles_at_places": lambda: wavelet_by_hand(
        volume((2, 66, 34), "i1"), (4, 6, 2, 6), step=0.04, cuts=Cuts(levels=3, at=(0, 1, 1))
    ),
    "wavelet_plan": lambda: wavelet_by_hand(
        volume((13, 9, 14), "i1"), (1, 4, 6, 7, 5, 2), step=0.03, price=0.0, bias=0.0
    ),
    "wavelet_no_levels": lambda: wavelet_by_hand(
        volume((9, 6, 7), "u4"), (), step=0.02, offset=1.0, bias=255 / 256
    ),
    # Integers beyond the unary part of the code by all orders that binary32 makes sense of.
    "wavelet_large": lambda: wavelet_by_hand(volume((7, 8, 9), "f8"), (7,), step=2.0**-22),
    "correction_causal": lambda: corrected(phantom((10, 10, 10)), 9, mode=CAUSAL),
    "correction_interpolated": lambda: corrected(phantom((10, 10, 10)), 9, mode=INTERPOLATED),
    # As many lattices as there are: five levels along the longest axis.
    "correction_long": lambda: corrected(volume((2, 3, 99), "u2"), 1, mode=INTERPOLATED),
    "correction_causal_slabs": lambda: corrected(
        volume((11, 9, 10), "u2"), 1, mode=CAUSAL, slabs=4
    ),
    "correction_interpolated_slabs": lambda: corrected(
        volume((11, 9, 10), "i1"), 0, mode=INTERPOLATED, slabs=3
    ),
    "correction_wide_bound": lambda: corrected(wide("u4")[:4], 2**24, mode=INTERPOLATED),
    "wavelet_and_correction": lambda: wavelet_and_correction(
        phantom((16, 14, 15)), 300, step=0.05, mode=SPARSE
    ),
    "wavelet_and_dense_correction": lambda: wavelet_and_correction(
        phantom((16, 6, 8)), 20, step=0.05, mode=CAUSAL
    ),
}


# Of the second version: all with WAVELET or FILTER, and one of each other form.
NEW_IN_2 = (
    *(name for name in ENCODED if name.startswith(("wavelet", "filter"))),
    *(name for name in BUILT if not name.startswith(("by_hand", "smooth_faces", "correction"))),
    *("tree", "edge_chunk", "paper", "cosine", "constant", "nan_and_infinities"),
    *("smooth_faces_and_wavelet", "correction_lossless", "correction_float32"),
)
# Of these there is none that an earlier writer made.
ONLY_IN_2 = ("correction_float32",)
WRITTEN = FOLDER / f"v{container.FORMAT_VERSION}"


def build(name: str) -> tuple[bytes, dict[str, Any]]:
    """Return a case's payload, and the settings that it was encoded with."""
    if name in BUILT:
        return BUILT[name](), {}
    make, settings = ENCODED[name]
    array = make()
    if not {"psnr", "max_error"} & settings.keys():
        settings = {"ratio": round(array.nbytes / TREE_BYTES, 3)} | settings
    return encode(array, **settings), settings


def write(name: str, folder: Path) -> None:
    """Write a case's three files; raise FileExistsError rather than replace any."""
    payload, settings = build(name)
    with runtime(device="reference"):
        expected = decode(payload)
    assert_within_tolerance(decode(payload), expected, payload)
    facts = {"written_by": __version__, "settings": settings, "inspect": inspection(payload)}
    with (folder / f"{name}.tinc").open("xb") as file:
        file.write(payload)
    with (folder / f"{name}.npy").open("xb") as file:
        np.save(file, expected)
    with (folder / f"{name}.json").open("x") as file:
        file.write(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    WRITTEN.mkdir(parents=True, exist_ok=True)
    for name in NEW_IN_2:
        if (WRITTEN / f"{name}.tinc").exists():
            print(f"{name} is there, left as it is")
        else:
            write(name, WRITTEN)
            print(f"{name} written")


if __name__ == "__main__":
    main()
