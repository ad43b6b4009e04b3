"""The tables of speed run, at the tiniest size, and their rows say what was measured."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tinc_codec.phantom import phantom

torch = pytest.importorskip("torch", reason="the per-node loop needs torch")
pytest.importorskip("av", reason="the rivals need the bench extra")


@pytest.fixture(autouse=True)
def _one_thread_of_torch() -> Iterator[None]:
    """Threads of torch wait for one another by spinning: slow where other work runs besides."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Folder of the CSV files; the only volume is a small one."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    np.save(tmp_path / "small.npy", phantom((24, 24, 24)))
    monkeypatch.setenv("TINC_DATA", str(tmp_path))
    return tmp_path / "results"


def table(out: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((out / f"speed_{name}_quick.csv").read_text().splitlines()))


def measure(out: Path, name: str) -> list[dict[str, str]]:
    """Measure a table twice: the second time from its rows alone."""
    from benchmarks.speed.__main__ import main

    options = ["--quick", "--only", name, "--volumes", "small", "--out", str(out)]
    assert main(options) == 0
    rows = table(out, name.replace("-", "_"))
    assert main(options) == 0
    assert table(out, name.replace("-", "_")) == rows
    for row in rows:
        assert row["numpy"] == np.__version__
        assert row["machine"]
        assert "imagecodecs" in row["libraries"]
    return rows


def test_roofline(speed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = measure(speed, "roofline")
    assert [(row["width"], row["kernel_threads"]) for row in rows] == [("8", "1"), ("8", "2")]
    for row in rows:
        assert float(row["train_gmacs"]) > 0
        assert float(row["decode_gmacs"]) > 0
        assert float(row["macs_per_voxel"]) == 3 * 8 + 3 * 64 + 8
        voxels, macs = float(row["decode_mvoxels"]), float(row["macs_per_voxel"])
        assert float(row["decode_gmacs"]) == pytest.approx(voxels * macs / 1e3, rel=0.05)
    assert f"| {float(rows[0]['peak_gmacs']):.0f} |" in capsys.readouterr().out


def test_the_time_of_the_peak_follows_its_turns() -> None:
    """The loop is neither folded nor skipped. Of processors: other work takes none of it."""
    from benchmarks.speed.peak import _run, peak_gmacs

    def seconds(turns: int) -> float:
        start = time.thread_time()
        _run(turns)
        return time.thread_time() - start

    _run(1)
    few, many = (min(seconds(turns) for _ in range(5)) for turns in (400_000, 4_000_000))
    assert many > 4 * few
    assert 1 < max(peak_gmacs(1, 4_000_000) for _ in range(3)) < 1000


def test_fit(speed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = measure(speed, "fit")
    ways = [(row["way"], row["levels"]) for row in rows]
    assert ways[:3] == [("paper", "auto"), ("loop", "auto"), ("paper, torch", "auto")]
    paper, loop, on_torch = rows[:3]
    assert loop["psnr_db"] == on_torch["psnr_db"] == paper["psnr_db"]
    assert (loop["extrapolated_from"], on_torch["extrapolated_from"]) == ("8", "4")
    assert paper["extrapolated_from"] == ""
    assert float(loop["seconds"]) > 0
    assert float(loop["released_batch_iteration_s"]) > 0
    efforts = [row for row in rows if row["way"] == "default"]
    assert {row["effort"] for row in efforts} >= {"1", "5"}
    budget = 2 * 24**3 // 16
    for row in rows:
        assert 0.9 * budget < int(row["payload_bytes"]) <= budget
    out = capsys.readouterr().out
    assert f"| {float(efforts[0]['seconds']):.3g} |" in out
    assert "20 iterations, extrapolated" in out


def test_fit_says_which_effort_reaches_the_loop(speed: Path) -> None:
    from benchmarks.speed.fit import lines

    common = {"volume": "v", "shape": "2x2", "ratio": "64", "tree_levels": "3"}
    loop = common | {"way": "loop", "seconds": "300", "psnr_db": "40"}
    found = [("1", "39", "1"), ("2", "40.5", "2"), ("5", "42", "10")]
    efforts = [
        common | {"way": "default", "effort": e, "psnr_db": dB, "seconds": s} for e, dB, s in found
    ]
    (cells,) = lines([loop, *efforts])
    assert cells[4:] == ["300 *", "40.00", "at effort 2", "2", "40.50", "150", "10", "42.00"]
    (cells,) = lines([loop | {"psnr_db": "43"}, *efforts])
    assert cells[6:10] == ["not by effort 5", "", "", ""]


def test_decode(speed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = measure(speed, "decode")
    own = [row for row in rows if row["codec"] == "TINC"]
    assert [row["part"] for row in own] == [
        *("whole", "plane across axis 0", "plane across axis 1", "plane across axis 2"),
        *("every 4th voxel", "a voxel", "overview, 1/4", "overview, 1/8"),
    ]
    whole = own[0]
    voxels, macs = float(whole["mvoxels"]), float(whole["macs_per_voxel"])
    assert float(whole["gmacs"]) == pytest.approx(voxels * macs / 1e3, rel=0.05, abs=0.01)
    for row in own[1:]:
        for share, seconds in (("share_of_whole", "decode_s"), ("share_again", "again_s")):
            expected = float(row[seconds]) / float(whole[seconds])
            assert float(row[share]) == pytest.approx(expected, rel=0.05)
    for row in own[1:6]:  # overviews are not kept
        expected = float(row["kept_s"]) / float(whole["decode_s"])
        assert float(row["share_kept"]) == pytest.approx(expected, rel=0.05, abs=1e-5)
    assert {row["share_kept"] for row in own[6:]} == {""}
    rivals = [row for row in rows if row["codec"] != "TINC"]
    assert len(rivals) == 8
    for row in [whole, *rivals]:
        if row["reached"] == "out of reach":
            assert row["mvoxels"] == row["psnr_db"] == ""
        elif row["codec"] == "Blosc-Zstd":
            assert row["psnr_db"] == "inf"
        else:
            assert float(row["reached"]) >= 16
            assert float(row["psnr_db"]) > 10
    assert f"{float(whole['psnr_db']):.1f}) |" in capsys.readouterr().out


def test_planes(speed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = measure(speed, "planes")
    assert [row["codec"] for row in rows] == [
        "TINC, zarr 3", "TINC, zarr 2", "Zstandard", "uncompressed"
    ]  # fmt: skip
    for row in rows:
        assert all(float(row[key]) > 0 for key in ("first_ms", "second_ms", "later_ms", "whole_ms"))
    assert float(rows[0]["reached"]) > float(rows[3]["reached"])
    assert "| uncompressed |" in capsys.readouterr().out


def test_at_once(speed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = measure(speed, "at-once")
    assert [row["codec"] for row in rows] == ["TINC", "HEVC", "SPERR bpp"]
    for threads in (1, 2, 8):
        assert float(rows[0][f"ms_{threads}"]) > 0
    assert f"| small | 16 | TINC | {rows[0]['ms_1']} |" in capsys.readouterr().out


def test_effort(speed: Path) -> None:
    rows = measure(speed, "effort")
    assert [row["effort"] for row in rows] == ["1", "2"]


def test_effort_tells_losses(speed: Path) -> None:
    from benchmarks.speed.effort import table

    def rows(*decibels: float) -> list[dict[str, str]]:
        return [
            {"volume": "v", "effort": str(k), "seconds": str(k), "psnr_db": str(dB)}
            for k, dB in enumerate(decibels, start=1)
        ]

    assert "More effort never lost." in table(rows(30, 31, 31))
    told = table(rows(30, 31, 30.75))
    assert "Lost by more effort: v from 2 to 3: -0.25 dB." in told
    assert "| 3 | 3.00 | +0.75 | 30.75 |" in told


def test_first_use(speed: Path) -> None:
    rows = measure(speed, "first-use")
    assert [row["call"] for row in rows] == ["encode", "decode"]
    assert all(float(row["first_s"]) > 0 for row in rows)


def test_gpu_tables_on_the_cpu(speed: Path) -> None:
    from benchmarks.speed.common import Options
    from benchmarks.speed.gpu import tables

    options = Options(volumes=(), out=speed, quick=True)
    told = tables(options, "torch")
    assert tables(options, "torch") == told
    rows = {row["what"]: row for row in table(speed, "gpu")}
    assert set(rows) == {"tree", "batch", "decode"}
    assert rows["batch"]["chunks"] == "8"
    assert float(rows["batch"]["many_over_one"]) > 0
    assert float(rows["decode"]["many_gvoxels"]) > 0
    assert float(rows["decode"]["peak_gmacs"]) > 0
    times = [float(rows["tree"][name]) for name in ("descent_s", "fit_s", "encode_s")]
    assert min(times) > 0
    assert {row["way"] for row in table(speed, "gpu_loop")} == {"paper", "loop"}


def test_no_gpu_is_one_line(
    speed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from benchmarks.speed.__main__ import main

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--only", "gpu", "--out", str(speed)]) == 0
    assert "no CUDA device" in capsys.readouterr().out
    assert not speed.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "fits"], "error: no table 'fits'; there are first-use, roofline"),
        (["--volumes", "nowhere"], "error: no volume 'nowhere'"),
    ],
)
def test_wrong_options_are_one_line(
    speed: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.speed.__main__ import main

    assert main([*options, "--out", str(speed)]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_rows_of_a_case_come_back(speed: Path) -> None:
    from benchmarks.rows import Store
    from benchmarks.speed.effort import Case

    def case(effort: int) -> Case:
        return Case(volume="a,b", block=8, ratio=2, effort=effort)

    store = Store(speed / "x.csv", {"machine": "M"})
    measured = store.rows(case(1), lambda: [{"y": 1.5}, {"y": ""}])
    store.row(case(2), lambda: {"y": 3})
    again = Store(speed / "x.csv", {"machine": "another"})
    assert again.rows(case(1), lambda: []) == measured
    assert [row["machine"] for row in measured] == ["M", "M"]
    assert again.row(case(2), dict)["y"] == "3"
    assert again.row(case(3), lambda: {"y": 4})["machine"] == "another"
    assert len((speed / "x.csv").read_text().splitlines()) == 5
