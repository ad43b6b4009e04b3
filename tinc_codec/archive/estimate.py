"""What a conversion would cost and keep, from fits of a few chunks."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tinc_codec.archive.counts import check_counts
from tinc_codec.archive.layout import Region, chunk_shape
from tinc_codec.archive.plan import open_part
from tinc_codec.archive.sampling import Sample, draw
from tinc_codec.archive.scores import ChunkScore, Progress, ProgressCallback, score_chunk
from tinc_codec.archive.sources import Source
from tinc_codec.archive.threaded import in_window
from tinc_codec.decode import decode
from tinc_codec.encode import encode_chunk
from tinc_codec.inspection import inspect
from tinc_codec.metrics import Errors
from tinc_codec.runtime import current_runtime, runtime
from tinc_codec.settings import Settings
from tinc_codec.stream.normalize import check_array


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioEstimate:
    """What to expect at one ratio, or at one fidelity.

    Attributes
    ----------
    ratio : float
        Asked for; where a fidelity was, that of all payloads.
    fidelity : str
        Asked for, such as "rmse=10"; "" where a ratio was.
    stored_bytes, stored_margin : float
        Of all payloads, and half the width of its 95 % confidence interval. Metadata and the
        indices of shards (16 bytes a chunk) come on top.
    seconds, seconds_margin : float
        Sum over all chunks of reading, fitting, decoding and scoring, each fit timed while as many
        ran as there are workers; and half the width of its 95 % confidence interval.
    psnr_db : tuple of float
        5th percentile, median and 95th percentile of the chunks, against the range of the values
        seen. With 20 chunks fitted the outer two are hardly more than the extremes of these.
    ssim : float
        Median of the chunks; NaN if voxels are not finite.
    with_trees : float
        Share of the chunks that keep a tree.
    """

    ratio: float
    fidelity: str = ""
    stored_bytes: float
    stored_margin: float
    seconds: float
    seconds_margin: float
    psnr_db: tuple[float, float, float]
    ssim: float
    with_trees: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a conversion would cost and keep.

    Attributes
    ----------
    shape, chunks : tuple of int
        Of the array, in voxels.
    dtype : numpy.dtype
        Of a voxel.
    chunk_count, looked_at, fitted, strata : int
        Chunks of the array, those of which a plane was read, those fitted, and the number of
        strata.
    empty_share : float
        Share of the chunks looked at whose plane holds one value.
    raw_bytes : int
        Of the array.
    workers, threads : int
        Fits at once, and threads of each.
    effort : int
        Of the encoder.
    ratios : tuple of RatioEstimate
        In the order asked for, ratios first.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_count: int
    looked_at: int
    fitted: int
    strata: int
    empty_share: float
    raw_bytes: int
    workers: int
    threads: int
    effort: int
    ratios: tuple[RatioEstimate, ...]


def estimate(
    src: str | Path,
    ratios: Sequence[float],
    settings: Settings | None = None,
    *,
    fidelities: Mapping[str, Sequence[float]] = MappingProxyType({}),
    chunks: Sequence[int] | None = None,
    sample: int = 20,
    roi: Sequence[slice] | None = None,
    mask: Any = None,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> Estimate:
    """Fit a sample of chunks at several targets, and tell what all chunks would cost and keep.

    Of the source only a plane of ten times ``sample`` chunks, and the chunks that are fitted whole
    are read.

    Parameters
    ----------
    src : str or Path
        See :func:`tinc_codec.archive.open_source`.
    ratios : sequence of float
        To try.
    settings : Settings, optional
        Of the encoder, besides the ratio; its seed is also that of the draw.
    fidelities : mapping of str to sequence of float
        To try as well, by their names in :class:`tinc_codec.Settings`: ``{"rmse": [5, 10]}``.
    chunks : sequence of int, optional
        As for :func:`tinc_codec.archive.convert`.
    sample : int
        Chunks to fit, about: each stratum's share of so many is rounded, and at least two chunks of
        each are fitted, or one where ``sample`` is 1. That makes up to 2 of 1, 4 of 2 and 5 of 3;
        ``fitted`` of the result tells how many.
    roi, mask
        As for :func:`tinc_codec.archive.plan`.
    workers : int, optional
        Fits to run, and to be timed, at once, which share the threads of the run-time settings; by
        default one on each thread. On a GPU it is 1.
    progress : callable, optional
        Called with a :class:`tinc_codec.archive.Progress` after each fit.

    Returns
    -------
    Estimate
        Size, time, PSNR and SSIM for each target, with margins.

    Raises
    ------
    InvalidSetting
        If a setting, the chunk shape, ``sample`` or ``workers`` is out of range.
    UnsupportedData
        If the codec does not take the source's dtype.
    OSError
        If the source cannot be read.
    """
    base = settings or Settings()
    tried = _targets(base, ratios, fidelities)
    check_counts(sample=sample, workers=workers, targets=len(tried))
    machine = current_runtime()
    at_once = 1 if machine.uses_torch else workers or machine.thread_count()
    threads = max(1, machine.thread_count() // at_once)
    with open_part(src, roi, mask) as source, runtime(threads=threads, cache_bytes=0):
        check_array(np.empty((1,) * len(source.shape), source.dtype))
        edges = chunk_shape(source.shape, chunks)
        drawn = draw(source, edges, sample, base.seed)
        found = _fitted(source, edges, drawn, tried, at_once, progress)
        return Estimate(
            shape=source.shape,
            chunks=edges,
            dtype=source.dtype,
            chunk_count=drawn.chunk_count,
            looked_at=drawn.looked_at,
            fitted=len(drawn.regions),
            strata=len(drawn.shares),
            empty_share=drawn.empty_share,
            raw_bytes=math.prod(source.shape) * source.dtype.itemsize,
            workers=min(at_once, drawn.chunk_count),
            threads=threads,
            effort=base.effort,
            ratios=tuple(
                _expected(settings, drawn, scores)
                for settings, scores in zip(tried, found, strict=True)
            ),
        )


def _targets(
    base: Settings, ratios: Sequence[float], fidelities: Mapping[str, Sequence[float]]
) -> list[Settings]:
    tried = [replace(base, ratio=ratio) for ratio in ratios]
    for name, values in fidelities.items():
        given: list[dict[str, Any]] = [{"ratio": None, name: value} for value in values]
        tried += [replace(base, **some) for some in given]
    return tried


def _fitted(
    source: Source,
    edges: tuple[int, ...],
    drawn: Sample,
    tried: Sequence[Settings],
    workers: int,
    progress: ProgressCallback | None,
) -> list[list[ChunkScore]]:
    """Return the scores of the chunks for each setting."""
    warm = np.arange(16**3).reshape(16, 16, 16).astype(source.dtype)
    # Compiles what is timed below.
    effort, form = tried[0].effort, tried[0].form
    decode(encode_chunk(warm, Settings(ratio=8, effort=effort, form=form)))
    scores: list[list[ChunkScore]] = [[] for _ in tried]
    jobs = [(k, region) for k in range(len(tried)) for region in drawn.regions]
    so_far = Progress(total=len(jobs))

    def fit(job: tuple[int, Region]) -> ChunkScore:
        return _fit(source, job[1], edges, tried[job[0]])

    for (k, _), score in zip(jobs, in_window(fit, jobs, workers), strict=True):
        scores[k].append(score)
        so_far += score
        if progress:
            progress(so_far)
    return scores


def _fit(source: Source, region: Region, edges: tuple[int, ...], settings: Settings) -> ChunkScore:
    """Encode a chunk as zarr would hand it over, padded; decode and score it."""
    started = time.perf_counter()
    voxels = source.read(region).astype(source.dtype.newbyteorder("="), order="C", copy=False)
    padding = [(0, c - n) for c, n in zip(edges, voxels.shape, strict=True)]
    payload = encode_chunk(np.pad(voxels, padding), settings)
    decoded = decode(payload, tuple(slice(0, n) for n in voxels.shape))
    score = score_chunk(
        voxels, decoded, region=region, stored_bytes=len(payload), form=inspect(payload).form
    )
    return replace(score, seconds=time.perf_counter() - started)


def _expected(settings: Settings, drawn: Sample, scores: Sequence[ChunkScore]) -> RatioEstimate:
    raw, _ = drawn.mean([score.raw_bytes for score in scores])
    peak = sum((score.errors for score in scores), Errors()).data_range
    size, size_margin = drawn.mean([score.stored_bytes for score in scores])
    seconds, seconds_margin = drawn.mean([score.seconds for score in scores])
    low, middle, high = drawn.quantiles([score.errors.psnr(peak) for score in scores])
    known = [score.ssim for score in scores]
    return RatioEstimate(
        ratio=raw / size if settings.ratio is None else settings.ratio,
        fidelity=settings.fidelity,
        stored_bytes=size * drawn.chunk_count,
        stored_margin=size_margin * drawn.chunk_count,
        seconds=seconds * drawn.chunk_count,
        seconds_margin=seconds_margin * drawn.chunk_count,
        psnr_db=(low, middle, high),
        ssim=math.nan if any(map(math.isnan, known)) else drawn.quantiles(known)[1],
        with_trees=drawn.mean(["tree" in score.form for score in scores])[0],
    )
