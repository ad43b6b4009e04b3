"""Sources that are unknown, cut short or damaged: one line names them; nothing half-made."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from test_sources import WRITERS, nibabel

from tinc_codec import TincError
from tinc_codec.archive import open_source, target
from tinc_codec.cli import main

FILES = ["npy", "tiff zlib", "hdf5", "imaris", "nifti", "nifti.gz"]


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "PAUSES", (0.01, 0.01))


def refused(path: Path | str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Convert, which must fail with one line and leave no target; return the line."""
    before = sorted(folder.iterdir())
    status = main(
        ["convert", str(path), str(folder / "out.zarr"), "--ratio", "16", "--effort", "1"]
    )
    printed = capsys.readouterr().err
    assert status == 1, printed
    lines = [line for line in printed.splitlines() if line.startswith("tinc:")]
    assert len(lines) == 1
    assert "Traceback" not in printed
    # A voxel that cannot be read is found on the way: what is done waits to be gone on with.
    unfinished = {folder / "out.zarr.partial", folder / "out.zarr.tinc-progress"}
    assert sorted(set(folder.iterdir()) - unfinished) == before
    assert not (folder / "out.zarr.partial/zarr.json").exists()
    return lines[0]


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("kept", [0, 7, 0.4, 0.95])
def test_files_cut_short(tmp_path, capsys, kind, kept):
    path = WRITERS[kind](tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    assert path.name in refused(path, tmp_path, capsys)


@pytest.mark.parametrize("kind", FILES)
def test_files_of_another_kind_than_their_names_say(tmp_path, capsys, kind):
    path = WRITERS[kind](tmp_path)
    path.write_bytes(b"<html>404 Not Found</html>" * 100)
    assert path.name in refused(path, tmp_path, capsys)


@pytest.mark.parametrize("kind", WRITERS)
def test_files_with_their_headers_overwritten_raise_nothing_unforeseen(tmp_path, kind):
    path = WRITERS[kind](tmp_path)
    with open_source(path) as source:
        file = Path(source.files[0])
    data = file.read_bytes()
    for start in range(0, min(len(data), 600), 13):
        file.write_bytes(data[:start] + b"\xff" * 8 + data[start + 8 :])
        try:
            with open_source(path) as source:
                source.read(tuple(slice(0, 1) for _ in source.shape))
        except (TincError, OSError, MemoryError):
            pass


def exhausted(*_, **__):
    raise MemoryError


@pytest.mark.parametrize(
    ("kind", "reader", "name"),
    [
        ("tiff zlib", tifffile, "TiffFile"),
        ("tiff planes", tifffile, "TiffFile"),
        ("nifti", nibabel, "load"),
    ],
)
def test_a_lack_of_memory_is_no_damage_to_a_file(tmp_path, monkeypatch, kind, reader, name):
    path = WRITERS[kind](tmp_path)
    monkeypatch.setattr(reader, name, exhausted)
    with pytest.raises(MemoryError):
        open_source(path)


def test_a_lack_of_memory_while_reading_is_none_of_the_file(tmp_path, monkeypatch):
    planes = open_source(WRITERS["tiff planes"](tmp_path))
    monkeypatch.setattr(tifffile, "TiffFile", exhausted)

    class TooLarge:
        shape, dtype = (2, 2), np.dtype("u1")
        __getitem__ = exhausted

    array = open_source(np.zeros((2, 2)))
    for source in (planes, replace(array, array=TooLarge())):
        with pytest.raises(MemoryError):
            source.read(tuple(map(slice, source.shape)))


@pytest.mark.parametrize("kind", ["n5", "zarr v2", "zarr v3"])
def test_metadata_that_is_no_json(tmp_path, capsys, kind):
    path = WRITERS[kind](tmp_path)
    file = Path(open_source(path).files[0])
    file.write_bytes(file.read_bytes()[:-20])
    assert path.name in refused(path, tmp_path, capsys)


@pytest.mark.parametrize(
    ("kind", "chunk"),
    [("n5", "setup0/s0/0/0/0"), ("zarr v2", "0.0.0"), ("zarr v3", "c/0/0/0")],
)
def test_a_chunk_cut_short(tmp_path, capsys, kind, chunk):
    path = WRITERS[kind](tmp_path)
    file = path / chunk
    file.write_bytes(file.read_bytes()[:30])
    assert path.name in refused(path, tmp_path, capsys)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing.h5", "No such file"),
        ("nothing", "No such file"),
        ("what.xyz", "is of no kind known here"),
        ("empty", "neither a zarr array"),
        ("empty.n5", "holds no dataset"),
    ],
)
def test_what_is_not_there_or_not_known(tmp_path, capsys, name, said):
    (tmp_path / "what.xyz").write_bytes(b"?")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.n5").mkdir()
    line = refused(tmp_path / name, tmp_path, capsys)
    assert said in line
    assert name in line


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://bucket/a.tif", "copy the file here first"),
        ("nosuch://bucket/a.zarr", "nosuch"),
        ("http://127.0.0.1:9/a.zarr", "127.0.0.1:9"),
        ("http://127.0.0.1:9/a.npy", "127.0.0.1:9"),
    ],
)
def test_urls(tmp_path, capsys, url, said):
    assert said in refused(url, tmp_path, capsys)


@pytest.mark.parametrize(
    ("kind", "module"),
    [("hdf5", "h5py"), ("imaris", "h5py"), ("nifti", "nibabel"), ("n5", "tensorstore")],
)
def test_a_reader_that_is_not_installed_is_told_with_the_remedy(
    tmp_path, capsys, monkeypatch, kind, module
):
    path = WRITERS[kind](tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    line = refused(path, tmp_path, capsys)
    assert f"needs {module}" in line
    assert line.endswith("pip install 'tinc_codec[formats]'")


def test_a_file_system_that_is_not_installed_is_told_with_the_remedy(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    line = refused("gs://bucket/a.zarr", tmp_path, capsys)
    assert line.endswith("pip install 'tinc_codec[cloud]'")


def test_the_heavy_readers_are_imported_only_when_needed():
    modules = ("h5py", "nibabel", "tensorstore", "s3fs", "aiohttp")
    code = f"import sys, tinc_codec.archive; print([m for m in {modules} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
