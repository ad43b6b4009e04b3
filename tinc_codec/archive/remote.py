"""A target behind a URL: shards are put as whole objects, metadata last."""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tinc_codec.archive.sources import SourceSpec
from tinc_codec.archive.sources.fingerprint import filesystem
from tinc_codec.archive.target import Target
from tinc_codec.errors import InvalidSetting

_METADATA = ("zarr.json", ".zgroup")


def target_of(dst: str | Path) -> Target:
    """Return the target of a path or URL; ``file://`` is a path."""
    text = str(dst)
    if text.startswith("file://"):
        return Target(Path(unquote(urlsplit(text).path)))
    if "://" not in text:
        return Target(Path(text))
    url = text.rstrip("/")
    name = posixpath.basename(urlsplit(url).path)
    if not name:
        raise InvalidSetting(f"{text} names no archive; give {text.rstrip('/')}/NAME.zarr")
    return RemoteTarget(Path(name), url)


@dataclass(frozen=True, slots=True)
class RemoteTarget(Target):
    """A prefix of an object store that becomes an archive.

    An object appears whole or not at all, so shards go to their final places; what makes an archive
    of them, the metadata, is put last. What is known of it is kept in the working directory: an
    object store has no locks and cannot append. Access comes from the environment.

    Attributes
    ----------
    dst : Path
        The last part of the URL.
    url : str
        All of it.
    """

    url: str

    @property
    def where(self) -> str:
        """The URL, for messages."""
        return self.url

    @property
    def progress(self) -> Path:
        """Folder of what is known of it."""
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:8]
        return Path(f"{self.dst}-{digest}.tinc-progress").absolute()

    def check(self, sources: Sequence[SourceSpec], overwrite: bool) -> None:
        """Refuse a prefix that holds anything but what an earlier run has begun.

        Raises
        ------
        InvalidSetting
            If source and destination overlap.
        FileExistsError
            If it holds something: nothing finished is replaced behind a URL.
        """
        for spec in sources:
            here, there = f"{self.url}/", f"{spec.location.rstrip('/')}/"
            if here.startswith(there) or there.startswith(here):
                raise InvalidSetting(
                    f"{self.url} and the source {spec.location} overlap; give another destination"
                )
        fs, path = self._place()
        finished = any(fs.exists(posixpath.join(path, name)) for name in _METADATA)
        if finished or (not self.progress.exists() and self._holds_something()):
            raise FileExistsError(
                f"{self.url} exists; give another name, or remove it: behind a URL nothing is "
                f"replaced, and an unfinished conversion goes on from {self.progress} only"
            )

    def begin(self, fresh: bool) -> None:
        """Remove what an earlier plan has left, if the target is to be new."""
        if fresh and self._holds_something():
            fs, path = self._place()
            fs.rm(path, recursive=True)

    def is_unfinished(self) -> bool:
        """Whether the metadata are still to be written."""
        return all(self.read(name) is None for name in _METADATA)

    def put(self, key: str, data: bytes, scratch: Path) -> None:
        """Put an object in place."""
        fs, path = self._place()
        fs.pipe_file(posixpath.join(path, key), data)

    def remove(self, key: str) -> None:
        """Remove an object, if it is there."""
        fs, path = self._place()
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(posixpath.join(path, key))

    def read(self, key: str) -> bytes | None:
        """Return the bytes of an object, None if there is none."""
        fs, path = self._place()
        try:
            return bytes(fs.cat_file(posixpath.join(path, key)))
        except FileNotFoundError:
            return None

    def read_finished(self, key: str) -> bytes | None:
        """Return the bytes of an object, None if there is none or the archive is unfinished."""
        return None if self.is_unfinished() else self.read(key)

    def finish(self, documents: Mapping[str, bytes]) -> None:
        """Write the metadata, the group's own last: it makes an archive of the rest."""
        last = set(_METADATA)
        for key in sorted(documents, key=lambda k: k in last):
            self.put(key, documents[key], self.progress)

    def _holds_something(self) -> bool:
        fs, path = self._place()
        fs.invalidate_cache()
        try:
            return bool(fs.ls(path))
        except FileNotFoundError:
            return False

    def _place(self) -> tuple[Any, str]:
        return filesystem(self.url, {})
