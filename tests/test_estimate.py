"""Estimates: from few chunks, close to what the conversion then takes."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from volumes import QUICK, volume

from tinc_codec import InvalidSetting, Settings, UnsupportedData
from tinc_codec.archive import convert, estimate, open_source, plot_estimate
from tinc_codec.archive.sampling import Sample, _strata, draw
from tinc_codec.archive.sources import Source
from tinc_codec.cli import main
from tinc_codec.encode import encode_chunk
from tinc_codec.phantom import phantom

SETTINGS = Settings(**{**QUICK, "iterations": 40})


def half_empty(path: Path) -> Path:
    """Save a volume of 2×4×4 chunks of 16³, of which half hold one value."""
    data = np.full((32, 64, 64), 7, np.uint16)
    data[:, :32] += volume((32, 32, 64))
    np.save(path, data)
    return path


def test_comes_close_to_the_conversion(tmp_path: Path) -> None:
    npy = half_empty(tmp_path / "s.npy")
    found = estimate(npy, [16, 32], SETTINGS, chunks=(16, 16, 16), sample=8, workers=1)
    assert (found.chunk_count, found.looked_at) == (32, 32)
    assert found.fitted in range(7, 12)
    assert found.empty_share == 0.5
    assert [at.ratio for at in found.ratios] == [16, 32]
    at = found.ratios[0]
    scores = convert(npy, tmp_path / "a.zarr", SETTINGS, chunks=(16, 16, 16))
    payloads = sum(chunk.stored_bytes for chunk in scores.chunks)
    assert abs(payloads - at.stored_bytes) <= 2 * at.stored_margin + 100
    real = scores.quantiles(0.05, 0.5)
    assert at.psnr_db[0] == pytest.approx(real[0], abs=3)
    assert at.psnr_db[2] == math.inf  # of the empty ones
    assert found.ratios[1].psnr_db[0] < at.psnr_db[0]


def test_time_of_the_chunks_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def slow(voxels: Any, settings: Settings) -> bytes:
        clock[0] += 10 if np.ptp(voxels) else 1
        return encode_chunk(voxels, settings)

    estimating = sys.modules[estimate.__module__]
    monkeypatch.setattr(estimating, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(estimating, "encode_chunk", slow)
    npy = half_empty(tmp_path / "s.npy")
    found = estimate(npy, [16], SETTINGS, chunks=(16, 16, 16), sample=8, workers=1)
    assert found.ratios[0].seconds == pytest.approx(16 * 10 + 16 * 1)
    assert found.ratios[0].seconds_margin == pytest.approx(0)


def test_reads_planes_of_some_chunks_and_the_whole_of_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "s.npy", volume((8, 320, 160)))
    read: list[int] = []
    original = Source.read

    def counted(self: Source, region: Any) -> Any:
        voxels = original(self, region)
        read.append(voxels.size)
        return voxels

    monkeypatch.setattr(Source, "read", counted)
    found = estimate(tmp_path / "s.npy", [8], SETTINGS, chunks=(8, 8, 8), sample=3, workers=2)
    assert found.looked_at == 30
    assert read.count(64) == 30
    assert read.count(512) == found.fitted
    assert len(read) == 30 + found.fitted
    assert found.fitted <= 3 + 2 * found.strata


@pytest.mark.parametrize(("sample", "least", "most"), [(1, 1, 2), (2, 2, 4)])
def test_small_samples_have_chunks_of_each_stratum(
    tmp_path: Path, sample: int, least: int, most: int
) -> None:
    with open_source(half_empty(tmp_path / "s.npy")) as source:
        drawn = [draw(source, (8, 8, 8), sample, seed) for seed in range(20)]
    assert min(np.bincount(found.strata).min() for found in drawn) == least
    assert max(len(found.regions) for found in drawn) == most


def test_every_chunk_of_a_small_volume_leaves_no_doubt(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", volume((16, 16, 40)))  # the last chunk overhangs
    settings = Settings(ratio=16, effort=1, iterations=10)
    found = estimate(tmp_path / "s.npy", [16], settings, chunks=(16, 16, 32), sample=99)
    scores = convert(tmp_path / "s.npy", tmp_path / "a.zarr", settings, chunks=(16, 16, 32))
    assert found.fitted == 2
    assert found.ratios[0].stored_margin == 0
    assert found.ratios[0].stored_bytes == sum(chunk.stored_bytes for chunk in scores.chunks)


def test_fidelities_are_tried_and_their_ratios_told(tmp_path: Path) -> None:
    scene = np.random.default_rng(0).normal(300, 12, (32, 32, 64)).astype("u2")
    scene[:, :, :32] += phantom((32, 32, 32)) // 2
    np.save(tmp_path / "s.npy", scene)
    settings = Settings(form="wavelet", effort=1)
    fidelities = {"rmse": [20, 200], "max_error": [40]}
    found = estimate(
        tmp_path / "s.npy", [], settings, fidelities=fidelities, chunks=(32, 32, 32), workers=1
    ).ratios
    assert [at.fidelity for at in found] == ["rmse=20", "rmse=200", "max_error=40"]
    assert found[0].ratio < found[1].ratio
    for at in found:
        name, value = at.fidelity.split("=")
        made = replace(settings, ratio=None, **{name: float(value)})
        stored = sum(len(encode_chunk(scene[:, :, k : k + 32], made)) for k in (0, 32))
        assert at.stored_bytes == stored
        assert at.ratio == pytest.approx(scene.nbytes / stored)


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    with open_source(half_empty(tmp_path / "s.npy")) as source:
        first, again, other = (draw(source, (8, 8, 8), 9, seed) for seed in (0, 0, 1))
    assert first.regions == again.regions != other.regions


def test_empty_chunks_are_a_stratum() -> None:
    looks = np.array([[0, 0], [9, 0], [1, 1], [2, 5], [8, 1], [9, 5]], float)
    strata = _strata(looks, 20)
    assert strata[0] == strata[1]
    assert all(strata[2:] != strata[0])
    assert set(strata) == set(range(strata.max() + 1))
    assert set(_strata(np.array([[5.0, 0.0], [6.0, 0.0]]), 20)) == {0}


def test_intervals_hold_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    population = np.concatenate([rng.normal(0, 0.1, 6000), rng.normal(50, 9, 4000)])
    spread = np.where(population < 5, 0.0, 1 + rng.random(10_000))
    held = 0
    for _ in range(400):
        seen = rng.choice(10_000, 200, replace=False)
        strata = _strata(np.stack([population[seen], spread[seen]], 1), 42)
        picked = np.concatenate(
            [rng.permutation(np.flatnonzero(strata == h))[:6] for h in range(strata.max() + 1)]
        )
        sample = Sample(
            regions=(), strata=strata[picked], shares=np.bincount(strata) / 200, looked_at=200,
            empty_share=0.6, chunk_count=10_000,
        )  # fmt: skip
        mean, margin = sample.mean(population[seen][picked].tolist())
        held += abs(mean - population.mean()) <= margin
    assert 0.9 < held / 400 < 0.99


@pytest.mark.parametrize("sample", [2, 4, 9, 13, 14, 20])
def test_strata_are_few_enough_for_two_chunks_each(sample: int) -> None:
    looks = np.random.default_rng(0).random((200, 2))
    looks[:50, 1] = 0
    assert 2 * (_strata(looks, sample).max() + 1) <= max(sample, 4)


def test_without_two_chunks_of_a_stratum_nothing_is_claimed() -> None:
    sample = Sample(
        regions=(), strata=np.array([0, 1]), shares=np.array([0.5, 0.5]), looked_at=10,
        empty_share=0, chunk_count=100,
    )  # fmt: skip
    mean, margin = sample.mean([1.0, 3.0])
    assert mean == 2
    assert math.isnan(margin)


def test_quantiles_are_those_of_the_archive_not_of_the_sample() -> None:
    sample = Sample(
        regions=(), strata=np.array([0, 1, 1, 1]), shares=np.array([0.9, 0.1]), looked_at=10,
        empty_share=0, chunk_count=100,
    )  # fmt: skip
    assert sample.quantiles([5.0, 1.0, 2.0, 3.0]) == [2.0, 5.0, 5.0]


@pytest.mark.parametrize(
    "wrong", [{"sample": 0}, {"workers": 0}, {"ratios": []}, {"ratios": [0.1]}, {"chunks": (0,)}]
)
def test_refuses_before_any_fit(tmp_path: Path, wrong: dict[str, Any]) -> None:
    np.save(tmp_path / "s.npy", volume((8, 8, 8)))
    with pytest.raises(InvalidSetting):
        estimate(tmp_path / "s.npy", **{"ratios": [16], **wrong})
    np.save(tmp_path / "b.npy", np.zeros((8, 8), bool))
    with pytest.raises(UnsupportedData):
        estimate(tmp_path / "b.npy", [16])


def test_command_and_plot(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("s.npy", volume((16, 16, 32)))
    arguments = ["estimate", "s.npy", "--ratio", "8,16", "--effort", "1", "--chunks", "16,16,16"]
    assert main([*arguments, "--sample", "2", "--plot", "e.png", "--workers", "1"]) == 0
    out = capsys.readouterr().out
    for expected in ("2 chunks of 16×16×16", "1 worker", "ratio", "size", "PSNR", "±"):
        assert expected in out
    assert Path("e.png").read_bytes().startswith(b"\x89PNG")
    assert main(["estimate", "s.npy", "--ratio", "many"]) == 1
    assert capsys.readouterr().err == "tinc: --ratio many: not a number\n"
    assert main(["estimate", "s.npy", "--ratio", "64,,"]) == 1
    assert "--ratio 64,,: a number is missing" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([*arguments, "--plot", "f.png"]) == 1
    assert "pip install 'tinc_codec[report]'" in capsys.readouterr().err


def test_the_share_of_trees_is_told(tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "s.npy", volume((24, 24, 48)))
    edges, tree = (24, 24, 24), Settings(form="tree", effort=1, iterations=10)
    for settings, share in ((tree, 1.0), (Settings(effort=1), 0.0)):
        found = estimate(tmp_path / "s.npy", [8], settings, chunks=edges, workers=1)
        assert found.ratios[0].with_trees == share
    arguments = ["estimate", str(tmp_path / "s.npy"), "--ratio", "8", "--chunks", "24,24,24"]
    for effort in ("2", "3"):
        assert main([*arguments, "--effort", effort, "--workers", "1"]) == 0
        assert ("--effort 2" in capsys.readouterr().out) == (effort == "3")


def test_plots_lossless_chunks(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.full((16, 16, 32), 5, np.uint16))
    found = estimate(tmp_path / "s.npy", [16], SETTINGS, chunks=(16, 16, 16), sample=2)
    assert found.ratios[0].psnr_db == (math.inf,) * 3
    plot_estimate(found, tmp_path / "e.svg")
    assert "<svg" in (tmp_path / "e.svg").read_text()
