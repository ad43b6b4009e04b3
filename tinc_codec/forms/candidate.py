"""Forms of a chunk: ways to say its values, scored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from tinc_codec.decoding.together import decode_resident
from tinc_codec.engines.gpu import scores
from tinc_codec.engines.gpu.memory import in_batches, out_of_memory
from tinc_codec.forms.scoring import ROUNDED_FROM_DB, decibels, precise_psnr, psnr_of, ssim
from tinc_codec.forms.volume import Sections, Volume
from tinc_codec.runtime import current_runtime
from tinc_codec.stream import container, normalize
from tinc_codec.stream.container import SectionKind
from tinc_codec.threads import each

# Forms whose PSNR differs by less, in dB, hardly differ in error.
_ALIKE_DB = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to say the values of a chunk.

    Attributes
    ----------
    sections : dict of SectionKind to bytes
        Without those that the volume has anyway.
    payload : bytes
        Whole.
    psnr_db : float
        Of the decoded payload over the fitted voxels, as they weigh, against high - low.
    price : float or None
        Squared steps that a bit of its wavelet section was worth; None: it has none.
    """

    sections: Sections
    payload: bytes
    psnr_db: float
    price: float | None


def form_of(volume: Volume, sections: Sections, price: float | None = None) -> Form:
    """Return the form that these sections are, scored."""
    payload = container.pack({**volume.exact, **sections})
    return Form(sections=sections, payload=payload, psnr_db=psnr_of(payload, volume), price=price)


def forms_of(volumes: Sequence[Volume], sections: Sequence[Sections]) -> list[Form]:
    """Return forms of trees alone, scored.

    With torch's engine on its device, unless that is full or there is more to a form than a tree.
    """
    pairs = list(zip(volumes, sections, strict=True))
    if not current_runtime().uses_torch:
        return each(lambda pair: form_of(*pair), pairs)
    payloads = [container.pack({**volume.exact, **said}) for volume, said in pairs]
    squares: list[float | None] = [None] * len(pairs)

    def run(some: Sequence[int]) -> None:
        found = decode_resident([payloads[k] for k in some], [None] * len(some))
        for k, bits in zip(some, found, strict=True):
            if bits is not None:
                volume = volumes[k]
                squares[k] = scores.mean_square(bits, volume.info, volume.unit, volume.weight)

    most = scores.most_scored(max((volume.unit.size for volume in volumes), default=1))
    with suppress(*out_of_memory()):
        in_batches(run, range(len(pairs)), most)
    return [
        Form(
            sections=said,
            payload=payload,
            psnr_db=psnr_of(payload, volume) if square is None else decibels(square),
            price=None,
        )
        for (volume, said), payload, square in zip(pairs, payloads, squares, strict=True)
    ]


def best(volume: Volume, forms: Sequence[Form]) -> Form:
    """Return the form that decodes best; of those that hardly differ in error the most similar."""
    least = max(form.psnr_db for form in forms) - _ALIKE_DB
    near = [form for form in forms if form.psnr_db >= least]
    return near[0] if len(near) == 1 else max(near, key=lambda form: ssim(form.payload, volume))


def recorded(volume: Volume, form: Form) -> bytes:
    """Return the payload of a form with its PSNR written into the header.

    For that all fitted voxels count the same, whatever they weigh in the fit.
    """
    psnr = form.psnr_db
    if volume.weight is not None and volume.importance() is not None:
        alike = (volume.weight != 0).astype(np.float32)
        psnr = psnr_of(form.payload, replace(volume, weight=alike))
    if psnr > ROUNDED_FROM_DB:
        psnr = precise_psnr(form.payload, volume)
    array = replace(volume.info, psnr_centidb=_centidb(psnr)).to_bytes()
    return container.pack({**volume.exact, SectionKind.ARRAY: array, **form.sections})


def _centidb(psnr: float) -> int:
    """Return the header's code of a PSNR in dB; inf is "exact"."""
    if psnr == math.inf:
        return normalize.PSNR_EXACT
    return min(max(round(100 * psnr), 1), normalize.PSNR_EXACT - 1)
