"""Seconds of the first encode or decode in a fresh process, with compiled kernels on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.rows import Row, markdown
from benchmarks.speed.common import Options
from tinc_codec import Settings
from tinc_codec.encode import encode_chunk
from tinc_codec.phantom import phantom

_SIDE = 16
_SETTINGS = {"ratio": 8, "iterations": 1}
_SCRIPT = """
import json, sys, time
import numpy
given = sys.stdin.buffer.read()
shape, settings = {shape}, {settings}
start = time.perf_counter()
import tinc_codec
times = [time.perf_counter() - start]
for _ in range(2):
    start = time.perf_counter()
    {call}
    times.append(time.perf_counter() - start)
print(json.dumps(times))
"""
_CALLS = {
    "encode": "tinc_codec.encode(numpy.frombuffer(given, numpy.uint16).reshape(shape), **settings)",
    "decode": "tinc_codec.decode(given)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a process does first: "encode" (one iteration) or "decode"."""

    call: str


def measure(case: Case) -> dict[str, Any]:
    """Run two processes, the first of which leaves its kernels on disk; return the second's."""
    block = phantom((_SIDE,) * 3)
    given = encode_chunk(block, Settings(**_SETTINGS)) if case.call == "decode" else block.tobytes()
    script = _SCRIPT.format(call=_CALLS[case.call], shape=block.shape, settings=_SETTINGS)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script], input=given, capture_output=True, check=True
        )
    imported, first, second = json.loads(done.stdout)
    return {
        "import_s": round(imported, 3),
        "first_s": round(first, 3),
        "second_s": round(second, 4),
    }


def line(row: Row) -> list[str]:
    """Return the cells of a row."""
    return [row["call"], row["import_s"], row["first_s"], row["second_s"]]


def run(options: Options) -> str:
    """Measure what is missing; return the table."""
    store = options.store("first_use")
    rows = [store.row(case, lambda c=case: measure(c)) for case in map(_case, _CALLS)]
    return markdown(("first call", "import, s", "first, s", "second, s"), map(line, rows))


def _case(call: str) -> Case:
    return Case(call=call)
