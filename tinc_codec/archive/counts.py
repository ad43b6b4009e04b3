"""Counts that callers give: of workers, and of chunks in a sample."""

from __future__ import annotations

from tinc_codec.errors import InvalidSetting


def check_counts(**given: int | None) -> None:
    """Refuse counts below 1; None stands for a default.

    Parameters
    ----------
    **given : int or None
        Counts by the names that the message calls them.

    Raises
    ------
    InvalidSetting
        If there is one.
    """
    for name, count in given.items():
        if count is not None and count < 1:
            raise InvalidSetting(f"{name}={count} must be at least 1")
