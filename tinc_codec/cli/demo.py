"""``tinc demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinc_codec import archive
from tinc_codec.cli.display import bytes_text, chunk_progress, sizes
from tinc_codec.cli.options import Effort, Ratio
from tinc_codec.cli.printing import print_rows
from tinc_codec.settings import Settings


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("tinc-demo"),
    size: Annotated[int, typer.Option(min=16, help="Edge of the volume in voxels.")] = 128,
    ratio: Ratio = 128,
    effort: Effort = 3,  # keeps the demo well under three minutes on two cores
) -> None:
    """Generate a volume like light-sheet tissue, compress it, read it back and compare.

    Results that are there from an earlier run are replaced.
    """
    settings = Settings(ratio=ratio, effort=effort)
    with chunk_progress("encoding") as progress:
        found = archive.demonstrate(out, size, settings, progress=progress)
    scores = found.scores
    print_rows(
        {
            "volume": f"{found.volume}, {sizes((size,) * 3)}, {bytes_text(scores.raw_bytes)}, "
            f"generated in {found.generating:.1f} s",
            "archive": f"{found.archive}, {bytes_text(scores.stored_bytes)} in "
            f"{len(scores.chunks)} chunks",
            "ratio": f"{scores.ratio:.2f}",
            "PSNR": archive.db(scores.psnr_db),
            "SSIM": f"{found.ssim:.4f}",
            "maximum error": f"{scores.errors.max_error:g}",
            "encoding": f"{scores.seconds:.1f} s; a chunk once more, its kernels compiled, "
            f"{found.encoding_again:.1f} s",
            "decoding": f"{found.decoding:.2f} s through xarray; one slice in "
            f"{found.slicing:.2f} s",
            "comparison": f"{found.comparison}, the original on the left",
        }
    )
