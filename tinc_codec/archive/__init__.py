"""Whole archives: open a source, convert, verify, describe. Needs the archive extra."""

from tinc_codec.archive.cluster import cluster_client, default_workers
from tinc_codec.archive.convert import convert
from tinc_codec.archive.demo import Demo, demonstrate
from tinc_codec.archive.estimate import Estimate, RatioEstimate, estimate
from tinc_codec.archive.estimate_plot import check_plot_can_be_written, plot_estimate
from tinc_codec.archive.info import ArchiveInfo, ChunkSummary, info
from tinc_codec.archive.plan import Plan, plan
from tinc_codec.archive.reading import open_archive
from tinc_codec.archive.records import ShardRecord
from tinc_codec.archive.report import check_figure_can_be_written, write_report
from tinc_codec.archive.run import (
    Outcome,
    ShardsFailed,
    check_partition,
    check_target,
    is_complete,
    run,
)
from tinc_codec.archive.scores import Bounds, ChunkScore, Progress, Scores, score_chunk
from tinc_codec.archive.sources import Source, open_source
from tinc_codec.archive.table import check_table_can_be_written, write_table
from tinc_codec.archive.texts import db, region_text, summary_rows
from tinc_codec.archive.verify import verify

__all__ = [
    "ArchiveInfo",
    "Bounds",
    "ChunkScore",
    "ChunkSummary",
    "Demo",
    "Estimate",
    "Outcome",
    "Plan",
    "Progress",
    "RatioEstimate",
    "Scores",
    "ShardRecord",
    "ShardsFailed",
    "Source",
    "check_figure_can_be_written",
    "check_plot_can_be_written",
    "check_table_can_be_written",
    "check_partition",
    "check_target",
    "cluster_client",
    "convert",
    "db",
    "default_workers",
    "demonstrate",
    "estimate",
    "info",
    "is_complete",
    "open_archive",
    "open_source",
    "plan",
    "plot_estimate",
    "region_text",
    "run",
    "score_chunk",
    "summary_rows",
    "verify",
    "write_report",
    "write_table",
]
