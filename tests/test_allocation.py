"""allocation: importance of nodes, the paper's rules, and the largest tree within a budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import geometries

from tinc_codec.tree.allocation import (
    Structure,
    allocate,
    background_level,
    consistency,
    geometry_of,
    importance,
    rule_level_ratio,
)
from tinc_codec.tree.geometry import Geometry
from tinc_codec.tree.network import Tree, count_parameters, level_layers

QUARTERS = geometry_of((64, 64), 2, "global")


def noise() -> np.random.Generator:
    """Return the same numbers in whatever order tests run."""
    return np.random.default_rng(0)


def structure_of(
    geometry: Geometry, depth: int = 2, level_ratio: float = 1.0, seed: int | None = None
) -> Structure:
    """Even shares, or random ones of mean 1."""
    shares = [np.ones(n) for n in geometry.node_counts]
    if seed is not None:
        random = [np.random.default_rng(seed).uniform(0.05, 1, len(s)) ** 3 for s in shares]
        shares = [r / r.mean() for r in random]
    return Structure(
        geometry=geometry,
        depths=(depth,) * geometry.levels,
        level_ratio=level_ratio,
        shares=tuple(shares),
    )


# Importance.


@pytest.mark.parametrize("bright", [0.0, 0.02, 0.3])
def test_background_is_above_the_noise_and_below_the_signal(bright: float) -> None:
    unit = noise().normal(0.2, 0.02, 100_000).astype(np.float32)
    unit[: int(bright * unit.size)] += 0.4
    assert 0.23 < background_level(unit) < 0.31


def test_background_of_a_level_volume() -> None:
    assert 0.5 < background_level(np.full((8, 8), 0.5, np.float32)) < 0.52


def test_even_shares() -> None:
    unit = noise().random((64, 64), dtype=np.float32)
    assert [s.tolist() for s in importance(unit, QUARTERS, "even")] == [[1], [1] * 4]


def test_signal_goes_by_the_voxels_above_the_background() -> None:
    unit = noise().normal(0.1, 0.01, (256, 256)).clip(0, 1).astype(np.float32)
    unit[:40, 128:168] = 0.9  # 1,600 voxels of the upper right quarter
    unit[160:240, 160:220] = 0.8  # 4,800 voxels of the lower right quarter
    root, leaves = importance(unit, geometry_of(unit.shape, 2, "global"), "signal")
    assert root.tolist() == [1]
    # a quarter is spread evenly; the rest is 0 : 1 : 0 : 3, but for noise
    np.testing.assert_allclose(leaves, [0.25, 1.0, 0.25, 2.5], atol=0.15)


def test_variance_goes_by_squared_deviations() -> None:
    unit = np.full((64, 64), 0.5, np.float32)
    unit[:32, 32:] += np.tile(np.float32([0.1, -0.1]), (32, 16))
    unit[32:, :32] += np.tile(np.float32([0.2, -0.2]), (32, 16))
    leaves = importance(unit, QUARTERS, "variance")[1]
    np.testing.assert_allclose(leaves, [0.25, 0.25 + 0.6, 0.25 + 2.4, 0.25], rtol=1e-5)


@pytest.mark.parametrize("allocation", ["signal", "variance"])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_level_volume_is_shared_evenly(allocation: str, value: float) -> None:
    shares = importance(np.full((64, 64), value, np.float32), QUARTERS, allocation)
    assert [s.tolist() for s in shares] == [[1], [1] * 4]


@settings(max_examples=50)
@given(geometries(), st.sampled_from(["even", "signal", "variance"]), st.integers(0, 2**32 - 1))
def test_shares_have_mean_one_and_a_floor(geometry: Geometry, allocation: str, seed: int) -> None:
    unit = np.random.default_rng(seed).random(geometry.shape, np.float32) ** 4
    shares = importance(unit, geometry, allocation)
    assert tuple(map(len, shares)) == geometry.node_counts
    for share in shares:
        assert share.mean() == pytest.approx(1)
        assert share.min() >= 0.25 - 1e-12


# The rule of r_l.


def test_consistency_of_like_and_unlike_regions() -> None:
    tile = noise().random((8, 8, 8), dtype=np.float32)
    assert consistency(np.tile(tile, (4, 4, 4))) == pytest.approx(1)
    assert consistency(np.full((9, 9), 0.3, np.float32)) == pytest.approx(1)
    assert abs(consistency(noise().random((32, 32, 32), dtype=np.float32))) < 0.1
    halves = np.concatenate([np.tile(tile, (2, 4, 4)), np.tile(1 - tile, (2, 4, 4))])
    assert consistency(halves) < 0.1


def test_consistency_compares_brightness_too() -> None:
    levels = np.float32([[0.2], [0.8]]).repeat(8, axis=1)  # 2 x 4 regions without any pattern
    luminance = (2 * 0.2 * 0.8 + 1e-4) / (0.2**2 + 0.8**2 + 1e-4)
    # of the 7 other regions, 3 are of the same row
    assert consistency(levels) == pytest.approx((3 + 4 * luminance) / 7, rel=1e-5)


@pytest.mark.parametrize("shape", [(2,), (3, 2), (1000,), (2, 3, 2, 2)])
def test_consistency_of_small_volumes(shape: tuple[int, ...]) -> None:
    assert -1 <= consistency(noise().random(shape, dtype=np.float32)) <= 1


def test_alike_regions_favour_shallow_levels() -> None:
    tile = noise().random((8, 8, 8), dtype=np.float32)
    alike = np.tile(tile, (4, 4, 4))
    unlike = noise().random((32, 32, 32), dtype=np.float32)
    assert rule_level_ratio(alike, 1.0) < 1 < rule_level_ratio(unlike, 1.0)
    blend = next(
        mixed
        for share in np.linspace(0.3, 0.9, 200)
        if 0.62 < consistency(mixed := (share * alike + (1 - share) * unlike)) < 0.68
    )
    assert rule_level_ratio(blend, 0.5) == 0.5


# Widths.


@settings(max_examples=60)
@given(
    geometries(),
    st.integers(1, 3),
    st.sampled_from([0.05, 0.4, 1.0, 3.0, 20.0]),
    st.integers(0, 2**32 - 1),
    st.integers(1, 6000),
    st.booleans(),
)
def test_the_tree_fits_and_none_means_that_none_fits(
    geometry: Geometry, depth: int, level_ratio: float, seed: int, parameters: int, exactly: bool
) -> None:
    structure = structure_of(geometry, depth, level_ratio, seed)
    thinnest = Tree(
        geometry=geometry,
        widths=tuple(np.ones((n, depth), np.int64) for n in geometry.node_counts),
    )
    tree = allocate(structure, parameters, exactly=exactly)
    if tree is None:
        assert count_parameters(thinnest) > parameters
        return
    assert count_parameters(tree) <= parameters
    assert all(widths.min() >= 1 for widths in tree.widths)
    if not exactly:
        assert all((widths == widths[:, :1]).all() for widths in tree.widths)


def widened(tree: Tree, level: int, node: int, layer: int) -> Tree:
    widths = [w.copy() for w in tree.widths]
    widths[level][node, layer] += 1
    return replace(tree, widths=tuple(widths))


@settings(max_examples=30)
@given(geometries(), st.integers(1, 2), st.integers(0, 2**32 - 1), st.integers(200, 3000))
def test_exactly_leaves_room_for_no_wider_layer(
    geometry: Geometry, depth: int, seed: int, parameters: int
) -> None:
    tree = allocate(structure_of(geometry, depth, 1.0, seed), parameters, exactly=True)
    if tree is None:
        return
    for level, widths in enumerate(tree.widths):
        for node, layer in np.ndindex(widths.shape):
            assert count_parameters(widened(tree, level, node, layer)) > parameters


@pytest.mark.parametrize("parameters", [1_000, 5_000, 30_000, 300_000])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_little_is_left_over(levels: int, parameters: int) -> None:
    structure = structure_of(geometry_of((64, 64, 64), levels, "global"))
    exact = allocate(structure, parameters, exactly=True)
    assert exact is not None
    assert count_parameters(exact) > 0.97 * parameters


@pytest.mark.parametrize("level_ratio", [0.3, 1.0, 3.0])
def test_nodes_follow_the_level_ratio(level_ratio: float) -> None:
    structure = structure_of(geometry_of((64, 64, 64), 3, "global"), 2, level_ratio)
    tree = allocate(structure, 2_000_000, exactly=False)
    assert tree is not None
    per_node = [
        sum(int((n_out * (n_in + 1)).sum()) for n_in, n_out in level_layers(tree, level)) / nodes
        for level, nodes in enumerate(tree.geometry.node_counts)
    ]
    np.testing.assert_allclose(np.divide(per_node[1:], per_node[:-1]), level_ratio, rtol=0.1)


def test_nodes_follow_their_shares() -> None:
    shares = (np.ones(1), np.array([0.25, 0.25, 1.0, 2.5]))
    structure = replace(structure_of(geometry_of((64, 64), 2, "global")), shares=shares)
    tree = allocate(structure, 40_000, exactly=False)
    assert tree is not None
    n_in = tree.widths[0][0, -1]
    width = tree.widths[1][:, 0]
    sizes = n_in * width + width**2 + 3 * width
    np.testing.assert_allclose(sizes / sizes.mean(), shares[1], rtol=0.1)


def test_geometry_of_short_boxes_has_fewer_levels() -> None:
    geometry = geometry_of([9, 5], 4, "block")
    assert geometry == Geometry(shape=(9, 5), splits=((0,),), coordinates="block")
