"""``tinc convert``."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer

from tinc_codec import archive
from tinc_codec.cli.display import bytes_text, display, plan_rows
from tinc_codec.cli.options import (
    ENCODER,
    LAYOUT,
    TARGET,
    WORK,
    Archive,
    Chunks,
    Device,
    Effort,
    Mask,
    Preserve,
    Roi,
    Source,
    Threads,
    auto_or_number,
    edges_of,
    int_or_float,
    number,
    numbers,
    roi_of,
)
from tinc_codec.cli.printing import print_rows
from tinc_codec.errors import InvalidSetting
from tinc_codec.runtime import runtime
from tinc_codec.settings import Settings
from tinc_codec.tree.geometry import MAX_LEVELS

_Ratio = Annotated[
    float | None,
    typer.Option(
        help="Raw bytes over compressed bytes, of each chunk. Give one of --ratio, --psnr, "
        "--rmse, --ssim and --max-error.",
        rich_help_panel=TARGET,
    ),
]
_Psnr = Annotated[
    float | None,
    typer.Option(
        metavar="DB",
        help="At least this in each chunk, against its own range.",
        rich_help_panel=TARGET,
    ),
]
_Rmse = Annotated[
    float | None,
    typer.Option(
        help="No chunk has a larger root mean square error, in the data's unit: bytes go where "
        "there is something to see. tinc estimate --rmse tells the ratio.",
        rich_help_panel=TARGET,
    ),
]
_Ssim = Annotated[
    float | None,
    typer.Option(
        help="At least this structural similarity in each chunk, 0.01 to 0.9999.",
        rich_help_panel=TARGET,
    ),
]
_MaxError = Annotated[
    float | None,
    typer.Option(
        help="No voxel is off by more, in the data's unit; 0 is without loss.",
        rich_help_panel=TARGET,
    ),
]
_Form = Annotated[
    str,
    typer.Option(help="auto (the best on each chunk), tree or wavelet.", rich_help_panel=ENCODER),
]
_Shards = Annotated[
    str | None,
    typer.Option(
        metavar="Z,Y,X",
        help="Shard edges of the last axes, multiples of the chunks'. By default at most 256³ "
        "voxels, and four chunks along an axis. A shard is one task of one worker.",
        rich_help_panel=LAYOUT,
    ),
]
_ZarrFormat = Annotated[
    int,
    typer.Option(
        min=2,
        max=3,
        help="2, or 3, of which parts of chunks decode on their own.",
        rich_help_panel=LAYOUT,
    ),
]
_Levels = Annotated[
    int,
    typer.Option(
        min=1,
        help="Levels of the image pyramid, the full resolution counted; coarser ones are means "
        "of blocks of SRC.",
        rich_help_panel=LAYOUT,
    ),
]
_Labels = Annotated[
    bool,
    typer.Option(
        "--labels",
        help="SRC is a segmentation: stored losslessly; no --ratio needed.",
        rich_help_panel=TARGET,
    ),
]
_MinPsnr = Annotated[
    float | None,
    typer.Option(
        metavar="DB",
        help="Store chunks that decode with less, against their own range, without loss: of "
        "integers.",
        rich_help_panel=TARGET,
    ),
]
_Importance = Annotated[
    float | None,
    typer.Option(
        metavar="VALUE",
        help="Spend the bytes of --ratio on voxels that reach this, and those beside them.",
        rich_help_panel=TARGET,
    ),
]
_TreeLevels = Annotated[
    str, typer.Option(metavar="N|auto", help="Levels of trees.", rich_help_panel=ENCODER)
]
_LevelRatio = Annotated[
    str,
    typer.Option(
        metavar="X|auto", help="Parameters of a node over its parent's.", rich_help_panel=ENCODER
    ),
]
_Allocation = Annotated[
    str, typer.Option(help="auto, even, signal or variance.", rich_help_panel=ENCODER)
]
_Seed = Annotated[int, typer.Option(help="Seed of every random choice.", rich_help_panel=ENCODER)]
_Preset = Annotated[str, typer.Option(help="default or paper.", rich_help_panel=ENCODER)]
_Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace the archive, and what other settings left.",
        rich_help_panel=LAYOUT,
    ),
]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan, and end.", rich_help_panel=WORK)
]
_Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processes, or jobs; by default one for each processor.", rich_help_panel=WORK
    ),
]
_Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="tcp://HOST:PORT", help="Use dask's scheduler there.", rich_help_panel=WORK
    ),
]
_Cluster = Annotated[
    str,
    typer.Option(
        metavar="KIND", help="local, cuda (a worker for each GPU) or slurm.", rich_help_panel=WORK
    ),
]
_Partition = Annotated[
    str,
    typer.Option(
        metavar="I/N", help="Do the I-th of N parts, as in an array of jobs.", rich_help_panel=WORK
    ),
]
_LogJson = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Add a JSON line for each shard.", rich_help_panel=WORK),
]


def convert(
    src: Source,
    dst: Archive,
    ratio: _Ratio = None,
    psnr: _Psnr = None,
    rmse: _Rmse = None,
    ssim: _Ssim = None,
    max_error: _MaxError = None,
    form: _Form = "auto",
    chunks: Chunks = None,
    shards: _Shards = None,
    zarr_format: _ZarrFormat = 3,
    levels: _Levels = 1,
    labels: _Labels = False,
    min_psnr: _MinPsnr = None,
    roi: Roi = None,
    mask: Mask = None,
    importance: _Importance = None,
    tree_levels: _TreeLevels = "auto",
    level_ratio: _LevelRatio = "auto",
    allocation: _Allocation = "auto",
    effort: Effort = 5,
    seed: _Seed = 0,
    preset: _Preset = "default",
    preserve: Preserve = "",
    overwrite: _Overwrite = False,
    dry_run: _DryRun = False,
    workers: _Workers = None,
    scheduler: _Scheduler = None,
    cluster: _Cluster = "local",
    partition: _Partition = "1/1",
    log_json: _LogJson = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Write SRC as a zarr archive DST. Each chunk is decoded again and scored.

    An interrupted conversion goes on when the same command is run again; one that is complete is
    left as it is.

    For example: tinc convert brain.tif brain.zarr --ratio 128 --effort 2
    """
    if all(target is None for target in (ratio, psnr, rmse, ssim, max_error)):
        if not labels:
            raise typer.BadParameter("give one of --ratio, --psnr, --rmse, --ssim and --max-error")
        max_error = 0
    part = _partition(partition)
    settings = Settings(
        ratio=ratio,
        psnr=psnr,
        rmse=rmse,
        ssim=ssim,
        max_error=max_error,
        importance=importance,
        form=form,
        levels=_tree_levels(tree_levels),
        level_ratio=auto_or_number("--level-ratio", level_ratio, float),
        allocation=allocation,
        effort=effort,
        seed=seed,
        preset=preset,
        preserve=numbers("--preserve", preserve, int_or_float),
    )
    with runtime(device=device or ("cuda" if cluster == "cuda" else None), threads=threads):
        plan = archive.plan(
            src,
            dst,
            settings,
            chunks=edges_of("--chunks", chunks),
            shards=edges_of("--shards", shards),
            zarr_format=2 if zarr_format == 2 else 3,
            levels=levels,
            labels=labels,
            min_psnr=min_psnr,
            roi=roi_of(roi),
            mask=mask,
        )
        if workers is None:
            workers = archive.default_workers(len(plan), torch=plan.torch)
        if dry_run:
            print_rows(plan_rows(plan, workers))
        else:
            client = archive.cluster_client(workers, scheduler=scheduler, cluster=cluster)
            _carry_out(plan, client, overwrite, part, log_json)


def _carry_out(
    plan: archive.Plan,
    cluster_client: AbstractContextManager[Any],
    overwrite: bool,
    partition: tuple[int, int],
    log_json: Path | None,
) -> None:
    """Convert, or go on converting, or say that nothing is left to do."""
    if archive.is_complete(plan, overwrite):
        archive.run(plan, overwrite=overwrite)  # clears up what a killed run has left
        print(f"{plan.dst}: complete already, of this source with these settings")
        return
    archive.check_target(plan, overwrite)
    for said in plan.left_out:
        print(f"tinc: {said}", file=sys.stderr)
    with (
        cluster_client as client,
        display(plan, log_json, client.dashboard_link if client else None) as shown,
    ):
        outcome = archive.run(
            plan, client, overwrite=overwrite, partition=partition, on_shard=shown.add
        )
    _print_outcome(plan, outcome)


def _tree_levels(text: str) -> Any:
    levels = auto_or_number("--tree-levels", text, int)
    if levels != "auto" and not 1 <= levels <= MAX_LEVELS:
        raise InvalidSetting(f"--tree-levels {text} must be auto or 1 to {MAX_LEVELS}")
    return levels


def _partition(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not slash:
        raise InvalidSetting(f"--partition {text}: give I/N, such as 2/8")
    found = number("--partition", part, int) - 1, number("--partition", parts, int)
    archive.check_partition(found, "--partition")
    return found


def _print_outcome(plan: archive.Plan, outcome: archive.Outcome) -> None:
    if not outcome.finished and not outcome.shards:
        print(f"{plan.dst}: nothing for this part, there are {len(plan)} shards; others write them")
        return
    if outcome.why_lossless:
        print(
            f"tinc: {outcome.lossless} of {outcome.chunks} chunks stored losslessly, which takes "
            f"more bytes than was asked for; of one, since {outcome.why_lossless}",
            file=sys.stderr,
        )
    what = f"{outcome.chunks} chunk{'s' * (outcome.chunks > 1)}"
    if outcome.lossless:
        what += f" ({outcome.lossless} losslessly, --log-json lists them)"
    if not outcome.finished:
        what += f" of {plan.chunks} so far; the other parts finish the archive"
    print(
        f"{plan.dst}: {what}, {bytes_text(outcome.raw_bytes)} to "
        f"{bytes_text(outcome.stored_bytes)}, ratio {outcome.ratio:.2f}, "
        f"PSNR {archive.db(outcome.errors.psnr())}, "
        f"maximum error {outcome.errors.max_error:g}, {outcome.seconds:.1f} s"
    )
