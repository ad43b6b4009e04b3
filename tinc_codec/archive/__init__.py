"""Whole archives: open a source, convert, verify, describe. Needs the archive extra."""

from tinc_codec.archive.convert import convert
from tinc_codec.archive.demo import Demo, demonstrate
from tinc_codec.archive.info import ArchiveInfo, ChunkSummary, info
from tinc_codec.archive.scores import ChunkScore, Progress, Scores, score_chunk
from tinc_codec.archive.sources import Source, open_source
from tinc_codec.archive.verify import verify

__all__ = [
    "ArchiveInfo",
    "ChunkScore",
    "ChunkSummary",
    "Demo",
    "Progress",
    "Scores",
    "Source",
    "convert",
    "demonstrate",
    "info",
    "open_source",
    "score_chunk",
    "verify",
]
