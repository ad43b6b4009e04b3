"""``python -m benchmarks.gigabyte``: a large archive, converted, verified and read.

The volumes of ``benchmarks.datasets`` are tiled to two channels of any size, with edge chunks, and
written as OME-Zarr 0.5. That is converted with worker processes, verified, opened in xarray and in
dask, and averaged by dask. What the source says of axes, scale, units and channels has to be there.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray

import tinc_codec
from benchmarks import datasets
from benchmarks.rows import markdown
from tinc_codec import Settings
from tinc_codec.archive import plan, run, verify
from tinc_codec.archive.cluster import local_client

_BRICK = 250  # edge of what one volume fills
_MULTISCALES = {
    "axes": [
        {"name": "c", "type": "channel"},
        *({"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"),
    ],
    "datasets": [
        {
            "path": "0",
            "coordinateTransformations": [{"type": "scale", "scale": [1.0, 5.0, 1.3, 1.3]}],
        }
    ],
    "name": "tiles",
}
_CHANNELS = {"channels": [{"label": label, "active": True} for label in ("signal", "background")]}
_OWN = {"microscope": "none", "tiles": ["of", "volumes"]}

_Result = TypeVar("_Result")


def write_source(path: Path, shape: tuple[int, ...]) -> None:
    """Write bricks of the volumes in turn, each repeated to fill its brick."""
    group = zarr.create_group(path)
    group.attrs["ome"] = {"version": "0.5", "multiscales": [_MULTISCALES], "omero": _CHANNELS}
    array = group.create_array(
        "0",
        shape=shape,
        dtype="uint16",
        chunks=(1, 64, 256, 256),
        dimension_names=["c", "z", "y", "x"],
        attributes=_OWN,
    )
    volumes = itertools.cycle(datasets.names())
    for channel in range(shape[0]):
        for corner in itertools.product(*(range(0, n, _BRICK) for n in shape[1:])):
            stops = (min(k + _BRICK, n) for k, n in zip(corner, shape[1:], strict=True))
            box = tuple(slice(k, stop) for k, stop in zip(corner, stops, strict=True))
            array[(channel, *box)] = _repeated(next(volumes), channel, box)


def _repeated(name: str, channel: int, box: tuple[slice, ...]) -> NDArray[np.uint16]:
    volume = datasets.load(name)
    while volume.ndim > 3:
        volume = volume[channel % len(volume)]
    edges = (axis.stop - axis.start for axis in box)
    places = (np.arange(edge) % n for edge, n in zip(edges, volume.shape, strict=True))
    return np.asarray(volume[np.ix_(*places)], np.uint16)


def measure(folder: Path, edge: int, depth: int, workers: int, settings: Settings) -> str:
    """Convert, verify, read; return a table of what it took, and raise if anything is amiss."""
    src, dst = folder / "source.zarr", folder / "archive.zarr"
    write_source(src, (2, depth, edge, edge))
    rows: list[tuple[str, str]] = []

    def timed(name: str, work: Callable[[], _Result]) -> _Result:
        started = time.perf_counter()
        found = work()
        rows.append((name, f"{time.perf_counter() - started:.1f} s"))
        print(*rows[-1], file=sys.stderr, flush=True)
        return found

    made = plan(src, dst, settings)
    with local_client(workers) as client:
        outcome = timed(f"convert, {workers} processes", lambda: run(made, client))
    scores = timed("verify", lambda: verify(src, dst, workers=workers))
    _check_metadata(dst)
    mean = timed("mean by dask", lambda: _mean(dst))
    original = zarr.open_group(src, mode="r")["0"]
    wanted = float(np.mean([np.mean(original[:, z]) for z in range(depth)]))
    rows += [
        ("voxels", f"{made.raw_bytes / 1e6:.0f} MB, {made.levels[0].shape}"),
        ("chunks", f"{made.chunks} of {made.levels[0].chunks}, in {len(made)} shards"),
        ("rate", f"{made.raw_bytes / 1e6 / outcome.seconds:.2f} MB/s"),
        ("ratio", f"{scores.ratio:.2f}"),
        ("PSNR", f"{scores.psnr_db:.2f} dB"),
        ("chunks that break a bound", f"{len(scores.broken)} of {len(scores.chunks)}"),
        ("mean, of the source", f"{mean:.3f}, {wanted:.3f}"),
        ("axes, scale, units, channels, attributes", "as in the source"),
    ]
    return markdown((f"effort {settings.effort}, form {settings.form}", ""), rows)


def _mean(dst: Path) -> float:
    """Return the mean as dask computes it, of the array as xarray has it."""
    import xarray as xr

    data = xr.open_zarr(dst, chunks={})["0"]
    return float(data.mean(dtype="float64").compute())


def _check_metadata(dst: Path) -> None:
    """Raise if the archive does not open in xarray and dask, or lacks what its source says."""
    import dask.array as da

    group = zarr.open_group(dst, mode="r")
    ome: dict[str, Any] = dict(group.attrs)["ome"]  # type: ignore[assignment]
    image = ome["multiscales"][0]
    array = tinc_codec.open(dst)
    lazy = da.from_zarr(str(dst / "0"))
    same = {
        "axes": image["axes"] == _MULTISCALES["axes"],
        "scale": image["datasets"][0]["coordinateTransformations"]
        == _MULTISCALES["datasets"][0]["coordinateTransformations"],  # type: ignore[index]
        "name": image["name"] == _MULTISCALES["name"],
        "channels": ome["omero"] == _CHANNELS,
        "attributes": {name: group["0"].attrs[name] for name in _OWN} == _OWN,
        "dimensions": array.dims == ("c", "z", "y", "x") and lazy.shape == array.shape,
        "coordinates": bool(np.allclose(np.diff(array["z"][:3]), 5)),
        "units": array["x"].attrs["units"] == "micrometer",
    }
    wrong = [name for name, good in same.items() if not good]
    if wrong:
        raise RuntimeError(f"not as in the source: {', '.join(wrong)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gigabyte", description=__doc__)
    parser.add_argument("--edge", type=int, default=1000, help="voxels along y, x (%(default)s)")
    parser.add_argument("--depth", type=int, default=260, help="voxels along z (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--ratio", type=float, default=64, help="(%(default)s)")
    parser.add_argument("--effort", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--form", default="auto", help="(%(default)s)")
    given = parser.parse_args(arguments)
    settings = Settings(ratio=given.ratio, effort=given.effort, form=given.form)
    with tempfile.TemporaryDirectory() as folder:
        print(measure(Path(folder), given.edge, given.depth, given.workers, settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
