"""What the zarr v2 and the zarr v3 codec share: the constructor, and how settings are kept."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any, Literal, Self

from tinc_codec.settings import Settings


@dataclass(frozen=True, init=False, repr=False)
class Configured:
    """A codec that holds its settings and nothing else: equal, hashable, picklable by them.

    Attributes
    ----------
    settings : Settings
        As given, checked.
    """

    settings: Settings

    def __init__(
        self,
        ratio: float | None = None,
        *,
        psnr: float | None = None,
        rmse: float | None = None,
        ssim: float | None = None,
        max_error: float | None = None,
        levels: int | Literal["auto"] = "auto",
        level_ratio: float | Literal["auto"] = "auto",
        allocation: str = "auto",
        effort: int = 5,
        seed: int = 0,
        preset: str = "default",
        preserve: float | Sequence[float] = (),
        importance: float | None = None,
        coordinates: str = "auto",
        form: str = "auto",
        iterations: int | Literal["auto"] = "auto",
        milestones: Sequence[int] | Literal["auto"] = "auto",
    ) -> None:
        given: dict[str, Any] = {
            "ratio": ratio,
            "psnr": psnr,
            "rmse": rmse,
            "ssim": ssim,
            "max_error": max_error,
            "levels": levels,
            "level_ratio": level_ratio,
            "allocation": allocation,
            "effort": effort,
            "seed": seed,
            "preset": preset,
            "preserve": preserve,
            "importance": importance,
            "coordinates": coordinates,
            "form": form,
            "iterations": iterations,
            "milestones": milestones,
        }
        object.__setattr__(self, "settings", Settings(**given))

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Self:
        """Build the codec from JSON settings, refusing names that are unknown.

        Raises
        ------
        InvalidSetting
            If a name is unknown or a value out of range.
        """
        settings = Settings.from_json(config)
        return cls(**{field.name: getattr(settings, field.name) for field in fields(settings)})

    def __repr__(self) -> str:
        shown = []
        for field in fields(self.settings):
            value = getattr(self.settings, field.name)
            if value != field.default:
                shown.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def warn_if_not_installed() -> None:
    """Warn if only this process can read what it writes: others find codecs by entry point."""
    try:
        distribution("tinc_codec")
    except PackageNotFoundError:
        warnings.warn(
            "tinc_codec is imported but not installed: other processes cannot open the arrays "
            "that this one writes. Run `pip install .` in the folder of its sources",
            stacklevel=3,
        )
