"""What is known of a shard that is in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from tinc_codec.archive.scores import ChunkScore
from tinc_codec.metrics import Errors


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """What is known of a finished task.

    Attributes
    ----------
    index, level : int
        Of the task.
    key : str
        Of the shard within the archive.
    size : int
        Bytes of the shard; 0 if all its chunks hold only the fill value, and nothing is stored.
    checksum : int
        CRC32C of these bytes.
    chunks : tuple of ChunkScore
        In C order of their positions.
    lossless : tuple of int
        Which of the chunks were stored losslessly, since the fit failed or was below the floor.
    why_lossless : str
        Why the first of these that was found was; "" where none was.
    seconds : dict of str to float
        Time to read, encode, decode with scoring, and write.
    """

    index: int
    level: int
    key: str
    size: int
    checksum: int
    chunks: tuple[ChunkScore, ...]
    lossless: tuple[int, ...] = ()
    why_lossless: str = ""
    seconds: dict[str, float]

    @property
    def raw_bytes(self) -> int:
        """Bytes of the shard's voxels."""
        return sum(chunk.raw_bytes for chunk in self.chunks)

    @property
    def errors(self) -> Errors:
        """Sum over the chunks, none for the coarser levels of a pyramid."""
        return sum((c.errors for c in self.chunks), Errors()) if self.level == 0 else Errors()

    def to_json(self) -> dict[str, Any]:
        """Return plain values; Python's json keeps NaN and infinities."""
        chunks = [chunk.to_record() for chunk in self.chunks]
        return {**{name: getattr(self, name) for name in self.__slots__}, "chunks": chunks}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the record that gave such values."""
        chunks = tuple(ChunkScore.from_record(chunk) for chunk in values["chunks"])
        return cls(**{**values, "chunks": chunks, "lossless": tuple(values["lossless"])})
