"""What a user asks for: one frozen record, and its JSON form (what zarr metadata holds).

Run-time matters (device, threads) are not settings; see :mod:`tinc_codec.runtime`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal

from tinc_codec.errors import InvalidSetting
from tinc_codec.tree.geometry import MAX_LEVELS

Auto = Literal["auto"]

DEFAULT_RATIO = 64
# Effort from which trees are tried.
TREES_FROM = 3
TARGETS = ("ratio", "psnr", "rmse", "ssim", "max_error")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if not _is_number(value) or not low <= value <= high:  # type: ignore[operator]
        raise InvalidSetting(f"{name}={value!r} must be a number from {low:g} to {high:g}")


def _check_integer(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidSetting(f"{name}={value!r} must be an integer from {low} to {high}")
    return value


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidSetting(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the encoder.

    Attributes
    ----------
    ratio, psnr, rmse, ssim, max_error : float or None
        What to reach; at most one is given, and ratio=64 is meant where none is.

        - ratio: raw bytes of the chunk / bytes of the payload, header included; 1 to 100 000. The
          payload never exceeds ``raw_bytes / ratio``, and loses nothing where it sees that that
          takes no more.
        - psnr: in dB, against the chunk's own range of values, 1 to 200; the smallest payload
          found that has at least this.
        - rmse: root mean square error in units of the data, above 0; the smallest payload found
          that has at most this. Chunks that vary by less, such as background, take tens of bytes.
        - ssim: mean structural similarity of volumes (:func:`tinc_codec.metrics.ssim`,
          against the chunk's own range), 0.01 to 0.9999; the smallest payload found that has at
          least this.
          Of these three, psnr and rmse are of the voxels that are not restored exactly anyway:
          without padding, margins of one value, NaN, infinities and ``preserve``. Over the whole
          chunk they are better. For ssim these voxels count as exact.
        - max_error: in units of the data, 0 (without loss) or more; the smallest payload found
          whose every voxel is as near as this, on every engine.
    levels : int or "auto"
        Levels of the tree, 1 (one network) to 6.
    level_ratio : float or "auto"
        Parameters of a node over those of a node one level up, the paper's r_l (sec. 5.3).
    allocation : "auto", "even", "signal" or "variance"
        How a level's parameters are shared among its nodes (sec. 4, intra-level).
    effort : int
        1 to 9: how long the fit may take. At 1 and 2, form "auto" tries a tree only where
        ``levels`` or ``iterations`` is given. Above, short fits tell whether a whole one is worth
        its time, but where ``iterations`` is given.
    seed : int
        Seed of the fits of trees: their first weights and the voxels drawn; 0 to 2**32 - 1.
    preset : "default" or "paper"
        "paper" is the published recipe: Adamax, float32 weights, intensities in [0, 100].
    preserve : tuple of numbers
        Values restored exactly wherever they occur (sentinels). NaN and infinities always are.
    importance : float or None
        A value in units of the data: voxels that reach it, and those beside them, are what the
        bytes of the ratio are spent on; the squared error of all others weighs 1/16. For sparse
        structures on a background that holds no information.
    coordinates : "auto", "global" or "block"
        [-1, 1] over the chunk, or over each leaf's own block (the authors' released code).
    form : "auto", "tree" or "wavelet"
        How values are represented: "auto" is whichever does best on the chunk, a tree and the
        wavelet coefficients of what it leaves included; "tree" and "wavelet" are those alone. With
        coefficients a tree is one of a low-pass band, from effort 6 on also of the voxels.
    iterations : int or "auto"
        Optimiser steps; "auto" follows the effort.
    milestones : tuple of int or "auto"
        Iterations at which the paper preset's rate falls by 0.2. The text says (2000, 5000), the
        released configuration (20000, 50000); "auto" is the one that converges, the latter.
    """

    ratio: float | None = None
    psnr: float | None = None
    rmse: float | None = None
    ssim: float | None = None
    max_error: float | None = None
    levels: int | Auto = "auto"
    level_ratio: float | Auto = "auto"
    allocation: str = "auto"
    effort: int = 5
    seed: int = 0
    preset: str = "default"
    preserve: tuple[int | float, ...] = ()
    importance: float | None = None
    coordinates: str = "auto"
    form: str = "auto"
    iterations: int | Auto = "auto"
    milestones: tuple[int, ...] | Auto = "auto"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
                object.__setattr__(self, field.name, value.item())  # numpy scalars -> plain JSON
        self._check_target()
        if self.levels != "auto":
            _check_integer("levels", self.levels, 1, MAX_LEVELS)
        if self.level_ratio != "auto":
            _check_number("level_ratio", self.level_ratio, 0.05, 20)
        _check_choice("allocation", self.allocation, ("auto", "even", "signal", "variance"))
        _check_integer("effort", self.effort, 1, 9)
        _check_integer("seed", self.seed, 0, 2**32 - 1)
        _check_choice("preset", self.preset, ("default", "paper"))
        _check_choice("coordinates", self.coordinates, ("auto", "global", "block"))
        _check_choice("form", self.form, ("auto", "tree", "wavelet"))
        if self.iterations != "auto":
            _check_integer("iterations", self.iterations, 1, 10_000_000)
        if self.importance is not None:
            _check_number("importance", self.importance, -sys.float_info.max, sys.float_info.max)
            self.check_takes_importance(f"importance={self.importance!r}")
        object.__setattr__(self, "preserve", _checked_preserve(self.preserve))
        object.__setattr__(self, "milestones", _checked_milestones(self.milestones, self.preset))

    def _check_target(self) -> None:
        targets = {name: getattr(self, name) for name in TARGETS}
        given = [f"{name}={value!r}" for name, value in targets.items() if value is not None]
        if len(given) > 1:
            raise InvalidSetting(f"{' and '.join(given)} are given; at most one target can be")
        if not given:
            object.__setattr__(self, "ratio", DEFAULT_RATIO)
        limits = {
            "ratio": (1, 100_000),
            "psnr": (1, 200),
            "rmse": (0, sys.float_info.max),
            "ssim": (0.01, 0.9999),
            "max_error": (0, sys.float_info.max),
        }
        for name, (low, high) in limits.items():
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), low, high)
        if self.rmse == 0:
            raise InvalidSetting("rmse=0 must be above 0; max_error=0 is without loss")
        if self.ratio is None and (self.form == "tree" or self.preset == "paper"):
            raise InvalidSetting(
                f"{given[0]} needs a form whose fidelity can be steered; a tree alone "
                "(form='tree', preset='paper') takes a ratio"
            )

    @property
    def fidelity(self) -> str:
        """What is asked for, such as "psnr=40"; "" where it is a ratio."""
        asked = ((name, getattr(self, name)) for name in TARGETS[1:])
        return ", ".join(f"{name}={value:g}" for name, value in asked if value is not None)

    def check_takes_importance(self, told: str) -> None:
        """Refuse importance, named as it was told, where it has no say.

        Raises
        ------
        InvalidSetting
            If there is no ratio.
        """
        if self.ratio is None:
            raise InvalidSetting(
                f"{told} says where the bytes of a ratio are spent; psnr, rmse, ssim and max_error "
                "hold for all voxels alike. Give a ratio, or omit importance"
            )

    def to_json(self) -> dict[str, Any]:
        """Return every setting as a plain JSON value; targets that were not given are left out."""
        out: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            out[field.name] = list(value) if isinstance(value, tuple) else value
        return out

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Settings:
        """Build settings from JSON values.

        Raises
        ------
        InvalidSetting
            If a name is unknown (a newer writer, or a typing error) or a value is out of range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(config) - known)
        if unknown:
            alike = get_close_matches(unknown[0], known, n=1)
            raise InvalidSetting(
                f"unknown setting {unknown[0]!r}"
                + (f", did you mean {alike[0]!r}?" if alike else ";")
                + f" known are {', '.join(sorted(known))}. An archive with another one was written "
                "by a newer tinc_codec: upgrade"
            )
        return cls(**config)


def _checked_preserve(preserve: object) -> tuple[int | float, ...]:
    if hasattr(preserve, "tolist"):  # of numpy
        preserve = preserve.tolist()
    if _is_number(preserve):
        preserve = (preserve,)
    if not isinstance(preserve, (tuple, list)):
        raise InvalidSetting(f"preserve={preserve!r} must be a tuple of numbers")
    values = tuple(v.item() if hasattr(v, "item") else v for v in preserve)
    for value in values:
        if not _is_number(value) or not abs(value) <= sys.float_info.max:
            raise InvalidSetting(
                f"preserve holds {value!r}; it takes finite numbers up to {sys.float_info.max:.3g} "
                "(NaN and infinities are always restored, leave them out)"
            )
    if len(values) > 64:
        raise InvalidSetting(f"preserve holds {len(values)} values; at most 64 are taken")
    return values


def _checked_milestones(milestones: object, preset: str) -> tuple[int, ...] | Auto:
    if milestones == "auto":
        return "auto"
    if not isinstance(milestones, (tuple, list)):
        raise InvalidSetting(f"milestones={milestones!r} must be a tuple of iterations or 'auto'")
    if preset != "paper":
        raise InvalidSetting("milestones are the paper preset's; set preset='paper' or omit them")
    values = tuple(_check_integer("milestones", m, 1, 10_000_000) for m in milestones)
    if list(values) != sorted(set(values)):
        raise InvalidSetting(f"milestones={values} must increase")
    return values
