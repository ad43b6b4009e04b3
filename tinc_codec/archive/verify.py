"""Scoring an archive against its source, from decoded bytes.

Chunks are compared in threads: decoding and numpy let go of Python's lock, and threads share the
open files and their caches, which processes would each open anew. A few chunks that lie side by
side are one piece of work; no more pieces than workers are in memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray

from tinc_codec.archive.counts import check_counts
from tinc_codec.archive.info import codec_settings, provenance_of
from tinc_codec.archive.layout import (
    Position,
    Region,
    chunk_groups,
    chunk_regions,
    slices_text,
    within,
)
from tinc_codec.archive.payloads import form, index_bytes, is_plain, payloads
from tinc_codec.archive.plan import open_part
from tinc_codec.archive.scores import (
    Bounds,
    ChunkScore,
    ProgressCallback,
    Scores,
    gather,
    otsu,
    score_chunk,
)
from tinc_codec.archive.sources import Source, open_source, zarr_array
from tinc_codec.archive.threaded import in_window
from tinc_codec.errors import CorruptPayload, InvalidSetting
from tinc_codec.runtime import current_runtime, runtime

_GROUP_BYTES = 16 << 20  # voxels of one piece of work, at most, unless one chunk is more
_VOXELS_FOR_THRESHOLD = 1 << 20  # of the whole, about
_NAMED = 10  # damaged chunks
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
Group = list[tuple[Position, Region]]


def verify(
    src: str | Path,
    dst: str | Path,
    *,
    bounds: Bounds | None = None,
    mask: Any = None,
    sample: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> Scores:
    """Compare an archive with its source, chunk by chunk, as it is decoded.

    The source is read twice: first for the range of its values, the peak of PSNR and SSIM, and for
    the threshold (Otsu's) between background and foreground. Working memory: for each worker the
    voxels of 16 MiB of the source, or of one chunk if that is more, about twelve times.

    Parameters
    ----------
    src : str or Path
        The original; see :func:`tinc_codec.archive.open_source`. Of an archive of a box or with a
        mask, which its provenance tells, the same is taken of it.
    dst : str or Path
        A zarr array or group.
    bounds : Bounds, optional
        Demands beside those that the archive's own settings make (``max_error``, ``rmse``,
        ``psnr``, ``ssim``, and the ``min_psnr`` it was made with); see :attr:`Scores.broken`.
    mask : str, Path or array, optional
        The mask that the archive was made with, if it is no more where it was.
    sample : int, optional
        Compare so many chunks, drawn at random, instead of all. Ranges and thresholds are theirs.
    seed : int
        Of the draw.
    workers : int, optional
        Threads that each work on chunks of their own; by default as many as the run-time settings
        give to one chunk.
    progress : callable, optional
        Called with a :class:`tinc_codec.archive.Progress` after each chunk.

    Returns
    -------
    Scores

    Raises
    ------
    InvalidSetting
        If the shapes or dtypes differ, a file is damaged or of an unknown kind, or ``sample`` or
        ``workers`` is below 1.
    CorruptPayload
        If bytes of chunks are damaged, or chunks lost: once all others have been compared, which
        chunks they are.
    OSError
        If a file cannot be read.
    """
    check_counts(sample=sample, workers=workers)
    with open_source(dst) as archive, open_original(src, archive, mask) as source:
        array = zarr_array(archive)
        _check_same_volume(source, archive)
        told = provenance_of(archive.attributes) or {}
        demanded = _with_stored(bounds or Bounds(), codec_settings(array) or {}, told)
        at_once = workers or current_runtime().thread_count()
        groups, count = _groups(array, sample, seed, at_once)
        threads = max(1, current_runtime().thread_count() // at_once)
        with runtime(threads=threads, cache_bytes=0):
            scored = _scored(source, archive, groups, count, at_once, demanded)
            scores = gather(scored, count, progress)
    if count < array.nchunks:
        return replace(scores, bounds=demanded, sampled_from=array.nchunks)
    stored = scores.stored_bytes + _shards(array, scores) * index_bytes(array)
    return replace(scores, bounds=demanded, stored_bytes=stored)


def open_original(src: Any, archive: Source, mask: Any = None) -> Source:
    """Open what an archive was made from: the box and mask that it tells of, or all of the source.

    Parameters
    ----------
    src : str or Path
        The source, or the box of it alone.
    archive : Source
        The archive.
    mask : str, Path or array, optional
        In place of the mask that the archive names.

    Raises
    ------
    InvalidSetting
        If the provenance, the box or the mask are not of such a source.
    OSError
        If the source or the mask cannot be read.
    """
    told = provenance_of(archive.attributes) or {}
    if mask is None and told.get("mask") is not None:
        mask = str(told["mask"])
        if "://" not in mask and not Path(mask).exists():
            raise FileNotFoundError(
                f"{archive.spec.location} was made with the mask {mask}, which is not there; "
                "say where it is with --mask (mask=)"
            )
    try:
        roi = told.get("roi") and tuple(slice(int(start), int(stop)) for start, stop in told["roi"])
    except (TypeError, ValueError):
        raise InvalidSetting(f"{archive.spec.location}: roi={told['roi']} is no box") from None
    if roi:
        with open_source(src) as whole:
            roi = None if whole.shape == archive.shape else roi
    return open_part(src, roi, mask)


def _shards(array: zarr.Array[Any], scores: Scores) -> int:
    """Return how many shards there are: those of which a chunk is not absent."""
    edges = array.shards or array.chunks
    there = (chunk.region for chunk in scores.chunks if chunk.stored_bytes)
    return len({tuple(s.start // n for s, n in zip(at, edges, strict=True)) for at in there})


def _check_same_volume(source: Source, archive: Source) -> None:
    # Byte order aside: archives hold the machine's.
    kinds = [side.dtype.newbyteorder("=") for side in (source, archive)]
    if source.shape != archive.shape or kinds[0] != kinds[1]:
        raise InvalidSetting(
            f"{source.path} has shape {source.shape} and dtype {source.dtype}, {archive.path} has "
            f"{archive.shape} and {archive.dtype}: not the same volume"
        )


def _with_stored(bounds: Bounds, settings: dict[str, Any], told: dict[str, Any]) -> Bounds:
    """Add what the codec's settings, and the provenance, promise of each chunk on its own."""

    def known(*limits: Any) -> list[float]:
        return [float(limit) for limit in limits if limit is not None]

    psnrs = known(bounds.own_psnr_db, settings.get("psnr"), told.get("min_psnr"))
    return replace(
        bounds,
        max_error=min(known(bounds.max_error, settings.get("max_error")), default=None),
        rmse=min(known(bounds.rmse, settings.get("rmse")), default=None),
        own_psnr_db=max(psnrs, default=None),
        own_ssim=max(known(bounds.own_ssim, settings.get("ssim")), default=None),
    )


def _groups(
    array: zarr.Array[Any], sample: int | None, seed: int, workers: int
) -> tuple[Iterable[Group], int]:
    """Return pieces of work, which can be gone through twice, and the chunks in all of them."""
    if sample is None or sample >= array.nchunks:
        most = _GROUP_BYTES // (math.prod(array.chunks) * array.dtype.itemsize)
        most = max(1, min(most, array.nchunks // (4 * workers)))  # work for every worker
        return _Again(lambda: chunk_groups(array.shape, array.chunks, most)), array.nchunks
    drawn = np.random.default_rng(seed).choice(array.nchunks, sample, replace=False)
    wanted = set(drawn.tolist())
    found = [
        [chunk] for k, chunk in enumerate(chunk_regions(array.shape, array.chunks)) if k in wanted
    ]
    return found, sample


class _Again(Iterable[_Item]):
    """An iterable made anew each time: a million chunks need not be listed."""

    def __init__(self, make: Callable[[], Iterator[_Item]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[_Item]:
        return self._make()


def _scored(
    source: Source, archive: Source, groups: Iterable[Group], count: int, workers: int,
    bounds: Bounds,
) -> Iterator[ChunkScore]:  # fmt: skip
    array = zarr_array(archive)
    plain = is_plain(array)
    some = max(16, _VOXELS_FOR_THRESHOLD // count)  # of each chunk
    looks = list(in_window(lambda group: _look(source, group, some), groups, workers))
    low = min(found[0] for found in looks)
    peak = max(max(found[1] for found in looks) - low, 0.0)
    threshold = otsu(np.concatenate([found[2] for found in looks]))
    own = bounds.own_ssim is not None

    def score(group: Group) -> list[ChunkScore | _Damaged]:
        try:
            return [*_score_group(source, archive, group, peak, threshold, plain, own)]
        except CorruptPayload as error:
            if len(group) == 1:
                reason = error.args[0]  # without the remedy, which the end of the line says
                return [_Damaged(region=group[0][1], reason=reason)]
            return [found for chunk in group for found in score([chunk])]

    damaged = []
    for scores in in_window(score, groups, workers):
        for found in scores:
            if isinstance(found, _Damaged):
                damaged.append(found)
            else:
                yield found
    if damaged:
        raise CorruptPayload(_told(archive, damaged, count))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Damaged:
    """A chunk that does not decode or is not there, and why."""

    region: Region
    reason: str


def _told(archive: Source, damaged: Sequence[_Damaged], count: int) -> str:
    """Return one line that names the damaged chunks, or the first of many."""
    by_reason: dict[str, list[str]] = {}
    for chunk in damaged[:_NAMED]:
        by_reason.setdefault(chunk.reason, []).append(slices_text(chunk.region))
    said = [f"{'; '.join(regions)} ({reason})" for reason, regions in by_reason.items()]
    more = f"; and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
    return (
        f"{archive.path}: {len(damaged)} of {count} chunks are damaged or lost: "
        f"{'; '.join(said)}{more}"
    )


def _box(group: Group) -> Region:
    """Return the region that the chunks of a group fill."""
    ends = zip(group[0][1], group[-1][1], strict=True)
    return tuple(slice(first.start, last.stop) for first, last in ends)


def _look(source: Source, group: Group, some: int) -> tuple[float, float, NDArray[Any]]:
    """Return lowest and highest value, and some values for the threshold."""
    voxels = source.read(_box(group)).reshape(-1)
    finite = voxels[np.isfinite(voxels)]
    few = voxels[:: max(1, voxels.size // (some * len(group)))].copy()
    if not finite.size:
        return math.inf, -math.inf, few
    return float(finite.min()), float(finite.max()), few


def _score_group(
    source: Source, archive: Source, group: Group, peak: float, threshold: float, plain: bool,
    own_structure: bool,
) -> list[ChunkScore]:  # fmt: skip
    started = time.perf_counter()
    box = _box(group)
    # Payloads first: they tell of a damaged shard in our words.
    stored = payloads(zarr_array(archive), [position for position, _ in group])
    voxels, decoded = source.read(box), archive.read(box)
    seconds = (time.perf_counter() - started) / len(group)
    found = []
    for (_, region), payload in zip(group, stored, strict=True):
        at = within(region, box)
        if payload is None and not np.array_equal(
            voxels[at], decoded[at], equal_nan=voxels.dtype.kind == "f"
        ):
            raise CorruptPayload("not stored, though the source is not all fill value there")
        found.append(
            score_chunk(
                voxels[at],
                decoded[at],
                region=region,
                stored_bytes=len(payload or b""),
                peak=peak,
                threshold=threshold,
                own_structure=own_structure,
                form=form(payload, plain),
                seconds=seconds,
            )
        )
    return found
