"""network: the flat parameter vector is covered once, in the order of the format."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from trees import trees

from tinc_codec.tree.geometry import Geometry
from tinc_codec.tree.network import Tree, count_parameters, input_widths, layout, macs_per_voxel

SMALL = Tree(
    geometry=Geometry(shape=(8, 8), splits=((1,),), coordinates="global"),
    widths=(np.array([[3, 2]]), np.array([[4, 1], [2, 5]])),
)


def test_layout_of_a_small_tree() -> None:
    table = layout(SMALL)
    # root: 2-3-2; left leaf: 2-4-1-1; right leaf: 2-2-5-1
    assert table.n_in.tolist() == [2, 3, 2, 2, 4, 2, 1, 5]
    assert table.n_out.tolist() == [3, 2, 4, 2, 1, 5, 1, 1]
    assert table.weight_at.tolist() == [0, 9, 17, 25, 35, 39, 55, 56]
    assert table.bias_at.tolist() == [6, 15, 29, 33, 49, 50, 61, 62]
    assert table.paths.tolist() == [[0, 1, 2, 4, 6], [0, 1, 3, 5, 7]]
    assert table.size == count_parameters(SMALL) == 63
    groups = [(g.level, g.layer, g.is_bias, g.start, g.stop) for g in table.groups]
    assert groups == [
        (0, 0, False, 0, 6),
        (0, 0, True, 6, 9),
        (0, 1, False, 9, 15),
        (0, 1, True, 15, 17),
        (1, 0, False, 17, 29),
        (1, 0, True, 29, 35),
        (1, 1, False, 35, 49),
        (1, 1, True, 49, 55),
        (1, 2, False, 55, 61),
        (1, 2, True, 61, 63),
    ]
    assert macs_per_voxel(SMALL) == (6 + 6 + (8 + 4 + 1 + 4 + 10 + 5) / 2)


def test_input_widths_are_the_parents_outputs() -> None:
    assert [input_widths(SMALL, level).tolist() for level in range(2)] == [[2], [2, 2]]


@given(trees())
def test_every_parameter_has_one_place(tree: Tree) -> None:
    table = layout(tree)
    uses = np.zeros(table.size, int)
    for layer in range(len(table.n_in)):
        n_in, n_out = table.n_in[layer], table.n_out[layer]
        uses[table.weight_at[layer] :][: n_in * n_out] += 1
        uses[table.bias_at[layer] :][:n_out] += 1
    assert (uses == 1).all()
    assert table.size == count_parameters(tree)
    assert [g.start for g in table.groups[1:]] == [g.stop for g in table.groups[:-1]]
    assert (table.groups[0].start, table.groups[-1].stop) == (0, table.size)


@given(trees())
def test_paths_lead_from_the_coordinates_to_one_value(tree: Tree) -> None:
    table = layout(tree)
    assert len(table.paths) == tree.geometry.node_counts[-1]
    assert (table.n_in[table.paths[:, 0]] == len(tree.geometry.shape)).all()
    assert (table.n_out[table.paths[:, :-1]] == table.n_in[table.paths[:, 1:]]).all()
    assert (table.n_out[table.paths[:, -1]] == 1).all()
    assert set(table.paths.ravel().tolist()) == set(range(len(table.n_in)))
    depth = sum(w.shape[1] for w in tree.widths)
    assert table.paths.shape[1] == depth + 1


@given(trees())
def test_paths_follow_the_boxes(tree: Tree) -> None:
    table = layout(tree)
    column = first = 0
    for level, nodes in enumerate(tree.geometry.node_counts):
        ancestor = np.arange(len(table.paths)) * nodes // len(table.paths)
        assert (table.paths[:, column] - first == ancestor).all()
        layers = tree.widths[level].shape[1]
        column += layers
        first += nodes * layers


def test_engines_need_plain_int64_tables() -> None:
    table = layout(SMALL)
    for values in (table.n_in, table.n_out, table.weight_at, table.bias_at, table.paths):
        assert values.dtype == np.int64
        assert values.flags.c_contiguous


@pytest.mark.parametrize("width", [1, 4096])
def test_one_node(width: int) -> None:
    geometry = Geometry(shape=(9,), splits=(), coordinates="global")
    tree = Tree(geometry=geometry, widths=(np.array([[width]]),))
    assert count_parameters(tree) == 3 * width + 1
    assert layout(tree).paths.tolist() == [[0, 1]]
