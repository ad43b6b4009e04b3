"""Which plan of the transform is taken, and that the volume it is taken for stays as it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tinc_codec.fit import rate_control, residual
from tinc_codec.fit.plans import choose_plan, plan_by_rule

STEP = 0.02


def rough_along_z() -> residual.Residual:
    """Return a volume whose planes are smooth and have little to do with one another."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:48, :48] / 20
    values = [np.sin(x + a) * np.cos(y + b) for a, b in rng.uniform(0, 6, (32, 2))]
    return residual.Residual.of((np.array(values) / 2 + 0.5).astype(np.float32))


def test_a_rough_axis_is_halved_later() -> None:
    volume = rough_along_z()
    whole = volume.whole(STEP)
    assert whole is not None
    moved, coded = choose_plan(volume, STEP, whole)
    assert moved.starts is not None
    assert moved.starts[0] > 0 == moved.starts[1] == moved.starts[2]
    assert moved.cost(coded, STEP) < volume.cost(whole, STEP)
    again = moved.whole(STEP)
    assert again is not None
    assert again.segments == coded.segments


def rough_in_a_corner(shape: tuple[int, int, int] = (64, 64, 80)) -> residual.Residual:
    """Return a volume that is nearly level, but rough along z in its last corner."""
    values = np.random.default_rng(1).normal(0.5, 1e-4, shape).astype(np.float32)
    part = rough_along_z().values[:, :32, :40]
    values[32:, 32:, 40:] = part
    return residual.Residual.of(values)


def test_by_rule_the_part_where_most_happens_is_looked_at() -> None:
    volume = rough_in_a_corner()
    moved = plan_by_rule(volume, STEP)
    assert moved.starts is not None
    assert moved.starts[0] > 0 == moved.starts[1] == moved.starts[2]
    before, after = (rest.whole(STEP) for rest in (volume, moved))
    assert before is not None
    assert after is not None
    assert moved.cost(after, STEP) < volume.cost(before, STEP)


@pytest.mark.parametrize("shape", [(1, 1, 50), (1, 40, 40), (2, 3, 400), (33, 64, 64), (5, 5, 5)])
def test_by_rule_any_shape_has_a_plan(shape: tuple[int, int, int]) -> None:
    values = np.random.default_rng(0).random(shape, np.float32)
    weight = np.random.default_rng(1).random(shape, np.float32)
    for volume in (residual.Residual.of(values), residual.Residual.of(values, weight)):
        moved = plan_by_rule(volume, STEP)
        assert moved.transform.plan.shapes[0] == shape
        if max(shape) <= 32:  # the part is all of it
            whole = volume.whole(STEP)
            assert whole is not None
            assert choose_plan(volume, STEP, whole)[0].starts in (volume.starts, moved.starts)


def test_the_cost_foretold_puts_plans_in_the_order_that_coding_finds() -> None:
    volume = rough_along_z()
    foretold, found = [], []
    for starts in ((0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0), (0, 1, 1), (1, 0, 1)):
        moved = volume.starting_at(starts)
        coded = moved.whole(STEP)
        assert coded is not None
        foretold.append(moved.transform.magnitudes.cost(STEP, moved.price))
        found.append(moved.cost(coded, STEP))
    assert np.argsort(foretold).tolist() == np.argsort(found).tolist()


def test_a_given_plan_stays() -> None:
    volume = rough_along_z()
    given = residual.Residual.of(volume.values, plan=volume.transform.plan)
    whole = given.whole(STEP)
    assert whole is not None
    rest, coded = choose_plan(given, STEP, whole)
    assert rest is given
    assert coded is whole
    assert plan_by_rule(given, STEP) is given


def test_choosing_changes_nothing_of_the_volume_given() -> None:
    volume = rough_along_z()
    before = {field.name: getattr(volume, field.name) for field in dataclasses.fields(volume)}
    settled = rate_control.settle_about(volume, 2_000)
    assert settled is not None
    assert settled[0].starts != volume.starts
    for name, value in before.items():
        assert getattr(volume, name) is value
    with pytest.raises(dataclasses.FrozenInstanceError):
        volume.price = 0.1  # type: ignore[misc]


def test_magnitudes_are_those_of_the_transform() -> None:
    volume = rough_along_z()
    known = volume.transform.magnitudes
    assert volume.at_price(0.05).transform.magnitudes is known
    other = volume.starting_at((2, 0, 0)).transform.magnitudes
    assert other.count == known.count
    assert not np.array_equal(other.squares, known.squares)
