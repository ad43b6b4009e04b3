"""On what, and with what, numbers were measured: goes into every row of results."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import tinc_codec
from tinc_codec.runtime import current_runtime

_REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Machine and versions.

    Attributes
    ----------
    machine : str
        Processor, as the system names it, and its family.
    device : str
        Of :class:`tinc_codec.runtime.Runtime`.
    threads : int
        That one chunk may use.
    python, numpy, numba, tinc_codec : str
        Versions.
    commit : str
        Last commit that changed the package, with a "+" where there are changes since; "" outside
        of a repository.
    """

    machine: str
    device: str
    threads: int
    python: str
    numpy: str
    numba: str
    tinc_codec: str
    commit: str


def describe() -> Environment:
    """Return the environment of this process."""
    run = current_runtime()
    return Environment(
        machine=_processor(),
        device=run.device,
        threads=run.thread_count(),
        python=platform.python_version(),
        numpy=version("numpy"),
        numba=version("numba"),
        tinc_codec=tinc_codec.__version__,
        commit=_commit(),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    said: dict[str, str] = {}
    for line in lines:
        name, _, value = map(str.strip, line.partition(":"))
        said.setdefault(name, value)
    # Virtual machines call several generations by one name.
    family = f", family {said['cpu family']}" if "cpu family" in said else ""
    return said.get("model name", platform.machine()) + family


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_REPOSITORY), *arguments, "--", "tinc_codec"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = "+" if git("status", "--porcelain") else ""
        return git("log", "-1", "--format=%h") + changed
    except (OSError, subprocess.CalledProcessError):
        return ""
