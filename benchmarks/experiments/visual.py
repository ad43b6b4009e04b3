"""Middle slices and error maps of codecs side by side, at equal ratio, as the paper's Fig. 3."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.baselines import registry
from benchmarks.baselines.protocol import Array, Target
from benchmarks.experiments.common import Blocks, Options, measured, run_cases
from benchmarks.experiments.rd import Case, cases
from benchmarks.rows import markdown


def run(options: Options) -> str:
    """Measure what is missing; return the list of pictures.

    Decoded slices are kept beside the pictures; remove a picture's rows with them.
    """
    folder = options.plots or options.out / "plots"
    blocks = Blocks(options.side)

    def measure(case: Case) -> list[dict[str, Any]]:
        block = blocks(case.volume)
        target = Target(ratio=case.ratio, effort=int(case.effort or 1))
        coded = registry.get(case.codec).encode(block, target)
        if coded is not None:
            path = slice_file(folder, case)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, middle(coded.decoded))
        return [measured(block, coded)]

    wanted = cases(options)
    gone = [case for case in wanted if not slice_file(folder, case).exists()]
    # A slice that is gone is decoded again, whatever the rows say.
    run_cases(replace(options, fresh=True, part=(1, 1)), "visual", gone, measure)
    rows = run_cases(options, "visual", wanted, measure)
    from benchmarks import plots

    pictures = plots.slices(rows, blocks, folder)
    return markdown(("picture",), ([path.name] for path in pictures))


def middle(block: Array) -> Array:
    """Return the middle slice across axis 0."""
    return block[block.shape[0] // 2]


def slice_file(folder: Path, case: Case) -> Path:
    """Return where the decoded slice of a case is kept."""
    effort = f"_effort{case.effort}" if case.effort else ""
    name = f"{case.volume}_{case.side}_{case.ratio:g}_{case.codec}{effort}.npy"
    return folder / "slices" / name.replace(" ", "-")
