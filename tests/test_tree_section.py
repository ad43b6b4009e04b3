"""The TREE section: any structure comes back; every departure from the format is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import trees

from tinc_codec.errors import CorruptPayload, TincError, TruncatedPayload
from tinc_codec.tree.faces import Smoothing
from tinc_codec.tree.geometry import Geometry
from tinc_codec.tree.network import Tree, count_parameters
from tinc_codec.tree.section import MAX_WIDTH, SMOOTHING_BYTES, from_bytes, to_bytes

PLENTY = 1 << 40

SMALL = Tree(
    geometry=Geometry(shape=(8, 8), splits=((1,),), coordinates="block"),
    widths=(np.array([[3, 2]]), np.array([[4, 1], [2, 5]])),
)
SMALL_BYTES = bytes([1, 2, 0b10, 2, 6, 4, 2, 5, 2, 0b10, 3, 3, 0b100 << 3])


def same(a: Tree, b: Tree) -> bool:
    alike = a.geometry == b.geometry and a.smoothing == b.smoothing and a.halvings == b.halvings
    return alike and all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a.widths, b.widths, strict=True)
    )


def test_bytes_are_pinned() -> None:
    # left leaf 4-1, right leaf 2-5: lowest 2 (uneven), 2 bits, excesses 2 and 0;
    # lowest 1 (uneven), 3 bits, excesses 0 and 4
    assert to_bytes(SMALL).hex() == SMALL_BYTES.hex()
    assert same(from_bytes(SMALL_BYTES, (8, 8), PLENTY), SMALL)


def test_bytes_of_a_smoothing_are_pinned() -> None:
    smooth = replace(SMALL, smoothing=Smoothing(reach=200, strength=16))
    data = bytes([3, *SMALL_BYTES[1:3], 200, 16, *SMALL_BYTES[3:]])
    assert to_bytes(smooth).hex() == data.hex()
    assert same(from_bytes(data, (8, 8), PLENTY), smooth)


def test_a_tree_of_a_low_pass_band_takes_its_shape() -> None:
    data = bytes([5, 2, *SMALL_BYTES[1:]])
    tree, bands = replace(SMALL, halvings=2), [(15, 16), (8, 8), (4, 4)]
    assert to_bytes(tree).hex() == data.hex()
    assert same(from_bytes(data, (30, 32), PLENTY, bands), tree)
    for number in (0, 4):
        with pytest.raises(CorruptPayload, match=rf"band {number} is not in 1\.\.3"):
            from_bytes(bytes([5, number, *SMALL_BYTES[1:]]), (30, 32), PLENTY, bands)
    with pytest.raises(CorruptPayload, match="0 axes"):
        from_bytes(data, (2, 2), PLENTY, [(1, 2), ()])


@pytest.mark.parametrize(
    ("reach", "strength", "says"),
    [(0, 9, "reach 0 "), (9, 0, "strength 0 "), (9, 17, "strength 17 ")],
)
def test_smoothings_out_of_range(reach: int, strength: int, says: str) -> None:
    data = bytes([3, *SMALL_BYTES[1:3], reach, strength, *SMALL_BYTES[3:]])
    with pytest.raises(CorruptPayload, match=says):
        from_bytes(data, (8, 8), PLENTY)


def test_one_level_has_no_faces_to_make_smooth() -> None:
    with pytest.raises(CorruptPayload, match="one level has none"):
        from_bytes(bytes([2, 1, 4, 8, 1, 2 << 1]), (8, 8), PLENTY)


@given(trees())
def test_round_trip(tree: Tree) -> None:
    data = to_bytes(tree)
    shape = tree.geometry.shape
    least = max(count_parameters(tree), sum(tree.geometry.node_counts))
    assert same(from_bytes(data, shape, least), tree)
    with pytest.raises(CorruptPayload, match="exceed"):
        from_bytes(data, shape, count_parameters(tree) - 1)
    with pytest.raises(CorruptPayload, match="after its end"):
        from_bytes(data + b"\0", shape, PLENTY)
    for length in range(len(data)):
        with pytest.raises(TruncatedPayload):
            from_bytes(data[:length], shape, PLENTY)


@given(trees())
def test_even_widths_take_a_byte_a_layer(tree: Tree) -> None:
    even = replace(tree, widths=tuple(np.full_like(w, 63) for w in tree.widths))
    layers = sum(w.shape[1] for w in even.widths)
    head = 2 if tree.smoothing is None else 2 + SMOOTHING_BYTES
    assert len(to_bytes(even)) == head + 2 * even.geometry.levels - 1 + layers


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (0, 8, "reserved flag"),
        (0, 4, r"low-pass band 2 is not in 1\.\.0"),
        (0, 0x81, "reserved flag"),
        (1, 0, "0 levels"),
        (1, 7, "7 levels"),
        (2, 0, "split mask 0x00"),
        (2, 0b110, "split mask 0x06"),
        (3, 0, "depth 0"),
        (3, 17, "depth 17"),
        (4, 0, "width is not in 1..4096"),
        (8, 0, "0 bits per width"),
        (8, 17, "17 bits per width"),
        (9, 0b10010, "padding bits"),
        (10, 1, "width is not in 1..4096"),
    ],
)
def test_fields_out_of_range(at: int, value: int, says: str) -> None:
    data = bytearray(SMALL_BYTES)
    data[at] = value
    with pytest.raises(TincError, match=says):
        from_bytes(bytes(data), (8, 8), PLENTY)


def test_widths_stop_at_the_limit() -> None:
    geometry = Geometry(shape=(8,), splits=((0,),), coordinates="global")
    for excess, sound in ((0, True), (1, False)):
        leaves = np.array([[1], [MAX_WIDTH + excess]])
        data = to_bytes(Tree(geometry=geometry, widths=(np.array([[1]]), leaves)))
        if sound:
            assert from_bytes(data, (8,), PLENTY).widths[1].max() == MAX_WIDTH
        else:
            with pytest.raises(CorruptPayload, match=f"1..{MAX_WIDTH}"):
                from_bytes(data, (8,), PLENTY)


@pytest.mark.parametrize("shape", [(), (2, 2, 2, 2, 2)])
def test_one_to_four_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(CorruptPayload, match=f"{len(shape)} axes"):
        from_bytes(bytes([0, 1, 1, 2]), shape, PLENTY)


def test_no_axis_is_split_below_a_voxel() -> None:
    with pytest.raises(CorruptPayload, match="axis 0 is split below one voxel"):
        from_bytes(bytes([0, 3, 1, 1, 1, 2, 1, 2, 1, 2]), (3, 50), PLENTY)


def test_many_nodes_are_refused_before_their_widths_are_read() -> None:
    data = bytes([0, 6, *[0b1111] * 5])
    with pytest.raises(CorruptPayload, match="1118481 nodes exceed 1000000"):
        from_bytes(data, (64, 64, 64, 64), 1_000_000)


@given(st.binary(max_size=40), st.lists(st.integers(2, 90), max_size=5))
def test_noise_gives_a_tree_or_an_error(data: bytes, shape: list[int]) -> None:
    try:
        tree = from_bytes(data, tuple(shape), 10_000)
    except TincError:
        return
    assert count_parameters(tree) <= 10_000
    assert tree.geometry.shape == tuple(shape)
