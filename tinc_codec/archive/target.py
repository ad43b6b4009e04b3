"""Where an archive comes into being: shards put in place whole or not at all, metadata last.

While it is unfinished an archive is called ``DST.partial`` and holds no zarr metadata, so that
nothing opens it. What is known of it lies beside it, in ``DST.tinc-progress``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tinc_codec.archive.sources import FILE_SUFFIXES, SourceSpec, is_zarr
from tinc_codec.errors import InvalidSetting

_Result = TypeVar("_Result")

# Trying again does not help: no room, no permission, nothing there.
_LASTING = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EFBIG,
    }
)
# Of the target, which every other shard would meet as well.
FATAL = _LASTING - {errno.ENOENT}
_OF_OTHER_FORMATS = (*FILE_SUFFIXES, ".gz", ".zip")
PAUSES = (0.5, 2.0, 8.0)  # seconds before the second, third and fourth attempt


@dataclass(frozen=True, slots=True)
class Target:
    """A local folder that becomes an archive.

    Attributes
    ----------
    dst : Path
        Its final name.
    """

    dst: Path

    @property
    def partial(self) -> Path:
        """Folder of what is there so far."""
        return self.dst.with_name(f"{self.dst.name}.partial")

    @property
    def progress(self) -> Path:
        """Folder of what is known of it."""
        return self.dst.with_name(f"{self.dst.name}.tinc-progress")

    @property
    def where(self) -> str:
        """Name of what is there so far, for messages."""
        return str(self.partial)

    def begin(self, fresh: bool) -> None:
        """Make the folder of an unfinished archive, an empty one if it is to be new."""
        if fresh:
            shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True, exist_ok=True)

    def is_unfinished(self) -> bool:
        """Whether the archive is still to get its name."""
        return self.partial.exists()

    def check(self, sources: Sequence[SourceSpec], overwrite: bool) -> None:
        """Refuse a destination that is in use for something else.

        Raises
        ------
        InvalidSetting
            If source and destination overlap.
        FileExistsError
            If there is something that is not to be replaced, or cannot be.
        """
        for spec in sources:
            if spec.array is not None or spec.is_url:
                continue
            here, there = self.dst.resolve(), Path(spec.location).resolve()
            if here == there or here in there.parents or there in here.parents:
                raise InvalidSetting(
                    f"{self.dst} and the source {spec.location} overlap; give another destination"
                )
        if self.dst.name.lower().endswith(_OF_OTHER_FORMATS):
            raise InvalidSetting(
                f"{self.dst} would be a folder of zarr; give a name that ends in .zarr. To have "
                "the voxels of an archive as an array: tinc_codec.open(PATH).values"
            )
        if self.dst.exists():
            if not overwrite:
                raise FileExistsError(
                    f"{self.dst} exists; give another name, or --overwrite (overwrite=True)"
                )
            if not is_zarr(self.dst):
                raise FileExistsError(
                    f"{self.dst} is not a zarr folder and is not overwritten; remove it"
                )
        if self.partial.exists() and not self.progress.exists() and not overwrite:
            raise FileExistsError(
                f"{self.partial} is there, left by something else: there is no {self.progress} "
                "to go on from. Remove it, or --overwrite (overwrite=True)"
            )

    def put(self, key: str, data: bytes, scratch: Path) -> None:
        """Put bytes in place: whole, on the disk, and under their name only then.

        Parameters
        ----------
        key : str
            Path within the archive.
        data : bytes
            All of them.
        scratch : Path
            Folder of this run for unfinished files. A run that takes over removes it, and with it
            what processes of an earlier run, should some still live, have not put in place.
        """
        path = self._path(key)
        unfinished = scratch / uuid.uuid4().hex
        try:
            _write_synced(unfinished, data)
            self._make_folders(path.parent)
            os.replace(unfinished, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            error.filename = error.filename or str(path)
            raise
        sync_folder(path.parent)

    def _path(self, key: str) -> Path:
        if key.startswith("/") or ".." in key.split("/"):
            raise InvalidSetting(f"{key} is not a path within {self.partial}; name the array anew")
        return self.partial / key

    def _make_folders(self, folder: Path) -> None:
        """Make a folder within the archive, but not the archive's own.

        That is gone when another run has finished it; a worker left over must not make it anew.
        """
        if folder == self.partial or folder.is_dir():
            return
        self._make_folders(folder.parent)
        folder.mkdir(exist_ok=True)

    def remove(self, key: str) -> None:
        """Remove what is under a key, if anything is."""
        with contextlib.suppress(FileNotFoundError):
            self._path(key).unlink()

    def read(self, key: str) -> bytes | None:
        """Return the bytes under a key, None if there are none."""
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            return None

    def read_finished(self, key: str) -> bytes | None:
        """Return the bytes under a key of the archive that has the name; None if there are none."""
        try:
            return (self.dst / key).read_bytes()
        except OSError:
            return None

    def finish(self, documents: Mapping[str, bytes]) -> None:
        """Write the metadata and give the archive its name.

        One that has it moves to the records of the conversion, and is removed with them.
        """
        for key, data in documents.items():
            path = self.partial / key
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_synced(path, data)
            sync_folder(path.parent)
        old = self.progress / f"replaced-{uuid.uuid4().hex}"
        if self.dst.exists():
            self.dst.rename(old)
        try:
            self.partial.rename(self.dst)
        except BaseException:
            if old.exists():
                old.rename(self.dst)
            raise
        sync_folder(self.dst.parent)


def _write_synced(path: Path, data: bytes) -> None:
    """Write a file, and bring it to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems have no such thing
            raise
    finally:
        os.close(descriptor)


def with_retries(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Call a function that reads or writes, again after a pause where that may help.

    Raises
    ------
    OSError
        The last one.
    """
    for pause in PAUSES:
        try:
            return function(*arguments)
        except OSError as error:
            if error.errno in _LASTING:
                raise
        time.sleep(pause)
    return function(*arguments)
