"""``python -m benchmarks.public NAME``: public volumes into the folder that ``TINC_DATA`` names.

Raw volumes of the Open SciVis Datasets (P. Klacansky), kept as .npy files. No hash is built in:
the first download's SHA-256 is recorded in ``hashes.json`` beside the volumes, with a warning,
and every later download has to have it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch
import requests

from benchmarks import datasets

_SITE = "https://klacansky.com/open-scivis-datasets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """A raw file: where, and the shape and dtype of what is in it (z, y, x)."""

    url: str
    shape: tuple[int, int, int]
    dtype: str


VOLUMES = {
    "bonsai": Public(
        url=f"{_SITE}/bonsai/bonsai_256x256x256_uint8.raw", shape=(256, 256, 256), dtype="u1"
    ),
    "foot": Public(
        url=f"{_SITE}/foot/foot_256x256x256_uint8.raw", shape=(256, 256, 256), dtype="u1"
    ),
    "mri_ventricles": Public(
        url=f"{_SITE}/mri_ventricles/mri_ventricles_256x256x124_uint8.raw",
        shape=(124, 256, 256),
        dtype="u1",
    ),
    "carp": Public(
        url=f"{_SITE}/carp/carp_256x256x512_uint16.raw", shape=(512, 256, 256), dtype="<u2"
    ),
}


def download(name: str, folder: Path) -> Path:
    """Download a volume of :data:`VOLUMES` unless it is there; return its .npy file.

    Raises
    ------
    ConnectionError
        If the site cannot be reached.
    ValueError
        If what came is not what was recorded, or not of the shape.
    """
    public, path = VOLUMES[name], folder / f"{name}.npy"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    book = folder / "hashes.json"
    hashes: dict[str, str] = json.loads(book.read_text()) if book.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            raw = Path(pooch.retrieve(public.url, hashes.get(name), path=scratch))
        except requests.RequestException as error:
            raise ConnectionError(
                f"{name} cannot be downloaded from {public.url}: no network, or the site is "
                f"down ({type(error).__name__}). Put volumes of your own, .npy or .tif, into "
                f"{folder} instead"
            ) from error
        voxels = np.fromfile(raw, public.dtype)
        if voxels.size != np.prod(public.shape):
            raise ValueError(f"{name}: {voxels.size} voxels came instead of {public.shape}")
        if name not in hashes:
            found = f"sha256:{pooch.file_hash(str(raw))}"
            print(f"warning: {name} was not verified; its hash {found} is kept", file=sys.stderr)
            book.write_text(json.dumps(hashes | {name: found}, indent=1) + "\n")
        np.save(path, voxels.reshape(public.shape))
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.public", description=__doc__)
    parser.add_argument("names", nargs="+", choices=sorted(VOLUMES), metavar="NAME")
    parser.add_argument("--folder", type=Path, default=datasets.folder(), help="(%(default)s)")
    given = parser.parse_args(arguments)
    try:
        for name in given.names:
            print(download(name, given.folder))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
