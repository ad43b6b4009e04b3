"""The default recipe against the paper's, at equal payload bytes, on the first block of volumes.

``python -m benchmarks.presets`` appends what it measures to a CSV file, a row for each fit, and
prints the comparison as a Markdown table. Fits that the file has already are not repeated: remove
the file to measure anew.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.baselines.protocol import timed
from benchmarks.bjontegaard import Curve, bd_rate
from benchmarks.environment import describe
from benchmarks.rows import read, write
from tinc_codec import InvalidSetting, Settings, decode, inspect
from tinc_codec.encode import encode_chunk
from tinc_codec.metrics import psnr, ssim
from tinc_codec.phantom import phantom

PRESETS = ("default", "paper")
_OUT = Path(__file__).parent / "results" / "presets.csv"
_DECODES = 3

Table = dict["Fit", dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One fit: the columns that tell rows apart.

    Attributes
    ----------
    volume : str
        Name of the volume.
    block : int
        Largest side of the block.
    ratio : float
        Raw bytes over budget.
    preset : str
        "default" or "paper".
    effort : int
        Of the settings.
    iterations : int or "auto"
        Of the settings.
    """

    volume: str
    block: int
    ratio: float
    preset: str
    effort: int
    iterations: str

    @property
    def settings(self) -> Settings:
        """The encoder's settings."""
        iterations: Any = "auto" if self.iterations == "auto" else int(self.iterations)
        return Settings(
            ratio=self.ratio, preset=self.preset, effort=self.effort, iterations=iterations
        )

    @classmethod
    def of_row(cls, row: dict[str, str]) -> Fit:
        """Return the fit of a row of the CSV file."""
        return cls(
            volume=row["volume"],
            block=int(row["block"]),
            ratio=float(row["ratio"]),
            preset=row["preset"],
            effort=int(row["effort"]),
            iterations=row["iterations"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a fit came to, from its decoded bytes.

    Attributes
    ----------
    shape, dtype : str
        Of the block.
    budget, payload_bytes : int
        The most bytes allowed, and those taken.
    form, levels, widths, parameters
        As ``tinc_codec.inspect`` gives them.
    psnr_db : float
        Against the range of the block's values.
    ssim_3d, ssim_2d : float
        Structural similarity with windows of 7³ voxels, and of 7² in slices (the mean).
    encode_s, decode_s : float
        Wall time; the fastest of three decodes.
    """

    shape: str
    dtype: str
    budget: int
    payload_bytes: int
    form: str
    levels: int
    widths: str
    parameters: int
    psnr_db: float
    ssim_3d: float
    ssim_2d: float
    encode_s: float
    decode_s: float


def measure(block: NDArray[Any], fit: Fit) -> Score:
    """Encode and decode a block.

    Raises
    ------
    tinc_codec.InvalidSetting
        If the budget is too small for any payload.
    """
    payload, encode_s = timed(lambda: encode_chunk(block, fit.settings))
    budget = math.floor(block.nbytes / fit.ratio)
    if len(payload) > budget:
        raise RuntimeError(f"{fit}: {len(payload)} bytes exceed the budget of {budget}")
    decoded, first = timed(lambda: decode(payload))
    again = [timed(lambda: decode(payload))[1] for _ in range(_DECODES - 1)]
    facts = inspect(payload)
    return Score(
        shape="x".join(map(str, block.shape)),
        dtype=str(block.dtype),
        budget=budget,
        payload_bytes=len(payload),
        form=facts.form,
        levels=facts.levels,
        widths=" ".join("-".join(map(str, level)) for level in facts.widths),
        parameters=facts.parameters,
        psnr_db=round(psnr(block, decoded), 4),
        ssim_3d=round(ssim(block, decoded), 6),
        ssim_2d=round(ssim(block, decoded, ndim=2), 6),
        encode_s=round(encode_s, 4),
        decode_s=round(min(first, *again), 5),
    )


def read_rows(path: Path) -> Table:
    """Return the rows of a CSV file by their fit; none where there is no file."""
    return {Fit.of_row(row): row for row in read(path)}


def run(fits: Sequence[Fit], path: Path) -> Table:
    """Measure the fits that a CSV file lacks, add them to it, and return the rows asked for."""
    rows = read_rows(path)
    missing = [fit for fit in fits if fit not in rows]
    if missing:
        warm_up()
    block_of: dict[tuple[str, int], NDArray[Any]] = {}
    environment = asdict(describe())
    for number, fit in enumerate(missing, start=1):
        where = (fit.volume, fit.block)
        if where not in block_of:
            block_of = {where: datasets.first_block(datasets.load(fit.volume), fit.block)}
        label = f"[{number}/{len(missing)}] {fit.volume} {fit.ratio:g}x {fit.preset}"
        try:
            score = measure(block_of[where], fit)
        except InvalidSetting as error:
            print(f"{label}: left out: {error}", file=sys.stderr)
            continue
        print(f"{label}: {score.psnr_db:.2f} dB in {score.encode_s:.1f} s", file=sys.stderr)
        row = asdict(fit) | asdict(score) | environment
        rows[fit] = {name: str(value) for name, value in row.items()}
        write(path, rows.values())
    return {fit: rows[fit] for fit in fits if fit in rows}


def warm_up() -> None:
    """Load what both recipes need, so that the first time is not that of a compiler."""
    block = phantom((12, 12, 12))
    for preset in PRESETS:
        payload = encode_chunk(block, Settings(ratio=4, preset=preset, iterations=1))
        decode(payload)


# The table.

_COLUMNS = (
    *("volume", "ratio", "bytes", "form", "PSNR, dB", "gain, dB"),
    *("SSIM, 3-D", "SSIM, slices", "encode, s", "decode, ms"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How much more the default has than the paper, for a block and ratio."""

    psnr_db: float
    ssim_3d: float
    ssim_2d: float
    seconds: float


def pairs(rows: Table) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Return the rows (default, paper) of each volume and ratio that has both."""
    by_preset: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for fit, row in rows.items():
        by_preset.setdefault((row["volume"], row["ratio"]), {})[fit.preset] = row
    return [(both["default"], both["paper"]) for both in by_preset.values() if len(both) == 2]


def gain(default: dict[str, str], paper: dict[str, str]) -> Gain:
    """Return the differences of a pair of rows."""
    names = ("psnr_db", "ssim_3d", "ssim_2d", "encode_s")
    psnr_db, ssim_3d, ssim_2d, seconds = (float(default[n]) - float(paper[n]) for n in names)
    return Gain(psnr_db=psnr_db, ssim_3d=ssim_3d, ssim_2d=ssim_2d, seconds=seconds)


def line(default: dict[str, str], paper: dict[str, str]) -> str:
    """Return a line of the table; where there are two values, default / paper."""

    def two(show: Callable[[dict[str, str]], str]) -> str:
        return f"{show(default)} / {show(paper)}"

    cells = (
        default["volume"],
        f"{float(default['ratio']):g}",
        two(lambda row: row["payload_bytes"]),
        two(lambda row: f"tree {row['levels']}" if row["form"] == "tree" else row["form"]),
        two(lambda row: f"{float(row['psnr_db']):.2f}"),
        f"{gain(default, paper).psnr_db:+.2f}",
        two(lambda row: f"{float(row['ssim_3d']):.3f}"),
        two(lambda row: f"{float(row['ssim_2d']):.3f}"),
        two(lambda row: f"{float(row['encode_s']):.1f}"),
        two(lambda row: f"{1000 * float(row['decode_s']):.0f}"),
    )
    return f"| {' | '.join(cells)} |"


def markdown(rows: Table) -> str:
    """Return the comparison as a Markdown table, and its summary."""
    both = pairs(rows)
    if not both:
        return "No volume and ratio has both presets."
    gains = [gain(*pair) for pair in both]

    def share(better: Callable[[Gain], bool]) -> str:
        return f"{sum(map(better, gains))} of {len(gains)}"

    environments = {
        f"{row['machine']}, device {row['device']}, threads {row['threads']}, "
        f"Python {row['python']}, numpy {row['numpy']}, numba {row['numba']}, "
        f"tinc_codec {row['tinc_codec']} at {row['commit'] or 'an unknown commit'}"
        for pair in both
        for row in pair
    }
    lines = [f"| {' | '.join(_COLUMNS)} |", "|" + "---|" * len(_COLUMNS)]
    lines += [*(line(*pair) for pair in both), ""]
    lines.append(
        "Where there are two values: default / paper. "
        f"Median gain {statistics.median(g.psnr_db for g in gains):+.2f} dB. The default is ahead "
        f"in PSNR in {share(lambda g: g.psnr_db > 0)}, in SSIM in "
        f"{share(lambda g: g.ssim_3d > 0)} (3-D) and {share(lambda g: g.ssim_2d > 0)} (slices), "
        f"and faster in {share(lambda g: g.seconds < 0)}."
    )
    lines += ["", bd_line(rows), ""]
    return "\n".join([*lines, *(f"Measured on {e}." for e in sorted(environments))])


def bd_line(rows: Table) -> str:
    """Return how much less rate the default takes than the paper at equal PSNR, by volume."""
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for fit, row in rows.items():
        of_volume = points.setdefault(fit.volume, {preset: [] for preset in PRESETS})
        of_volume[fit.preset].append((float(row["payload_bytes"]), float(row["psnr_db"])))
    found: dict[str, float | None] = {}
    for volume, both in points.items():
        default, paper = (
            Curve(
                rate=tuple(b for b, _ in sorted(both[p])), psnr=tuple(d for _, d in sorted(both[p]))
            )
            for p in PRESETS
        )
        found[volume] = bd_rate(paper, default)
    shown = [
        f"{volume} {'none' if rate is None else f'{rate:.0f} %'}" for volume, rate in found.items()
    ]
    known = [rate for rate in found.values() if rate is not None]
    mean = f"; mean {statistics.mean(known):.0f} %" if known else ""
    return (
        f"BD-rate of the default against the paper (none where no PSNR is reached by both): "
        f"{', '.join(shown)}{mean}."
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""

    def listed(text: str) -> list[str]:
        return [part for part in text.split(",") if part]

    parser = argparse.ArgumentParser(prog="python -m benchmarks.presets", description=__doc__)
    parser.add_argument("--volumes", type=listed, help="names, comma-separated; all by default")
    parser.add_argument("--ratios", type=listed, default="64,256,512", help="comma-separated")
    parser.add_argument(
        "--default-ratios",
        type=listed,
        default="",
        help="more ratios for the default alone: curves must overlap for a BD-rate",
    )
    parser.add_argument("--effort", type=int, default=5, help="1 to 9, of both presets")
    parser.add_argument("--block", type=int, default=64, help="largest side, voxels")
    parser.add_argument(
        "--paper-iterations", type=int, help="of the paper preset; by default as the effort says"
    )
    parser.add_argument("--out", type=Path, default=_OUT, help="CSV file (%(default)s)")
    return parser.parse_args(arguments)


def fits_of(options: argparse.Namespace) -> list[Fit]:
    """Return the fits that the options ask for; ValueError if a value is out of range."""
    iterations = {"default": "auto", "paper": "auto"}
    if options.paper_iterations is not None:
        iterations["paper"] = str(options.paper_iterations)
    volumes = datasets.select(options.volumes)
    wanted = [
        *product(volumes, map(float, options.ratios), PRESETS),
        *product(volumes, map(float, options.default_ratios), PRESETS[:1]),
    ]
    fits = [
        Fit(
            volume=volume,
            block=options.block,
            ratio=ratio,
            preset=preset,
            effort=options.effort,
            iterations=iterations[preset],
        )
        for volume, ratio, preset in wanted
    ]
    for fit in fits:
        _ = fit.settings  # refuses values out of range before any work
    return fits


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = parse(arguments)
    try:
        fits = fits_of(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown(run(fits, options.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
