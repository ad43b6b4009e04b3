"""Quality reports: scores of chunks, bounds, Parquet, HTML, and what is read of shards."""

from __future__ import annotations

import json
import math
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from volumes import QUICK, volume

from tinc_codec import (
    TINC,
    CorruptPayload,
    InvalidSetting,
    Settings,
    TINCSerializer,
    decode,
    encode,
    inspect,
    runtime,
)
from tinc_codec.archive import (
    Bounds,
    ChunkScore,
    convert,
    info,
    score_chunk,
    verify,
    write_report,
)
from tinc_codec.archive.layout import chunk_regions
from tinc_codec.archive.payloads import form, payloads
from tinc_codec.archive.scores import otsu, quantiles
from tinc_codec.archive.table import COLUMNS, write_table
from tinc_codec.archive.texts import summary_rows
from tinc_codec.cli import main
from tinc_codec.metrics import accuracy, psnr, ssim

SHAPE, CHUNKS = (20, 24, 28), (10, 12, 14)


def place(path: Path, decoded: np.ndarray, **options: Any) -> zarr.Array:
    return zarr.create_array(path, data=decoded, chunks=CHUNKS, **options)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A source, and a lossless archive of it in which one chunk is off by at most 40."""
    original = volume(SHAPE)
    np.save(tmp_path / "s.npy", original)
    changed = original.copy()
    changed[12, 13, 15] += 40
    changed[14, 20, 20:] += 5
    place(tmp_path / "a.zarr", changed)
    return tmp_path / "s.npy", tmp_path / "a.zarr"


class TestScoreChunk:
    def test_is_what_the_metrics_say(self) -> None:
        a, b = volume(SHAPE), volume(SHAPE)[::-1].copy()
        region = np.s_[0:20, 0:24, 0:28]
        score = score_chunk(a, b, region=region, stored_bytes=99, threshold=60, peak=200, form="x")
        assert score.errors.psnr() == psnr(a, b)
        assert score.ssim == ssim(a, b, 200)
        assert score.accuracy == accuracy(a, b, 60)
        assert score.foreground.psnr(200) == pytest.approx(psnr(a[a >= 60], b[a >= 60], 200))
        assert score.background.psnr(200) == pytest.approx(psnr(a[a < 60], b[a < 60], 200))
        assert score.foreground.voxels + score.background.voxels == a.size
        assert (score.raw_bytes, score.stored_bytes, score.form) == (a.nbytes, 99, "x")

    @pytest.mark.parametrize("value", [3.0, math.nan])
    def test_chunks_of_one_value_have_no_threshold(self, value: float) -> None:
        flat = np.full((4, 4), value, np.float32)
        score = score_chunk(flat, flat.copy(), region=np.s_[0:4, 0:4], stored_bytes=1)
        assert math.isnan(score.threshold)
        assert math.isnan(score.accuracy)
        assert score.errors.psnr() == math.inf

    def test_the_ssim_of_what_has_gaps(self) -> None:
        a = volume((12, 12, 12), "float32")
        a[:3] = np.nan
        b = a + np.random.default_rng(0).normal(0, 3, a.shape).astype(np.float32)
        score = score_chunk(a, b, region=np.s_[:12], stored_bytes=1, own_structure=True)
        filled = [np.where(np.isnan(a), np.float32(np.nanmean(a)), x) for x in (a, b)]
        assert score.own_ssim == pytest.approx(ssim(*filled))
        assert 0.3 < score.own_ssim < 0.999
        assert not Bounds(own_ssim=0.999).hold(score, 1.0)
        b[5, 5, 5] = np.nan  # there is a value
        torn = score_chunk(a, b, region=np.s_[:12], stored_bytes=1, own_structure=True)
        assert math.isnan(torn.own_ssim)
        assert not Bounds(own_ssim=0.1).hold(torn, 1.0)

    def test_records_survive_json(self) -> None:
        a = volume((8, 8, 8), "float32")
        a[0, 0, 0] = np.nan
        b = np.where(np.isnan(a), 0, a)
        score = score_chunk(a, b, region=np.s_[8:16, 0:8, 0:8], stored_bytes=7)
        assert score.errors.max_error == math.inf
        back = ChunkScore.from_record(json.loads(json.dumps(score.to_record())))
        assert repr(back) == repr(score)


class TestOtsu:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
    def test_is_that_of_scikit_image(self, dtype: str) -> None:
        filters = pytest.importorskip("skimage.filters")
        rng = np.random.default_rng(0)
        values = np.concatenate([rng.normal(40, 8, 3000), rng.normal(150, 20, 500)]).astype(dtype)
        step = np.ptp(values.astype(float)) / 256
        assert otsu(values) == pytest.approx(filters.threshold_otsu(values), abs=2 * step)

    @pytest.mark.parametrize("values", [[1e308, -1e308], [1, np.inf, 2], [0, 1e-300]])
    def test_extreme_values(self, values: list[float]) -> None:
        finite = [value for value in values if np.isfinite(value)]
        assert min(finite) < otsu(np.array(values)) <= max(finite)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32])
def test_integers_that_are_counted_have_the_same_threshold(dtype: Any) -> None:
    rng = np.random.default_rng(2)
    values = np.where(rng.random(5_000) < 0.3, rng.normal(90, 9, 5_000), rng.normal(-20, 9, 5_000))
    integers = values.astype(np.int64).astype(dtype)
    assert otsu(integers) == otsu(integers.astype(np.float64))


def test_quantiles_are_values() -> None:
    assert quantiles([math.inf, -math.inf, 3.0], 0, 0.5, 1) == [-math.inf, 3.0, math.inf]


def test_the_ssim_asked_for_is_checked_beside_gaps(tmp_path: Path) -> None:
    array = volume((24, 26, 28), "float32")
    array[:5, :9] = np.nan
    np.save(tmp_path / "s.npy", array)
    npy = tmp_path / "s.npy"
    convert(npy, tmp_path / "a.zarr", Settings(ssim=0.97, effort=1))
    scores = verify(npy, tmp_path / "a.zarr")
    assert scores.chunks[0].own_ssim >= 0.97
    assert not scores.broken
    data = zarr.open_group(tmp_path / "a.zarr", mode="r+")["data"]
    data[:] = np.where(np.isnan(array), array, np.nanmean(array))
    assert verify(npy, tmp_path / "a.zarr").broken


class TestVerify:
    @pytest.mark.parametrize("workers", [1, 3])
    def test_the_same_whatever_the_workers(self, pair: tuple[Path, Path], workers: int) -> None:
        scores = verify(*pair, workers=workers)
        original, changed = np.load(pair[0]), zarr.open_array(pair[1], mode="r")[:]
        assert [c.region for c in scores.chunks] == [r for _, r in chunk_regions(SHAPE, CHUNKS)]
        assert scores.psnr_db == pytest.approx(psnr(original, changed))
        peak, tau = float(np.ptp(original)), scores.chunks[0].threshold
        assert tau == pytest.approx(otsu(original))
        bright = original >= tau
        for name, voxels in (("foreground", bright), ("background", ~bright)):
            expected = psnr(original[voxels], changed[voxels], peak)
            assert scores.part(name).psnr(peak) == pytest.approx(expected)
        worst = scores.worst(1)[0]
        assert worst.region == np.s_[10:20, 12:24, 14:28]
        assert worst.errors.max_error == 40
        assert scores.quantiles(0)[0] == worst.errors.psnr(peak)

    def test_a_sample_reads_no_more(
        self, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[Any] = []
        original = zarr.Array.__getitem__
        monkeypatch.setattr(
            zarr.Array, "__getitem__", lambda a, r: (read.append(r), original(a, r))[1]
        )
        scores = verify(*pair, sample=3)
        assert len(read) == len(scores.chunks) == 3
        assert scores.sampled_from == 8
        assert ("sample", "3 of 8 chunks") in summary_rows(scores)
        assert verify(*pair, sample=8).sampled_from is None

    @pytest.mark.parametrize("wrong", [{"sample": 0}, {"workers": 0}])
    def test_refuses(self, pair: tuple[Path, Path], wrong: dict[str, int]) -> None:
        with pytest.raises(InvalidSetting, match="=0 must be at least 1"):
            verify(*pair, **wrong)

    def test_bounds(self, pair: tuple[Path, Path]) -> None:
        assert verify(*pair).broken == []
        assert verify(*pair, bounds=Bounds(max_error=40)).broken == []
        (broken,) = verify(*pair, bounds=Bounds(max_error=39)).broken
        assert broken.errors.max_error == 40
        peak = float(np.ptp(np.load(pair[0])))
        reached = broken.errors.psnr(peak)
        assert verify(*pair, bounds=Bounds(psnr_db=reached)).broken == []
        assert len(verify(*pair, bounds=Bounds(psnr_db=reached + 0.01)).broken) == 1
        assert len(verify(*pair, bounds=Bounds(own_psnr_db=reached + 0.01)).broken) == 1

    def test_bounds_that_the_settings_promise(
        self, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = sys.modules["tinc_codec.archive.verify"]
        promised = {"ratio": 64, "max_error": 39, "psnr": 30.0}
        monkeypatch.setattr(module, "codec_settings", lambda array: promised)
        scores = verify(*pair, bounds=Bounds(max_error=50))
        assert scores.bounds == Bounds(max_error=39, own_psnr_db=30)
        assert len(scores.broken) == 1

    def test_an_ssim_that_the_settings_promise(self, tmp_path: Path) -> None:
        voxels = volume((16, 16, 32))
        np.save(tmp_path / "s.npy", voxels)
        options: Any = {"effort": 1, "form": "wavelet"}
        zarr.create_array(
            tmp_path / "a.zarr", data=voxels, chunks=(16, 16, 16), compressors=None,
            serializer=TINCSerializer(ssim=0.99, **options),
        )  # fmt: skip
        scores = verify(tmp_path / "s.npy", tmp_path / "a.zarr")
        assert scores.bounds == Bounds(own_ssim=0.99)
        assert scores.broken == []
        worse = encode(voxels[:, :, 16:], ssim=0.8, **options)
        (tmp_path / "a.zarr/c/0/0/1").write_bytes(worse)
        scores = verify(tmp_path / "s.npy", tmp_path / "a.zarr")
        (broken,) = scores.broken
        assert broken.region[2] == slice(16, 32)
        decoded = decode(worse)
        assert broken.own_ssim == pytest.approx(ssim(voxels[:, :, 16:], decoded), abs=1e-9)
        assert broken.own_ssim < 0.99
        assert "SSIM with the chunk's own range at least 0.99" in str(scores.bounds)

    def test_threads_do_not_multiply(self, pair: tuple[Path, Path]) -> None:
        from tinc_codec.runtime import current_runtime

        seen: list[tuple[int, int]] = []

        def watch(_: object) -> None:
            seen.append((current_runtime().threads, current_runtime().cache_bytes))

        with runtime(threads=4, cache_bytes=1000):
            verify(*pair, workers=2, progress=watch)
        assert set(seen) == {(2, 0)}

    def test_an_error_in_one_thread_ends_it(self, pair: tuple[Path, Path]) -> None:
        (pair[1] / "c/1/0/1").write_bytes(b"no chunk")
        with pytest.raises(OSError, match=r"a\.zarr cannot be read"):
            verify(*pair, workers=3)


SHARDED: dict[str, Any] = {
    "shards": (20, 24, 28), "serializer": TINCSerializer(**QUICK), "compressors": None,
}  # fmt: skip


class TestPayloads:
    @pytest.mark.parametrize("location", ["start", "end"])
    def test_inside_shards(self, tmp_path: Path, location: Any) -> None:
        data = volume(SHAPE)
        data[:10, :12, :14] = 0  # the fill value: left out
        options = {**SHARDED, "shards": {"shape": SHAPE, "index_location": location}}
        array = place(tmp_path / "a.zarr", data, **options)
        chunks = list(chunk_regions(SHAPE, CHUNKS))
        found = payloads(array, [position for position, _ in chunks])
        assert found[0] is None
        for (_, region), payload in list(zip(chunks, found, strict=True))[1:]:
            assert payload is not None
            np.testing.assert_array_equal(decode(payload), array[region])
        assert info(tmp_path / "a.zarr").summary.forms["absent"] == 1

    def test_the_index_of_a_damaged_shard_is_told(self, tmp_path: Path) -> None:
        array = place(tmp_path / "a.zarr", volume(SHAPE), **SHARDED)
        shard = tmp_path / "a.zarr/c/0/0/0"
        shard.write_bytes(shard.read_bytes()[:-20] + bytes(20))
        with pytest.raises(CorruptPayload, match="index"):
            payloads(array, [(0, 0, 0)])

    def test_shards_at_the_edge_hold_no_more_than_the_array(self, tmp_path: Path) -> None:
        zarr.create_array(
            tmp_path / "a.zarr", data=volume((20, 12, 40)), chunks=(10, 12, 10),
            **{**SHARDED, "shards": (20, 12, 30)},
        )  # fmt: skip
        summary = info(tmp_path / "a.zarr").summary
        assert summary is not None
        assert sum(summary.forms.values()) == 2 * 4

    def test_other_codecs_have_no_form(self, tmp_path: Path) -> None:
        np.save(tmp_path / "s.npy", volume(SHAPE))
        codec = TINCSerializer(**QUICK)
        place(tmp_path / "zstd.zarr", volume(SHAPE), serializer=codec)  # zarr appends zstd
        place(tmp_path / "plain.zarr", volume(SHAPE))
        for name in ("zstd.zarr", "plain.zarr"):
            scores = verify(tmp_path / "s.npy", tmp_path / name)
            assert {chunk.form for chunk in scores.chunks} == {""}
            assert all(chunk.stored_bytes for chunk in scores.chunks)
            assert info(tmp_path / name).summary is None

    def test_v2(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"zarr_format": 2, "compressors": TINC(**QUICK)}
        array = place(tmp_path / "a.zarr", volume(SHAPE), **options)
        (payload,) = payloads(array, [(1, 1, 1)])
        assert form(payload) == inspect(payload).form
        assert form(None) == "absent"
        assert form(encode(np.full((16, 16), 3, np.uint32), ratio=8)) == "constant"


class TestTable:
    def test_a_row_for_each_chunk(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        pq = pytest.importorskip("pyarrow.parquet")
        scores = verify(*pair, bounds=Bounds(max_error=39))
        write_table(tmp_path / "t.parquet", scores, ("z", "y", "x"))
        table = pq.read_table(tmp_path / "t.parquet")
        sides = [f"{axis}_{side}" for axis in "zyx" for side in ("start", "stop")]
        assert table.column_names == [*sides, *COLUMNS]
        rows = table.to_pylist()
        assert len(rows) == 8
        assert [row["x_start"] for row in rows] == [0, 14] * 4
        last = rows[-1]
        assert last["max_error"] == 40
        assert [row["bounds_hold"] for row in rows] == [True] * 7 + [False]
        original, changed = np.load(pair[0]), zarr.open_array(pair[1], mode="r")[:]
        at = np.s_[10:20, 12:24, 14:28]
        peak = float(np.ptp(original))
        assert last["psnr_db"] == pytest.approx(psnr(original[at], changed[at], peak))
        assert last["own_psnr_db"] == pytest.approx(psnr(original[at], changed[at]))
        assert last["ratio"] == last["raw_bytes"] / last["stored_bytes"]
        assert rows[0]["psnr_db"] == math.inf
        whole = json.loads(table.schema.metadata[b"tinc_codec"])
        assert whole["data_range"] == peak
        assert not list(tmp_path.glob("*.partial"))

    def test_refuses_before_any_work(
        self, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arguments = ["verify", "no.npy", "no.zarr", "--parquet", str(tmp_path / "no/t.parquet")]
        assert main(arguments) == 1
        assert "there is no folder" in capsys.readouterr().err
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
        assert main([*arguments[:-1], str(tmp_path / "t.parquet")]) == 1
        error = capsys.readouterr().err
        assert "pip install 'tinc_codec[archive]'" in error
        assert error.count("\n") == 1


class Page(HTMLParser):
    """Collects what an HTML page refers to, and checks that its elements close in order."""

    VOID = ("meta", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        assert tag not in ("script", "link", "iframe")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read_page(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


class TestReport:
    def test_one_file_with_all_in_it(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        scores = verify(*pair, bounds=Bounds(max_error=39))
        write_report(tmp_path / "r.html", *pair, scores)
        page = read_page(tmp_path / "r.html")
        text = " ".join(page.texts)
        for expected in ("1 of 8 chunks break", "10:20,12:24,14:28", "breaks a bound", "s.npy"):
            assert expected in text
        for expected in ("median", "5th percentile", "foreground", "chunks", "Histograms"):
            assert expected in text
        assert len(page.links) == 1 + 3 + 1  # map, slices, histograms
        assert all(link.startswith("data:image/png;base64,") for link in page.links)
        assert "url(" not in (tmp_path / "r.html").read_text()
        assert str(tmp_path) not in text

    @pytest.mark.parametrize(("shape", "dtype"), [((40,), "uint8"), ((2, 2, 6, 8, 9), "float32")])
    def test_other_axes_missing_values_and_names(
        self, tmp_path: Path, shape: tuple[int, ...], dtype: str
    ) -> None:
        data = volume(shape, dtype)
        if dtype == "float32":
            data[..., 3] = np.nan
        np.save(tmp_path / "a<b>&.npy", data)
        zarr.create_array(tmp_path / "<i>.zarr", data=data, chunks=tuple(min(4, n) for n in shape))
        sides = tmp_path / "a<b>&.npy", tmp_path / "<i>.zarr"
        write_report(tmp_path / "r.html", *sides, verify(*sides))
        text = " ".join(read_page(tmp_path / "r.html").texts)
        assert "<i>.zarr" in text
        assert "a<b>&.npy" in text

    def test_without_matplotlib_the_remedy_is_told(
        self, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        assert main(["verify", "no.npy", "no.zarr", "--report", str(tmp_path / "r.html")]) == 1
        assert "pip install 'tinc_codec[report]'" in capsys.readouterr().err


class TestCommand:
    def test_a_broken_bound_is_a_failure_with_all_written(
        self, pair: tuple[Path, Path], capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(pair[0].parent)
        arguments = ["verify", "s.npy", "a.zarr", "--report", "r.html", "--parquet", "t.parquet"]
        assert main([*arguments[:3], "--max-error", "40"]) == 0
        out = capsys.readouterr().out
        for expected in ("median", "5th percentile", "worst of 8 chunks", "10:20,12:24,14:28"):
            assert expected in out
        assert main([*arguments, "--max-error", "39", "--workers", "2"]) == 1
        error = capsys.readouterr().err
        assert error.splitlines()[-1].startswith("tinc: 1 of 8 chunks break a bound")
        assert "10:20,12:24,14:28" in error.splitlines()[-1]
        assert Path("r.html").exists()
        assert Path("t.parquet").exists()

    def test_the_least_psnr_is_against_the_range_of_the_chunk(
        self, pair: tuple[Path, Path], capsys: Any
    ) -> None:
        original, changed = np.load(pair[0]), zarr.open_array(pair[1], mode="r")[:]
        at = np.s_[10:20, 12:24, 14:28]
        own = psnr(original[at], changed[at])
        assert own < psnr(original[at], changed[at], float(np.ptp(original))) - 0.1
        command = ["verify", *map(str, pair), "--min-psnr"]
        assert main([*command, f"{own - 0.01}"]) == 0
        assert f"{own:.2f} dB" in capsys.readouterr().out
        assert main([*command, f"{own + 0.01}"]) == 1
        assert "PSNR against the chunk's own range at least" in capsys.readouterr().err

    def test_another_volume_is_a_failure(self, pair: tuple[Path, Path], capsys: Any) -> None:
        np.save(pair[0], volume((20, 24, 29)))
        assert main(["verify", *map(str, pair)]) == 1
        assert "not the same volume" in capsys.readouterr().err
