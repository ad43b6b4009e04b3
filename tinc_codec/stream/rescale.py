"""From normalised to stored values in one pass (numba): the fast path of the first stage.

Apart from normalize.py, which loads it when it is called: importing this is importing numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinc_codec.compiled import compiled


@compiled()
def fill_integers(unit: Any, low: float, high: float, out: Any) -> None:
    """Set out to low (1 - u) + high u, rounded half to even; u clipped to [0, 1], NaN is 0.

    Without fused multiply-add and in float64, as FORMAT.md says.
    """
    for i in range(len(unit)):
        u: Any = np.float64(unit[i])
        u = min(u, 1.0) if u > 0.0 else 0.0
        x = np.rint(low * (1.0 - u) + high * u)
        out[i] = min(max(x, low), high)


@compiled()
def fill_floats(unit: Any, low: float, high: float, out: Any) -> None:
    """As :func:`fill_integers`, not rounded."""
    for i in range(len(unit)):
        u: Any = np.float64(unit[i])
        u = min(u, 1.0) if u > 0.0 else 0.0
        out[i] = min(max(low * (1.0 - u) + high * u, low), high)
