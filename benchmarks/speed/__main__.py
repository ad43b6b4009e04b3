"""``python -m benchmarks.speed``: fits, decoding, planes, efforts, kernels, the GPU, first use.

Rows go to CSV files, a file for each table, with the processor, versions and the last commit that
changed the package; tables are printed as Markdown. What a file has already is not measured again:
remove the file to measure anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import datasets
from benchmarks.environment import describe
from benchmarks.speed import at_once, decode, effort, first_use, fit, gpu, planes, roofline
from benchmarks.speed.common import Options, default_volumes

_OUT = Path(__file__).parents[1] / "results"

TABLES: dict[str, Callable[[Options], str]] = {
    "first-use": first_use.run,
    "roofline": roofline.run,
    "decode": decode.run,
    "at-once": at_once.run,
    "planes": planes.run,
    "effort": effort.run,
    "fit": fit.run,
    "gpu": gpu.run,
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""

    def listed(text: str) -> list[str]:
        return [part for part in text.split(",") if part]

    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--only", type=listed, help=f"of {', '.join(TABLES)}; all by default")
    parser.add_argument("--volumes", type=listed, help="names, comma-separated")
    parser.add_argument("--quick", action="store_true", help="the tiniest sizes, in other files")
    parser.add_argument("--out", type=Path, default=_OUT, help="folder of CSV files (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    given = parse(arguments)
    wanted = given.only or list(TABLES)
    unknown = [name for name in wanted if name not in TABLES]
    try:
        if unknown:
            raise ValueError(f"no table {unknown[0]!r}; there are {', '.join(TABLES)}")
        volumes = datasets.select(given.volumes) if given.volumes else default_volumes()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options = Options(volumes=tuple(volumes), out=given.out, quick=given.quick)
    for name in wanted:
        print(f"## {name}\n\n{TABLES[name](options)}\n", flush=True)
    where = describe()
    print(
        f"On {where.machine}, {where.threads} threads, tinc_codec {where.tinc_codec} at "
        f"{where.commit or 'an unknown commit'}. Rows kept from earlier runs say what they ran on."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
