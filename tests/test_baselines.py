"""What the package is measured against: the per-node loop is the paper's recipe, rivals restore."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinc_codec import encode, runtime
from tinc_codec.decoding.opened import open_chunk
from tinc_codec.metrics import psnr
from tinc_codec.phantom import phantom

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="the per-node loop needs torch")
pytest.importorskip("av", reason="the rivals need the bench extra")

VOLUME = phantom((16, 16, 16))
STEPS = 40
SEED = 3


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])


@needs_torch
@pytest.mark.parametrize("levels", [1, 3])
def test_the_loop_follows_the_paper_preset_step_by_step(levels: int) -> None:
    """From the same weights, with the same voxels, both trainers get to the same weights."""
    import torch

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


@needs_torch
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


@needs_torch
def test_pace_is_of_a_step() -> None:
    from benchmarks.baselines.per_node_loop import PerNodeLoop, structure_of

    loop = PerNodeLoop(*structure_of(VOLUME, 2, 2), batch=256)
    pace = loop.pace(6)
    assert pace.timed == 8
    assert 0 < pace.seconds < 10


# Other codecs.

CLASSICAL = [
    *("HEVC", "HEVC 10 bit", "H.264", "AV1", "JPEG", "JPEG 12 bit", "JPEG 2000", "HTJ2K"),
    *("JPEG XL", "AVIF", "SPERR", "SPERR bpp", "SPERR tolerance", "SPERR PSNR", "SZ3", "ZFP"),
    *("Blosc2", "Blosc-Zstd"),
]


def small(dtype: str = "uint16") -> Any:
    """A volume of which every codec stores a sixth at most."""
    unit = phantom((24, 32, 40)).astype(np.float64)
    unit = (unit - unit.min()) / np.ptp(unit)
    scale = 200 if dtype == "uint8" else 3000
    return (scale * unit - (100 if dtype == "int16" else 0)).astype(dtype)


def test_every_classical_codec_is_tested() -> None:
    from benchmarks.baselines import registry

    assert set(registry.CLASSICAL) <= set(CLASSICAL) <= set(registry.NAMES)
    with pytest.raises(ValueError, match="no codec 'MP3'; there are TINC, TINC wavelet"):
        registry.get("MP3")


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_codec_restores_within_its_bytes(name: str) -> None:
    from benchmarks.baselines import registry
    from benchmarks.baselines.protocol import Target

    slow = name in ("HEVC", "HEVC 10 bit", "H.264")
    for dtype in ("int16",) if slow else ("uint16", "uint8", "int16", "float32"):
        volume = small(dtype)
        lossless = name == "Blosc-Zstd"
        coded = registry.get(name).encode(volume, Target(ratio=1 if lossless else 4))
        if coded is None:
            assert name in ("Blosc-Zstd", "JPEG 12 bit", "AVIF")
            continue
        assert coded.payload_bytes <= volume.nbytes / (1 if lossless else 4)
        assert coded.decoded.shape == volume.shape
        assert coded.decoded.dtype == volume.dtype
        np.testing.assert_array_equal(coded.decode(), coded.decoded)
        assert psnr(volume, coded.decoded) > 20
        assert coded.encode_s > 0
        assert coded.decode_s > 0


KNOBS = {
    **dict.fromkeys(("HEVC", "HEVC 10 bit", "H.264"), (10, 35)),
    **dict.fromkeys(("JPEG", "JPEG 12 bit", "AVIF"), (90, 20)),
    **{"AV1": (5, 50), "JPEG 2000": (45, 25), "HTJ2K": (1e-3, 0.1), "JPEG XL": (1, 15)},
    **{"SPERR bpp": (2, 0.2), "SPERR tolerance": (0.01, 0.2), "SPERR PSNR": (45, 25)},
    **dict.fromkeys(("SZ3", "Blosc2"), (0.01, 0.2)),
    "ZFP": (0.01, 0.8),
}


@pytest.mark.parametrize("name", KNOBS)
def test_a_knob_is_monotone_and_its_bytes_are_counted(name: str) -> None:
    from benchmarks.baselines import registry
    from benchmarks.baselines.knob import Knob

    volume, codec = small(), registry.get(name)
    assert isinstance(codec, Knob)
    better, worse = (codec.at(volume, knob) for knob in KNOBS[name])
    assert better.payload_bytes > worse.payload_bytes
    assert psnr(volume, better.decoded) > psnr(volume, worse.decoded)
    payload = worse.decode.args[-2]
    parts = payload if isinstance(payload, list) else [payload]
    assert worse.payload_bytes == sum(map(len, parts))
    # All that counts is there: the decoder needs no more than shape, dtype and these bytes.
    blank = np.zeros_like(volume)
    np.testing.assert_array_equal(codec.decompress(payload, blank), worse.decoded)


def test_a_codec_spends_its_bytes() -> None:
    from benchmarks.baselines import registry
    from benchmarks.baselines.protocol import Target

    volume = small()
    for name in ("HEVC", "SPERR", "JPEG XL", "JPEG 2000"):
        found = registry.get(name).encode(volume, Target(ratio=5))
        assert found is not None
        assert found.payload_bytes > 0.9 * volume.nbytes / 5, name


def test_sperr_is_the_best_of_its_modes() -> None:
    from benchmarks.baselines import registry
    from benchmarks.baselines.protocol import Target

    volume, names = small(), ("SPERR", "SPERR bpp", "SPERR tolerance", "SPERR PSNR")
    found = [registry.get(name).encode(volume, Target(ratio=20)) for name in names]
    best, *modes = [psnr(volume, coded.decoded) for coded in found if coded]
    assert best == max(modes)
    assert found[0].knob.split()[0] in ("bpp", "tolerance", "PSNR")


def test_out_of_reach_is_none() -> None:
    from benchmarks.baselines import registry
    from benchmarks.baselines.protocol import Target

    for name in ("JPEG XL", "JPEG 2000", "ZFP", "Blosc-Zstd", "TINC"):
        assert registry.get(name).encode(small(), Target(ratio=2000)) is None


@pytest.mark.parametrize(("budget", "knob"), [(400, 400), (50, None), (1000, 1000)])
def test_the_search_ends_at_the_budget(budget: int, knob: float | None) -> None:
    from benchmarks.baselines.knob import Knob

    codec = Knob(
        name="linear",
        library="",
        best=1000,
        worst=100,
        compress=lambda volume, knob: bytes(int(knob)),
        decompress=lambda payload, volume: volume,
    )
    found = codec._search(lambda knob: int(knob), budget)
    assert found is None if knob is None else found == pytest.approx(knob, rel=0.01)


def test_around_an_uneven_knob_what_decodes_best_is_taken() -> None:
    """Sizes fall with the knob, errors are least at 0.031, a little beside where they just fit."""
    from benchmarks.baselines.knob import Knob
    from benchmarks.baselines.protocol import Target

    def decoded(payload: Any, volume: Any) -> Any:
        return volume + abs(float(payload[:8]) - 0.031)

    given: dict[str, Any] = {
        "name": "any", "library": "", "best": 1e-3, "worst": 1, "logarithmic": True,
        "compress": lambda volume, knob: f"{knob:08.6f}".encode().ljust(round(20 / knob)),
        "decompress": decoded,
    }  # fmt: skip
    volume = np.zeros((10, 10, 10), "u2")
    target = Target(ratio=2, effort=1)
    plain, uneven = (Knob(**given, uneven=way).encode(volume, target) for way in (False, True))
    assert plain is not None
    assert uneven is not None
    assert float(plain.knob) == pytest.approx(0.02, rel=0.02)
    assert float(uneven.knob) == pytest.approx(0.031, rel=0.02)


def test_own_is_within_its_bytes() -> None:
    from benchmarks.baselines import registry
    from benchmarks.baselines.protocol import Target

    volume = small()
    for name in ("TINC",):
        coded = registry.get(name).encode(volume, Target(ratio=64, effort=1))
        assert coded is not None
        assert coded.payload_bytes <= volume.nbytes // 64
        assert coded.note
