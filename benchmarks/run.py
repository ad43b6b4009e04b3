"""``python -m benchmarks.run EXPERIMENT``: rate-distortion and the paper's other experiments.

Rows go to CSV files, a file for each experiment, with machine, versions and the last commit that
changed the package; tables are printed as Markdown. What a file has is not measured again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from benchmarks import datasets
from benchmarks.baselines import registry
from benchmarks.experiments.common import Options

_OUT = Path(__file__).parent / "results"
EXPERIMENTS = (
    "rd", "visual", "levels", "allocation", "importance", "chunks", "time", "peers", "axis",
)  # fmt: skip
_QUICK = ("rd", "visual", "levels", "allocation", "importance", "chunks", "time")
_RATIOS = "16,32,64,128,256,512,1024"
# The tiniest size: 24³ voxels take a few seconds each.
_QUICK_SIDE, _QUICK_RATIOS = 24, "16,64"
_QUICK_CODECS = ("TINC", "HEVC", "SPERR", "SZ3", "JPEG XL")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def _part(text: str) -> tuple[int, int]:
    number, _, parts = text.partition("/")
    if not (number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} must be i/n with 1 <= i <= n")
    return int(number), int(parts)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("experiment", nargs="?", help=f"of {', '.join(EXPERIMENTS)}")
    parser.add_argument("--quick", action="store_true", help="all, at the tiniest size")
    parser.add_argument("--volumes", type=_listed, help="names, comma-separated; all by default")
    parser.add_argument(
        "--codecs", type=_listed, help=f"of {', '.join(registry.NAMES)}; or own, classical, all"
    )
    parser.add_argument("--ratios", type=_listed, help=f"comma-separated ({_RATIOS})")
    parser.add_argument("--effort", type=int, help="1 to 9, of codecs that fit (5; quick: 1)")
    parser.add_argument("--side", type=int, help="largest side of the blocks, voxels (128)")
    parser.add_argument("--part", type=_part, default=(1, 1), help="i/n: each n-th case only")
    parser.add_argument("--fresh", action="store_true", help="measure again what files have")
    parser.add_argument("--out", type=Path, default=_OUT, help="folder of CSV files (%(default)s)")
    parser.add_argument("--plots", type=Path, help="folder of plots; none are made without")
    return parser.parse_args(arguments)


def _codecs(wanted: Sequence[str] | None, *, quick: bool) -> tuple[str, ...]:
    groups = {
        "all": registry.DEFAULT,
        "own": registry.OWN,
        "classical": registry.CLASSICAL,
    }
    names: list[str] = []
    for name in wanted or (_QUICK_CODECS if quick else ("all",)):
        names += groups.get(name, (name,))
    for name in names:
        if name not in registry.NAMES:
            raise ValueError(f"no codec {name!r}; there are {', '.join(registry.NAMES)}")
    return tuple(dict.fromkeys(names))


def options_of(given: argparse.Namespace) -> Options:
    """Return the options; ValueError if one is out of range."""
    quick = given.quick
    ratios = given.ratios or _listed(_QUICK_RATIOS if quick else _RATIOS)
    numbers = tuple(map(float, ratios))
    if min(numbers) < 1:
        raise ValueError(f"ratio {min(numbers):g} must be at least 1")
    effort = given.effort if given.effort is not None else (1 if quick else 5)
    if not 1 <= effort <= 9:
        raise ValueError(f"effort {effort} must be from 1 to 9")
    side = given.side or (_QUICK_SIDE if quick else datasets.SIDE)
    if side < 8:
        raise ValueError(f"side {side} must be at least 8")
    volumes = given.volumes or ((datasets.PHANTOM,) if quick else None)
    return Options(
        volumes=tuple(datasets.select(volumes)),
        codecs=_codecs(given.codecs, quick=quick),
        ratios=numbers,
        effort=effort,
        side=side,
        out=given.out / "quick" if quick else given.out,
        part=given.part,
        plots=given.plots,
        fresh=given.fresh,
    )


def _runner(experiment: str) -> Callable[[Options], str]:
    module = {"time": "timing"}.get(experiment, experiment)
    run: Callable[[Options], str] = import_module(f"benchmarks.experiments.{module}").run
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    given = parse(arguments)
    wanted = (given.experiment,) if given.experiment else (_QUICK if given.quick else ())
    try:
        if not wanted:
            raise ValueError(f"name an experiment of {', '.join(EXPERIMENTS)}, or give --quick")
        if wanted[0] not in EXPERIMENTS:
            raise ValueError(f"no experiment {wanted[0]!r}; there are {', '.join(EXPERIMENTS)}")
        options = options_of(given)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for experiment in wanted:
        print(f"## {experiment}\n\n{_runner(experiment)(options)}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
