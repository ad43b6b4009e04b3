"""geometry: boxes tile the volume in canonical order; coordinates run over [-1, 1]."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import geometries

from tinc_codec.tree.geometry import MIN_BLOCK, Geometry, boxes, choose_splits, leaf_affine


@pytest.mark.parametrize(
    ("shape", "levels", "splits"),
    [
        ((64, 64, 64), 1, ()),
        ((64, 64, 64), 3, ((0, 1, 2), (0, 1, 2))),
        ((8, 128, 128), 4, ((1, 2), (1, 2), (1, 2))),
        ((26, 512, 512), 6, ((1, 2), (1, 2), (1, 2), (1, 2), (0, 1, 2))),
        ((128, 8, 128), 2, ((0, 2),)),
        ((7, 7), 3, ()),
        ((8, 8), 4, ((0, 1),)),
        ((5, 9), 4, ((1,),)),
        ((1000,), 4, ((0,), (0,), (0,))),
        ((16, 16, 16, 16), 3, ((0, 1, 2, 3), (0, 1, 2, 3))),
        ((3, 32, 32, 32), 2, ((1, 2, 3),)),
    ],
)
def test_splits(shape: tuple[int, ...], levels: int, splits: tuple[tuple[int, ...], ...]) -> None:
    assert choose_splits(shape, levels) == splits


@given(st.lists(st.integers(2, 600), min_size=1, max_size=4), st.integers(1, 6))
def test_splits_keep_blocks_whole_and_compact(shape: list[int], levels: int) -> None:
    sides = np.array(shape, float)
    splits = choose_splits(shape, levels)
    assert len(splits) < levels
    for axes in splits:
        assert axes
        assert list(axes) == sorted(set(axes))
        uneven = sides.max() / sides.min()
        sides[list(axes)] //= 2
        assert (sides[list(axes)] >= MIN_BLOCK).all()
        # halving does not make blocks longer for their width, but for the rounding of sides
        assert sides.max() / sides.min() <= max(2.5, uneven)


@given(geometries())
def test_leaves_tile_the_box(geometry: Geometry) -> None:
    owner = np.full(geometry.shape, -1)
    start, stop = boxes(geometry)[-1]
    assert len(start) == geometry.node_counts[-1]
    for leaf, (a, b) in enumerate(zip(start, stop, strict=True)):
        block = owner[tuple(map(slice, a, b))]
        assert block.size > 0
        assert (block == -1).all()
        block[...] = leaf
    assert (owner >= 0).all()


@given(geometries())
def test_children_halve_their_parent_in_order(geometry: Geometry) -> None:
    levels = boxes(geometry)
    assert len(levels) == geometry.levels == len(geometry.node_counts)
    for axes, (start, stop), (low, high) in zip(
        geometry.splits, levels[:-1], levels[1:], strict=True
    ):
        k = len(axes)
        assert len(low) == len(start) << k
        for node in range(len(low)):
            parent, child = divmod(node, 1 << k)
            a, b = start[parent].copy(), stop[parent].copy()
            for place, axis in enumerate(axes):
                middle = -(-(a[axis] + b[axis]) // 2)
                upper = child >> (k - 1 - place) & 1  # the first axis in the highest bit
                a[axis], b[axis] = (middle, b[axis]) if upper else (a[axis], middle)
            assert low[node].tolist() == a.tolist()
            assert high[node].tolist() == b.tolist()


def test_the_order_of_nodes_is_pinned() -> None:
    geometry = Geometry(shape=(5, 3, 8), splits=((0, 2),), coordinates="global")
    start, stop = boxes(geometry)[1]
    assert start.tolist() == [[0, 0, 0], [0, 0, 4], [3, 0, 0], [3, 0, 4]]
    assert stop.tolist() == [[3, 3, 4], [3, 3, 8], [5, 3, 4], [5, 3, 8]]


@given(geometries())
def test_coordinates_span_the_box_or_the_block(geometry: Geometry) -> None:
    scale, offset = leaf_affine(geometry)
    start, stop = boxes(geometry)[-1]
    if geometry.coordinates == "global":
        start, stop = np.zeros_like(start), np.zeros_like(stop) + geometry.shape
    first, last = scale * start + offset, scale * (stop - 1) + offset
    single = stop - start == 1
    np.testing.assert_allclose(first, np.where(single, 0, -1), atol=1e-12)
    np.testing.assert_allclose(last, np.where(single, 0, 1), atol=1e-12)
