"""What the package is measured against: the per-node loop is the paper's recipe, rivals restore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinc_codec import encode, runtime
from tinc_codec.decode import open_chunk
from tinc_codec.metrics import psnr
from tinc_codec.phantom import phantom

torch = pytest.importorskip("torch", reason="the per-node loop needs torch")
pytest.importorskip("av", reason="the rivals need the bench extra")

VOLUME = phantom((16, 16, 16))
STEPS = 40
SEED = 3


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])


@pytest.mark.parametrize("levels", [1, 3])
def test_the_loop_follows_the_paper_preset_step_by_step(levels: int) -> None:
    """From the same weights, with the same voxels, both trainers get to the same weights."""
    from benchmarks.baselines.per_node_loop import PerNodeLoop, structure_of
    from tinc_codec.engines.gpu.engine import Problem
    from tinc_codec.fit.initial import initial_parameters
    from tinc_codec.fit.recipe import recipe_for
    from tinc_codec.settings import Settings
    from tinc_codec.tree.network import layout, macs_per_voxel

    wanted = {"preset": "paper", "ratio": 2, "levels": levels, "seed": SEED, "iterations": STEPS}
    settings = Settings(**wanted, milestones=(25, 30))
    tree, unit = structure_of(VOLUME, 2, levels)
    assert tree.geometry.levels == levels
    recipe = recipe_for(settings, unit.shape, macs_per_voxel(tree))
    with runtime(device="torch"):
        fitted = open_chunk(encode(VOLUME, **wanted, milestones=(25, 30))).parameters
        problem = Problem(tree, unit[None], None, recipe.samples, SEED)

    def draw(step: int) -> Any:
        where = problem.sample(step)[1]
        return torch.stack(torch.unravel_index(where, unit.shape), dim=-1)

    loop = PerNodeLoop(tree, unit, recipe.samples, milestones=(25, 30), draw=draw)
    start = initial_parameters(
        layout(tree), recipe, recipe.frequencies[0], np.random.default_rng(SEED)
    )
    outputs = layout(tree).groups[-2].start
    start[outputs:] /= 100
    loop.load(start)
    np.testing.assert_allclose(loop.parameters(), start, rtol=1e-6)
    for _ in range(STEPS):
        loop.step()
    assert fitted is not None
    # Adamax takes whole steps also where a gradient is rounding noise: not quite all agree.
    apart, moved = np.abs(loop.parameters() - fitted), np.abs(fitted - start)
    assert np.median(moved[:outputs]) > 0.1
    assert np.quantile(apart, 0.98) < 1e-3


def test_the_loop_draws_the_same_places_in_every_leaf() -> None:
    from benchmarks.baselines.per_node_loop import PerNodeLoop, structure_of

    tree, unit = structure_of(VOLUME, 2, 2)
    loop = PerNodeLoop(tree, unit, 8 * 400, seed=SEED)
    index = loop._same_places(0).numpy()
    assert index.shape == (8, 400, 3)
    corners = index[:, :1] - index[:1, :1]
    np.testing.assert_array_equal(index - corners, np.broadcast_to(index[:1], index.shape))
    assert index.min() == 0
    assert index.reshape(-1, 3).max(axis=0).tolist() == [15, 15, 15]


def test_pace_is_of_a_step() -> None:
    from benchmarks.baselines.per_node_loop import PerNodeLoop, structure_of

    loop = PerNodeLoop(*structure_of(VOLUME, 2, 2), batch=256)
    pace = loop.pace(6)
    assert pace.timed == 8
    assert 0 < pace.seconds < 10


# Other codecs.


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_rivals_restore_within_their_bytes(dtype: str) -> None:
    from benchmarks.baselines.rivals import RIVALS, encode

    scale = 200 if dtype == "uint8" else 3000
    unit = phantom((24, 32, 40)).astype(np.float64)
    unit = (unit - unit.min()) / np.ptp(unit)
    volume = (scale * unit - (100 if dtype == "int16" else 0)).astype(dtype)
    for name, rival in RIVALS.items():
        ratio = 1.5 if name == "Blosc-Zstd" else 6
        coded = encode(rival, volume, ratio)
        if coded is None:
            assert name == "Blosc-Zstd"
            continue
        # Video encoders with threads do not give the same bytes each time.
        assert coded.payload_bytes <= 1.01 * volume.nbytes / ratio, name
        assert coded.decoded.shape == volume.shape
        assert coded.decoded.dtype == volume.dtype
        np.testing.assert_array_equal(coded.decode(), coded.decoded)
        assert psnr(volume, coded.decoded) > 20, name
        assert coded.encode_s > 0
        assert coded.decode_s > 0


def test_a_rival_spends_its_bytes_and_gains_by_more() -> None:
    from benchmarks.baselines.rivals import RIVALS, encode

    volume = phantom((24, 32, 40))
    for name in ("HEVC", "H.264", "SPERR", "JPEG XL", "JPEG 2000"):
        found = [encode(RIVALS[name], volume, ratio) for ratio in (5, 10)]
        assert all(found), name
        assert found[0].payload_bytes > 0.9 * volume.nbytes / 5, name
        assert psnr(volume, found[0].decoded) > psnr(volume, found[1].decoded), name


def test_out_of_reach_is_none() -> None:
    from benchmarks.baselines.rivals import RIVALS, encode

    volume = phantom((24, 32, 40))
    for name in ("JPEG XL", "JPEG 2000", "ZFP", "Blosc-Zstd"):
        assert encode(RIVALS[name], volume, 1000) is None
