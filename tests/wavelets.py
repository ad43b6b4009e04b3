"""Wavelet sections made by hand: any plan, cuts and step, small volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinc_codec.stream.residual import section, wavelet
from tinc_codec.stream.residual.section import Bands, Header, Quantized
from tinc_codec.stream.residual.wavelet import Float32Array, Layout, Window


def in_turn(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return [function(item) for item in items]


def whole(plan: Layout) -> Window:
    a, b, c = plan.shapes[0]
    return (0, a), (0, b), (0, c)


def quantized(
    values: Float32Array, splits: Sequence[int], *, step: float, price: float = 0.08,
    cuts: int = 0, most: int = 1 << 20, run: Any = in_turn,
) -> tuple[Layout, Quantized]:  # fmt: skip
    """Return the plan of a volume of 1 to 4 axes, and its integers and segments."""
    shape = wavelet.three_axes(values.shape)
    plan = wavelet.layout(shape, splits)
    low, levels = wavelet.forward(values.reshape(shape), plan, run)
    real, worth = Bands(low=low, levels=levels), section.ones(plan)
    coded = section.encode(plan, real, worth, step=step, price=price, cuts=cuts, most=most, run=run)
    assert coded is not None
    return plan, coded


def section_of(
    values: Float32Array, splits: Sequence[int], *, step: float, offset: float = 0.5,
    bias: float = 0.125, cuts: int = 0, price: float = 0.08, run: Any = in_turn,
) -> bytes:  # fmt: skip
    """Return the data of a section."""
    offset = round(offset * section.OFFSET_UNIT) / section.OFFSET_UNIT
    plan, coded = quantized(
        values - np.float32(offset), splits, step=step, price=price, cuts=cuts, run=run
    )
    step = float(np.float32(step))
    header = Header(plan=plan, step=step, offset=offset, bias=bias, cuts=cuts)
    return section.to_bytes(header, coded.segments)
