"""Archives behind URLs: described, verified and opened where they are."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from object_store import ObjectStore, object_store
from volumes import QUICK, volume

import tinc_codec
from tinc_codec import InvalidSetting, Settings
from tinc_codec.archive import convert, info, verify
from tinc_codec.cli import main

pytest.importorskip("s3fs", reason="s3fs is not installed")
pytest.importorskip("moto.server", reason="moto[server] is not installed")

STACK = volume((16, 32, 32))
STACK[:, :16, :16] = 0  # a chunk that is not stored
KINDS = ["s3", "http"]
FORMATS = [2, 3]


class WithRanges(http.server.SimpleHTTPRequestHandler):
    """Python's server of files does not answer requests for ranges, as all others do."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if not asked or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        last = len(data) - 1
        if asked[1]:
            start, stop = int(asked[1]), min(int(asked[2] or last), last) + 1
        else:
            start, stop = len(data) - int(asked[2]), len(data)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Length", f"{stop - start}")
        self.end_headers()
        self.wfile.write(data[start:stop])


class WithoutRanges(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path, handler: Any = WithRanges) -> Iterator[str]:
    made = functools.partial(handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), made) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archives")
    np.save(path / "a.npy", STACK)
    for form in FORMATS:
        convert(path / "a.npy", path / f"{form}.zarr", Settings(**QUICK), chunks=(16,) * 3,
                zarr_format=form)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[ObjectStore]:
    with object_store() as running:
        for form in FORMATS:
            running.filesystem().put(
                str(folder / f"{form}.zarr"), f"{running.bucket}/{form}.zarr", recursive=True
            )
        yield running


@pytest.fixture(scope="module", params=KINDS)
def base(request: Any, folder: Path, store: ObjectStore) -> Iterator[str]:
    if request.param == "s3":
        yield store.url
    else:
        with served(folder) as url:
            yield url


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_what_is_said_of_a_url_is_what_is_said_of_the_folder(
    base: str, folder: Path, zarr_format: int, capsys: Any
) -> None:
    url, local = f"{base}/{zarr_format}.zarr", folder / f"{zarr_format}.zarr"
    here, there = info(local), info(url)
    assert there.stored_bytes == here.stored_bytes > 0
    assert there.summary == here.summary
    assert there.summary is not None
    assert there.summary.forms["absent"] == 1
    assert (there.settings, there.provenance) == (here.settings, here.provenance)
    printed = []
    for path in (local, url):
        assert main(["info", str(path)]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_a_url_is_verified(base: str, folder: Path, zarr_format: int, tmp_path: Path) -> None:
    url, local = f"{base}/{zarr_format}.zarr", folder / f"{zarr_format}.zarr"
    source = folder / "a.npy"
    there, here = verify(source, url), verify(source, local)
    assert (there.errors, there.stored_bytes) == (here.errors, here.stored_bytes)
    assert [c.stored_bytes for c in there.chunks] == [c.stored_bytes for c in here.chunks]
    report, table = tmp_path / "r.html", tmp_path / "t.parquet"
    options = ["--report", str(report), "--parquet", str(table), "--min-psnr", "1"]
    assert main(["verify", str(source), url, *options]) == 0
    assert report.stat().st_size > 1000
    assert table.exists()


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_a_url_is_opened(base: str, folder: Path, zarr_format: int) -> None:
    opened: Any = tinc_codec.open(f"{base}/{zarr_format}.zarr")
    whole = zarr.open_group(folder / f"{zarr_format}.zarr", mode="r")["data"][:]
    assert np.array_equal(opened[3:9, 20, ::3].values, whole[3:9, 20, ::3])
    assert np.array_equal(opened.values, whole)


def test_where_nothing_is(base: str, folder: Path, capsys: Any) -> None:
    url = f"{base}/nothing.zarr"
    with pytest.raises(InvalidSetting, match=r"nothing\.zarr"):
        tinc_codec.open(url)
    for command in (["info", url], ["verify", str(folder / "a.npy"), url]):
        assert main(command) == 1
        printed = capsys.readouterr().err
        assert printed.count(url) == 1
        assert "is not there" in printed
        assert printed.count("\n") == 1


def test_where_nobody_answers(folder: Path, capsys: Any) -> None:
    with served(folder) as url:
        pass
    with pytest.raises(OSError, match=r"cannot be read|is not there"):
        tinc_codec.open(f"{url}/3.zarr")
    assert main(["info", f"{url}/3.zarr"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_server_without_ranges_is_named_as_the_cause(folder: Path, capsys: Any) -> None:
    with served(folder, WithoutRanges) as url:
        assert main(["verify", str(folder / "a.npy"), f"{url}/3.zarr"]) == 1
    printed = capsys.readouterr().err
    assert "ranges of bytes" in printed
    assert printed.count("\n") == 1
