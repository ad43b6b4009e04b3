"""Slabs on a local disk, for sources whose chunks or planes cross the regions that are wanted."""

from __future__ import annotations

import fcntl
import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinc_codec.archive.layout import Region, within
from tinc_codec.archive.sources.source import Source
from tinc_codec.errors import InvalidSetting

SLAB_BYTES = 1 << 28  # that reading a slab takes at once, at most
_KEPT = 2  # slabs on the disk besides the one being written
_SLAB_NAME = re.compile(r"\d+-\d+(_\d+-\d+)*\.npy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """Reads regions of a source so that each plane or chunk is read once a slab, not once a region.

    A slab is the source's ``preferred_region`` of what is asked for: of a stack of planes, all of
    the planes that a shard touches. It is written to a file in ``folder``, from which all regions
    within it are read, by every process that uses the folder; one writes, the others wait. The two
    last slabs are kept. Remove the folder afterwards.

    Attributes
    ----------
    source : Source
        Read region by region.
    folder : Path
        Of this source alone, on a local disk with room for three slabs; made if absent.
    """

    source: Source
    folder: Path

    def read(self, region: Region) -> NDArray[Any]:
        """Return a region, as :meth:`Source.read` does.

        Raises
        ------
        InvalidSetting
            If even the smallest part of a slab that the source can give exceeds 256 MiB.
        OSError
            If the source cannot be read, or the folder not be written.
        """
        slab = self.source.preferred_region(region)
        if slab == region:
            return self.source.read(region)
        return np.array(self._slab(slab)[within(region, slab)])

    def _slab(self, slab: Region) -> NDArray[Any]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(self.folder)  # in a folder that all may write to, links included
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(
                f"{self.folder} is a link, or another user's; remove it, or set TMPDIR"
            )
        file = self.folder / ("_".join(f"{s.start}-{s.stop}" for s in slab) + ".npy")
        with open(self.folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go by the system if this process dies
            if not file.exists():
                self._write(slab, file)
                self._forget(file)
            voxels: NDArray[Any] = np.load(file, mmap_mode="r")
            return voxels  # also when the file is removed

    def _write(self, slab: Region, file: Path) -> None:
        shape = tuple(s.stop - s.start for s in slab)
        partial = file.with_suffix(".partial")
        voxels = np.lib.format.open_memmap(partial, "w+", self.source.dtype, shape)
        try:
            for part in self._parts(slab):
                voxels[within(part, slab)] = self.source.read(part)
            voxels.flush()
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)

    def _parts(self, slab: Region) -> Iterator[Region]:
        """Cut a slab, along its first axis that has several chunks, into parts that fit."""
        chunks = self.source.chunks or (1,) * len(slab)
        lengths = [s.stop - s.start for s in slab]
        several = (k for k, (n, c) in enumerate(zip(lengths, chunks, strict=True)) if n > c)
        axis = next(several, 0)
        layer = math.prod(lengths) // lengths[axis] * min(chunks[axis], lengths[axis])
        layer *= self.source.dtype.itemsize
        if layer > SLAB_BYTES:
            raise InvalidSetting(
                f"{self.source.spec.location} gives {layer} bytes at once, more than the "
                f"{SLAB_BYTES} that are taken; save it in smaller chunks"
            )
        step = SLAB_BYTES // layer * chunks[axis]
        for start in range(slab[axis].start, slab[axis].stop, step):
            stop = min(start + step, slab[axis].stop)
            yield (*slab[:axis], slice(start, stop), *slab[axis + 1 :])

    def _forget(self, newest: Path) -> None:
        slabs = (p for p in self.folder.iterdir() if _SLAB_NAME.fullmatch(p.name) and p != newest)
        for old in sorted(slabs, key=lambda p: p.stat().st_mtime_ns)[: -(_KEPT - 1)]:
            old.unlink(missing_ok=True)
