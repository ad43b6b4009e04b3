"""settings: every value is checked when the record is made, and JSON carries all of it."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinc_codec import InvalidSetting, Settings, TincError


def valid_settings() -> st.SearchStrategy[Settings]:
    auto = st.just("auto")
    common: dict[str, Any] = {
        "ratio": st.floats(1, 100_000) | st.integers(1, 100_000),
        "levels": auto | st.integers(1, 6),
        "level_ratio": auto | st.floats(0.05, 20),
        "allocation": st.sampled_from(["auto", "even", "signal", "variance"]),
        "effort": st.integers(1, 9),
        "seed": st.integers(0, 2**32 - 1),
        "preserve": st.lists(
            st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False),
            max_size=64,
        ).map(tuple),
        "importance": st.none() | st.floats(-1e300, 1e300),
        "coordinates": st.sampled_from(["auto", "global", "block"]),
        "iterations": auto | st.integers(1, 10_000_000),
    }
    milestones = auto | st.sets(st.integers(1, 10_000_000), max_size=5).map(
        lambda chosen: tuple(sorted(chosen))
    )
    paper = st.builds(Settings, preset=st.just("paper"), milestones=milestones, **common)
    return paper | st.builds(Settings, **common)


@given(valid_settings())
def test_json_carries_every_setting(settings: Settings) -> None:
    config = json.loads(json.dumps(settings.to_json(), allow_nan=False))
    targets = {"ratio", "psnr", "rmse", "ssim", "max_error"}
    names = {field.name for field in fields(Settings)} - targets - {"importance"}
    assert set(config) - targets - {"importance"} == names
    assert len(set(config) & targets) == 1
    assert ("importance" in config) == (settings.importance is not None)
    assert Settings.from_json(config) == settings


def test_defaults() -> None:
    assert Settings().to_json() == {
        "ratio": 64,
        "levels": "auto",
        "level_ratio": "auto",
        "allocation": "auto",
        "effort": 5,
        "seed": 0,
        "preset": "default",
        "preserve": [],
        "coordinates": "auto",
        "form": "auto",
        "iterations": "auto",
        "milestones": "auto",
    }
    assert Settings.from_json({}) == Settings()


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("ratio", [0, 0.5, -3, 100_001, math.nan, math.inf, "64", True], "1 to 100000"),
        ("ssim", [0, 0.009, 0.99991, 1, math.nan, "0.9", True], "0.01 to 0.9999"),
        ("levels", [0, 7, 2.0, "many", None, True], "1 to 6"),
        ("level_ratio", [0, 0.04, 21, math.nan, "x", None], "0.05 to 20"),
        ("allocation", ["none", None, 1, ["even"]], "'even', 'signal', 'variance'"),
        ("effort", [0, 10, 5.0, "5", None, False], "1 to 9"),
        ("seed", [-1, 2**32, 0.0, None], "0 to 4294967295"),
        ("preset", ["best", None, 3], "'default', 'paper'"),
        ("preserve", ["0", None, {1: 2}, ("a",), (True,)], "preserve"),
        ("preserve", [(math.nan,), (math.inf,), math.nan], "leave them out|tuple of numbers"),
        ("preserve", [tuple(range(65))], "65 values; at most 64"),
        ("psnr", [0, 201, math.nan, math.inf, "40", True], "1 to 200"),
        ("rmse", [-1, math.nan, math.inf, "5", True], "rmse"),
        ("rmse", [0, 0.0], "max_error=0 is without loss"),
        ("max_error", [-1, math.nan, math.inf, "0", True], "max_error"),
        ("importance", [math.nan, math.inf, "500", True, (1, 2)], "must be a number"),
        ("form", ["both", None, 3], "'tree', 'wavelet'"),
        ("coordinates", ["local", None], "'global', 'block'"),
        ("iterations", [0, -1, 1e3, 10_000_001, None], "1 to 10000000"),
        ("milestones", [(2000,), 5, None], "paper preset|must be a tuple"),
    ],
)
def test_wrong_values_are_refused_by_name(name: str, values: list[Any], says: str) -> None:
    for value in values:
        with pytest.raises(InvalidSetting, match=name) as caught:
            Settings(**{name: value})
        assert isinstance(caught.value, TincError)
        assert isinstance(caught.value, ValueError)
        with pytest.raises(InvalidSetting, match=says):
            Settings.from_json({name: value})


@pytest.mark.parametrize("milestones", [(5, 5), (5, 3), (0,), (2.5,), (True,), ("a",)])
def test_milestones_increase(milestones: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidSetting, match="milestones"):
        Settings(preset="paper", milestones=milestones)


def test_unknown_names_suggest_what_to_do() -> None:
    with pytest.raises(InvalidSetting, match=r"'rate'.*known are .*ratio.*upgrade"):
        Settings.from_json({"ratio": 3, "rate": 3})


def test_one_preserved_value_needs_no_tuple() -> None:
    assert Settings(preserve=0).preserve == (0,)
    assert Settings(preserve=[1, 2.5]).preserve == (1, 2.5)
    assert Settings(preserve=np.array([1, 2], "u2")).preserve == (1, 2)
    assert type(Settings(preserve=np.uint16(7)).preserve[0]) is int


def test_numpy_scalars_become_plain_numbers() -> None:
    settings = Settings(
        ratio=np.float32(32),
        levels=np.int64(2),
        effort=np.uint8(3),
        seed=np.array(7),
        preserve=(np.uint16(65535), np.float32(0.5)),
    )
    config = json.loads(json.dumps(settings.to_json()))
    assert config["ratio"] == 32
    assert (config["levels"], config["effort"], config["seed"]) == (2, 3, 7)
    assert config["preserve"] == [65535, 0.5]


def test_settings_are_values() -> None:
    settings = Settings(ratio=3)
    assert settings == Settings(ratio=3.0)
    assert hash(settings) == hash(Settings(ratio=3))
    with pytest.raises(FrozenInstanceError):
        settings.ratio = 4  # type: ignore[misc]
