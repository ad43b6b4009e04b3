"""What the two ends of a transformed axis cost, and where the weights of a closed one come from.

``python -m benchmarks.closed_axes`` prints, for axes of several lengths, by how many dB closing
them raises the coding gain (the mean over coefficients of log variance times squared norm, for
Markov processes, some with white noise added), and the mean squared error of the last samples of
white noise of which one level's high-pass coefficients are lost. ``--search`` looks for weights
(``cdf97.ENDS``) that raise it further, from the ones in use.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.rows import markdown
from tinc_codec.stream.residual.wavelets import cdf97

Matrix = npt.NDArray[np.float64]
Ends = Sequence[Sequence[float]]

# Samples and levels; correlation of neighbours, and noise added to a variance of 1.
LENGTHS = ((24, 4), (40, 5), (64, 5), (128, 6))
MODELS = ((0.98, 0.02), (0.95, 0.0), (0.995, 0.1), (0.9, 0.0), (0.99, 0.3))
_DB_PER_BIT = 20 * np.log10(2)


def analysis(n: int, ends: Ends | None) -> Matrix:
    """Return the matrix of one level, low samples first; closed with ends, else open."""
    x = np.eye(n)
    closed = ends is not None and cdf97.may_close(n)
    if closed:
        x[[-2, -1]] = x[[-1, -2]]
    factors = (cdf97.A, cdf97.B, cdf97.C, cdf97.D)
    for step, factor in enumerate(map(float, factors)):
        for i in range(1 - step % 2, n, 2):
            before, after = x[i - 1 if i else 1], x[i + 1 if i + 1 < n else n - 2]
            if closed and i >= n - cdf97.CLOSED_END:
                assert ends is not None
                one, other = ends[step][:2] if i < n - 2 else ends[step][2:]
                after = x[n - cdf97.CLOSED_END] if i == n - 1 else after
                x[i] += factor * (one * before + other * after)
            else:
                x[i] += factor * (before + after)
    return np.concatenate([x[::2] * float(cdf97.LOW), x[1::2] * float(cdf97.HIGH)])


def transform(n: int, levels: int, ends: Ends | None) -> Matrix:
    """Return the matrix of several levels."""
    whole = np.eye(n)
    for _ in range(levels):
        whole[:n] = analysis(n, ends) @ whole[:n]
        n = (n + 1) // 2
    return whole


def covariances(n: int) -> list[Matrix]:
    """Return those of the models."""
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return [correlation**apart + noise * np.eye(n) for correlation, noise in MODELS]


def coding_gain(n: int, levels: int, ends: Ends | None) -> float:
    """Return it in dB, but for a constant: of all models, the mean."""
    forward = transform(n, levels, ends)
    norms = (np.linalg.inv(forward) ** 2).sum(0)
    variances = [np.einsum("ij,jk,ik->i", forward, c, forward) for c in covariances(n)]
    return float(np.mean([-np.mean(np.log2(v * norms)) / 2 * _DB_PER_BIT for v in variances]))


def low_pass_errors(n: int, ends: Ends | None) -> Matrix:
    """Return the mean squared error of each sample of white noise without its high samples."""
    forward = analysis(n, ends)
    lost: Matrix = np.linalg.inv(forward)[:, n - n // 2 :] @ forward[n - n // 2 :]
    return (lost**2).sum(1)


def ends_of(x: npt.NDArray[Any]) -> Ends:
    """Return weights of 8 numbers: the others follow from sums of 2."""
    return [(a, 2 - a, b, 2 - b) for a, b in x.reshape(4, 2)]


def searched() -> Ends:
    """Return weights of a larger coding gain, found from the ones in use."""
    from scipy.optimize import minimize

    start = np.array([(ends[0], ends[2]) for ends in cdf97.ENDS], np.float64).ravel()

    def loss(x: npt.NDArray[Any]) -> float:
        return -sum(coding_gain(n, levels, ends_of(x)) * n for n, levels in LENGTHS[:3])

    found = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 600})
    return ends_of(found.x)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.closed_axes", description=__doc__)
    parser.add_argument("--search", action="store_true")
    options = parser.parse_args(arguments)
    closed = [[float(v) for v in ends] for ends in cdf97.ENDS]
    sets: dict[str, Ends] = {"in use": closed}
    if options.search:
        sets["searched"] = searched()
    rows = []
    for name, ends in sets.items():
        for n, levels in LENGTHS:
            gain = coding_gain(n, levels, ends) - coding_gain(n, levels, None)
            rows.append((name, str(n), str(levels), f"{gain:.3f}"))
    print(markdown(("weights", "samples", "levels", "coding gain, dB"), rows))
    print()
    last = [
        (name, *(f"{error:.2f}" for error in low_pass_errors(64, ends)[-4:]))
        for name, ends in {"open": None, **sets}.items()
    ]
    inside = low_pass_errors(64, None)[30:34]
    last.append(("inside, open", *(f"{e:.2f}" for e in inside)))
    print(markdown(("errors of the last four of 64", "60", "61", "62", "63"), last))
    if options.search:
        print(np.round(sets["searched"], 3).tolist())
    return 0


if __name__ == "__main__":
    sys.exit(main())
