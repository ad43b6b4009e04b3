"""Slab staging: each plane is read once, within the stated memory, by however many processes."""

from __future__ import annotations

import multiprocessing
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
from volumes import volume

from tinc_codec import InvalidSetting
from tinc_codec.archive import open_source
from tinc_codec.archive.layout import chunk_regions
from tinc_codec.archive.sources import Staging, staging
from tinc_codec.archive.sources.planes import Planes

STACK = volume((12, 40, 48))
SHARD = (4, 16, 16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "planes").mkdir()
    for number, plane in enumerate(STACK):
        tifffile.imwrite(tmp_path / f"planes/{number}.tif", plane, compression="zlib")
    return tmp_path / "planes"


@pytest.fixture
def reads(monkeypatch):
    """Count how often each file is decoded."""
    counts: Counter[str] = Counter()
    original = Planes._plane

    def counted(self, file):
        counts[file.name] += 1
        return original(self, file)

    monkeypatch.setattr(Planes, "_plane", counted)
    return counts


def test_every_plane_is_read_once_for_all_shards(folder, tmp_path, reads):
    source = open_source(folder)
    staged = Staging(source=source, folder=tmp_path / "slabs")
    found = np.zeros_like(STACK)
    for _, region in chunk_regions(STACK.shape, SHARD):
        found[region] = staged.read(region)
        assert len(list((tmp_path / "slabs").glob("*.npy"))) <= 2
    assert np.array_equal(found, STACK)
    assert set(reads.values()) == {1}
    assert len(reads) == 12
    for _, region in chunk_regions(STACK.shape, SHARD):
        source.read(region)
    assert set(reads.values()) == {1 + 9}  # what it would have been


def test_the_memory_is_kept_to(tmp_path, monkeypatch):
    (tmp_path / "planes").mkdir()
    plane = volume((512, 512))
    for number in range(16):
        tifffile.imwrite(tmp_path / f"planes/{number}.tif", plane + number)
    source = open_source(tmp_path / "planes")
    memory = 4 * plane.nbytes
    monkeypatch.setattr(staging, "SLAB_BYTES", memory)
    staged = Staging(source=source, folder=tmp_path / "slabs")
    sizes = []
    original = Planes.__getitem__

    def spy(self, region):
        voxels = original(self, region)
        sizes.append(voxels.nbytes)
        return voxels

    monkeypatch.setattr(Planes, "__getitem__", spy)
    tracemalloc.start()
    found = staged.read(np.s_[0:16, 100:164, 100:164])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes == [memory] * 4
    assert peak < memory + 2 * plane.nbytes + 2**20  # one plane while it is decoded
    assert np.array_equal(found[:, 0, 0], plane[100, 100] + np.arange(16))


def test_planes_of_more_bytes_than_are_taken_at_once_are_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "SLAB_BYTES", 1000)
    staged = Staging(source=open_source(folder), folder=tmp_path / "slabs")
    with pytest.raises(InvalidSetting, match=r"3840 bytes at once, more than the 1000 .*chunks"):
        staged.read(np.s_[0:4, 0:16, 0:16])
    assert not list((tmp_path / "slabs").glob("*.npy"))
    assert not list((tmp_path / "slabs").glob("*.partial"))


def test_what_needs_no_staging_is_read_at_once(tmp_path):
    np.save(tmp_path / "a.npy", STACK)
    staged = Staging(source=open_source(tmp_path / "a.npy"), folder=tmp_path / "slabs")
    assert np.array_equal(staged.read(np.s_[1:4, 5:9, :]), STACK[1:4, 5:9])
    assert not (tmp_path / "slabs").exists()


def test_a_slab_that_fails_leaves_nothing_and_can_be_tried_again(folder, tmp_path):
    source = open_source(folder)
    staged = Staging(source=source, folder=tmp_path / "slabs")
    data = (folder / "2.tif").read_bytes()
    (folder / "2.tif").write_bytes(data[:300])
    with pytest.raises(OSError, match=r"2\.tif"):
        staged.read(np.s_[0:4, 0:16, 0:16])
    assert [p.name for p in (tmp_path / "slabs").iterdir()] == [".lock"]
    (folder / "2.tif").write_bytes(data)
    assert np.array_equal(staged.read(np.s_[0:4, 0:16, 0:16]), STACK[:4, :16, :16])


def test_a_link_in_place_of_the_folder_is_refused_and_what_it_names_left_alone(folder, tmp_path):
    """Anyone may put one where the folder will be: its name can be foretold."""
    (tmp_path / "theirs").mkdir()
    kept = {".lock": b"who", **{f"{k}-{k + 1}.npy": b"old" for k in range(4)}}
    for name, data in kept.items():
        (tmp_path / "theirs" / name).write_bytes(data)
    (tmp_path / "slabs").symlink_to(tmp_path / "theirs")
    staged = Staging(source=open_source(folder), folder=tmp_path / "slabs")
    with pytest.raises(PermissionError, match=r"slabs is a link.*remove it, or set TMPDIR"):
        staged.read(np.s_[0:4, 0:16, 0:16])
    assert {p.name: p.read_bytes() for p in (tmp_path / "theirs").iterdir()} == kept


def test_files_that_are_no_slabs_stay(folder, tmp_path):
    (tmp_path / "slabs").mkdir()
    others = {"weights.npy", "1-2.npy.npy", "a_0-4.npy"}
    for name in others:
        (tmp_path / "slabs" / name).write_bytes(b"?")
    staged = Staging(source=open_source(folder), folder=tmp_path / "slabs")
    for _, region in chunk_regions(STACK.shape, SHARD):
        staged.read(region)
    assert {p.name for p in (tmp_path / "slabs").iterdir()} >= others


def stage(arguments):
    staged, region = arguments
    return staged.read(region)


def test_processes_share_the_slabs(folder, tmp_path):
    """A slab's file is written once: those that come later, or at the same time, find it."""
    staged = Staging(source=open_source(folder), folder=tmp_path / "slabs")
    regions = [region for _, region in chunk_regions(STACK.shape, SHARD)][:9]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(stage, [(staged, region) for region in regions], chunksize=1)
    for region, voxels in zip(regions, found, strict=True):
        assert np.array_equal(voxels, STACK[region])
    assert [p.name for p in (tmp_path / "slabs").glob("*.npy")] == ["0-4_0-40_0-48.npy"]
