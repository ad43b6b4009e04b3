"""The benchmarks run, at the tiniest size, and their tables say what was measured."""

from __future__ import annotations

import csv
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tinc_codec.phantom import phantom
from tinc_codec.stream.residual.wavelets import cdf97, lifting

OPTIONS = ["--volumes", "small", "--ratios", "10,16", "--block", "16", "--effort", "1"]
OPTIONS += ["--paper-iterations", "30"]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])


@pytest.fixture
def datasets() -> ModuleType:
    from benchmarks import datasets

    return datasets


@pytest.fixture
def presets(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> ModuleType:
    """The module, which finds a small volume."""
    from benchmarks import presets

    folder = tmp_path_factory.mktemp("data")
    np.save(folder / "small.npy", phantom((16, 16, 18)))
    monkeypatch.setenv("TINC_DATA", str(folder))
    return presets


# Volumes.


def test_the_phantom_is_always_there(
    datasets: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TINC_DATA", str(tmp_path))
    assert datasets.names() == ["phantom"]
    np.save(tmp_path / "tooth.npy", np.zeros((2, 3, 4)))
    assert datasets.names() == datasets.select(None) == ["tooth", "phantom"]
    assert datasets.load("tooth").shape == (2, 3, 4)
    with pytest.raises(ValueError, match=r"no volume 'teeth'; there are tooth, phantom"):
        datasets.load("teeth")


def test_first_block_is_clipped_and_of_one_channel(datasets: ModuleType) -> None:
    volume = np.arange(2 * 5 * 20 * 20).reshape(2, 5, 20, 20)
    block = datasets.first_block(volume, 8)
    np.testing.assert_array_equal(block, volume[0, :, :8, :8])
    assert block.flags.c_contiguous


# Default against paper.


def test_presets_at_equal_bytes(
    presets: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "presets.csv"
    assert presets.main([*OPTIONS, "--out", str(out)]) == 0
    table = capsys.readouterr().out
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [(float(r["ratio"]), r["preset"]) for r in rows] == [
        *((10, "default"), (10, "paper"), (16, "default"), (16, "paper"))
    ]
    for row in rows:
        assert row["shape"] == "16x16x16"
        budget = 2 * 16**3 // float(row["ratio"])
        assert 0.9 * budget < int(row["payload_bytes"]) <= int(row["budget"]) == budget
        assert float(row["psnr_db"]) > 0
        assert -1 <= float(row["ssim_3d"]) <= 1
        assert float(row["encode_s"]) > 0
        assert row["numpy"] == np.__version__
    gains = [float(a["psnr_db"]) - float(b["psnr_db"]) for a, b in (rows[:2], rows[2:])]
    assert f"| small | 10 | {rows[0]['payload_bytes']} / {rows[1]['payload_bytes']} |" in table
    assert f"| {gains[1]:+.2f} |" in table
    assert f"Median gain {np.mean(gains):+.2f} dB" in table


def test_rows_at_hand_are_kept(
    presets: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "presets.csv"
    presets.main([*OPTIONS, "--ratios", "16", "--out", str(out)])
    text = out.read_text()
    presets.main([*OPTIONS, "--ratios", "16", "--out", str(out)])
    assert out.read_text() == text
    capsys.readouterr()
    presets.main([*OPTIONS, "--ratios", "16", "--paper-iterations", "31", "--out", str(out)])
    assert "[1/1] small 16x paper" in capsys.readouterr().err
    assert out.read_text().startswith(text)
    assert len(out.read_text().splitlines()) == 4


def test_the_bd_rate_is_that_of_the_curves(presets: ModuleType) -> None:
    """The same curve at half the bytes is 50 % less."""
    rows = {}
    for preset, factor in (("paper", 1.0), ("default", 0.5)):
        for ratio, psnr in ((8, 40), (16, 36), (32, 33)):
            fit = presets.Fit(
                volume="small", block=16, ratio=ratio / factor, preset=preset, effort=1,
                iterations="auto",
            )  # fmt: skip
            rows[fit] = {"payload_bytes": str(8192 / ratio * factor), "psnr_db": str(psnr)}
    assert "small -50 %; mean -50 %" in presets.bd_line(rows)
    apart = {
        fit: row | {"psnr_db": str(float(row["psnr_db"]) + 20 * (fit.preset == "default"))}
        for fit, row in rows.items()
    }
    assert "small none." in presets.bd_line(apart)


def test_a_budget_too_small_is_left_out(
    presets: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "presets.csv"
    assert presets.main([*OPTIONS, "--ratios", "1000", "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "small 1000x default: left out: a chunk of 8192 bytes" in told.err
    assert told.out == "No volume and ratio has both presets.\n"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--volumes", "nowhere", "no volume 'nowhere'"),
        ("--effort", "10", "effort=10 must be"),
        ("--ratios", "0.5", "ratio=0.5 must be"),
        ("--paper-iterations", "0", "iterations=0 must be"),
    ],
)
def test_wrong_options_are_one_line(
    presets: ModuleType,
    option: str,
    value: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert presets.main([*OPTIONS, option, value, "--out", str(tmp_path / "x.csv")]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_cost_of_a_filter(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filter_cost = pytest.importorskip("benchmarks.filter_cost")
    monkeypatch.setattr(filter_cost, "_ROUNDS", 1)
    arguments = ["--volumes", "phantom", "--side", "40", "--ratios", "40,2"]
    assert filter_cost.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[3].strip() for line in lines[2:4]] == ["with", "without"]
    assert all(float(line.split("|")[4]) > 0 for line in lines[2:4])


@pytest.mark.parametrize("n", [9, 26])
def test_the_matrix_of_a_closed_axis_is_that_of_the_package(n: int) -> None:
    closed_axes = pytest.importorskip("benchmarks.closed_axes")
    columns = np.eye(n, dtype=np.float32)
    lifting.analyse_columns(columns, n % 2 == 0, 0, n)
    found = closed_axes.analysis(n, cdf97.ENDS)
    np.testing.assert_allclose(found, np.concatenate([columns[::2], columns[1::2]]), atol=1e-6)


def test_closed_axes_gain(capsys: pytest.CaptureFixture[str]) -> None:
    closed_axes = pytest.importorskip("benchmarks.closed_axes")
    assert closed_axes.main([]) == 0
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines()]
    assert all(float(line[4]) > 0 for line in lines[2:6])
    opened, closed = (float(line[5]) for line in lines[9:11])
    assert closed < opened / 2


def test_jumps_between_chunks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jumps = pytest.importorskip("benchmarks.jumps")
    monkeypatch.setattr(jumps, "_CODECS", ("TINC", "SPERR"))
    arguments = ["--volumes", "phantom", "--side", "25", "--ratios", "16", "--effort", "1"]
    assert jumps.main([*arguments, "--apart"]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[3].strip() for row in rows] == ["TINC", "SPERR"]
    assert all(float(row[4]) > 0 and float(row[5]) > 10 for row in rows)
    # Each part is of its own codec's, where the middle plane is.
    block = np.arange(9 * 9 * 3, dtype=np.uint16).reshape(9, 9, 3)
    seen = []

    class Codec:
        def encode(self, volume: np.ndarray, target: object) -> SimpleNamespace:
            seen.append(volume.shape)
            return SimpleNamespace(decoded=volume + 1)

    monkeypatch.setattr(jumps, "get", lambda name: Codec())
    np.testing.assert_array_equal(jumps.apart(block, "any", None), block + 1)
    assert seen == [(5, 5, 3), (5, 4, 3), (4, 5, 3), (4, 4, 3)]


def test_jumps_of_all_planes(capsys: pytest.CaptureFixture[str]) -> None:
    jumps = pytest.importorskip("benchmarks.jumps")
    arguments = ["--volumes", "phantom", "--side", "24", "--ratios", "20", "--effort", "1"]
    assert jumps.main(arguments) == 0
    cells = capsys.readouterr().out.splitlines()[2].split("|")
    assert [cell.strip() for cell in cells[1:4]] == ["phantom", "20", "wavelet"]
    middle, low, usual, high = map(float, cells[4:8])
    assert low < usual < high
    assert low < middle < high
    # Blocks that are put together show where.
    block = np.random.default_rng(0).normal(size=(16, 12, 9)).cumsum(axis=0)
    torn = block + 50.0 * (np.arange(16) >= 8)[:, None, None]
    found = jumps.every_plane(block, torn)
    assert len(found) == (16 - 3) + (12 - 3) + (9 - 3)
    assert found[8 - 2] > 10 * np.median(found)


def test_overviews_are_nearer_than_single_voxels(capsys: pytest.CaptureFixture[str]) -> None:
    overviews = pytest.importorskip("benchmarks.overviews")
    arguments = ["--volumes", "phantom", "--side", "48", "--ratios", "32", "--effort", "1"]
    assert overviews.main(arguments) == 0
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines()][2:]
    assert [line[3].strip() for line in lines] == ["4", "8"]
    for line in lines:
        overview, whole, single = map(float, line[4:7])
        assert overview > single + 3
        assert abs(overview - whole) < 3


def test_exact_kernels_stay_exact_on_arm(capfd: pytest.CaptureFixture[str]) -> None:
    arm = pytest.importorskip("benchmarks.arm")
    assert arm.main(["--quick"]) == 0
    lines = [line.split("|")[1:-1] for line in capfd.readouterr().out.splitlines()][2:]
    assert len(lines) == 2
    for _, kernels, *wrong in lines:
        assert int(kernels) > 40
        assert [int(count) for count in wrong] == [0, 0, 0, 0]


def test_smooth_borders_step_less(capsys: pytest.CaptureFixture[str]) -> None:
    borders = pytest.importorskip("benchmarks.borders")
    arguments = ["--volumes", "phantom", "--side", "128", "--ratios", "256", "--effort", "1"]
    assert borders.main(arguments) == 0
    (line,) = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()][2:]
    plain, smooth, original = map(float, line[6:])
    assert original < smooth < plain / 2
    assert float(line[3]) >= float(line[2])


def test_a_prior_saves_bytes_of_other_volumes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import prior
    from tinc_codec.stream.residual.wavelets import prior as statistics

    for seed in (1, 2):
        np.save(tmp_path / f"v{seed}.npy", phantom((40, 48, 48), seed=seed))
    monkeypatch.setenv("TINC_DATA", str(tmp_path))
    monkeypatch.setattr(prior, "_BLOCKS", ((40, 1),))
    monkeypatch.setattr(prior, "_PASSES", 1)
    assert prior.main(["--out", str(tmp_path / "prior.bin")]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "v" in line[:4]]
    saved = [float(part) for row in rows[-2:] for part in row[2].split(" / ")]
    assert len(saved) == 4
    assert min(saved) > 5
    words, weights = statistics.from_bytes((tmp_path / "prior.bin").read_bytes())
    shapes = words.shape, weights.shape
    assert shapes == tuple(array.shape for array in statistics.learnt())


def test_bounds_beside_other_codecs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av", reason="the rivals need the bench extra")
    from benchmarks import bounds

    assert bounds.main(["--volumes", "phantom", "--side", "24"]) == 0
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines()][2:]
    assert [line[2].strip() for line in lines] == ["uint16"] * 4 + ["float32"] * 3
    for line in lines:
        ours, *rivals = (line[k].strip() for k in (4, 6, 7, 8, 9))
        best = min(int(size) for size in rivals if size != "-")
        assert float(line[5]) == pytest.approx(int(ours) / best, abs=1e-3)
    assert [line[8].strip() == "-" for line in lines] == [True] * 3 + [False] + [True] * 3


def test_sparse_volumes_beside_other_codecs(capsys: pytest.CaptureFixture[str]) -> None:
    sparse = pytest.importorskip("benchmarks.sparse")
    block = np.arange(100, dtype=np.uint16)
    assert (sparse.sparse(block, "cut", 0.9) == np.where(block > 89, block, 0)).all()
    assert (sparse.sparse(block, "less", 0.9) == np.where(block > 89, block - 89, 0)).all()
    arguments = ["--volumes", "phantom", "--side", "32", "--ratios", "20", "--effort", "1"]
    assert sparse.main([*arguments, "--codecs", "TINC,TINC wavelet"]) == 0
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines()][2:]
    assert [line[2].strip() for line in lines] == ["cut", "less"]
    for line in lines:
        ours, plain = line[4].strip(), float(line[5])
        assert ours == "exact" or float(ours) > plain + 3
