"""Hypothesis strategies: arrays of every supported dtype, byte order, memory order and striding."""

import numpy as np
from hypothesis import strategies as st

DTYPES = tuple(
    np.dtype(order + code)
    for code in ("u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8")
    for order in "<>"
    if order == "<" or code[1] != "1"
)
LAYOUTS = ("C", "F", "strided", "reversed", "permuted", "read-only", "unaligned")


def lay_out(array: np.ndarray, layout: str) -> np.ndarray:
    """Return an equal array, same dtype, in another memory layout."""
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "strided":
        wide = np.zeros(tuple(2 * n for n in array.shape), array.dtype)
        view = wide[tuple(slice(1, None, 2) for _ in array.shape)]
        view[...] = array
        return view
    if layout == "reversed":
        return np.flip(np.flip(array).copy())
    if layout == "permuted":
        return np.moveaxis(np.moveaxis(array, -1, 0).copy(), 0, -1)
    if layout == "unaligned":
        raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
        view = raw.view(array.dtype).reshape(array.shape)
        view[...] = array
        return view
    out = array.copy()
    out.setflags(write=layout != "read-only")
    return out


def dtypes() -> st.SearchStrategy[np.dtype]:
    return st.sampled_from(DTYPES)


def shapes(max_dims: int = 4, max_side: int = 9) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(1, max_side), min_size=1, max_size=max_dims).map(tuple)


def from_bits(bits: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the array whose items have the low bits of the given integers."""
    return bits.astype(f"{dtype.byteorder}u{dtype.itemsize}").view(dtype)


@st.composite
def arrays(
    draw: st.DrawFn,
    *,
    dtype: st.SearchStrategy[np.dtype] = dtypes(),  # noqa: B008
    shape: st.SearchStrategy[tuple[int, ...]] = shapes(),  # noqa: B008
    finite: bool = True,
) -> np.ndarray:
    """Draw an array; unless `finite`, floats may be any bit pattern, signalling NaN included."""
    kind = draw(dtype)
    lengths = draw(shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    few = draw(st.sampled_from((1, 2, 5, 2**16)))  # distinct values
    bits = rng.integers(0, 2**64, few, np.uint64)[rng.integers(0, few, lengths)]
    array = from_bits(bits, kind)
    if kind.kind == "f" and finite:
        array = np.where(np.isfinite(array), array, 0).astype(kind)
    elif kind.kind == "f" and draw(st.booleans()):
        specials = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0], kind)
        array = specials[rng.integers(0, len(specials), lengths)]
    return lay_out(array, draw(st.sampled_from(LAYOUTS)))
