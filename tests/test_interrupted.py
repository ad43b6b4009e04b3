"""Conversions that end in the midst of something: whatever step is the last, the next goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volumes import QUICK, volume

from tinc_codec import Settings
from tinc_codec.archive import convert, is_complete, plan, run
from tinc_codec.archive.manifest import open_manifest
from tinc_codec.archive.target import Target
from tinc_codec.cli import main

SETTINGS = Settings(**{**QUICK, "form": "wavelet"})
CHUNKS: dict[str, Any] = {"chunks": (8, 16, 16)}

# Dies before the n-th change of a file, for each n, then goes on and compares. Forks of one process
# that has imported all there is: a conversion of six voxels takes less than starting Python.
EVERY_STEP = """
import json, os, shutil, sys
from pathlib import Path
from tinc_codec import Settings
from tinc_codec.archive import plan, run
# Asking dask imports it, which takes a second in each fork, or starts threads that no fork has.
sys.modules["tinc_codec.archive.run"].worker_memory = lambda client: 2**40

folder, before = Path(sys.argv[1]), sys.argv[2]
dst = folder / "a.zarr"
REMOVALS = {"os.remove", "os.rmdir"}  # of a whole folder: by names within it
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
WRITES = os.O_WRONLY | os.O_RDWR

def die_at(last):
    seen = 0
    def hook(event, found):
        nonlocal seen
        change = event in CHANGES or (event == "open" and found[2] and found[2] & WRITES)
        if change and (str(found[0]).startswith(str(dst)) or event in REMOVALS and found[1] != -1):
            seen += 1
            if seen == last:
                os._exit(9)
    sys.addaudithook(hook)

def converted(name, last=None):
    child = os.fork()
    if not child:
        if last is not None:
            die_at(last)
        try:
            run(plan(folder / "source.npy", folder / name, labels=True, chunks=(1, 2, 3),
                     shards=(1, 2, 3)), overwrite=before == "old")
        except Exception as error:
            print(f"step {last}: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def files(path):
    found = (p for p in path.rglob("*") if p.is_file() and p.name != "zarr.json")
    return {str(p.relative_to(path)): p.read_bytes() for p in found}

assert converted("whole.zarr") == 0
whole, wrong, step, status = files(folder / "whole.zarr"), {}, 0, 9
while status == 9:
    step += 1
    for path in folder.glob("a.zarr*"):
        shutil.rmtree(path)
    if before == "old":
        shutil.copytree(folder / "old.zarr", dst)
    status = converted("a.zarr", step)
    again = converted("a.zarr") if status else 0
    left = sorted(path.name for path in folder.glob("a.zarr*"))
    if again or left != ["a.zarr"] or files(dst) != whole:
        wrong[step] = [again, left]
print(json.dumps({"steps": step, "last": status, "wrong": wrong}))
"""


@pytest.fixture
def npy(tmp_path: Path) -> Path:
    path = tmp_path / "source.npy"
    np.save(path, volume((16, 16, 32)))
    return path


@pytest.mark.parametrize("before", ["nothing", "old"])
def test_whatever_step_is_the_last_the_same_command_goes_on(tmp_path: Path, before: str) -> None:
    np.save(tmp_path / "source.npy", np.arange(12, dtype=np.uint16).reshape(2, 2, 3))
    convert(tmp_path / "source.npy", tmp_path / "old.zarr", Settings(max_error=0), chunks=(2, 2, 3))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EVERY_STEP, str(tmp_path), before],
        capture_output=True,
        text=True,
        timeout=300,  # so long, if ever, only where something is stuck
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == {}, done.stderr
    assert found["last"] == 0
    assert found["steps"] > 30, "were there no changes to die at?"


def test_a_run_that_comes_again_leaves_what_is_complete(npy: Path, dst: Path, capsys: Any) -> None:
    made = plan(npy, dst, SETTINGS, **CHUNKS)
    first = run(made)
    before = (dst / "data/zarr.json").read_bytes()
    again = run(made)
    assert again.finished
    assert again.earlier
    assert (again.chunks, again.stored_bytes) == (first.chunks, first.stored_bytes)
    assert (dst / "data/zarr.json").read_bytes() == before
    assert main(["convert", str(npy), str(dst), "--ratio", "16"]) == 1
    assert "exists" in capsys.readouterr().err
    assert not run(made, overwrite=True).earlier


def test_a_changed_source_is_not_complete(npy: Path, dst: Path) -> None:
    run(plan(npy, dst, SETTINGS, **CHUNKS))
    np.save(npy, volume((16, 16, 32)) + 1)
    assert not is_complete(plan(npy, dst, SETTINGS, **CHUNKS), overwrite=False)


def test_a_worker_left_over_puts_nothing_in_place(npy: Path, dst: Path) -> None:
    made, target = plan(npy, dst, SETTINGS, **CHUNKS), Target(dst)
    with open_manifest(made, target, overwrite=False) as earlier:
        pass
    earlier.scratch.mkdir()  # as a killed run leaves it
    with open_manifest(made, target, overwrite=False) as later:
        with pytest.raises(FileNotFoundError):
            target.put("data/c/0/0/0", b"late", earlier.scratch)
        assert target.read("data/c/0/0/0") is None
        target.partial.rename(dst)
        with pytest.raises(FileNotFoundError):
            target.put("data/c/0/0/0", b"late", later.scratch)
    assert not target.partial.exists()


def test_records_that_the_system_left_as_zeros_do_not_count(npy: Path, dst: Path) -> None:
    made, target = plan(npy, dst, SETTINGS, **CHUNKS), Target(dst)
    with open_manifest(made, target, overwrite=False):
        pass
    file = target.progress / "shards-1-of-1.jsonl"
    file.write_bytes(b'{"index":0,\0\0\0\0}\n' + bytes(40) + b"\n")
    assert run(made).finished
