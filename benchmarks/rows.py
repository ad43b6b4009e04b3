"""Rows of measurements in a CSV file, so that an interrupted run goes on where it was."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """Return the rows of a CSV file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Iterable[Row]) -> None:
    """Replace a CSV file, at once, so that an interrupt leaves a whole one."""
    table = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with new.open("w", newline="") as file:
        columns = dict.fromkeys(name for row in table for name in row)
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    os.replace(new, path)


class Store:
    """A CSV file of measurements, each of a case.

    Parameters
    ----------
    path : Path
        The file.
    constants : mapping of str to object
        Columns that every row gets, after those measured.
    known : Path, optional
        Another file, whose cases are not measured again either. It is not changed.
    """

    def __init__(self, path: Path, constants: Mapping[str, Any], known: Path | None = None) -> None:
        self._path = path
        self._constants = {name: str(value) for name, value in constants.items()}
        self._rows = read(path)
        self._known = read(known) if known else []

    def rows(self, case: Any, measure: Callable[[], list[dict[str, Any]]]) -> list[Row]:
        """Return the rows of a case, from the file or else measured and added to it.

        Parameters
        ----------
        case : dataclass
            Its fields are columns, the first ones, and tell cases apart.
        measure : callable
            Gives the other columns of each row of the case, at least one row.
        """
        key = {name: str(value) for name, value in asdict(case).items()}
        found = [row for row in self._known + self._rows if key.items() <= row.items()]
        if not found:
            started = time.perf_counter()
            found = [
                key | {name: str(value) for name, value in row.items()} | self._constants
                for row in measure()
            ]
            self._rows += found
            write(self._path, self._rows)
            seconds = time.perf_counter() - started
            print(f"{self._path.stem}: {case} in {seconds:.1f} s", file=sys.stderr, flush=True)
        return found

    def row(self, case: Any, measure: Callable[[], dict[str, Any]]) -> Row:
        """Return the one row of a case; see :meth:`rows`."""
        return self.rows(case, lambda: [measure()])[0]


def markdown(columns: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = list(columns)
    cells = [head, ["---"] * len(head), *map(list, lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
