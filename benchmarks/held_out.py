"""``python -m benchmarks.held_out FOLDER``: parts of the volumes that no other figure is of.

Other corners, another channel, other axes first. With ``TINC_DATA=FOLDER`` each is a volume of
``benchmarks.run``: does the codec lead on what it was not made with?
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets

_Part = Callable[[NDArray[Any]], NDArray[Any]]
PARTS: dict[str, tuple[str, _Part]] = {
    "axons_turned": ("lsfm_axons_dense_trailmap", lambda v: v.transpose(1, 2, 0)),
    "root_turned": ("nuclei_root_plantseg_1135", lambda v: v.transpose(2, 0, 1)),
    "embryo_64": ("nuclei_embryo_qcanet_16cell", lambda v: v[:, :64, :64]),
    "tooth_end": ("ct_tooth", lambda v: v[33:]),
    "cells_ch1": ("cells2ch_cellfinder_a", lambda v: v[1, :, 384:, 384:]),
    "cells_mid": ("cells2ch_cellfinder_a", lambda v: v[0, :, 200:328, 300:428]),
    "fib_last": ("fibsem_medulla_train1", lambda v: v[122:, 122:, 122:]),
    "fib_other": ("fibsem_medulla_train1", lambda v: v[60:188, :128, 122:]),
}


def write(folder: Path) -> list[str]:
    """Write the parts of the volumes at hand as .npy files; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    there = datasets.names()
    written = [name for name, (volume, _) in PARTS.items() if volume in there]
    for name in written:
        volume, part = PARTS[name]
        np.save(folder / f"{name}.npy", np.ascontiguousarray(part(datasets.load(volume))))
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.held_out", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the parts go")
    written = write(parser.parse_args(arguments).folder)
    print(f"{len(written)} of {len(PARTS)} written: {', '.join(written) or 'none of the volumes'}")
    return 0 if written else 1


if __name__ == "__main__":
    raise SystemExit(main())
