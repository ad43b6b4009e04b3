"""Sources behind URLs: of a server of S3 on this machine, and of HTTP."""

from __future__ import annotations

import functools
import http.server
import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from object_store import ObjectStore, object_store
from volumes import volume

from tinc_codec.archive import open_source
from tinc_codec.archive.sources import Source
from tinc_codec.cli import main

pytest.importorskip("s3fs", reason="s3fs is not installed")
pytest.importorskip("moto.server", reason="moto[server] is not installed")

STACK = volume((5, 12, 14))
PART = np.s_[1:4, 3:12, 2:9]


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


def put(store: ObjectStore, folder: Path, name: str) -> str:
    store.filesystem().put(str(folder), f"{store.bucket}/{name}", recursive=folder.is_dir())
    return f"{store.url}/{name}"


def write_zarr(folder: Path, zarr_format: int) -> Path:
    image = {
        "axes": [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"],
        "datasets": [
            {
                "path": "s0",
                "coordinateTransformations": [{"type": "scale", "scale": [2.0, 0.5, 0.5]}],
            }
        ],
    }
    block = {"multiscales": [image]}
    attributes = {"ome": {"version": "0.5", **block}} if zarr_format == 3 else block
    group = zarr.create_group(
        folder / "a.zarr", zarr_format=zarr_format, attributes=attributes, overwrite=True
    )
    group.create_array("s0", data=STACK, chunks=(2, 6, 7))
    return folder / "a.zarr"


def read_part(source: Source) -> np.ndarray:
    with source:
        return source.read(PART)


@pytest.mark.parametrize("given", ["options", "environment"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_ome_zarr_on_s3(store, tmp_path, zarr_format, given):
    url = put(store, write_zarr(tmp_path, zarr_format), f"{given}{zarr_format}.zarr")
    options = store.options if given == "options" else None
    source = open_source(url, options)
    assert source.kind == f"zarr v{zarr_format}"
    assert source.grid.scale == (2, 0.5, 0.5)
    assert np.array_equal(source.read(PART), STACK[PART])
    assert np.array_equal(open_source(f"{url}::s0", options).read(PART), STACK[PART])
    assert np.array_equal(open_source(f"{url}/s0", options).read(PART), STACK[PART])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(5, 12, 14), (12, 14), (14,), (2, 3, 4, 5)])
def test_npy_on_s3(store, tmp_path, order, shape):
    array = np.asarray(volume(shape), order=order)
    np.save(tmp_path / "a.npy", array)
    source = open_source(put(store, tmp_path / "a.npy", f"{len(shape)}{order}.npy"), store.options)
    assert (source.kind, source.shape, source.dtype) == ("npy", shape, array.dtype)
    part = tuple(slice(n // 3, n - n // 4) for n in shape)
    assert np.array_equal(source.read(part), array[part])


def test_a_fingerprint_tells_an_object_from_what_replaces_it(store, tmp_path):
    np.save(tmp_path / "a.npy", STACK)
    url = put(store, tmp_path / "a.npy", "replaced.npy")
    before = open_source(url, store.options).fingerprint()
    assert before == open_source(url, store.options).fingerprint()
    assert before["bytes"] == (tmp_path / "a.npy").stat().st_size
    changed = STACK.copy()
    changed[2, 6, 7] += 1
    np.save(tmp_path / "a.npy", changed)
    put(store, tmp_path / "a.npy", "replaced.npy")
    store.filesystem().invalidate_cache()
    after = open_source(url, {**store.options, "use_listings_cache": False}).fingerprint()
    assert before["sha256"] != after["sha256"]


def test_remote_sources_travel_to_worker_processes(store, tmp_path):
    np.save(tmp_path / "a.npy", STACK)
    sources = [
        open_source(put(store, tmp_path / "a.npy", "travel.npy"), store.options),
        open_source(put(store, write_zarr(tmp_path, 3), "travel.zarr"), store.options),
    ]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for found in pool.map(read_part, sources):
            assert np.array_equal(found, STACK[PART])


def test_what_is_not_there_or_cut_short_is_one_line(store, tmp_path, capsys):
    np.save(tmp_path / "short.npy", STACK)
    short = tmp_path / "short.npy"
    short.write_bytes(short.read_bytes()[:-100])
    put(store, short, "short.npy")
    for name, said in [
        ("nothing.zarr", "nothing.zarr is not there"),
        ("nothing.npy", "nothing.npy"),
        ("short.npy", "cut short"),
    ]:
        url = f"{store.url}/{name}"
        assert main(["convert", url, str(tmp_path / "out.zarr"), "--ratio", "64"]) == 1
        printed = capsys.readouterr().err
        assert said in printed
        assert printed.count("\n") == 1
    assert (
        main(["convert", "s3://nosuchbucket/a.zarr", str(tmp_path / "o.zarr"), "--ratio=64"]) == 1
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["short.npy"]


def test_keys_are_not_shown(store, tmp_path):
    np.save(tmp_path / "a.npy", STACK)
    url = put(store, tmp_path / "a.npy", "keys.npy")
    source = open_source(url, {**store.options, "secret": "hidden"})
    assert "hidden" not in repr(source.spec) + str(source.fingerprint())


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_zarr_over_http(tmp_path):
    """A plain server of files, which lists no folder as a store of objects would."""
    write_zarr(tmp_path, 3)
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = open_source(f"http://127.0.0.1:{server.server_port}/a.zarr")
        assert np.array_equal(source.read(PART), STACK[PART])
        assert source.fingerprint()["files"] == 3
        server.shutdown()
