"""Whether a rule that chooses for each volume beats one choice for all of them, without peeking."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from benchmarks.rows import Row, markdown

RULE = "auto"
_COLUMNS = (
    *("volume", "ratio", "best for the others", "so here, dB", "by rule, dB", "gain, dB"),
    "best here",
)


def scores(
    rows: Sequence[Row], choice: Callable[[Row], str], column: str
) -> dict[tuple[str, str], dict[str, float]]:
    """Return what a column says of each choice within reach, by volume and ratio."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if row[column]:
            case = found.setdefault((row["volume"], row["ratio"]), {})
            case[choice(row)] = float(row[column])
    return found


def leave_one_out(scores: Mapping[tuple[str, str], Mapping[str, float]]) -> str:
    """Return a table of each volume: the rule against what is best in the mean over the others.

    Parameters
    ----------
    scores : mapping
        PSNR in dB of each choice, the rule's among them, by volume and ratio. Volumes for which
        one choice was out of reach are left out.
    """
    choices = max((list(found) for found in scores.values()), key=len, default=[])
    whole = {case: found for case, found in scores.items() if set(found) == set(choices)}
    fixed = [choice for choice in choices if choice != RULE]
    lines, gains = [], []
    for (volume, ratio), found in whole.items():
        others = [s for (v, r), s in whole.items() if v != volume and r == ratio]
        if not others or RULE not in found:
            continue
        best = max(fixed, key=lambda choice: statistics.fmean(s[choice] for s in others))
        gains.append(found[RULE] - found[best])
        here = max(fixed, key=found.__getitem__)
        values = f"{found[best]:.2f}", f"{found[RULE]:.2f}", f"{gains[-1]:+.2f}"
        lines.append([volume, f"{float(ratio):g}", best, *values, f"{here} ({found[here]:.2f})"])
    if not lines:
        return "Too few volumes to leave one out."
    mean = f"The rule gains {statistics.fmean(gains):+.2f} dB in the mean."
    return f"{markdown(_COLUMNS, lines)}\n\n{mean}"
