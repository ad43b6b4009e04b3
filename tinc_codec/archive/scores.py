"""What convert and verify report: one score for each chunk, and their sum."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tinc_codec.archive.layout import Region
from tinc_codec.metrics import Errors


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkScore:
    """Fidelity and size of one chunk, from its decoded bytes.

    Attributes
    ----------
    region : tuple of slice
        Voxels of the array, without padding.
    errors : Errors
        Against the source.
    ssim : float
        Structural similarity within the chunk; NaN where it was not computed, or a voxel is not
        finite.
    raw_bytes, stored_bytes : int
        Size of the region's voxels, and of the chunk's file. The latter is 0 for a chunk that zarr
        left out because it holds only the fill value, and for chunks inside shards.
    """

    region: Region
    errors: Errors
    ssim: float = math.nan
    raw_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Fidelity and size of an archive.

    Attributes
    ----------
    chunks : tuple of ChunkScore
        In C order of their position.
    errors : Errors
        Sum over the chunks.
    raw_bytes, stored_bytes : int
        Of the whole array; metadata is not counted.
    seconds : float
        Wall time.
    """

    chunks: tuple[ChunkScore, ...]
    errors: Errors
    raw_bytes: int
    stored_bytes: int
    seconds: float

    @property
    def ratio(self) -> float:
        """Raw bytes over stored bytes."""
        return ratio(self.raw_bytes, self.stored_bytes)

    @property
    def psnr_db(self) -> float:
        """PSNR of the whole array against the range of the source's values."""
        return self.errors.psnr()

    @property
    def ssim(self) -> float:
        """Mean over the chunks, weighted by voxels; windows across chunk borders are not seen."""
        known = [chunk for chunk in self.chunks if not math.isnan(chunk.ssim)]
        weight = sum(chunk.raw_bytes for chunk in known)
        return sum(c.ssim * c.raw_bytes for c in known) / weight if weight else math.nan

    def worst(self, count: int) -> list[ChunkScore]:
        """Return the chunks of lowest PSNR, the worst first."""
        peak = self.errors.data_range
        return sorted(self.chunks, key=lambda chunk: chunk.errors.psnr(peak))[:count]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a conversion or verification is.

    Attributes
    ----------
    done, total : int
        Chunks.
    errors : Errors
        Sum over the chunks done.
    raw_bytes, stored_bytes : int
        Of the chunks done.
    """

    done: int
    total: int
    errors: Errors
    raw_bytes: int
    stored_bytes: int

    @property
    def ratio(self) -> float:
        """Raw bytes over stored bytes, of the chunks done."""
        return ratio(self.raw_bytes, self.stored_bytes)


ProgressCallback = Callable[[Progress], None]


def gather(scored: Iterable[ChunkScore], total: int, progress: ProgressCallback | None) -> Scores:
    """Add up chunk scores as they come, telling the progress after each.

    Parameters
    ----------
    scored : iterable of ChunkScore
        Usually a generator, in which the work is done.
    total : int
        How many will come.
    progress : callable or None
        Called with a :class:`Progress`.
    """
    started = time.perf_counter()
    chunks: list[ChunkScore] = []
    errors, raw, stored = Errors(), 0, 0
    for score in scored:
        chunks.append(score)
        errors += score.errors
        raw += score.raw_bytes
        stored += score.stored_bytes
        if progress:
            progress(
                Progress(
                    done=len(chunks),
                    total=total,
                    errors=errors,
                    raw_bytes=raw,
                    stored_bytes=stored,
                )
            )
    return Scores(
        chunks=tuple(chunks),
        errors=errors,
        raw_bytes=raw,
        stored_bytes=stored,
        seconds=time.perf_counter() - started,
    )


def ratio(raw_bytes: int, stored_bytes: int) -> float:
    """Return raw over stored bytes; infinite when nothing had to be stored."""
    return raw_bytes / stored_bytes if stored_bytes else math.inf
