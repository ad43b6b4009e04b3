"""The experiments run, at the tiniest size; parts, curves and comparisons are right."""

from __future__ import annotations

import csv
import math
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tinc_codec.metrics import psnr
from tinc_codec.phantom import phantom

pytest.importorskip("av", reason="the rivals need the bench extra")


@pytest.fixture(autouse=True)
def _volume(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    np.save(tmp_path / "small.npy", phantom((20, 24, 26)))
    monkeypatch.setenv("TINC_DATA", str(tmp_path))


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_quick_is_all_experiments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.run import main

    out, pictures = tmp_path / "results", tmp_path / "plots"
    options = ["--quick", "--volumes", "small", "--side", "20", "--ratios", "16"]
    options += ["--codecs", "TINC,SPERR,SZ3,JPEG 2000", "--out", str(out), "--plots", str(pictures)]
    assert main(options) == 0
    told = capsys.readouterr().out
    for experiment in ("rd", "visual", "levels", "allocation", "importance", "chunks", "time"):
        assert f"## {experiment}\n" in told
        rows = table(out / "quick" / f"{experiment}.csv")
        assert all(row["machine"] and row["libraries"] and row["numpy"] for row in rows)
    rd = {row["codec"]: row for row in table(out / "quick" / "rd.csv")}
    assert set(rd) == {"TINC", "SPERR", "SZ3", "JPEG 2000"}
    assert rd["TINC"]["effort"] == "1"
    assert rd["SZ3"]["effort"] == ""
    for row in rd.values():
        if row["psnr_db"]:
            assert int(row["payload_bytes"]) <= 2 * 20 * 20 * 20 / 16
            assert float(row["psnr_65535_db"]) > float(row["psnr_db"])
            assert f"{float(row['psnr_db']):.2f}" in told
        else:
            assert row["note"] == "out of reach"
    assert len(table(out / "quick" / "allocation.csv")) % 64 == 0
    weighed = table(out / "quick" / "importance.csv")
    assert {(row["form"], row["importance"]) for row in weighed} == {
        (form, given) for form in ("tree", "wavelet") for given in ("False", "True")
    }
    assert {path.name for path in pictures.glob("*.png")} >= {
        *("rd_small.png", "visual_small_16.png", "levels.png"),
        *("allocation_small_16.png", "time_small_16.png"),
    }
    before = (out / "quick" / "rd.csv").read_text()
    assert main([*options[:1], "rd", *options[1:]]) == 0
    assert (out / "quick" / "rd.csv").read_text() == before


def test_parts_make_a_whole(tmp_path: Path) -> None:
    from benchmarks.run import main

    common = ["rd", "--volumes", "small", "--codecs", "SZ3,ZFP", "--ratios", "4,6,8"]
    common += ["--side", "16", "--out", str(tmp_path)]
    for part in ("1/2", "2/2"):
        assert main([*common, "--part", part]) == 0
    parts = [table(tmp_path / f"rd.{i}-of-2.csv") for i in (1, 2)]
    assert [len(part) for part in parts] == [3, 3]
    assert main(common) == 0
    rows = table(tmp_path / "rd.csv")
    assert sorted(map(str, rows)) == sorted(map(str, parts[0] + parts[1]))
    assert [path.name for path in tmp_path.glob("rd*")] == ["rd.csv"]
    # With the whole there, a part has nothing left to measure; --fresh measures again.
    assert main([*common, "--part", "1/2"]) == 0
    assert not (tmp_path / "rd.1-of-2.csv").exists()
    assert main([*common, "--codecs", "ZFP", "--fresh"]) == 0
    again = table(tmp_path / "rd.csv")
    assert len(again) == 6
    assert [row["codec"] for row in again[-3:]] == ["ZFP"] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "error: name an experiment of rd, visual"),
        (["rq"], "error: no experiment 'rq'; there are rd, visual"),
        (["rd", "--codecs", "MP3"], "error: no codec 'MP3'; there are TINC"),
        (["rd", "--ratios", "0.5"], "error: ratio 0.5 must be at least 1"),
        (["rd", "--effort", "0"], "error: effort 0 must be from 1 to 9"),
        (["rd", "--side", "4"], "error: side 4 must be at least 8"),
        (["rd", "--volumes", "big"], "error: no volume 'big'; there are small, phantom"),
    ],
)
def test_wrong_options_are_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.run import main

    assert main([*options, "--out", str(tmp_path / "x")]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "x").exists()


# The lead.


def test_the_lead_is_over_the_best_rival_and_not_over_forms_of_one_s_own() -> None:
    from benchmarks.experiments.lead import lead_table

    def row(codec: str, ratio: float, psnr_db: str, ssim: str) -> dict[str, str]:
        given = {"volume": "small", "ratio": str(ratio), "codec": codec, "note": "wavelet"}
        return given | {"psnr_db": psnr_db, "ssim_3d": ssim, "face_jump": "1.01"}

    rows = [
        row("TINC", 64.0, "40", "0.9"),
        row("TINC paper", 64.0, "44", "0.99"),
        row("HEVC", 64.0, "39", "0.95"),
        row("SPERR", 64.0, "38", "0.8"),
        row("TINC", 512.0, "30.5", "0.7"),
        row("HEVC", 512.0, "", ""),
        row("SPERR", 512.0, "31", "0.6"),
    ]
    told = lead_table(rows)
    first = "small | 64 | **40.00** | wavelet | 39.00 | - | 38.00 | - | - | 44.00 | 0.900 / 0.950"
    assert first in told
    assert "small | 512 | 30.50 | wavelet | - | - | 31.00" in told
    assert "best rival's in 1 of 2, SSIM in 1." in told
    assert "256× and more: -0.50 dB. Mean lead at less than 256×: +1.00 dB." in told
    assert lead_table(rows[1:4]) == ""


# Bjøntegaard.


def test_deltas_are_those_of_the_reference_implementation() -> None:
    """The example of FAU's bjontegaard 1.3.0, whose PCHIP is that of the JVET's sheet."""
    from benchmarks.bjontegaard import Curve, bd_psnr, bd_rate

    anchor = Curve(rate=(1358.24, 2486.44, 4593.60, 9487.76), psnr=(34.851, 36.845, 38.615, 40.037))
    test = Curve(rate=(1356.24, 2451.52, 4469.00, 9787.80), psnr=(34.987, 36.970, 38.651, 40.121))
    assert bd_rate(anchor, test) == pytest.approx(-4.417485350589045, abs=1e-9)
    assert bd_psnr(anchor, test) == pytest.approx(0.11969278542479489, abs=1e-9)


def test_deltas_of_shifted_curves() -> None:
    from benchmarks.bjontegaard import Curve, bd_psnr, bd_rate

    rate, psnr = (100.0, 200.0, 400.0, 800.0, 1600.0), (30.0, 33.5, 36.0, 38.0, 39.0)
    anchor = Curve(rate=rate, psnr=psnr)
    assert bd_rate(anchor, Curve(rate=tuple(0.8 * r for r in rate), psnr=psnr)) == pytest.approx(
        -20
    )
    better = Curve(rate=rate, psnr=tuple(p + 1.5 for p in psnr))
    assert bd_psnr(anchor, better) == pytest.approx(1.5)
    assert bd_rate(anchor, Curve(rate=rate, psnr=tuple(p + 20 for p in psnr))) is None
    assert bd_rate(anchor, Curve(rate=rate[:1], psnr=psnr[:1])) is None
    # A point that costs more without a gain does not bend the curve back.
    bent = Curve(rate=(*rate, 1700.0), psnr=(*psnr, 38.9))
    assert bd_rate(anchor, bent) == pytest.approx(0)


# Figures of others, regions.


def test_figures_too_far_are_named() -> None:
    from benchmarks.experiments.peers import FIGURES, JUDGED, RATIOS, compared

    found = {
        (volume, codec, ratio): "" if math.isnan(theirs) else str(theirs + 0.1)
        for volume, codecs in FIGURES.items()
        for codec, figures in codecs.items()
        for ratio, theirs in zip(RATIOS, figures, strict=True)
    }
    judged = 4 * len(JUDGED) * len(RATIOS) - 1
    assert f"{judged} of {judged} within 0.3 dB" in compared(found)
    found["ct_tooth", "SZ3", 256.0] = "33.10"
    found["ct_tooth", "HEVC", 128.0] = ""
    told = compared(found)
    assert f"{judged - 2} of {judged} within" in told
    assert "ct_tooth, SZ3, 256×: -0.38 dB" in told


def test_headers_that_do_not_count() -> None:
    from benchmarks.experiments.peers import HEADERS, without_headers

    def row(ratio: int, psnr: str) -> dict[str, str]:
        return {"volume": "ct_tooth", "codec": "HEVC", "ratio": f"{ratio}.0", "psnr_db": psnr}

    # Of 1024 there is no figure to compare with.
    told = without_headers([row(256, "39.31"), row(512, "36.42"), row(1024, "30")])
    assert f"{HEADERS} bytes" in told
    assert "1 of 2 within 0.3 dB (-0.50 to +0.10)" in told


def test_the_headers_of_a_stream_are_as_long_as_said() -> None:
    """Parameter sets, each after a start code of four bytes: types 32, 33 and 34."""
    from benchmarks.baselines.values import RANGE_BYTES
    from benchmarks.baselines.video import BASELINES
    from benchmarks.experiments.peers import HEADERS

    block = phantom((6, 100, 96))
    hevc = next(codec for codec in BASELINES if codec.name == "HEVC")
    stream = hevc.compress(block, 40.0)
    units = re.split(b"\x00\x00\x00?\x01", bytes(stream))[1:]
    sets = [unit for unit in units if unit[0] >> 1 & 63 in (32, 33, 34)]
    assert len(sets) == 3
    assert abs(sum(len(unit) + 4 for unit in sets) + RANGE_BYTES - HEADERS) <= 1


def test_regions_and_their_similarity() -> None:
    from benchmarks.experiments.regions import high_frequencies, regions, similarity
    from tinc_codec.tree.allocation import consistency

    block = phantom((20, 21, 24)).astype(np.float32)
    boxes = regions(block)
    assert len(boxes) == 64
    assert {block[box].shape for box in boxes} == {(5, 5, 6)}
    unit = (block - block.min()) / np.ptp(block)
    assert similarity(block).mean() == pytest.approx(consistency(unit), abs=1e-4)
    rng = np.random.default_rng(0)
    assert high_frequencies(rng.normal(size=(16, 16, 16))) > 0.9
    smooth = np.cos(np.linspace(0, 2 * np.pi, 16, endpoint=False))
    assert high_frequencies(smooth[:, None, None] * np.ones((16, 16, 16))) < 0.01


def test_blocks_are_the_published_crops(tmp_path: Path) -> None:
    from benchmarks import datasets

    np.save(tmp_path / "ct_tooth.npy", np.zeros((161, 94, 103), np.uint16))
    assert datasets.block("ct_tooth").shape == (128, 94, 102)
    assert datasets.block("ct_tooth", 16).shape == (16, 16, 16)
    assert datasets.block("small").shape == (20, 24, 26)


def test_parts_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import datasets, held_out

    monkeypatch.setenv("TINC_DATA", str(tmp_path / "volumes"))
    (tmp_path / "volumes").mkdir()
    assert held_out.main([str(tmp_path / "parts")]) == 1
    tooth = np.arange(40 * 5 * 6, dtype=np.uint16).reshape(40, 5, 6)
    np.save(tmp_path / "volumes" / "ct_tooth.npy", tooth)
    assert held_out.main([str(tmp_path / "parts")]) == 0
    assert "1 of 8 written: tooth_end" in capsys.readouterr().out
    monkeypatch.setenv("TINC_DATA", str(tmp_path / "parts"))
    np.testing.assert_array_equal(datasets.load("tooth_end"), tooth[33:])


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tifffile")
def test_unseen_volumes_are_read_at_their_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tifffile import imwrite

    from benchmarks import unseen

    def git(*arguments: str) -> str:
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path / "clones" / "planes"), *names, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    planes = np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6)
    (tmp_path / "clones" / "planes" / "raw").mkdir(parents=True)
    git("init")
    for k, plane in enumerate(planes):
        imwrite(tmp_path / "clones" / "planes" / "raw" / f"{k}.tif", plane)
    git("add", ".")
    git("commit", "-m", "planes")
    commit = git("rev-parse", "HEAD")
    git("rm", "raw/2.tif")
    git("commit", "-m", "one less")
    known, gone = (
        unseen.Repository(owner="someone", name=name, commit=commit) for name in ("planes", "gone")
    )
    volumes = {
        name: unseen.Volume(
            repository=repository, path="raw", read=unseen._tiff, suffix=".tif",
            box=(slice(1, 4), slice(2)),
        )
        for name, repository in (("there", known), ("missing", gone))
    }  # fmt: skip
    monkeypatch.setattr(unseen, "VOLUMES", volumes)
    assert unseen.main([str(tmp_path / "clones"), str(tmp_path / "parts")]) == 0
    printed = capsys.readouterr().out
    assert "1 of 2 written: there" in printed
    assert "git clone https://github.com/someone/gone" in printed
    np.testing.assert_array_equal(np.load(tmp_path / "parts" / "there.npy"), planes[1:4, :2])


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tifffile")
def test_tiff_volumes_are_found(tmp_path: Path) -> None:
    from tifffile import imwrite

    from benchmarks import datasets

    volume = np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6)
    imwrite(tmp_path / "stack.tif", volume, photometric="minisblack")
    assert datasets.names() == ["small", "stack", "phantom"]
    np.testing.assert_array_equal(datasets.load("stack"), volume)


# Public volumes.


def test_downloads_are_recorded_and_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    from benchmarks import public

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    site, folder = tmp_path / "site", tmp_path / "volumes"
    site.mkdir()
    volume = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5)
    volume.tofile(site / "v.raw")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/v.raw"
    found = public.Public(url=url, shape=(3, 4, 5), dtype="<u2")
    monkeypatch.setattr(public, "VOLUMES", {"v": found})
    try:
        assert public.main(["v", "--folder", str(folder)]) == 0
        assert "was not verified; its hash sha256:" in capsys.readouterr().err
        np.testing.assert_array_equal(np.load(folder / "v.npy"), volume)
        (folder / "v.npy").unlink()
        assert public.main(["v", "--folder", str(folder)]) == 0
        assert "warning" not in capsys.readouterr().err
        (folder / "v.npy").unlink()
        (volume + 1).tofile(site / "v.raw")
        assert public.main(["v", "--folder", str(folder)]) == 1
        assert "hash" in capsys.readouterr().err
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert public.main(["v", "--folder", str(folder)]) == 1
    assert "no network, or the site is down" in capsys.readouterr().err
    assert not (folder / "v.npy").exists()


def test_a_rule_is_judged_by_the_best_choice_for_the_other_volumes() -> None:
    from benchmarks.experiments.choices import leave_one_out

    scores = {
        ("a", "64.0"): {"1": 40.0, "2": 42.0, "auto": 41.0},
        ("b", "64.0"): {"1": 30.0, "2": 29.5, "auto": 30.0},
        ("c", "64.0"): {"1": 20.0, "2": 19.7, "auto": 20.5},
        ("d", "64.0"): {"2": 19.7, "auto": 20.5},  # one level out of reach
    }
    told = leave_one_out(scores)
    # for a, level 1 is best of b and c; for b and c, level 2 is, by what it is better on a
    assert "| a | 64 | 1 | 40.00 | 41.00 | +1.00 | 2 (42.00) |" in told
    assert "| b | 64 | 2 | 29.50 | 30.00 | +0.50 | 1 (30.00) |" in told
    assert "| c | 64 | 2 | 19.70 | 20.50 | +0.80 | 1 (20.00) |" in told
    assert "+0.77 dB in the mean" in told
    assert "| d |" not in told
    assert "Too few" in leave_one_out({("a", "64.0"): {"1": 40.0, "auto": 41.0}})


def test_regions_are_measured_apart_against_one_peak() -> None:
    from benchmarks.experiments.common import psnr_by_region

    reference = np.array([0, 0, 0, 0, 100, 100], np.uint8)
    test = np.array([1, 1, 1, 1, 90, 90], np.uint8)
    assert psnr_by_region(reference, test, 50) == pytest.approx((20.0, 40.0))
    assert psnr_by_region(reference, test, 100)[1] == pytest.approx(psnr(reference, test))
    assert math.isnan(psnr_by_region(reference, test, 100)[0])


def test_regions_add_up_to_the_whole() -> None:
    from benchmarks.experiments.common import psnr_by_region

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 60_000, (2, 9, 10, 11)).astype(np.uint16)
    share = (a > 20_000).mean()
    bright, dark = (10 ** (-x / 10) for x in psnr_by_region(a, b, 20_000))
    assert -10 * math.log10(share * bright + (1 - share) * dark) == pytest.approx(psnr(a, b))
