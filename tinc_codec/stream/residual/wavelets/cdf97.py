"""The numbers of the CDF 9/7 wavelet by lifting (Daubechies and Sweldens, 1998), in binary32.

An axis of an even number of samples ends with an odd one, which symmetric extension foretells from
one side only: errors there are twice as large as elsewhere, and the next chunk begins with a step.
A closed axis ends with an even one: its last two samples change places, and what the neighbours of
the last four count is a matter of its own (:data:`ENDS`).
"""

from __future__ import annotations

import numpy as np

# Of the steps: odd samples (A), even (B), odd (C) and even ones (D).
A, B, C, D = map(np.float32, (-1.586134342, -0.05298011854, 0.8829110762, 0.4435068522))
# Scales of low and high samples that make the transform almost orthonormal.
LOW, HIGH = np.float32(1.149604398), np.float32(0.869864452)
# Samples next to an artificial end that the missing neighbours make wrong.
REACH = 4
# The fewest samples of an axis that may be closed.
LEAST_CLOSED = 6
# Samples at a closed end that are not what they would be elsewhere.
CLOSED_END = 4
# Weights of the two neighbours in each lifting step, A to D, at a closed end: first of the last
# sample but one that the step changes (odd ones in A and C, even ones in B and D), then of the
# last. The very last sample of the axis, an odd one, takes the last two even ones as its
# neighbours. Each pair adds up to 2, so that constants stay constant; the rest was found by search
# for coding gain (python -m benchmarks.closed_axes).
ENDS = tuple(
    tuple(map(np.float32, ends))
    for ends in (
        (1.403, 0.597, 2.158, -0.158),
        (0.749, 1.251, 1.869, 0.131),
        (1.347, 0.653, 2.817, -0.817),
        (0.723, 1.277, 0.798, 1.202),
    )
)
ENDS_A, ENDS_B, ENDS_C, ENDS_D = ENDS


def may_close(n: int) -> bool:
    """Return whether an axis of n samples may be closed."""
    return n % 2 == 0 and n >= LEAST_CLOSED
