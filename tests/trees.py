"""Random trees with parameters: uneven widths, odd shapes, any axes halved."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tinc_codec.tree.faces import MAX_REACH, MAX_STRENGTH, Smoothing
from tinc_codec.tree.geometry import Geometry
from tinc_codec.tree.network import Tree, layout

Float32Array = npt.NDArray[np.float32]

LONGEST = {1: 700, 2: 29, 3: 11, 4: 7}
MOST_LEAVES = 64


def tree_of(
    shape: tuple[int, ...],
    splits: Any = (),
    depths: tuple[int, ...] = (2,),
    widest: int = 9,
    coordinates: Literal["global", "block"] = "global",
) -> Tree:
    """Return a tree of random widths, the same each time."""
    geometry = Geometry(shape=shape, splits=splits, coordinates=coordinates)
    rng = np.random.default_rng(5)
    widths = tuple(
        rng.integers(1, widest, (nodes, depth), endpoint=True)
        for nodes, depth in zip(geometry.node_counts, depths, strict=True)
    )
    return Tree(geometry=geometry, widths=widths)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    n_axes = draw(st.integers(1, 4))
    shape = [draw(st.integers(2, LONGEST[n_axes])) for _ in range(n_axes)]
    sides = list(shape)
    splits: list[tuple[int, ...]] = []
    for _ in range(draw(st.integers(0, 3))):
        can = [axis for axis in range(n_axes) if sides[axis] >= 2]
        room = (MOST_LEAVES >> sum(map(len, splits))).bit_length() - 1
        if not can or not room:
            break
        axes = draw(st.lists(st.sampled_from(can), min_size=1, max_size=room, unique=True))
        for axis in axes:
            sides[axis] //= 2
        splits.append(tuple(sorted(axes)))
    coordinates = draw(st.sampled_from(("global", "block")))
    return Geometry(shape=tuple(shape), splits=tuple(splits), coordinates=coordinates)


def smoothings() -> st.SearchStrategy[Smoothing]:
    return st.builds(
        Smoothing,
        reach=st.integers(1, 9) | st.just(MAX_REACH),
        strength=st.integers(1, MAX_STRENGTH),
    )


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    geometry = draw(geometries())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    widest = draw(st.integers(1, 13))
    widths = tuple(
        rng.integers(1, widest, (nodes, draw(st.integers(1, 3))), endpoint=True)
        for nodes in geometry.node_counts
    )
    smoothing = draw(st.none() | smoothings()) if geometry.splits else None
    return Tree(geometry=geometry, widths=widths, smoothing=smoothing)


def parameters_of(tree: Tree, seed: int = 0, gain: float = 1.0) -> Float32Array:
    """Return random parameters of SIREN's size (frequency 30), weights times ``gain``."""
    table = layout(tree)
    rng = np.random.default_rng(seed)
    out = np.empty(table.size, np.float32)
    for layer, n_in in enumerate(table.n_in):
        spread = gain * (30 / n_in if layer == 0 else np.sqrt(6 / n_in))
        at, bias_at, n_out = table.weight_at[layer], table.bias_at[layer], table.n_out[layer]
        out[at : at + n_in * n_out] = rng.uniform(-spread, spread, n_in * n_out)
        out[bias_at : bias_at + n_out] = rng.uniform(-np.pi, np.pi, n_out)
    return out


def output_size(tree: Tree, parameters: Float32Array) -> float:
    """Return the largest sum of absolute output weights of a leaf: how large values can be."""
    table = layout(tree)
    return max(
        float(np.abs(parameters[table.weight_at[k] : table.weight_at[k] + table.n_in[k]]).sum())
        for k in table.paths[:, -1]
    )
