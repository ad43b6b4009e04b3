"""The command ``tinc``: convert, info, estimate, verify, demo."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Annotated

import tinc_codec
from tinc_codec.errors import TincError

_REMEDY = "pip install 'tinc_codec[archive]'"
try:
    import typer

    from tinc_codec.cli import convert, demo, estimate, info, verify
    from tinc_codec.cli.printing import fail
except ModuleNotFoundError as _error:
    raise SystemExit(f"tinc: the command needs the archive extra ({_error}): {_REMEDY}") from None

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; errors become one line on stderr.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        Exit status: 0, 1 for errors, 2 for wrong usage, 130 for an interrupt.
    """
    try:
        status = app(args=arguments, prog_name="tinc", standalone_mode=False)
    except (TincError, OSError, MemoryError) as error:
        return fail(_message(error), 1)
    except ImportError as error:
        known = "pip install" in str(error)  # sources name the extra that they need
        return fail(str(error) if known else f"{error}; is an extra missing? {_REMEDY}", 1)
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except Exception as error:
        # What typer raises for wrong usage has moved between its releases; this is common to all.
        if not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "tinc"
        return fail(f"{error.format_message()} ({command} --help tells more)", 2)
    if status == 130:
        return fail("interrupted; run the same command to go on", 130)
    return status if isinstance(status, int) else 0


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        said = f"{error.filename}: {error.strerror}"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return f"{said}; make room and run the same command to go on" if full else said
    return str(error) or type(error).__name__


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"tinc_codec {tinc_codec.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print it, and exit."
        ),
    ] = False,
) -> None:
    """Compress volumetric images to zarr archives, by trees of networks (TINC) and wavelets."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


app.command()(convert.convert)
app.command()(info.info)
app.command()(estimate.estimate)
app.command()(verify.verify)
app.command()(demo.demo)
