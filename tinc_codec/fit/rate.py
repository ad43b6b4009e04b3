"""Rate control: the finest quantisation whose section fits the bytes at hand.

At high rate the loss of a uniform step s on a parameter is ``s^2 / 12`` times the mean square of
the output's derivative by it, and the bits fall by one per doubling of s whatever the parameter.
The best steps at a given size therefore make that loss equal everywhere: s of a group goes as
the inverse root of its mean sensitivity. What remains is one number, the base step.
"""

from __future__ import annotations

import numpy as np

from tinc_codec.array_types import Float32Array
from tinc_codec.stream import quantize
from tinc_codec.stream.entropy import MAX_MAGNITUDE
from tinc_codec.tree import weights
from tinc_codec.tree.network import Layout

_SEARCH_STEPS = 40


def at_base(
    table: Layout, parameters: Float32Array, codes: tuple[int, ...], base: float
) -> weights.QuantizedWeights | None:
    """Quantise with a base step; None where an integer would leave the coder's range."""
    groups = []
    for group, code in zip(table.groups, codes, strict=True):
        step = quantize.step_size(base, code)
        values = parameters[group.start : group.stop]
        if float(np.abs(values).max()) > MAX_MAGNITUDE * float(step):
            return None
        groups.append(quantize.quantize(values, step))
    return weights.QuantizedWeights(base=base, codes=codes, groups=tuple(groups))


def quantize_to_size(
    table: Layout, parameters: Float32Array, sensitivity: Float32Array, size: int
) -> bytes | None:
    """Return the WEIGHTS section of at most ``size`` bytes with the finest steps.

    Parameters
    ----------
    table : Layout
        The tree's tables.
    parameters, sensitivity : (size,) float32
        As :func:`tinc_codec.fit.train.fit` gives them.
    size : int
        Bytes at hand.

    Returns
    -------
    bytes or None
        None where even the coarsest steps, all parameters zero, do not fit.
    """
    mean = [float(sensitivity[g.start : g.stop].mean()) for g in table.groups]
    with np.errstate(divide="ignore"):
        codes = quantize.step_codes([float(np.float64(m) ** -0.5) for m in mean])
    best: bytes | None = None
    low, high = -40.0, 20.0
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) / 2
        candidate = at_base(table, parameters, codes, float(np.float32(2.0**middle)))
        # The estimate is within a word of the truth; only the last turns need the truth.
        if candidate is None or weights.quantized_size(candidate) > size + 8:
            low = middle
        else:
            coded = weights.pack_quantized(candidate)
            if len(coded) <= size:
                high = middle
                if best is None or len(coded) >= len(best):
                    best = coded
            else:
                low = middle
        if high - low < 1e-4 or (best is not None and size - len(best) <= max(1, size // 400)):
            break
    return best
