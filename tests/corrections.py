"""Correction sections made by hand: any mode and number of slabs, small fields."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tinc_codec.fit.prediction import fit_weights
from tinc_codec.parallel import even_parts
from tinc_codec.stream.residual.axes import three_axes
from tinc_codec.stream.residual.corrections.header import Header, to_bytes
from tinc_codec.stream.residual.corrections.slabs import encode

Field = npt.NDArray[np.int64]


def coded(field: npt.ArrayLike, bound: int, *, mode: int, slabs: int = 1) -> bytes:
    """Return the data of a section in a mode and of slabs that its size would not have.

    ``field`` has 1 to 4 axes.
    """
    values = np.asarray(field, np.int64)
    values = values.reshape(three_axes(values.shape))
    header = Header(
        mode=mode,
        bound=bound,
        lowest=int(values.min()),
        highest=int(values.max()),
        weights=fit_weights(values, mode, bound),
    )
    parts = even_parts(len(values), min(slabs, len(values)))
    return to_bytes(header, [encode(header, values[a:b]) for a, b in parts])


def texture(shape: Sequence[int], spread: int, seed: int) -> Field:
    """Waves and noise, and one element in eight 0."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape).sum(axis=0)
    wave = spread * np.sin(grid / 3) + rng.normal(0, spread / 8, shape)
    return np.where(rng.random(shape) < 1 / 8, 0, np.rint(wave)).astype(np.int64)


@st.composite
def textures(draw: st.DrawFn) -> Field:
    """Draw a field z, y, x, of a few hundred elements at most."""
    shape = draw(st.sampled_from([(1, 1, 90), (1, 9, 14), (5, 6, 7), (3, 2, 33), (9, 4, 8)]))
    spread = draw(st.sampled_from((1, 6, 300, 10**6, 2**31)))
    return texture(shape, spread, draw(st.integers(0, 2**32 - 1)))
