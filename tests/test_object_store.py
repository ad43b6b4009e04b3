"""From an object store to an object store: converted, killed, gone on with, read back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from object_store import ObjectStore, object_store
from volumes import QUICK, volume

from tinc_codec import InvalidSetting, Settings
from tinc_codec.archive import convert, open_source
from tinc_codec.archive.remote import RemoteTarget, target_of
from tinc_codec.cli import main

pytest.importorskip("s3fs", reason="s3fs is not installed")
pytest.importorskip("moto.server", reason="moto[server] is not installed")

STACK = volume((16, 32, 32))
SHARDS = 4
SETTINGS = Settings(**QUICK)
CONVERT = f"""
import sys
from tinc_codec import Settings
from tinc_codec.archive.plan import plan
from tinc_codec.archive.run import run
made = plan(sys.argv[1], sys.argv[2], Settings(**{QUICK}), chunks=(16,) * 3, shards=(16,) * 3)
run(made, on_shard=lambda record, *_: print(record.index, flush=True))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[ObjectStore]:
    file = tmp_path_factory.mktemp("source") / "a.npy"
    np.save(file, STACK)
    with object_store() as running:
        running.filesystem().put(str(file), f"{running.bucket}/a.npy")
        yield running


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working directory, where what is known of a remote conversion is kept."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(store: ObjectStore, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CONVERT, f"{store.url}/a.npy", f"{store.url}/{name}"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **store.environment},
    )


def objects(store: ObjectStore, name: str) -> dict[str, bytes]:
    fs = store.filesystem()
    root = f"{store.bucket}/{name}"
    return {path.removeprefix(root): fs.cat_file(path) for path in fs.find(root)}


def test_a_killed_conversion_goes_on_and_equals_an_undisturbed_one(store, here):
    with start(store, "killed.zarr") as child:
        assert child.stdout is not None
        for _ in range(2):
            assert child.stdout.readline().strip().isdigit()
        child.send_signal(signal.SIGKILL)
    assert not any(key.endswith("zarr.json") for key in objects(store, "killed.zarr"))
    with pytest.raises(FileNotFoundError):
        open_source(f"{store.url}/killed.zarr")
    before = objects(store, "killed.zarr")
    with start(store, "killed.zarr") as child:
        told = child.communicate()[0].split()
    assert child.returncode == 0
    assert sorted(map(int, told)) == list(range(SHARDS))
    assert not list(here.glob("*.tinc-progress"))

    source = f"{store.url}/a.npy"
    convert(source, here / "whole.zarr", SETTINGS, chunks=(16,) * 3, shards=(16,) * 3)
    found = objects(store, "killed.zarr")
    chunks = {key for key in found if "/c/" in key}
    assert len(chunks) == SHARDS
    for key in chunks:
        assert found[key] == (here / f"whole.zarr{key}").read_bytes()
    assert len(before) >= 2
    assert before.items() <= found.items()  # what was in place was left alone


def test_the_archive_reads_from_where_it_is(store, here):
    url = f"{store.url}/read.zarr"
    convert(f"{store.url}/a.npy", url, SETTINGS, chunks=(16,) * 3)
    data = xr.open_zarr(url, storage_options=store.options)["data"]
    assert data.shape == STACK.shape
    part = np.s_[3:10, 5, ::4]
    with open_source(url, store.options) as source:
        whole = source.read(np.s_[0:16, 0:32, 0:32])
    assert np.abs(whole.astype(int) - STACK).mean() < 20
    assert np.array_equal(data[part].to_numpy(), whole[part])
    with pytest.raises(FileExistsError, match=r"read\.zarr exists"):
        convert(f"{store.url}/a.npy", url, SETTINGS, chunks=(16,) * 3, overwrite=True)


def test_an_archive_of_format_2(store, here):
    url = f"{store.url}/two.zarr"
    convert(f"{store.url}/a.npy", url, SETTINGS, chunks=(16,) * 3, zarr_format=2)
    assert zarr.open_group(url, mode="r", storage_options=store.options)["data"].shape == (
        STACK.shape
    )


def test_refusals_are_one_line_and_change_nothing(store, here, capsys):
    fs = store.filesystem()
    fs.pipe_file(f"{store.bucket}/taken.zarr/precious", b"!")
    before = sorted(fs.find(store.bucket))
    for dst, said in [
        ("taken.zarr", "taken.zarr exists"),
        ("a.npy/inside.zarr", "overlap"),
        ("", "names no archive"),
    ]:
        dst = f"{store.url}/{dst}"
        assert main(["convert", f"{store.url}/a.npy", dst, "--ratio", "16"]) == 1
        printed = capsys.readouterr().err
        assert said in printed
        assert printed.count("\n") == 1
    fs.invalidate_cache()
    assert sorted(fs.find(store.bucket)) == before
    assert not list(here.iterdir())


def test_an_object_is_removed_unread(store, here, monkeypatch):
    target = target_of(f"{store.url}/shards.zarr")
    for key in ("c/0", "c/1"):
        target.put(key, b"shard", here)
    with monkeypatch.context() as patched:
        patched.setattr(RemoteTarget, "read", lambda *_: pytest.fail("it was fetched"))
        for key in ("c/1", "c/1", "c/2"):  # the last two are not there
            target.remove(key)
    assert list(objects(store, "shards.zarr")) == ["/c/0"]


def test_other_settings_are_refused_until_overwritten(store, here):
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    source, url = f"{store.url}/a.npy", f"{store.url}/other.zarr"
    options = {"chunks": (16,) * 3, "shards": (16,) * 3}
    with pytest.raises(KeyboardInterrupt):
        convert(source, url, SETTINGS, **options, progress=interrupt)
    others = Settings(**{**QUICK, "seed": 5})
    with pytest.raises(InvalidSetting, match=r"seed 0 \(now 5\)"):
        convert(source, url, others, **options)
    convert(source, url, others, **options, overwrite=True)
    assert open_source(url, store.options).shape == STACK.shape
