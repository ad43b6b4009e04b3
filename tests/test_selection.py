"""Selections: what numpy gives for ``array[selection]`` is what gathering by indices gives."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinc_codec.decoding.selection import Selection, resolve

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=7)


def gather(array: npt.NDArray[Any], selection: Selection) -> npt.NDArray[Any]:
    axes = selection.axes if selection.pointwise else np.ix_(*selection.axes)
    return array[axes].reshape(selection.shape)


def assert_like_numpy(shape: tuple[int, ...], selection: Any) -> Selection:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    resolved = resolve(selection, shape)
    assert len(resolved.axes) == len(shape)
    assert all(axis.dtype == np.int64 and axis.ndim == 1 for axis in resolved.axes)
    expected = array[selection]
    assert resolved.shape == expected.shape
    np.testing.assert_array_equal(gather(array, resolved), expected)
    return resolved


@st.composite
def axis_items(draw: st.DrawFn, size: int) -> Any:
    array = hnp.arrays(np.int64, st.integers(0, 5), elements=st.integers(-size, size - 1))
    return draw(
        st.one_of(
            st.integers(-size, size - 1),
            st.slices(size),
            st.slices(size),
            array,
            array.map(list),
            hnp.arrays(np.bool_, size),
        )
    )


@given(st.data())
def test_basic_selections_are_outer_products(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    selection = data.draw(hnp.basic_indices(shape, allow_newaxis=True, max_dims=6))
    assert not assert_like_numpy(shape, selection).pointwise


@given(st.data())
def test_any_mixture_equals_numpy(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    kept = data.draw(st.integers(0, len(shape)))
    items = [data.draw(axis_items(size)) for size in shape[:kept]]
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, kept))
        ahead, behind = items[:place], shape[len(shape) - (kept - place) :]
        items = [*ahead, Ellipsis, *(data.draw(axis_items(size)) for size in behind)]
    selection = tuple(items)
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    try:
        array[selection]
    except IndexError:  # lengths that do not broadcast
        with pytest.raises(IndexError):
            resolve(selection, shape)
    else:
        assert_like_numpy(shape, selection)


@given(st.data())
def test_open_meshes_are_outer_products(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    lists = [
        data.draw(hnp.arrays(np.int64, st.integers(1, 5), elements=st.integers(-n, n - 1)))
        for n in shape
    ]
    assert not assert_like_numpy(shape, np.ix_(*lists)).pointwise


@given(st.data())
def test_coordinates_equal_numpy(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    assert_like_numpy(shape, data.draw(hnp.integer_array_indices(shape)))


@given(st.data())
def test_full_masks_are_points(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    mask = data.draw(hnp.arrays(np.bool_, shape))
    resolved = assert_like_numpy(shape, mask)
    assert resolved.shape == (np.count_nonzero(mask),)


@pytest.mark.parametrize(
    ("selection", "pointwise"),
    [
        ((slice(10, 20), 5, slice(None, None, 4)), False),
        ((slice(None, None, -3), Ellipsis, -1), False),
        ((slice(None), [1, 5, -2], slice(4, 9)), False),
        ((np.array([True] * 3 + [False] * 29), slice(None)), False),
        ((2, [1, 5, -2]), False),
        ((0, slice(None), [1, 2]), True),
        (([1, 2], slice(2, 5), [3, 4]), True),
        (([1, 2], [3, 4], [5, 6]), True),
        (np.array(3), False),
        ((), False),
    ],
)
def test_outer_products_wherever_possible(selection: Any, pointwise: bool) -> None:
    assert assert_like_numpy((32, 32, 32), selection).pointwise is pointwise


def test_no_axes_is_one_voxel() -> None:
    resolved = resolve(Ellipsis, ())
    assert (resolved.axes, resolved.pointwise, resolved.shape) == ((), False, ())


@pytest.mark.parametrize(
    "selection",
    [(0, 9), (0, -8), (slice(None), [2, 9]), (0, np.array([[-8]])), ([0], [7])],
)
def test_out_of_range_names_index_axis_and_size(selection: Any) -> None:
    with pytest.raises(IndexError, match=r"index (9|-8|7) is out of bounds for axis 1 with size 7"):
        resolve(selection, (4, 7))


@pytest.mark.parametrize("selection", ["z", 1.5, (1, 2, 3), (..., ...), np.zeros((4, 6), bool)])
def test_what_numpy_refuses_is_refused(selection: Any) -> None:
    with pytest.raises(IndexError):
        resolve(selection, (4, 7))


def test_the_callers_index_array_is_left_alone() -> None:
    wanted = np.array([-1, 0])
    resolve((wanted,), (4, 7)).axes[0][:] = 3
    assert wanted.tolist() == [-1, 0]


def test_records_cannot_change_and_can_travel() -> None:
    resolved = resolve((slice(1, 3), 2), (4, 7))
    with pytest.raises(AttributeError):
        resolved.shape = (1,)  # type: ignore[misc]
    copy = pickle.loads(pickle.dumps(resolved))
    assert copy.shape == (2,)
    assert [axis.tolist() for axis in copy.axes] == [[1, 2], [2]]
