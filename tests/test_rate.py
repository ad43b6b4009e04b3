"""rate: the section fills its bytes, and the steps follow the sensitivities."""

from __future__ import annotations

import numpy as np
import pytest
from trees import parameters_of

from tinc_codec.fit.rate import quantize_to_size
from tinc_codec.tree import weights
from tinc_codec.tree.allocation import geometry_of
from tinc_codec.tree.network import Tree, layout

GEOMETRY = geometry_of((64, 64, 64), 2, "global")
TREE = Tree(geometry=GEOMETRY, widths=tuple(np.full((n, 2), 20) for n in GEOMETRY.node_counts))
TABLE = layout(TREE)
PARAMETERS = parameters_of(TREE)
LIKE = np.ones(TABLE.size, np.float32)


def bytes_at(bits: float) -> int:
    return round(TABLE.size * bits / 8)


@pytest.mark.parametrize("bits", [2, 4, 5.5, 7, 9, 12])
def test_bytes_are_used_up(bits: float) -> None:
    size = bytes_at(bits)
    coded = quantize_to_size(TABLE, PARAMETERS, LIKE, size)
    assert coded is not None
    assert 0.99 * size <= len(coded) <= size


def test_small_sizes() -> None:
    least = 5 + 2 * len(TABLE.groups)
    assert quantize_to_size(TABLE, PARAMETERS, LIKE, least - 1) is None
    for size in range(least, least + 40, 7):
        coded = quantize_to_size(TABLE, PARAMETERS, LIKE, size)
        assert coded is not None
        assert len(coded) <= size


def test_more_bytes_come_closer() -> None:
    errors = []
    for bits in (3, 5, 7, 9, 11):
        coded = quantize_to_size(TABLE, PARAMETERS, LIKE, bytes_at(bits))
        assert coded is not None
        errors.append(float(np.abs(weights.unpack(coded, TABLE) - PARAMETERS).max()))
    ratios = np.divide(errors[:-1], errors[1:])
    assert (ratios > 3.2).all()  # two bits make a quarter of the step
    assert (ratios < 5).all()


def test_steps_go_as_the_inverse_root_of_the_sensitivity() -> None:
    sensitivity = LIKE.copy()
    first, second = TABLE.groups[0], TABLE.groups[2]
    sensitivity[first.start : first.stop] = 64.0
    sensitivity[second.start : second.stop] = 1 / 16
    coded = quantize_to_size(TABLE, PARAMETERS, sensitivity, bytes_at(7))
    assert coded is not None
    codes = np.frombuffer(coded, np.uint8)[5 : 5 + len(TABLE.groups)].astype(int)
    ordinary = codes[4]
    assert codes[0] - ordinary == -24  # an eighth, at eight codes an octave
    assert codes[2] - ordinary == 16
    assert len(set(codes[3:])) == 1


def test_parameters_that_change_nothing_are_no_trouble() -> None:
    sensitivity = LIKE.copy()
    sensitivity[: TABLE.groups[3].stop] = 0
    size = bytes_at(6)
    coded = quantize_to_size(TABLE, PARAMETERS, sensitivity, size)
    assert coded is not None
    assert 0.99 * size <= len(coded) <= size
    nothing = quantize_to_size(TABLE, PARAMETERS, 0 * LIKE, size)
    assert nothing is not None
    assert len(nothing) <= size


def test_a_far_outlier_bounds_the_step() -> None:
    parameters = PARAMETERS.copy()
    parameters[7] = 1e6
    coded = quantize_to_size(TABLE, parameters, LIKE, bytes_at(7))
    assert coded is not None
    assert weights.unpack(coded, TABLE)[7] == pytest.approx(1e6, rel=1e-3)


def test_zeros() -> None:
    coded = quantize_to_size(TABLE, 0 * PARAMETERS, LIKE, 500)
    assert coded is not None
    assert not weights.unpack(coded, TABLE).any()
