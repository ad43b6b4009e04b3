"""The statistics that the coder of coefficients starts from: even ones, or those of many chunks.

What quantised wavelet coefficients are, given their neighbours, differs little from one image to
another. A chunk of a few hundred bytes ends before it has learnt that by itself.
``python -m benchmarks.prior`` learns them, and tells what they save of other volumes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinc_codec.stream.residual.coder import mixing
from tinc_codec.stream.residual.wavelets import contexts

# Adaptive probabilities with their counts, and rows of mixing weights.
Model = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int32]]

FILE = Path(__file__).with_name("prior.bin")
_FIRST_WEIGHT, _SIZE_WEIGHT = 19661, 26214
_SHAPE = contexts.ROWS, mixing.INPUTS


def copy(model: Model) -> Model:
    """Return the same statistics in memory of their own."""
    words, weights = model
    return words.copy(), weights.copy()


def even() -> Model:
    """Return statistics that know nothing, as payloads written before 0.12.0 start from."""
    weights = np.full(_SHAPE, _SIZE_WEIGHT, np.int32)
    weights[: contexts.LEVELS] = _FIRST_WEIGHT
    return np.full(contexts.SLOTS, mixing.EVEN, np.uint32), weights


def learnt() -> Model:
    """Return statistics of many chunks, which a chunk's own soon outweigh."""
    return copy(_learnt())


@cache
def _learnt() -> Model:
    return from_bytes(FILE.read_bytes())


def from_bytes(data: bytes) -> Model:
    """Return the statistics of a file: probabilities, counts and weights, as FORMAT.md has it."""
    slots = contexts.SLOTS
    probabilities = np.frombuffer(data, "<u2", slots)
    counts = np.frombuffer(data, np.uint8, slots, 2 * slots)
    weights = np.frombuffer(data, "<i4", -1, 3 * slots)
    words = probabilities | counts.astype(np.uint32) << mixing.COUNT_SHIFT
    return words.astype(np.uint32), weights.astype(np.int32).reshape(_SHAPE)


def to_bytes(model: Model) -> bytes:
    """Return the file of some statistics."""
    words, weights = model
    probabilities = (words & mixing.PROBABILITY).astype("<u2")
    counts = (words >> mixing.COUNT_SHIFT).astype(np.uint8)
    return probabilities.tobytes() + counts.tobytes() + weights.astype("<i4").tobytes()
