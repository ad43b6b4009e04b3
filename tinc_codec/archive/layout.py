"""How an archive is laid out: edges of chunks and shards, and their regions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

from tinc_codec.errors import InvalidSetting

Region = tuple[slice, ...]
Position = tuple[int, ...]

# Chunks of 128 voxels have 0.05 to 1.5 dB more than of 64 at 64 to 512 times; where readers want
# single planes or small boxes, those of 64 decode in an eighth of the time. What a thin stack lacks
# along one axis chunks have along the others, up to so many voxels: 0.1 to 0.2 dB more.
DEFAULT_EDGE, _LONGEST_EDGE = 128, 512
# A shard is a task: its chunks are read, fitted and written together, and lost together in a kill.
_SHARD_EDGE, _MOST_ALONG = 256, 4


def equal_part(n: int, most: int) -> int:
    """Return the length of the fewest equal parts, of at most so many each, that n is cut in."""
    return math.ceil(n / math.ceil(n / most))


def chunk_shape(shape: tuple[int, ...], asked: Sequence[int] | None) -> tuple[int, ...]:
    """Return the chunk shape for an array.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.
    asked : sequence of int, optional
        Chunk edges of the last axes; axes before them get 1. By default at most 128 along each
        of the last three, and where one is shorter more along the others, up to 512 and 128**3
        voxels in all; of lines as many as planes have. In equal parts: 200 voxels give two chunks
        of 100, since zarr pads the last chunk of an axis to full size, and the padding would count
        in the ratio.

    Raises
    ------
    InvalidSetting
        If more edges are given than the array has axes, or an edge is below 1.
    """
    if asked is None:
        is_line = sum(n > 1 for n in shape[-3:]) < 2
        longest = _longest_edge(
            shape[-3:], DEFAULT_EDGE**3, _LONGEST_EDGE**2 if is_line else _LONGEST_EDGE
        )
        edges = [equal_part(n, longest) for n in shape[-3:]]
        return (1,) * (len(shape) - len(edges)) + tuple(edges)
    if not asked or len(asked) > len(shape) or min(asked) < 1:
        raise InvalidSetting(
            f"chunks={','.join(map(str, asked))} must be 1 to {len(shape)} sizes of at least 1 "
            f"for an array of shape {shape}"
        )
    leading = len(shape) - len(asked)
    clipped = (min(c, n) for c, n in zip(asked, shape[leading:], strict=True))
    return (1,) * leading + tuple(clipped)


def _longest_edge(sides: Sequence[int], room: float, most: int) -> int:
    """Return the longest edge of boxes of at most so much room, where some sides may be shorter."""
    left = len(sides)
    for side in sorted(sides):
        if side**left > room:
            return max(1, min(int(math.pow(room, 1 / left) + 1e-9), most))
        room, left = room / side, left - 1
    return most


def shard_shape(
    shape: tuple[int, ...], chunks: tuple[int, ...], asked: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the shard shape for an array.

    Parameters
    ----------
    shape, chunks : tuple of int
        Of the array.
    asked : sequence of int, optional
        Shard edges of the last axes, multiples of the chunks' edges where there are several
        chunks; axes before them get one chunk. By default at most 256**3 voxels or one chunk, and
        at most 4 chunks along each of the last three axes, in equal parts.

    Raises
    ------
    InvalidSetting
        If there are more edges than axes, or one is no multiple of the chunk's edge.
    """
    counts = [math.ceil(n / c) for n, c in zip(shape, chunks, strict=True)]
    if asked is None:
        most = _longest_edge(counts[-3:], _SHARD_EDGE**3 / math.prod(chunks[-3:]), _MOST_ALONG)
        along = [equal_part(n, most) for n in counts[-3:]]
        along = [1] * (len(shape) - len(along)) + along
        return tuple(n * c for n, c in zip(along, chunks, strict=True))
    text = ",".join(map(str, asked))
    if not asked or len(asked) > len(shape) or min(asked) < 1:
        raise InvalidSetting(
            f"shards={text} must be 1 to {len(shape)} sizes of at least 1 for an array of shape "
            f"{shape}"
        )
    leading = len(shape) - len(asked)
    for edge, chunk, count in zip(asked, chunks[leading:], counts[leading:], strict=True):
        # One chunk, as of small levels of a pyramid, which may be as short as the axis, is a shard.
        if edge % chunk and (count > 1 or edge < chunk):
            raise InvalidSetting(
                f"shards={text} are not whole chunks of {','.join(map(str, chunks))}: take "
                f"multiples, such as {max(1, round(edge / chunk)) * chunk} instead of {edge}"
            )
    ends = [n * c for n, c in zip(counts, chunks, strict=True)]
    clipped = (min(s, n) for s, n in zip(asked, ends[leading:], strict=True))
    return (*chunks[:leading], *clipped)


def slices_text(region: Region) -> str:
    """Return a region as it stands between brackets."""
    return ",".join(f"{axis.start}:{axis.stop}" for axis in region)


def chunk_regions(
    shape: tuple[int, ...], chunks: tuple[int, ...]
) -> Iterator[tuple[Position, Region]]:
    """Yield the grid position and the region, clipped to the shape, of each chunk in C order."""
    for position in product(*map(range, grid_shape(shape, chunks))):
        yield position, region_of(position, shape, chunks)


def chunk_groups(
    shape: tuple[int, ...], chunks: tuple[int, ...], most: int
) -> Iterator[list[tuple[Position, Region]]]:
    """Yield the same in groups of at most so many chunks, each of which fills a box."""
    grid = grid_shape(shape, chunks)
    steps: list[int] = []
    for n in reversed(grid):
        steps.insert(0, max(1, min(n, most)))
        most //= max(n, 1)
    for corner in product(*(range(0, n, step) for n, step in zip(grid, steps, strict=True))):
        ends = (min(k + step, n) for k, step, n in zip(corner, steps, grid, strict=True))
        positions = product(*(range(k, end) for k, end in zip(corner, ends, strict=True)))
        yield [(position, region_of(position, shape, chunks)) for position in positions]


def grid_shape(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many chunks (or shards) there are along each axis."""
    return tuple(math.ceil(n / c) for n, c in zip(shape, chunks, strict=True))


def region_of(position: Position, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Region:
    """Return the region of a chunk (or shard), clipped to the shape."""
    bounds = zip(position, chunks, shape, strict=True)
    return tuple(slice(k * c, min((k + 1) * c, n)) for k, c, n in bounds)


def middle_plane(region: Region) -> Region:
    """Return the part of a region that lies in the middle of all axes but the last two."""
    middles = ((side.start + side.stop) // 2 for side in region[:-2])
    return (*(slice(k, k + 1) for k in middles), *region[-2:])


def within(region: Region, box: Region) -> Region:
    """Return where a region lies in what was read of a box around it."""
    sides = zip(region, box, strict=True)
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in sides)
