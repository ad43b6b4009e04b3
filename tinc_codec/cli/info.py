"""``tinc info``."""

from __future__ import annotations

from typing import Annotated

import typer

from tinc_codec import archive
from tinc_codec.cli.display import bytes_text, sizes
from tinc_codec.cli.printing import print_rows


def info(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A zarr folder, or its URL.")],
) -> None:
    """Describe an archive: the array, the codec's settings, and what the payloads say."""
    found = archive.info(path)
    rows = {
        "array": f"{found.name} ({found.kind})",
        "shape": f"{sizes(found.shape)} {found.dtype} ({', '.join(found.dimension_names)})",
        "chunks": sizes(found.chunks)
        + (f" in shards {sizes(found.shards)}" if found.shards else ""),
        "size": f"{bytes_text(found.raw_bytes)} raw, {bytes_text(found.stored_bytes)} stored",
        "ratio": f"{found.ratio:.2f}",
    }
    if found.settings is None:
        rows["codec"] = "not TINC"
    else:
        rows["settings"] = ", ".join(f"{name}={value}" for name, value in found.settings.items())
    if found.summary:
        rows["forms"] = ", ".join(f"{n} {form}" for form, n in found.summary.forms.items())
        if "absent" in found.summary.forms:
            rows["absent"] = "only fill value, or lost: tinc verify tells"
        rows["ratio of chunks"] = _spread(found.summary.ratio, "{:.2f}")
        psnr = _spread(found.summary.psnr_db, "{:.2f} dB", "not recorded")
        rows["PSNR of chunks"] = f"{psnr} (each against its own range; exact voxels left out)"
    if found.provenance:
        origin = found.provenance.get("source", {})
        rows["made from"] = f"{origin.get('name')} ({origin.get('kind')})"
        rows["made"] = (
            f"{found.provenance.get('created')}, tinc_codec {found.provenance.get('version')}"
        )
        if found.provenance.get("psnr_db") is not None:
            psnr = archive.db(found.provenance["psnr_db"])
            rows["PSNR"] = f"{psnr} over the whole array, as it was made"
    print_rows(rows)


def _spread(values: tuple[float, ...], form: str, nothing: str = "none stored") -> str:
    if not values:
        return nothing
    low, middle, high = (form.format(value) for value in values)
    return f"{low} to {high}, median {middle}"
