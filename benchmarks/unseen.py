"""``python -m benchmarks.unseen CLONES FOLDER``: volumes that the codec was not made with.

Of the same kinds as those of the other figures, from public repositories, each as it was at a
commit: axons, embryos, FIB-SEM, cells, nuclei and membranes of plants, computed tomography and
magnetic resonance. ``CLONES`` has a clone of each, called as the repository is; what is not there
is said. With ``TINC_DATA=FOLDER`` each volume is one of ``benchmarks.run``.
"""

from __future__ import annotations

import argparse
import io
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[Any]
_Box = tuple[slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A public repository at a commit, to be read from a clone.

    Attributes
    ----------
    owner, name : str
        On GitHub.
    commit : str
        Its hash.
    """

    owner: str
    name: str
    commit: str

    @property
    def url(self) -> str:
        """Where it is cloned from."""
        return f"https://github.com/{self.owner}/{self.name}"

    def files(self, clones: Path, folder: str, suffix: str) -> list[str]:
        """Return the paths of the files in a folder, in order."""
        listed = self._git(clones, "ls-tree", "--name-only", self.commit, f"{folder}/").decode()
        return sorted(path for path in listed.splitlines() if path.endswith(suffix))

    def content(self, clones: Path, path: str) -> bytes:
        """Return the bytes of a file."""
        return self._git(clones, "show", f"{self.commit}:{path}")

    def _git(self, clones: Path, *arguments: str) -> bytes:
        command = ["git", "-C", str(clones / self.name), *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout


TRAILMAP = Repository(
    owner="AlbertPun", name="TRAILMAP", commit="49811b309ba4fd7e0192b8a3b1cf628eecbe4675"
)
QCANET = Repository(
    owner="funalab", name="QCANet", commit="d047df5f271390dd06c72a8eb1d599a2ba96b9a0"
)
SEG3D = Repository(
    owner="CIBC-Internal", name="Seg3DData", commit="cbe9eeabbfaeebdd6d05521ff31464e929491966"
)
NEUROPROOF = Repository(
    owner="janelia-flyem", name="neuroproof_examples",
    commit="ce839e17deaf4c01153827c6d028dfecfbb4b958",
)  # fmt: skip
CELLFINDER = Repository(
    owner="brainglobe", name="cellfinder", commit="5aa244a59f96d7659ea472e4ceb575a29bbda7de"
)
PLANTSEG = Repository(
    owner="kreshuklab", name="plant-seg", commit="9d748063cc9de8d8025aaf691a11483b94a5894c"
)
IMAGEIO = Repository(
    owner="imageio", name="imageio-binaries", commit="f8f64710ea88e7e4a352c0f7d8c0deac9f5fd685"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A part of what a repository has.

    Attributes
    ----------
    repository : Repository
        Where it is.
    path : str
        A file; or a folder of planes, with ``suffix``.
    read : callable
        From the bytes of a file to an array.
    box : tuple of slice
        The part, from the middle where there is more than is wanted.
    suffix : str
        What the names of planes end with; "": it is one file.
    """

    repository: Repository
    path: str
    read: Callable[[bytes], _Array]
    box: _Box = ()
    suffix: str = ""

    def load(self, clones: Path) -> _Array:
        """Return the part."""
        if not self.suffix:
            found = self.read(self.repository.content(clones, self.path))
        else:
            files = self.repository.files(clones, self.path, self.suffix)
            found = np.stack([self.read(self.repository.content(clones, f)) for f in files])
        return np.ascontiguousarray(found[self.box])


def _tiff(data: bytes) -> _Array:
    from tifffile import imread

    return np.asarray(imread(io.BytesIO(data)))


def _png(data: bytes) -> _Array:
    import imagecodecs

    return np.asarray(imagecodecs.png_decode(data))


def _raw_of_hdf5(data: bytes) -> _Array:
    import h5py

    with h5py.File(io.BytesIO(data)) as file:
        return np.asarray(file["raw"])


def _npz(data: bytes) -> _Array:
    return np.asarray(np.load(io.BytesIO(data))["arr_0"])


def _dicom(data: bytes) -> _Array:
    """Return the pixels of these files, which end with them."""
    side = 640
    return np.frombuffer(data[-2 * side * side :], "<u2").reshape(side, side)


def _box(*sides: tuple[int, int]) -> _Box:
    return tuple(slice(first, first + length) for first, length in sides)


_CROPS = "tests/data/integration/detection"
_MIDDLE = _box((88, 128), (88, 128), (88, 128))
VOLUMES: dict[str, Volume] = {
    "axons_chunk": Volume(
        repository=TRAILMAP, path="data/testing/example-chunk", read=_tiff, suffix=".tif",
        box=_MIDDLE,
    ),
    **{
        f"axons_{name}": Volume(
            repository=TRAILMAP, path=f"data/{folder}-set/volumes/volume-{k}.tiff", read=_tiff
        )
        for name, folder, k in (
            ("val0", "validation/validation", 0),
            ("val5", "validation/validation", 5),
            ("train5", "training/training", 5),
        )
    },
    "embryo_8cell": Volume(
        repository=QCANET, path="example_datasets/images_raw/8_cell_stage.tif", read=_tiff
    ),
    "fibsem_train2": Volume(
        repository=NEUROPROOF, path="training_sample2/grayscale_maps", read=_png, suffix=".png",
        box=_box((60, 128), (60, 128), (60, 128)),
    ),
    "fibsem_valid": Volume(
        repository=NEUROPROOF, path="validation_sample/grayscale_maps", read=_png, suffix=".png",
        box=_box((0, 128), (100, 128), (100, 128)),
    ),
    "cells_crop_ch0": Volume(
        repository=CELLFINDER, path=f"{_CROPS}/crop_planes/ch0", read=_tiff, suffix=".tif",
        box=_box((0, 30), (190, 128), (270, 128)),
    ),
    "cells_crop_ch1": Volume(
        repository=CELLFINDER, path=f"{_CROPS}/crop_planes/ch1", read=_tiff, suffix=".tif",
        box=_box((0, 30), (190, 128), (270, 128)),
    ),
    "cells_split": Volume(
        repository=CELLFINDER, path=f"{_CROPS}/structure_split_test/signal", read=_tiff,
        suffix=".tif", box=_box((0, 21), (300, 128), (300, 128)),
    ),
    "root_1137": Volume(
        repository=PLANTSEG, path="tests/resources/data/val/1137_mini.h5", read=_raw_of_hdf5
    ),
    "root_1136": Volume(
        repository=PLANTSEG, path="tests/resources/data/train/1136_mini.h5", read=_raw_of_hdf5
    ),
    "ovule": Volume(
        repository=PLANTSEG, path="tests/resources/sample_ovule.h5", read=_raw_of_hdf5
    ),
    "plant_rgb0": Volume(
        repository=PLANTSEG, path="tests/resources/training_sources/rgb_3D_0.tiff", read=_tiff
    ),
    "ct_stent": Volume(
        repository=IMAGEIO, path="images/stent.npz", read=_npz,
        box=_box((64, 128), (0, 128), (0, 128)),
    ),
    "mr_dicom": Volume(
        repository=SEG3D, path="example_dicom", read=_dicom, suffix=".dcm",
        box=_box((0, 44), (256, 128), (256, 128)),
    ),
}  # fmt: skip


def write(clones: Path, folder: Path) -> list[str]:
    """Write the volumes whose repositories are at hand as .npy files; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    there = [name for name, v in VOLUMES.items() if (clones / v.repository.name).exists()]
    for name in there:
        np.save(folder / f"{name}.npy", VOLUMES[name].load(clones))
    return there


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unseen", description=__doc__)
    parser.add_argument("clones", type=Path, help="folder with the clones")
    parser.add_argument("folder", type=Path, help="where the volumes go")
    given = parser.parse_args(arguments)
    written = write(given.clones, given.folder)
    print(f"{len(written)} of {len(VOLUMES)} written: {', '.join(written) or 'none'}")
    missing = {v.repository.url: v.repository.name for n, v in VOLUMES.items() if n not in written}
    for url, name in missing.items():
        print(f"missing: git clone {url} {given.clones / name}")
    return 0 if written else 1


if __name__ == "__main__":
    raise SystemExit(main())
