"""Arguments that commands share, and how their text is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from tinc_codec.errors import InvalidSetting

_KINDS = (
    ".npy, TIFF or a folder of TIFF planes, HDF5, Imaris, NIfTI, N5, zarr v2 or v3; "
    "zarr and .npy also as URLs; what is inside as SRC::NAME."
)
# Panels of --help.
TARGET, PART, LAYOUT = "What to reach", "Which part of it", "The archive"
ENCODER, WORK = "How hard to try", "Where the work is done"

# Text: a path would lose one of the slashes of a URL.
Source = Annotated[str, typer.Argument(metavar="SRC", help=_KINDS)]
Archive = Annotated[str, typer.Argument(metavar="DST", help="A zarr folder, or its URL.")]
Ratio = Annotated[float, typer.Option(help="Raw bytes over compressed bytes, of each chunk.")]
Effort = Annotated[
    int, typer.Option(help="1 (fast) to 9: how long the fit may take.", rich_help_panel=ENCODER)
]
Device = Annotated[
    str | None, typer.Option(help="auto, cpu, torch, cuda or cuda:N.", rich_help_panel=WORK)
]
Chunks = Annotated[
    str | None,
    typer.Option(
        metavar="Z,Y,X",
        help="Chunk edges of the last axes; axes before them get 1. By default equal parts of at "
        "most 128, longer where an axis is short; those of 64 decode small parts sooner, and lose "
        "0.1 to 2 dB.",
        rich_help_panel=LAYOUT,
    ),
]
Roi = Annotated[
    str | None,
    typer.Option(
        metavar="Z0:Z1,Y0:Y1,X0:X1",
        help="Only this box, in voxels of the last axes; an edge left out is the volume's.",
        rich_help_panel=PART,
    ),
]
Mask = Annotated[
    str | None,
    typer.Option(
        metavar="MASK",
        help="A volume of the whole's axes of space, or by whole factors smaller. Voxels where it "
        "is 0 become 0; chunks of no others are not stored.",
        rich_help_panel=PART,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Chunks at once; by default as many as threads.", rich_help_panel=WORK
    ),
]
Preserve = Annotated[
    str,
    typer.Option(
        metavar="V,V...", help="Values to restore exactly, such as -32768.", rich_help_panel=TARGET
    ),
]
Threads = Annotated[
    int | None, typer.Option(help="Threads for each chunk; 0 is all.", rich_help_panel=WORK)
]


def number(option: str, text: str, kind: Callable[[str], Any]) -> Any:
    """Return the number that the text of an option is."""
    try:
        return kind(text)
    except ValueError:
        raise InvalidSetting(f"{option} {text}: not a number") from None


def auto_or_number(option: str, text: str, kind: Callable[[str], Any]) -> Any:
    """Return "auto", or the number that the text of an option is."""
    return text if text == "auto" else number(option, text, kind)


def numbers(option: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    """Return the numbers between commas; none of an empty text."""
    if not text:
        return ()
    if not all(part.strip() for part in text.split(",")):
        raise InvalidSetting(f"{option} {text}: a number is missing beside a comma; give it")
    return tuple(number(option, part, kind) for part in text.split(","))


def edges_of(option: str, text: str | None) -> tuple[int, ...] | None:
    """Return the edges between commas; None where the option is not given."""
    return None if text is None else numbers(option, text, int)


def roi_of(text: str | None) -> tuple[slice, ...] | None:
    """Return ranges of axes between commas, such as ``10:20,:``."""
    if text is None:
        return None
    sides = []
    for part in text.split(","):
        start, colon, stop = part.partition(":")
        if not colon:
            raise InvalidSetting(f"--roi {part}: not a range; give START:STOP, such as 10:20 or :")
        edges = (number("--roi", edge, int) if edge.strip() else None for edge in (start, stop))
        sides.append(slice(*edges))
    return tuple(sides)


def int_or_float(text: str) -> int | float:
    """Return a number, an integer where it is written so."""
    try:
        return int(text)
    except ValueError:
        return float(text)
