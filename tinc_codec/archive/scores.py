"""What convert and verify report: one score for each chunk, and their sum."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from tinc_codec.archive.layout import Region
from tinc_codec.errors import InvalidSetting
from tinc_codec.metrics import Errors, accuracy, errors_by_threshold, otsu_threshold, ssim

_NOTHING = Errors()
# Codecs measure their promise on normalised values.
_SSIM_ROUNDING = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkScore:
    """Fidelity and size of one chunk, from its decoded bytes.

    Attributes
    ----------
    region : tuple of slice
        Voxels of the array, without padding.
    errors : Errors
        Against the source.
    foreground, background : Errors
        The same for the voxels whose original is at or above ``threshold``, and for the others.
    threshold : float
        Also the τ of ``accuracy``; NaN where all voxels have one value.
    accuracy : float
        Acc.τ, the share of voxels on the same side of the threshold as in the source.
    ssim : float
        Structural similarity within the chunk, voxels that are not finite in the source counting
        as exact; NaN where it was not computed, or none is finite.
    own_ssim : float
        The same with the range of the chunk's own values; NaN where that was not asked for.
    raw_bytes, stored_bytes : int
        Size of the region's voxels, and of the chunk's payload. The latter is 0 for a chunk that
        zarr left out because it holds only the fill value.
    form : str
        Of the payload, such as "tree"; "lossless" of copied labels and small levels, "absent" if
        there is none, empty if it is not known.
    seconds : float
        Time that the work on the chunk took: encoding in convert, reading both sides in verify.
    """

    region: Region
    errors: Errors
    foreground: Errors = _NOTHING
    background: Errors = _NOTHING
    threshold: float = math.nan
    accuracy: float = math.nan
    ssim: float = math.nan
    own_ssim: float = math.nan
    raw_bytes: int
    stored_bytes: int
    form: str = ""
    seconds: float = math.nan

    def to_record(self) -> dict[str, Any]:
        """Return plain values, for a JSON line; Python's json keeps NaN and infinities."""
        region = [[axis.start, axis.stop] for axis in self.region]
        return {**asdict(self), "region": region}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Return the score that gave a record."""
        parts = {name: Errors(**record[name]) for name in ("errors", "foreground", "background")}
        region = tuple(slice(start, stop) for start, stop in record["region"])
        return cls(**{**record, **parts, "region": region})


def score_chunk(
    original: NDArray[Any],
    decoded: NDArray[Any],
    *,
    region: Region,
    stored_bytes: int,
    peak: float | None = None,
    threshold: float | None = None,
    structure: bool = True,
    own_structure: bool = False,
    form: str = "",
    seconds: float = math.nan,
) -> ChunkScore:
    """Score a chunk against its source.

    Parameters
    ----------
    original, decoded : numpy.ndarray
        Of one shape: that of the region.
    region, stored_bytes, form, seconds
        See :class:`ChunkScore`.
    peak : float, optional
        Of SSIM: the range of the archive's values; by default that of this chunk's.
    threshold : float, optional
        Between background and foreground; by default Otsu's, of this chunk.
    structure : bool
        Whether to compute SSIM, which takes longer than all else together.
    own_structure : bool
        Whether to compute it with the range of the chunk's own values, too.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    tau = otsu(original) if threshold is None else threshold
    bright, dark = errors_by_threshold(original, decoded, tau)
    pair = _finite_pair(original, decoded) if structure or own_structure else None
    return ChunkScore(
        region=region,
        errors=bright + dark,
        foreground=bright,
        background=dark,
        threshold=tau,
        accuracy=math.nan if math.isnan(tau) else accuracy(original, decoded, tau),
        ssim=ssim(*pair, peak) if structure and pair else math.nan,
        own_ssim=ssim(*pair) if own_structure and pair else math.nan,
        raw_bytes=original.nbytes,
        stored_bytes=stored_bytes,
        form=form,
        seconds=seconds,
    )


def _finite_pair(
    original: NDArray[Any], decoded: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return both with what is not finite set to one value, as an encoder sees it.

    None where nothing is finite, or not the same in both.
    """
    finite = np.isfinite(original)
    if finite.all() and np.isfinite(decoded).all():
        return original, decoded
    if not finite.any() or not np.array_equal(finite, np.isfinite(decoded)):
        return None
    some = original[finite]
    with np.errstate(over="ignore"):
        mean = original.dtype.type(np.clip(some.mean(dtype=np.float64), some.min(), some.max()))
    return np.where(finite, original, mean), np.where(finite, decoded, mean)


def otsu(values: NDArray[Any]) -> float:
    """Return Otsu's threshold; NaN if all finite values are equal, or there are none."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size or finite.min() == finite.max():
        return math.nan
    return otsu_threshold(finite)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What an archive promises, or a user demands, of each chunk. None demands nothing.

    NaN, and errors below 0, are refused (InvalidSetting).

    Attributes
    ----------
    max_error : float or None
        Largest absolute difference, in the data's unit.
    rmse : float or None
        Largest root mean square error, in the data's unit.
    psnr_db : float or None
        Least PSNR against the range of the archive's values.
    own_psnr_db : float or None
        Least PSNR against the range of the chunk's own values.
    own_ssim : float or None
        Least SSIM with that range.
    """

    max_error: float | None = None
    rmse: float | None = None
    psnr_db: float | None = None
    own_psnr_db: float | None = None
    own_ssim: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and math.isnan(value):
                raise InvalidSetting(f"{name}=nan bounds nothing; give a number, or leave it out")
            if value is not None and value < 0 and name in ("max_error", "rmse"):
                raise InvalidSetting(f"{name}={value:g} must be at least 0")

    def __str__(self) -> str:
        said = (
            ("maximum error at most {:g}", self.max_error),
            ("RMSE at most {:g}", self.rmse),
            ("PSNR at least {:g} dB", self.psnr_db),
            ("PSNR against the chunk's own range at least {:g} dB", self.own_psnr_db),
            ("SSIM with the chunk's own range at least {:g}", self.own_ssim),
        )
        return ", ".join(text.format(value) for text, value in said if value is not None)

    def hold(self, chunk: ChunkScore, peak: float) -> bool:
        """Whether a chunk keeps them, where the range of the archive's values is ``peak``."""
        return not (
            (self.max_error is not None and chunk.errors.max_error > self.max_error)
            or (self.rmse is not None and chunk.errors.rmse > self.rmse)
            or (self.psnr_db is not None and chunk.errors.psnr(peak) < self.psnr_db)
            or (self.own_psnr_db is not None and chunk.errors.psnr() < self.own_psnr_db)
            or (self.own_ssim is not None and not self._is_similar(chunk, self.own_ssim))
        )

    @staticmethod
    def _is_similar(chunk: ChunkScore, least: float) -> bool:
        differs = math.isinf(chunk.errors.max_error)  # what is NaN in one and not in the other
        return not (differs or chunk.own_ssim < least - _SSIM_ROUNDING)


_UNBOUNDED = Bounds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Fidelity and size of an archive, or of a sample of its chunks.

    Attributes
    ----------
    chunks : tuple of ChunkScore
        In C order of their position.
    errors : Errors
        Sum over the chunks.
    raw_bytes, stored_bytes : int
        Of the whole array, or of the sample; metadata is not counted.
    seconds : float
        Wall time.
    sampled_from : int or None
        Chunks of the array, where only a sample of them was compared.
    bounds : Bounds
        What was demanded.
    """

    chunks: tuple[ChunkScore, ...]
    errors: Errors
    raw_bytes: int
    stored_bytes: int
    seconds: float
    sampled_from: int | None = None
    bounds: Bounds = _UNBOUNDED

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

    @property
    def broken(self) -> list[ChunkScore]:
        """The chunks that break a bound, in C order."""
        peak = self.errors.data_range
        return [chunk for chunk in self.chunks if not self.bounds.hold(chunk, peak)]

    def part(self, name: Literal["foreground", "background"]) -> Errors:
        """Return the errors of the voxels at or above the chunks' thresholds, or below."""
        return sum((getattr(chunk, name) for chunk in self.chunks), Errors())

    def worst(self, count: int) -> list[ChunkScore]:
        """Return the chunks of lowest PSNR, the worst first."""
        peak = self.errors.data_range
        return sorted(self.chunks, key=lambda chunk: chunk.errors.psnr(peak))[:count]

    def quantiles(self, *shares: float) -> list[float]:
        """Return quantiles of the chunks' PSNR in dB, against the range of the source's values."""
        peak = self.errors.data_range
        return quantiles([chunk.errors.psnr(peak) for chunk in self.chunks], *shares)


def quantiles(values: Sequence[float], *shares: float) -> list[float]:
    """Return quantiles, each one of the values (the lower one): infinities are no trouble."""
    ordered = sorted(values)
    return [ordered[int(share * (len(ordered) - 1))] for share in shares]


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

    done: int = 0
    total: int
    errors: Errors = field(default_factory=Errors)
    raw_bytes: int = 0
    stored_bytes: int = 0

    def __add__(self, chunk: ChunkScore) -> Progress:
        """Return the progress with one more chunk done."""
        return replace(
            self,
            done=self.done + 1,
            errors=self.errors + chunk.errors,
            raw_bytes=self.raw_bytes + chunk.raw_bytes,
            stored_bytes=self.stored_bytes + chunk.stored_bytes,
        )

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
    so_far = Progress(total=total)
    for score in scored:
        chunks.append(score)
        so_far += score
        if progress:
            progress(so_far)
    return Scores(
        chunks=tuple(chunks),
        errors=so_far.errors,
        raw_bytes=so_far.raw_bytes,
        stored_bytes=so_far.stored_bytes,
        seconds=time.perf_counter() - started,
    )


def ratio(raw_bytes: int, stored_bytes: int) -> float:
    """Return raw over stored bytes; infinite when nothing had to be stored."""
    return raw_bytes / stored_bytes if stored_bytes else math.inf
