from __future__ import annotations

import numpy as np
import pytest

from tinc_codec.errors import InvalidSetting
from tinc_codec.phantom import phantom


@pytest.fixture(scope="module")
def volume():
    return phantom((40, 64, 56), seed=3)


def test_has_the_shape_asked_for_and_camera_counts(volume):
    assert volume.shape == (40, 64, 56)
    assert volume.dtype == np.uint16
    assert volume.flags.c_contiguous
    assert volume.min() > 80  # above the camera's offset less its noise: nothing wrapped
    assert volume.max() < 65535  # and nothing saturated


def test_is_repeated_by_its_seed_and_changed_by_another():
    assert np.array_equal(phantom((16, 20, 24), seed=1), phantom((16, 20, 24), seed=1))
    assert not np.array_equal(phantom((16, 20, 24), seed=1), phantom((16, 20, 24), seed=2))


def test_bright_structures_are_sparse_on_a_dim_smooth_ground(volume):
    dim, median, bright = np.percentile(volume, [5, 50, 99.9])
    assert bright - median > 4 * (median - dim)
    assert np.mean(volume > (median + bright) / 2) < 0.05


def test_noise_is_shot_noise_stronger_where_it_is_brighter(volume):
    # Pairs of neighbours along x in the dim and in the brighter half of the ground.
    left, right = volume[..., :-1].astype(float), volume[..., 1:].astype(float)
    level, spread = (left + right) / 2, np.abs(left - right)
    dim, middle, bright = np.percentile(level, [10, 50, 80])
    assert spread[level < dim].mean() > 3
    assert spread[(level > middle) & (level < bright)].mean() > 1.2 * spread[level < dim].mean()


def test_structures_are_blurred_more_along_z(volume):
    bright = np.clip(volume.astype(float), np.percentile(volume, 97), None)
    steps = [np.abs(np.diff(bright, axis=axis)).mean() for axis in range(3)]
    assert steps[0] < 0.95 * min(steps[1:])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 2)])
def test_small_shapes(shape):
    assert phantom(shape).shape == shape


@pytest.mark.parametrize("shape", [(8, 8), (8, 0, 8), (8, 8, 8, 8)])
def test_refuses_other_shapes(shape):
    with pytest.raises(InvalidSetting, match="three sizes"):
        phantom(shape)
