"""Decoded chunks and regions kept for further reads: zarr keeps none, and decodes them again.

An entry is found by the digest of its payload and by the engine, so that a chunk written anew is
never served from the old one. A small part of a chunk is kept as it is; once parts of a chunk have
taken half the work of all of it, the next miss decodes it whole, and all later reads are copies of
that. To step through a chunk plane by plane thus costs little more than to decode it once. A chunk
that is read whole, or but for what overhangs the array, is kept the second time: reading a volume
once fills no cache. Where the cache is too small, and a whole chunk makes way before it is of use,
it is not kept, nor decoded for its parts, for a while. The limit in force at the last read is that
of the whole cache, but for 0, which leaves it as it is: use one limit in a process.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinc_codec.decoding.opened import Chunk, open_chunks
from tinc_codec.decoding.together import decode_chunks
from tinc_codec.forks import in_children
from tinc_codec.runtime import current_runtime

if TYPE_CHECKING:
    from typing_extensions import Buffer

_PER_ENTRY = 704  # bytes that an entry takes besides its voxels, about
_MOST_COUNTED = 4096  # chunks of which the work of reading is counted
# The least share of a whole decoding that any part costs, of forms whose voxels cannot be evaluated
# one by one: wavelets and corrections.
_LEAST_SHARE = 0.5
# Parts of less than this share of a chunk are kept at once.
_SMALL = 0.5
# Once reads have cost this share of a whole decoding, the chunk is decoded whole and kept; and what
# is taken off that count if it had to make way before it was of use.
_WORTH, _IN_VAIN = 0.5, 8.0
_Key = tuple[bytes, str]  # digest of the payload, engine


class DecodedCache:
    """The arrays read last, bounded in bytes. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrays: OrderedDict[tuple[_Key, Any], NDArray[Any]] = OrderedDict()
        # Decoded whole, or about to be, for reads to come: none of which has.
        self._expected: set[_Key] = set()
        # In decodings of the whole chunk: what its parts have taken, and all reads.
        self._work: OrderedDict[_Key, tuple[float, float]] = OrderedDict()
        self._size = self._most = 0

    @property
    def nbytes(self) -> int:
        """Bytes held, with what the entries themselves take."""
        return self._size

    def get(self, key: _Key, part: Any) -> NDArray[Any] | None:
        """Return a copy of a part of a chunk (of all of it for None), or None if it is not kept."""
        with self._lock:
            name = None if (key, None) in self._arrays else _name(part)
            array = self._arrays.get((key, name))
            if array is None:
                return None
            self._arrays.move_to_end((key, name))
            if name is None:
                self._expected.discard(key)
        return array.copy("K") if part is None or name is not None else _part_of(array, part)

    def put(self, key: _Key, part: Any, array: NDArray[Any], most: int) -> None:
        """Keep a copy of a part of a chunk, and at most so many bytes of all that is kept."""
        name = _name(part)
        fits = array.nbytes + _PER_ENTRY <= most and (part is None or name is not None)
        kept = array.copy("K") if fits else None
        with self._lock:
            if kept is not None and (key, name) not in self._arrays:
                self._arrays[key, name] = kept
                self._size += kept.nbytes + _PER_ENTRY
            self._shrink(most)

    def limit(self, most: int) -> None:
        """Let go of what was read longest ago, until at most so many bytes are kept."""
        with self._lock:
            if most > self._most:  # what was too small need not be any more
                self._work.clear()
                self._most = most
            self._shrink(most)

    def _shrink(self, most: int) -> None:
        while self._size > most:
            (oldest, what), dropped = self._arrays.popitem(last=False)
            self._size -= dropped.nbytes + _PER_ENTRY
            if what is None and oldest in self._expected:
                self._expected.discard(oldest)
                self._count(oldest, -_IN_VAIN, -_IN_VAIN)

    def add_work(self, key: _Key, part: Any, share: float) -> None:
        """Count what decoding a part of a chunk took, as a share of the work on all of it."""
        with self._lock:
            self._count(key, 0.0 if part is None else share, share)

    def _count(self, key: _Key, for_parts: float, for_all: float) -> None:
        parts, every = self._work.pop(key, (0.0, 0.0))
        self._work[key] = parts + for_parts, every + for_all
        if len(self._work) > _MOST_COUNTED:
            self._work.popitem(last=False)

    def expect(self, key: _Key, part: Any) -> bool:
        """Return whether a chunk is to be decoded whole and kept, where a part of it is missing.

        It is where reads have taken enough work, and no other thread is at it. For a part those of
        parts count; for the whole, which is decoded anyway, all.
        """
        with self._lock:
            parts, every = self._work.get(key, (0.0, 0.0))
            worth = (every if part is None else parts) >= _WORTH and key not in self._expected
            if worth:
                self._expected.add(key)
            return worth

    def expect_no_more(self, keys: Iterable[_Key]) -> None:
        """Take back what :meth:`expect` noted: the chunks were not decoded."""
        with self._lock:
            self._expected.difference_update(keys)


def _part_of(array: NDArray[Any], part: Any) -> NDArray[Any]:
    """Return a copy of a part of a chunk, as decoding it gives it."""
    return np.array(array[part], array.dtype, order="C")


def _name(part: Any) -> Any:
    """Return a name for a part made of slices and integers; None for others and for the whole."""
    items = part if isinstance(part, tuple) else (part,)
    if any(isinstance(i, bool) or not isinstance(i, slice | int | np.integer) for i in items):
        return None
    return tuple(
        (s.start, s.stop, s.step) if isinstance(s, slice) else int(s)  # slices hash from 3.12 on
        for s in items
    )


_cache = DecodedCache()


@in_children
def forget_decoded() -> None:
    """Start afresh in a forked child: a thread that it lacks may hold the lock."""
    global _cache
    _cache = DecodedCache()


def current_cache() -> DecodedCache:
    """Return the cache of this process."""
    return _cache


def decode_remembered(payloads: Sequence[Buffer], parts: Sequence[Any]) -> list[NDArray[Any]]:
    """Decode payloads, whole or in part, unless they are kept from an earlier call.

    What is kept takes at most ``cache_bytes`` of :func:`tinc_codec.runtime`; with 0 the cache is
    left as it is.

    Parameters
    ----------
    payloads, parts
        See :func:`tinc_codec.decoding.together.decode_chunks`, whose errors this raises.

    Returns
    -------
    list of numpy.ndarray
        The caller's own.
    """
    settings = current_runtime()
    most = settings.cache_bytes
    if not most:
        return decode_chunks(payloads, parts)
    engine = "cpu" if settings.device == "auto" else settings.device
    keys = [_key_of(payload, engine) for payload in payloads]
    _cache.limit(most)
    found = [_cache.get(key, part) for key, part in zip(keys, parts, strict=True)]
    missing = [k for k, array in enumerate(found) if array is None]
    rest = _decoded(
        [keys[k] for k in missing],
        [payloads[k] for k in missing],
        [parts[k] for k in missing],
        most,
    )
    for k, array in zip(missing, rest, strict=True):
        found[k] = array
    return [array for array in found if array is not None]


def _key_of(payload: Buffer, engine: str) -> _Key:
    return hashlib.blake2b(payload, digest_size=16).digest(), engine


def _decoded(
    keys: Sequence[_Key], payloads: Sequence[Buffer], parts: Sequence[Any], most: int
) -> list[NDArray[Any]]:
    """Decode what is not kept; keep what is worth it, in at most so many bytes."""
    cache, chunks = _cache, open_chunks(payloads)
    wholes, room = set[_Key](), most
    for key, chunk, part in zip(keys, chunks, parts, strict=True):
        size = chunk.info.nbytes + _PER_ENTRY
        if size <= room and cache.expect(key, part):
            wholes.add(key)
            room -= size
    wanted = [None if key in wholes else part for key, part in zip(keys, parts, strict=True)]
    try:
        decoded = decode_chunks(payloads, wanted)
        for key, chunk, part, array in zip(keys, chunks, wanted, decoded, strict=True):
            share = array.size / math.prod(chunk.info.shape)
            if key in wholes or share < _SMALL:
                cache.put(key, part, array, most)
            cache.add_work(key, part, _work_of(chunk, share))
    except BaseException:
        cache.expect_no_more(wholes)
        raise
    return [
        array if part is own else _part_of(array, own)
        for array, part, own in zip(decoded, wanted, parts, strict=True)
    ]


def _work_of(chunk: Chunk, share: float) -> float:
    """Return what decoding a share of a chunk's voxels takes of the work on all of it, about."""
    alone = chunk.wavelet is None and chunk.correction is None
    return share if alone else max(share, _LEAST_SHARE)
