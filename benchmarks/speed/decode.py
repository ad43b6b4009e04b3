"""Decoding of blocks of up to 128³ voxels: the package and its rivals at equal ratios, in turns.

Times are whole calls, from bytes in memory to an array of the data's dtype; medians of rounds in
which every codec decodes once. Parts of a block are read by the package alone: the middle plane
across each axis, every fourth voxel along all axes, the middle voxel, and overviews of a sample for
every fourth and every eighth voxel.

The package keeps the payloads read last taken apart. That is undone before each call, so that
``decode_s`` is of bytes never seen; ``again_s`` is of reading the same bytes again. What zarr reads
a third time comes from the cache of decoded chunks, which is on by default: ``kept_s``, of which
``share_kept`` is a share of decoding the whole of bytes never seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.baselines import registry
from benchmarks.baselines.protocol import Coded, Target, timed
from benchmarks.rows import Row, markdown
from benchmarks.speed.common import Options, interleaved, warm_up
from tinc_codec import Settings, decode, decode_overview, inspect
from tinc_codec.decoding.cache import decode_remembered
from tinc_codec.decoding.opened import forget_chunks
from tinc_codec.encode import encode_chunk
from tinc_codec.metrics import psnr

_OWN = "TINC"
_WHOLE = "whole"
_LOSSLESS = "Blosc-Zstd"
_FACTORS = (4, 8)
_RIVALS = ("HEVC", "H.264", "SPERR bpp", "SZ3", "ZFP", "JPEG XL", "JPEG 2000", _LOSSLESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A block at a ratio: a row for each codec and part."""

    volume: str
    block: int
    ratio: float
    effort: int


def selections(shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the parts to read, by name."""
    middle = tuple(n // 2 for n in shape)
    everything = (slice(None),) * len(shape)
    planes = {
        f"plane across axis {axis}": (*everything[:axis], middle[axis], *everything[axis + 1 :])
        for axis in range(len(shape))
    }
    return planes | {"every 4th voxel": (slice(None, None, 4),) * len(shape), "a voxel": middle}


def _parts(shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the whole, and the parts to read, by name."""
    return {_WHOLE: None, **selections(shape)}


def readings(payload: bytes, shape: tuple[int, ...]) -> dict[str, Callable[[], NDArray[Any]]]:
    """Return what reads the whole, each part, and overviews, by name."""
    found = {part: partial(decode, payload, wanted) for part, wanted in _parts(shape).items()}
    overviews = {f"overview, 1/{f}": partial(decode_overview, payload, f) for f in _FACTORS}
    return found | overviews


def measure(array: NDArray[Any], case: Case, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of a case; a codec that cannot reach the ratio has one without figures."""
    payload, encode_s = timed(
        lambda: encode_chunk(array, Settings(ratio=case.ratio, effort=case.effort))
    )
    coded = {
        name: registry.get(name).encode(array, Target(ratio=1 if name == _LOSSLESS else case.ratio))
        for name in _RIVALS
    }
    own = {(_OWN, part): read for part, read in readings(payload, array.shape).items()}
    rivals = {(name, _WHOLE): found.decode for name, found in coded.items() if found}
    seconds = interleaved(own | rivals, rounds, before=forget_chunks)
    again = interleaved(own, rounds)
    kept = _kept(payload, array.shape, rounds)
    macs = inspect(payload).macs_per_voxel
    whole = seconds[_OWN, _WHOLE]
    rows = [
        _row(array, _OWN, len(payload), decode(payload), encode_s, whole)
        | {
            "again_s": round(again[_OWN, _WHOLE], 6),
            "kept_s": round(kept[_WHOLE], 6),
            "macs_per_voxel": round(macs, 1),
            "gmacs": round(macs * array.size / whole / 1e9, 2),
            "gmacs_again": round(macs * array.size / again[_OWN, _WHOLE] / 1e9, 2),
        }
    ]
    for key in own:
        if key[1] != _WHOLE:
            shares = seconds[key] / whole, again[key] / again[_OWN, _WHOLE]
            row = _part_row(key[1], seconds[key], again[key], shares)
            if key[1] in kept:  # overviews are kept by nobody
                row["kept_s"] = round(kept[key[1]], 6)
                row["share_kept"] = round(kept[key[1]] / whole, 6)
            rows.append(row)
    for name, found in coded.items():
        rows.append(_rival_row(array, name, found, seconds.get((name, _WHOLE))))
    return rows


def _kept(payload: bytes, shape: tuple[int, ...], rounds: int) -> dict[str, float]:
    """Return the seconds of what zarr's codecs call, of a chunk that they have read twice."""
    for _ in range(2):
        decode_remembered([payload], [None])
    reads = {
        part: partial(decode_remembered, [payload], [wanted])
        for part, wanted in _parts(shape).items()
    }
    return interleaved(reads, rounds)


_EMPTY = {
    **dict.fromkeys(("codec", "part", "payload_bytes", "reached", "psnr_db", "encode_s"), ""),
    **dict.fromkeys(("decode_s", "again_s", "kept_s", "mvoxels"), ""),
    **dict.fromkeys(("share_of_whole", "share_again", "share_kept"), ""),
    **dict.fromkeys(("macs_per_voxel", "gmacs", "gmacs_again"), ""),
}


def _row(
    array: NDArray[Any],
    name: str,
    payload_bytes: int,
    decoded: NDArray[Any],
    encode_s: float,
    decode_s: float,
) -> dict[str, Any]:
    found = psnr(array, decoded)
    return _EMPTY | {
        "codec": name,
        "part": _WHOLE,
        "payload_bytes": payload_bytes,
        "reached": round(array.nbytes / payload_bytes, 2),
        "psnr_db": "inf" if math.isinf(found) else round(found, 3),
        "encode_s": round(encode_s, 4),
        "decode_s": round(decode_s, 6),
        "mvoxels": round(array.size / decode_s / 1e6, 2),
    }


def _part_row(
    part: str, decode_s: float, again_s: float, shares: tuple[float, float]
) -> dict[str, Any]:
    return _EMPTY | {
        "codec": _OWN,
        "part": part,
        "decode_s": round(decode_s, 6),
        "again_s": round(again_s, 6),
        "share_of_whole": round(shares[0], 6),
        "share_again": round(shares[1], 6),
    }


def _rival_row(
    array: NDArray[Any], name: str, found: Coded | None, decode_s: float | None
) -> dict[str, Any]:
    if found is None or decode_s is None:
        return _EMPTY | {"codec": name, "part": _WHOLE, "reached": "out of reach"}
    return _row(array, name, found.payload_bytes, found.decoded, found.encode_s, decode_s)


# The tables.

_CODECS = (_OWN, *_RIVALS)


def lines(rows: list[Row]) -> list[list[str]]:
    """Return Mvoxel/s and dB of each codec at a ratio."""
    whole = {row["codec"]: row for row in rows if row["part"] == _WHOLE}
    own = whole[_OWN]
    cells = [own["volume"], f"{float(own['ratio']):g}", own["macs_per_voxel"], own["gmacs"]]
    for codec in _CODECS:
        row = whole[codec]
        fast = row["mvoxels"] and f"{float(row['mvoxels']):.0f}"
        cells.append(f"{fast} ({_decibels(row)})" if fast else "")
    return [cells]


def _decibels(row: Row) -> str:
    if row["codec"] == _LOSSLESS:
        return f"exact, {float(row['reached']):.1f}×"
    return f"{float(row['psnr_db']):.1f}"


def part_lines(rows: list[Row]) -> list[list[str]]:
    """Return milliseconds of the whole, and what parts take of it: see the top of this file."""
    own = [row for row in rows if row["codec"] == _OWN]
    whole, parts = own[0], own[1:]
    head = [whole["volume"], f"{float(whole['ratio']):g}"]
    return [
        [
            *(*head, said, f"{1000 * float(whole[seconds]):.2f}"),
            *(row[share] and f"1/{1 / float(row[share]):.0f}" for row in parts),
        ]
        for said, seconds, share in (
            ("first", "decode_s", "share_of_whole"),
            ("again", "again_s", "share_again"),
            ("by zarr, a third time", "kept_s", "share_kept"),
        )
    ]


def run(options: Options) -> str:
    """Measure what is missing; return the tables."""
    store = options.store("decode")
    block, ratios, rounds, effort = (128, (128, 256, 512, 1024), 9, 5)
    if options.quick:
        block, ratios, rounds, effort = (24, (16,), 1, 1)
    warm_up()
    found = []
    for volume in options.volumes:
        array = np.asarray(datasets.first_block(datasets.load(volume), block))
        for ratio in ratios:
            case = Case(volume=volume, block=block, ratio=ratio, effort=effort)
            found.append(store.rows(case, lambda a=array, c=case: measure(a, c, rounds)))
    columns = ("volume", "ratio", "MAC/voxel", "GMAC/s", *(f"{c}: Mvoxel/s (dB)" for c in _CODECS))
    parts = list(readings(b"", (block,) * 3))[1:]
    return "\n\n".join(
        (
            markdown(columns, (line for rows in found for line in lines(rows))),
            markdown(
                ("volume", "ratio", "read", "whole, ms", *parts),
                (line for rows in found for line in part_lines(rows)),
            ),
        )
    )
