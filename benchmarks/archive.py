"""``python -m benchmarks.archive``: what converting costs besides the fits.

``--only scheduling``: a plan of a million shards through the window and dask's scheduler, with a
stub in place of the fit; how much the process of client and scheduler grows, and shards a second.
``--only overhead``: a conversion with two processes against the fits of its chunks alone, by the
same processes; and against the fits within it, which other work on the machine slows as much.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import markdown
from tinc_codec import Settings
from tinc_codec.archive import ChunkScore, ShardRecord, plan, run
from tinc_codec.archive.cluster import local_client
from tinc_codec.archive.in_flight import on_client
from tinc_codec.archive.layout import chunk_regions
from tinc_codec.archive.work import Job
from tinc_codec.encode import encode_chunks
from tinc_codec.metrics import Errors
from tinc_codec.phantom import phantom

TABLES = ("scheduling", "overhead")
_EDGE = 64


def stub(job: Job, index: int) -> ShardRecord:
    """Stand in for a fit: what a worker returns of a shard of one chunk, without the work."""
    task = job.plan[index]
    score = ChunkScore(region=task.region, errors=Errors(), raw_bytes=1, stored_bytes=1)
    return ShardRecord(
        index=index, level=0, key=f"c/{index}", size=1, checksum=0, chunks=(score,), seconds={}
    )


def scheduling(shards: int, workers: int) -> str:
    """Run a plan of so many shards of one chunk each, and tell growth and speed."""
    import dask.array as da

    side = round(shards ** (1 / 3))
    volume = da.zeros((side * _EDGE,) * 3, chunks=(_EDGE, side * _EDGE, side * _EDGE), dtype="u2")
    made = plan(volume, "never-written.zarr", Settings(), chunks=(_EDGE,) * 3, shards=(_EDGE,) * 3)
    # The array itself is no source to send along with each task; files go by their names.
    job = Job(plan=_lean(made), scratch="stub")
    rows = []
    with local_client(workers) as client:
        results = on_client(stub, job, iter(range(len(made))), client, name="stub")
        started, before = time.perf_counter(), 0
        for done, _ in enumerate(results, 1):
            if done == min(1000, len(made)):
                before = _resident()
            if done % max(1, len(made) // 10) == 0:
                seconds = time.perf_counter() - started
                grown = _resident() - before
                row = (f"{done}", f"{done / seconds:.0f}", f"{grown / 2**20:+.1f}")
                print("shards, per second, growth in MiB:", *row, file=sys.stderr, flush=True)
                rows.append(row)
    return markdown(("shards", "shards a second", "growth of client and scheduler, MiB"), rows)


def _lean(made: Any) -> Any:
    from dataclasses import replace

    from tinc_codec.archive.sources import SourceSpec

    spec = SourceSpec(location="huge.zarr")
    return replace(made, levels=tuple(replace(level, source=spec) for level in made.levels))


def _resident() -> int:
    """Bytes of memory that this process holds now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def overhead(workers: int, edge: int) -> str:
    """Convert a phantom with processes, then fit its chunks in this process on one thread each."""
    settings = Settings(ratio=64, effort=3)
    volume = phantom((edge,) * 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "s.npy", volume)
        made = plan(
            folder / "s.npy", folder / "a.zarr", settings, chunks=(64,) * 3, shards=(64, 128, 128)
        )
        fitting = 0.0

        def add(record: ShardRecord, _earlier: bool) -> None:
            nonlocal fitting
            fitting += record.seconds["encode"]

        with local_client(workers) as client:
            client.run(_warm)
            started = time.perf_counter()
            run(made, client, on_shard=add)
            converting = time.perf_counter() - started
            fits = _fits_on(client, made, folder / "s.npy", settings)
    return markdown(
        ("workers", "chunks", "converting, s", "fits alone, s", "ratio", "over fits within it"),
        [(str(workers), str(made.chunks), f"{converting:.1f}", f"{fits:.1f}",
          f"{converting / fits:.3f}", f"{converting * workers / fitting:.3f}")],
    )  # fmt: skip


def _warm() -> None:
    """Compile, or load, what a fit needs."""
    encode_chunks([phantom((64, 64, 64))], Settings(ratio=64, effort=3))


def _fits_on(client: Any, made: Any, source: Path, settings: Settings) -> float:
    """Seconds that the same processes take to fit the same chunks and do nothing else."""
    level = made.levels[0]
    regions = [region for _, region in chunk_regions(level.shape, level.chunks)]
    started = time.perf_counter()
    client.gather(client.map(_fit, regions, path=str(source), settings=settings, pure=False))
    return time.perf_counter() - started


def _fit(region: Any, path: str, settings: Settings) -> int:
    voxels = np.ascontiguousarray(np.load(path, mmap_mode="r")[region])
    return len(encode_chunks([voxels], settings)[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.archive", description=__doc__)
    parser.add_argument("--only", choices=TABLES, help="all by default")
    parser.add_argument("--shards", type=int, default=1_000_000, help="scheduling (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--edge", type=int, default=256, help="overhead: voxels (%(default)s)")
    given = parser.parse_args(arguments)
    if given.only in (None, "scheduling"):
        print(f"## scheduling\n\n{scheduling(given.shards, given.workers)}\n", flush=True)
    if given.only in (None, "overhead"):
        print(f"## overhead\n\n{overhead(given.workers, given.edge)}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
