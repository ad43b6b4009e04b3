"""What commands print: tables, and errors as one line."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table


def fail(message: str, status: int) -> int:
    """Say what went wrong, in one line on stderr; return the exit status."""
    print("tinc:", " ".join(message.split()), file=sys.stderr)
    return status


def console() -> Console:
    """Return what prints tables: nothing in them is markup."""
    return Console(markup=False, highlight=False)


def print_rows(rows: dict[str, str]) -> None:
    """Print names and what they are, a line each."""
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, value)
    console().print(table)
