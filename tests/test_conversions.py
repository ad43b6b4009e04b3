"""Plans, runs and what is left of them: shards, resume, refusals, workers, kills."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from volumes import QUICK, volume

import tinc_codec
from tinc_codec import InvalidSetting, Settings
from tinc_codec.archive import (
    Bounds,
    ShardsFailed,
    convert,
    info,
    level_reading,
    plan,
    run,
    shard_encoding,
    target,
    verify,
    work,
)
from tinc_codec.archive.cluster import (
    local_client,
    scheduler_client,
    slurm_client,
    visible_gpus,
)
from tinc_codec.archive.in_flight import Waiting, on_client
from tinc_codec.archive.layout import shard_shape
from tinc_codec.archive.manifest import open_manifest
from tinc_codec.archive.pyramid import downsample
from tinc_codec.archive.records import ShardRecord
from tinc_codec.archive.shards import pack
from tinc_codec.archive.target import Target
from tinc_codec.phantom import phantom

# Wavelets alone, which take a tenth of the time: what is tested here is not the fit.
FAST: dict[str, Any] = {**QUICK, "form": "wavelet"}
SETTINGS = Settings(**FAST)
SMALL: dict[str, Any] = {"chunks": (16, 16, 16), "shards": (16, 32, 16)}


@pytest.fixture
def npy(tmp_path: Path) -> Path:
    path = tmp_path / "source.npy"
    np.save(path, volume((20, 40, 36)))
    return path


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "PAUSES", (0.01, 0.01))


def tree(folder: Path) -> dict[str, bytes]:
    """Every chunk and shard of an archive by its path; no metadata, which has times."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "zarr.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class Stop(Exception):
    """Ends a run after some shards."""


def run_some(made: Any, count: int, **options: Any) -> None:
    seen: list[ShardRecord] = []

    def stop(record: ShardRecord, earlier: bool) -> None:
        seen.append(record)
        if len(seen) == count:
            raise Stop

    with pytest.raises(Stop):
        run(made, on_shard=stop, **options)


# Plans.


def test_a_plan_of_a_million_shards_holds_no_list(tmp_path: Path) -> None:
    dask = pytest.importorskip("dask.array")
    huge = dask.zeros((6400, 6400, 6400), chunks=(64, 6400, 6400), dtype=np.uint16)
    made = plan(huge, tmp_path / "a.zarr", SETTINGS, chunks=(64, 64, 64), shards=(64, 64, 64))
    assert len(made) == made.chunks == 1_000_000
    assert made[999_999].region == np.s_[6336:6400, 6336:6400, 6336:6400]
    assert made[123_456].position == (12, 34, 56)
    with pytest.raises(IndexError):
        made[1_000_000]
    assert not list(tmp_path.iterdir())


def test_a_link_stays_a_link_to_the_archive(npy: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    link, there = tmp_path / "a.zarr", tmp_path / "other" / "b.zarr"
    link.symlink_to(there)
    for _ in range(2):
        convert(npy, link, SETTINGS, overwrite=True, **SMALL)
        assert link.is_symlink()
        assert [p.name for p in (tmp_path / "other").iterdir()] == ["b.zarr"]
        assert tinc_codec.open(link).shape == (20, 40, 36)


def test_a_destination_without_a_name_is_refused(npy: Path) -> None:
    with pytest.raises(InvalidSetting, match="/ has no name"):
        plan(npy, "/", SETTINGS)


@pytest.mark.parametrize("roi", [np.s_[3:9], (3, slice(2, 5))])
def test_a_box_that_is_no_sequence_of_slices_is_refused(npy: Path, dst: Path, roi: Any) -> None:
    with pytest.raises(InvalidSetting, match="must be a sequence of slices"):
        plan(npy, dst, SETTINGS, roi=roi)


def test_an_rmse_spends_bytes_on_tissue_and_hardly_any_on_noise(tmp_path: Path) -> None:
    """A quarter of the volume is tissue: for fewer bytes than by ratio it comes out better."""
    rng = np.random.default_rng(0)
    scene = rng.normal(300, 12, (32, 64, 64)).astype("u2")
    scene[:, :32, :32] = phantom((32, 32, 32))
    np.save(tmp_path / "s.npy", scene)
    sizes: list[int] = []
    errors: list[float] = []

    def kept(name: str, **wanted: float) -> None:
        settings = Settings(form="wavelet", effort=1, **wanted)  # type: ignore[arg-type]
        path = tmp_path / f"{name}.zarr"
        convert(tmp_path / "s.npy", path, settings, chunks=(32, 32, 32))
        found = np.asarray(tinc_codec.open(path)).astype(float)
        sizes.append(info(path).stored_bytes)
        errors.append(float(np.sqrt(((found - scene) ** 2)[:, :32, :32].mean())))

    kept("ratio", ratio=100)
    wanted = 0.85 * errors[0]
    kept("rmse", rmse=wanted)
    assert errors[1] <= wanted
    assert sizes[1] < 0.7 * sizes[0]
    scores = verify(tmp_path / "s.npy", tmp_path / "rmse.zarr")
    assert scores.bounds.rmse == wanted
    assert not scores.broken
    assert max(chunk.errors.rmse for chunk in scores.chunks) <= wanted
    assert verify(tmp_path / "s.npy", tmp_path / "rmse.zarr", bounds=Bounds(rmse=1)).broken


def test_regions_cover_every_voxel_once(npy: Path, dst: Path) -> None:
    made = plan(npy, dst, SETTINGS, **SMALL)
    count = np.zeros((20, 40, 36), int)
    for index in range(len(made)):
        count[made[index].region] += 1
    assert (count == 1).all()
    assert len(made) == 2 * 2 * 3


@pytest.mark.parametrize(
    ("shape", "chunks", "expected"),
    [
        ((600, 600, 600), (60, 60, 60), (240, 240, 240)),  # 10 chunks: 4 + 3 + 3
        ((320, 64, 64), (64, 64, 64), (192, 64, 64)),  # 5 chunks: 3 + 2
        ((2, 500, 64, 64), (1, 63, 64, 64), (1, 252, 64, 64)),
        ((600, 600, 600), (120, 120, 120), (240, 240, 240)),  # 256**3 voxels at most
        ((60, 2048, 2048), (60, 171, 171), (60, 513, 513)),
        ((5, 2048, 2048), (5, 512, 512), (5, 1024, 1024)),
        ((600, 600, 600), (300, 300, 300), (300, 300, 300)),
    ],
)
def test_default_shards(shape: Any, chunks: Any, expected: Any) -> None:
    assert shard_shape(shape, chunks, None) == expected


def test_a_small_level_is_as_short_as_its_axis() -> None:
    """A chunk that is all of an axis needs no shard that is a multiple of it."""
    assert shard_shape((38, 105, 105), (38, 64, 64), (256, 512, 512)) == (38, 128, 128)
    with pytest.raises(InvalidSetting, match="multiples, such as 38 instead of 20"):
        shard_shape((38, 105, 105), (38, 64, 64), (20, 64, 64))


@pytest.mark.parametrize("shards", [(24, 32, 16), (16, 32, 8), (), (1, 2, 3, 4), (0, 16, 16)])
def test_misaligned_shards_are_refused(npy: Path, dst: Path, shards: Any) -> None:
    with pytest.raises(InvalidSetting, match="shards="):
        plan(npy, dst, SETTINGS, chunks=(16, 16, 16), shards=shards)


def test_format_2_has_no_shards(npy: Path, dst: Path) -> None:
    with pytest.raises(InvalidSetting, match="format 2 has no shards"):
        plan(npy, dst, SETTINGS, zarr_format=2, shards=(16, 16, 16))


def test_too_little_memory_is_refused_with_the_remedy(npy: Path, dst: Path) -> None:
    made = plan(npy, dst, SETTINGS, **SMALL)
    made.check_memory(made.bytes_per_worker)
    with pytest.raises(InvalidSetting, match=r"shards of 16,32,16.*take smaller shards"):
        made.check_memory(made.bytes_per_worker - 1)
    larger = plan(npy, dst, SETTINGS, chunks=(20, 40, 36))
    assert larger.bytes_per_worker > made.bytes_per_worker


def test_a_ratio_that_chunks_are_too_small_for_is_refused_before_any_work(
    npy: Path, dst: Path
) -> None:
    with pytest.raises(InvalidSetting, match="at least 96 are needed"):
        plan(npy, dst, replace(SETTINGS, ratio=500), **SMALL)


# Shards.


def test_a_shard_is_read_by_zarr_as_if_zarr_had_written_it(npy: Path, dst: Path) -> None:
    data = np.load(npy)
    data[:16, :32, :16] = 0  # a whole shard of the fill value
    data[16:, :16, 16:32] = 0  # and a chunk
    np.save(npy, data)
    convert(npy, dst, SETTINGS, **SMALL)
    ours = zarr.open_group(dst, mode="r")["data"]
    from tinc_codec import TINCSerializer

    theirs = zarr.create_array(
        {}, data=data, **SMALL, serializer=TINCSerializer(**FAST), compressors=None
    )
    assert np.array_equal(ours[:], theirs[:])
    assert ours.metadata.codecs == theirs.metadata.codecs
    assert not (dst / "data/c/0/0/0").exists()


def test_nothing_to_pack() -> None:
    assert pack([None, None]) is None
    assert pack([None, b"abc"]) is not None


# Going on.


def test_goes_on_where_it_stopped_with_the_same_result(npy: Path, dst: Path) -> None:
    whole = dst.with_name("whole.zarr")
    convert(npy, whole, SETTINGS, **SMALL)
    made = plan(npy, dst, SETTINGS, **SMALL)
    run_some(made, 5)
    assert not dst.exists()
    told: list[bool] = []
    outcome = run(made, on_shard=lambda record, earlier: told.append(earlier))
    assert told == [True] * 5 + [False] * 7
    assert outcome.finished
    assert outcome.shards == len(made)
    assert tree(dst) == tree(whole)
    assert sorted(p.name for p in dst.parent.iterdir()) == ["a.zarr", "source.npy", "whole.zarr"]


def test_what_is_damaged_or_not_in_place_is_done_again(npy: Path, dst: Path) -> None:
    made = plan(npy, dst, SETTINGS, **SMALL)
    run_some(made, 6)
    shards = sorted((dst.with_name("a.zarr.partial") / "data/c").rglob("0"))
    files = [p for p in shards if p.is_file()][:2]
    files[0].unlink()
    files[1].write_bytes(bytes(files[1].stat().st_size))
    records = next(dst.with_name("a.zarr.tinc-progress").glob("shards-*.jsonl"))
    with records.open("ab") as file:
        file.write(b'{"index":7,"torn')
    told: list[bool] = []
    run(made, on_shard=lambda record, earlier: told.append(earlier))
    assert told == [True] * 4 + [False] * 8
    whole = dst.with_name("whole.zarr")
    convert(npy, whole, SETTINGS, **SMALL)
    assert tree(dst) == tree(whole)


@pytest.mark.parametrize("said", [b"[]", b"7", b'"plan"', b'{"plan": []}', b"{"])
def test_damaged_notes_of_a_plan_are_those_of_another(npy: Path, dst: Path, said: bytes) -> None:
    made = plan(npy, dst, SETTINGS, **SMALL)
    run_some(made, 2)
    (dst.with_name("a.zarr.tinc-progress") / "plan.json").write_bytes(said)
    with pytest.raises(InvalidSetting, match="--overwrite"):
        run(made)
    assert run(made, overwrite=True).finished


@pytest.mark.parametrize("line", [b'{"index":7,"level":0}\n', b'{"index":12,"level":0}\n'])
def test_a_damaged_record_is_told_with_a_remedy_that_helps(
    npy: Path, dst: Path, line: bytes
) -> None:
    made = plan(npy, dst, SETTINGS, **SMALL)
    run_some(made, 2)
    records = next(dst.with_name("a.zarr.tinc-progress").glob("shards-*.jsonl"))
    with records.open("ab") as file:
        file.write(line)
    with pytest.raises(InvalidSetting, match=rf"in {records} is damaged .*remove that file"):
        run(made)
    records.unlink()
    assert run(made).finished


def test_records_added_meanwhile_hide_none_of_the_others(npy: Path, dst: Path) -> None:
    made = plan(npy, dst, SETTINGS, **SMALL)
    for part in (0, 1):
        run(made, partition=(part, 3))
    folder = dst.with_name("a.zarr.tinc-progress")
    with open_manifest(made, Target(dst), overwrite=False, partition=(2, 3)) as manifest:
        records = manifest.records()
        found = [next(records).index]
        with (folder / "shards-1-of-3.jsonl").open("r+b") as file:
            line = file.readline()
            file.seek(0, os.SEEK_END)
            file.write(line)
        found += [record.index for record in records]
    assert sorted(found) == [k for k in range(len(made)) if k % 3 < 2]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": replace(SETTINGS, seed=1)}, r"seed 0 \(now 1\)"),
        ({"chunks": (16, 16, 8)}, "data chunks"),
        ({"min_psnr": 10.0}, "min_psnr None"),
    ],
)
def test_other_settings_are_refused_and_overwrite_starts_over(
    npy: Path, dst: Path, change: dict[str, Any], named: str
) -> None:
    given: dict[str, Any] = {"settings": SETTINGS, **SMALL}
    run_some(plan(npy, dst, **given), 3)
    before = tree(dst.with_name("a.zarr.partial"))
    with pytest.raises(InvalidSetting, match=rf"begun with something else: {named}.*--overwrite"):
        run(plan(npy, dst, **{**given, **change}))
    assert tree(dst.with_name("a.zarr.partial")) == before
    told: list[bool] = []
    made = plan(npy, dst, **{**given, "settings": replace(SETTINGS, seed=2)})
    run(made, overwrite=True, on_shard=lambda record, earlier: told.append(earlier))
    assert not any(told)


def test_a_changed_source_is_refused(npy: Path, dst: Path) -> None:
    run_some(plan(npy, dst, SETTINGS, **SMALL), 3)
    np.save(npy, volume((20, 40, 36)) + 1)
    with pytest.raises(InvalidSetting, match="begun with something else: the source"):
        run(plan(npy, dst, SETTINGS, **SMALL))


def test_a_copy_of_the_source_elsewhere_is_the_same_source(npy: Path, dst: Path) -> None:
    run_some(plan(npy, dst, SETTINGS, **SMALL), 3)
    there = npy.parent / "elsewhere"
    there.mkdir()
    os.rename(npy, there / npy.name)
    assert run(plan(there / npy.name, dst, SETTINGS, **SMALL)).finished


def test_two_writers_are_refused(npy: Path, dst: Path) -> None:
    made = plan(npy, dst, SETTINGS, **SMALL)
    options: dict[str, Any] = {"overwrite": False}
    with (
        open_manifest(made, Target(dst), **options),
        pytest.raises(BlockingIOError, match="another process is converting"),
    ):
        run(made)
    assert run(made).finished


def test_partitions_share_the_work_and_the_last_one_finishes(npy: Path, dst: Path) -> None:
    made = plan(npy, dst, SETTINGS, **SMALL)
    assert not run(made, partition=(1, 3)).finished
    assert not run(made, partition=(0, 3)).finished
    assert not dst.exists()
    last = run(made, partition=(2, 3))
    assert last.finished
    assert last.shards == len(made)
    whole = dst.with_name("whole.zarr")
    convert(npy, whole, SETTINGS, **SMALL)
    assert tree(dst) == tree(whole)
    for wrong in ((3, 3), (-1, 2)):
        with pytest.raises(InvalidSetting, match="partition"):
            run(made, partition=wrong)


# Failures.


def test_a_shard_that_cannot_be_read_fails_alone(
    npy: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = work.read_level
    tries: list[Any] = []

    def fails(made: Any, level: Any, region: Any) -> Any:
        if region[1].start == 32 and region[2].start == 16:
            tries.append(region)
            raise OSError(f"the disk has a scratch at {region[0].start}")
        return original(made, level, region)

    monkeypatch.setattr(work, "read_level", fails)
    made = plan(npy, dst, SETTINGS, **SMALL)
    with pytest.raises(ShardsFailed, match=r"2 of 12 shards failed \(data .*scratch") as failure:
        run(made)
    assert len(failure.value.failed) == 2
    assert len(tries) == 2 * 3  # again after a pause, twice
    assert not dst.exists()
    monkeypatch.setattr(work, "read_level", original)
    told: list[bool] = []
    assert run(made, on_shard=lambda record, earlier: told.append(earlier)).finished
    assert told.count(False) == 2


def test_an_error_that_passes_is_not_noticed(
    npy: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = work.read_level
    failing = [True, True, False]

    def fails(*arguments: Any) -> Any:
        if failing and failing.pop(0):
            raise OSError("the network is down")
        return original(*arguments)

    monkeypatch.setattr(work, "read_level", fails)
    assert run(plan(npy, dst, SETTINGS, **SMALL)).finished


def test_many_failures_in_a_row_end_the_run(
    tmp_path: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "s.npy", volume((16, 16, 16 * 15)))

    def fails(*arguments: Any) -> Any:
        raise OSError("the source is gone")

    monkeypatch.setattr(work, "read_level", fails)
    made = plan(tmp_path / "s.npy", dst, SETTINGS, chunks=(16, 16, 16), shards=(16, 16, 16))
    with pytest.raises(ShardsFailed, match="10 of 15 shards failed"):
        run(made)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_target_that_takes_no_more_ends_the_run_and_can_be_gone_on_from(
    npy: Path, dst: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    original = Target.put
    written: list[str] = []

    def put(self: Target, key: str, data: bytes, scratch: Path) -> None:
        if len(written) == 4:
            raise OSError(code, os.strerror(code), str(self.partial / key))
        written.append(key)
        original(self, key, data, scratch)

    monkeypatch.setattr(Target, "put", put)
    made = plan(npy, dst, SETTINGS, **SMALL)
    with pytest.raises(OSError, match=os.strerror(code)):
        run(made)
    assert not dst.exists()
    monkeypatch.setattr(Target, "put", original)
    told: list[bool] = []
    assert run(made, on_shard=lambda record, earlier: told.append(earlier)).finished
    assert told.count(True) == 4


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not permitted")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk(npy: Path, small_disk: Path) -> None:
    dst = small_disk / "a.zarr"
    (small_disk / "ballast").write_bytes(bytes(100_000))
    made = plan(npy, dst, SETTINGS, **SMALL)
    with pytest.raises(OSError, match="No space left"):
        run(made)
    assert not dst.exists()
    (small_disk / "ballast").unlink()
    assert run(made).finished
    whole = npy.with_name("whole.zarr")
    convert(npy, whole, SETTINGS, **SMALL)
    assert tree(dst) == tree(whole)


def test_a_disk_that_is_read_only(npy: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match="Read-only"):
        convert(npy, small_disk / "a.zarr", SETTINGS, **SMALL)
    assert not list(small_disk.iterdir())


# Pyramids and labels.


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_pyramid_is_made_from_the_source(npy: Path, dst: Path, zarr_format: Any) -> None:
    made = plan(npy, dst, SETTINGS, chunks=(16, 16, 16), levels=4, zarr_format=zarr_format)
    assert [level.lossless for level in made.levels] == [False, False, True, True]
    assert run(made).finished
    group, data = zarr.open_group(dst, mode="r"), np.load(npy)
    assert [group[str(k)].shape for k in range(4)] == [
        (20, 40, 36), (10, 20, 18), (5, 10, 9), (3, 5, 5),
    ]  # fmt: skip
    for k in (2, 3):
        assert np.array_equal(group[str(k)][:], downsample(data, (2**k,) * 3))
    assert np.abs(group["1"][:].astype(int) - downsample(data, (2, 2, 2))).max() < 60
    attributes = dict(group.attrs)
    block = attributes["ome"] if zarr_format == 3 else attributes
    assert [d["path"] for d in block["multiscales"][0]["datasets"]] == ["0", "1", "2", "3"]


def test_pieces_of_a_coarse_level_are_as_if_read_at_once(
    npy: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(level_reading, "PIECE_BYTES", 1000)
    run(plan(npy, dst, SETTINGS, chunks=(16, 16, 16), levels=3))
    coarse = zarr.open_group(dst, mode="r")["2"][:]
    assert np.array_equal(coarse, downsample(np.load(npy), (4, 4, 4)))


def test_labels_are_lossless_and_coarse_ones_are_picked(tmp_path: Path, dst: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 9000, (20, 22, 24)).astype(np.int64)
    np.save(tmp_path / "labels.npy", labels)
    run(plan(tmp_path / "labels.npy", dst, SETTINGS, labels=True, levels=2))
    group = zarr.open_group(dst, mode="r")
    assert np.array_equal(group["0"][:], labels)
    assert np.array_equal(group["1"][:], labels[::2, ::2, ::2])


# Chunks that are not fitted well enough.


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_chunk_below_the_floor_is_stored_losslessly_and_listed(
    npy: Path, dst: Path, zarr_format: Any
) -> None:
    data = np.load(npy)
    data[:16, :16, :16] = np.random.default_rng(0).integers(0, 60000, (16, 16, 16))
    np.save(npy, data)
    options = {"chunks": (16, 16, 16)} if zarr_format == 2 else SMALL
    found: dict[str, tuple[int, ...]] = {}
    outcome = run(
        plan(npy, dst, SETTINGS, **options, min_psnr=15, zarr_format=zarr_format),
        on_shard=lambda record, _: found.update({record.key: record.lossless}),
    )
    decoded = zarr.open_group(dst, mode="r")["data"][:]
    assert np.array_equal(decoded[:16, :16, :16], data[:16, :16, :16])
    assert not np.array_equal(decoded, data)
    assert outcome.lossless == 1
    assert outcome.why_lossless == "it decodes with less than min_psnr=15"
    assert [key for key, chunks in found.items() if chunks] == [
        "data/0/0/0" if zarr_format == 2 else "data/c/0/0/0"
    ]
    scores = verify(npy, dst)
    assert scores.bounds == Bounds(own_psnr_db=15)
    assert scores.broken == []


def test_a_floor_for_floats_is_refused_before_any_work(npy: Path, dst: Path) -> None:
    np.save(npy, np.load(npy).astype(np.float32))
    with pytest.raises(InvalidSetting, match=r"min_psnr=15 .* is for integers; of float32"):
        plan(npy, dst, SETTINGS, min_psnr=15)


def test_floats_without_loss_are_refused_before_any_work(npy: Path, dst: Path) -> None:
    np.save(npy, np.load(npy).astype(np.float32))
    with pytest.raises(InvalidSetting, match=r"max_error=0 .* integers; of float32 give a larger"):
        plan(npy, dst, Settings(max_error=0))


def test_chunks_whose_fit_fails_are_stored_losslessly(
    npy: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = shard_encoding._encode_batch
    tried: list[int] = []

    def fails(shard: Any, batch: Any) -> Any:
        tried.append(len(batch))
        if shard.task.index == 0 and 1 in batch:
            raise InvalidSetting("this chunk cannot be fitted")
        return original(shard, batch)

    monkeypatch.setattr(shard_encoding, "_encode_batch", fails)
    outcome = run(plan(npy, dst, SETTINGS, **SMALL))
    assert outcome.lossless == 1
    assert outcome.why_lossless == "this chunk cannot be fitted"
    assert tried[:3] == [2, 1, 1]
    decoded = zarr.open_group(dst, mode="r")["data"][:]
    assert np.array_equal(decoded[:16, 16:32, :16], np.load(npy)[:16, 16:32, :16])


def test_a_chunk_that_can_be_stored_neither_way_is_told_both_reasons(npy: Path, dst: Path) -> None:
    data = np.load(npy).astype(np.float32)
    data[np.random.default_rng(0).random(data.shape) < 0.5] = np.nan
    np.save(npy, data)
    with pytest.raises(ShardsFailed, match=r"special values .* either \(max_error=0"):
        run(plan(npy, dst, Settings(ratio=64, effort=1)))


@pytest.mark.parametrize("value", [70000, -1, 1.5])
def test_a_value_that_the_source_cannot_hold_is_not_preserved(
    npy: Path, dst: Path, value: float
) -> None:
    with pytest.raises(InvalidSetting, match=f"preserve={value}: the source is of uint16, 0 to"):
        plan(npy, dst, Settings(ratio=16, preserve=(value,)))
    plan(npy, dst, Settings(ratio=16, preserve=(65535.0,)))


def test_an_archive_that_is_not_finished_is_told(npy: Path, dst: Path) -> None:
    run(plan(npy, dst, SETTINGS, **SMALL), partition=(0, 2))
    for look in (tinc_codec.open, info, lambda path: verify(npy, path)):
        with pytest.raises(FileNotFoundError, match=r"a\.zarr\.partial is there, of a conversion"):
            look(dst)


def test_a_source_that_has_lost_something_already_is_told(npy: Path, tmp_path: Path) -> None:
    for name, settings in (("lossy", SETTINGS), ("exact", Settings(max_error=0, effort=1))):
        convert(npy, tmp_path / f"{name}.zarr", settings, **SMALL)
        made = plan(tmp_path / f"{name}.zarr", tmp_path / "again.zarr", SETTINGS, **SMALL)
        assert ["compressed by this codec already" in text for text in made.left_out] == (
            [True] if name == "lossy" else []
        )


def test_a_device_that_is_not_there_is_refused_before_any_work(npy: Path, dst: Path) -> None:
    """Not taken for fits that fail, of which all chunks would be stored losslessly."""
    pytest.importorskip("torch")
    made = plan(npy, dst, SETTINGS, **SMALL)
    with tinc_codec.runtime(device="cuda:99"), pytest.raises(InvalidSetting, match="cuda"):
        run(made)
    assert not list(dst.parent.glob("a.zarr*"))
    job = work.Job(plan=made, scratch=str(dst.parent), device="cuda:99")
    with pytest.raises(InvalidSetting, match="cuda"):
        work.convert_task(job, 0)


def test_a_chunk_that_can_be_stored_neither_way_fails_its_shard_alone(
    npy: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = shard_encoding._encode_batch

    def fails(shard: Any, batch: Any) -> Any:
        if shard.task.index == 3:
            raise InvalidSetting("this chunk cannot be fitted")
        return original(shard, batch)

    def no_exact_form(*arguments: Any) -> Any:
        raise InvalidSetting("no exact form")

    monkeypatch.setattr(shard_encoding, "_encode_batch", fails)
    monkeypatch.setattr(shard_encoding, "encode_chunk", no_exact_form)
    with pytest.raises(ShardsFailed, match=r"1 of 12 shards failed.*chunk 0:16,32:40,0:16 of"):
        run(plan(npy, dst, SETTINGS, **SMALL))


# Workers.


def test_two_processes_give_what_one_gives(npy: Path, dst: Path) -> None:
    whole = dst.with_name("whole.zarr")
    one = convert(npy, whole, SETTINGS, **SMALL)
    two = convert(npy, dst, SETTINGS, **SMALL, workers=2)
    assert tree(dst) == tree(whole)
    assert two.errors == pytest.approx(one.errors) or two.psnr_db == pytest.approx(one.psnr_db)
    assert [c.region for c in two.chunks] == [c.region for c in one.chunks]


def test_of_quick_tasks_the_one_that_fails_is_told_and_no_other() -> None:
    calls = 300

    def twice(bad: int, index: int) -> int:
        if index == bad:
            raise OSError("the disk has a scratch")
        return 2 * index

    with local_client(1) as client:
        told = list(on_client(twice, 77, iter(range(calls)), client, name="quick"))
    found: dict[int, Any] = dict(told)
    assert len(told) == calls
    assert "scratch" in str(found.pop(77))
    assert found == {index: 2 * index for index in range(calls) if index != 77}


def test_batches_grow_while_tasks_are_quick() -> None:
    waiting = Waiting(iter(range(1000)))
    assert waiting.take() == [0]
    waiting.done([0], 1, 0.001)
    assert waiting.take() == [1, 2]
    waiting.done([1, 2], 1, 5.0)  # a slow one: the other was not begun
    assert waiting.take() == [2]
    waiting.failed([3, 4])
    assert [waiting.take(), waiting.take()] == [[3], [4]]


def test_a_worker_whose_gpu_is_lost_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [
        "CUDA error: an illegal memory access was encountered",
        "Triton Error [CUDA]: an illegal memory access was encountered",
        "CUDA error: out of memory",
        "shapes differ",
    ]
    ended: list[int] = []

    def fails(job: Any, index: int) -> Any:
        raise RuntimeError(said[index])

    monkeypatch.setattr(work, "convert_task", fails)
    monkeypatch.setattr(os, "_exit", ended.append)
    for index in range(4):
        with pytest.raises(RuntimeError):
            work.convert_on_worker(None, index)  # type: ignore[arg-type]
    assert len(ended) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_task_of_its_parent(
    npy: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = work.Job(plan=plan(npy, dst, SETTINGS, **SMALL), scratch=str(dst.parent))
    begun, forked = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        forked.wait()
        raise Stop

    monkeypatch.setattr(work, "check_device", wait)  # the first that a task does
    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(work.convert_task, job, 0)
        begun.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            monkeypatch.setattr(work, "check_device", lambda: os._exit(0))
            work.convert_task(job, 1)
        status = os.waitpid(child, 0)[1]
        forked.set()
        assert isinstance(task.exception(), Stop)
    assert status == 0


@pytest.mark.parametrize(("slow", "counted"), [("_read", "read"), ("score_chunk", "decode")])
def test_seconds_of_a_task_leave_nothing_out(
    npy: Path, dst: Path, monkeypatch: pytest.MonkeyPatch, slow: str, counted: str
) -> None:
    original = getattr(work, slow)

    def slowly(*args: Any, **options: Any) -> Any:
        time.sleep(0.3)
        return original(*args, **options)

    monkeypatch.setattr(work, slow, slowly)
    records: list[ShardRecord] = []
    made = plan(npy, dst, SETTINGS, **SMALL)
    run(made, on_shard=lambda record, _: records.append(record))
    assert all(record.seconds[counted] >= 0.3 for record in records)


@pytest.mark.parametrize("workers", [0, -3])
def test_workers_below_one_are_refused(npy: Path, dst: Path, workers: int) -> None:
    said = f"workers={workers} must be at least 1"
    for start in (local_client, slurm_client):
        with pytest.raises(InvalidSetting, match=said), start(workers):
            pass
    with pytest.raises(InvalidSetting, match=said):
        convert(npy, dst, SETTINGS, workers=workers)
    assert not dst.exists()


def test_gpus_are_those_that_the_environment_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-abc")
    assert visible_gpus() == ["1", "GPU-abc"]
    for listed, found in {"": [], "-1": [], "0, 2 ,-1,3": ["0", "2"], "1,,2": ["1"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
        assert visible_gpus() == found


def test_a_time_out_of_the_work_is_none_of_the_scheduler() -> None:
    with (
        local_client(1) as there,
        pytest.raises(TimeoutError, match="the source is slow"),
        scheduler_client(there.scheduler_info()["address"]),
    ):
        raise TimeoutError("the source is slow")


def test_a_scheduler_without_workers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise TimeoutError("0 of 1 workers")

    with local_client(1) as there:
        address = there.scheduler_info()["address"]
        monkeypatch.setattr(type(there), "wait_for_workers", never)
        said = f"no scheduler with workers at {address}"
        with pytest.raises(OSError, match=said), scheduler_client(address):
            pass


def test_records_survive_json(npy: Path, dst: Path) -> None:
    found: list[ShardRecord] = []
    run(plan(npy, dst, SETTINGS, **SMALL), on_shard=lambda record, _: found.append(record))
    for record in found:
        again = ShardRecord.from_json(json.loads(json.dumps(record.to_json())))
        assert again.key == record.key
        assert again.errors == record.errors
        assert math.isnan(again.chunks[0].ssim)


# Kills. `python -m benchmarks.kill --count 50` does more of them.


def test_what_is_killed_goes_on_to_the_same_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks.kill import KINDS, disturb, prepare

    whole = prepare(tmp_path)
    for kind in KINDS:
        found = disturb(tmp_path, whole, kind, shards=2)
        assert found.hit
        assert found.wrong == ""
        assert found.runs == (1 if kind == "worker" else 2)
