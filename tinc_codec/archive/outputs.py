"""Files that commands write beside archives: reports, tables, figures."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from tinc_codec.errors import InvalidSetting


def check_can_be_written(
    path: Path, library: str, extra: str, suffixes: Sequence[str] = ()
) -> None:
    """Refuse before any work what would fail after it.

    Parameters
    ----------
    path : Path
        Of the file.
    library, extra : str
        What writes it, and the extra that brings it.
    suffixes : sequence of str
        Those of names that it knows; none: any.

    Raises
    ------
    InvalidSetting
        If the library is missing, or the file's folder, or the name has another suffix.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise InvalidSetting(f"{path}: give a name that ends in {', '.join(suffixes)}")
    try:
        import_module(library)
    except ImportError as error:
        raise InvalidSetting(
            f"{path} needs {library.partition('.')[0]} ({error}): pip install 'tinc_codec[{extra}]'"
        ) from error
    if not path.absolute().parent.is_dir():
        raise InvalidSetting(f"{path}: there is no folder {path.absolute().parent}; make it first")
