"""Wavelet sections made by hand: any plan, cuts and step, small volumes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tinc_codec.array_types import Float32Array
from tinc_codec.stream.residual.axes import Window, three_axes
from tinc_codec.stream.residual.wavelets import (
    contexts,
    prior,
    section,
    segments,
    tiles,
    wavelet,
)
from tinc_codec.stream.residual.wavelets.section import Header
from tinc_codec.stream.residual.wavelets.segments import Quantized
from tinc_codec.stream.residual.wavelets.tiles import NO_CUTS, Cuts
from tinc_codec.stream.residual.wavelets.wavelet import Bands, TransformPlan


def in_turn(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return [function(item) for item in items]


def bands_of(plan: TransformPlan, low: Any, levels: Sequence[dict[int, Any]], dtype: Any) -> Bands:
    """Return bands that are given one by one."""
    parts = [low, *(band for level in reversed(levels) for band in level.values())]
    return Bands(plan=plan, room=np.concatenate([np.ravel(p) for p in parts]).astype(dtype))


def zeros(plan: TransformPlan) -> Bands:
    return Bands(plan=plan, room=np.zeros(math.prod(plan.shapes[0]), np.int32))


def whole(plan: TransformPlan) -> Window:
    return wavelet.whole(plan.shapes[0])


def cuts_of(cuts: int | Cuts, plan: TransformPlan) -> Cuts:
    """Return cuts; bits of axes stand for those of the finest level in the middle."""
    if isinstance(cuts, Cuts):
        return cuts
    return tiles.in_the_middle(cuts, 1, plan) if cuts else NO_CUTS


@st.composite
def plans(draw: st.DrawFn, longest: int) -> TransformPlan:
    """Draw a plan of up to five levels, closed or not."""
    a, b, c = (draw(st.one_of(st.just(1), st.integers(1, longest))) for _ in range(3))
    plan = wavelet.transform_plan((a, b, c), [])
    for _ in range(draw(st.integers(0, 5))):
        longer = [k for k, n in enumerate(plan.shapes[-1]) if n > 1]
        if longer:
            split = sum(1 << k for k in draw(st.sets(st.sampled_from(longer), min_size=1)))
            plan = wavelet.transform_plan((a, b, c), [*plan.splits, split])
    return plan.closed_where_possible() if draw(st.booleans()) else plan


@st.composite
def cuts_of_plan(draw: st.DrawFn, plan: TransformPlan) -> Cuts:
    """Draw cuts that fit a plan: none, or of any levels, in the middle or elsewhere."""
    levels = draw(st.integers(0, min(len(plan.splits), tiles.MOST_CUT_LEVELS)))
    lengths = plan.shapes[levels]
    at = [
        draw(st.integers(1, -(-n // contexts.BLOCK) - 1)) if n >= 8 and draw(st.booleans()) else 0
        for n in lengths
    ]
    if not levels or not any(at):
        return NO_CUTS
    cuts = Cuts(levels=levels, at=(at[0], at[1], at[2]))
    return tiles.in_the_middle(cuts.axes, levels, plan) if draw(st.booleans()) else cuts


def quantized(
    values: Float32Array, splits: Sequence[int], *, step: float, price: float = 0.08,
    cuts: int | Cuts = 0, most: int = 1 << 20, run: Any = in_turn, closed: bool = False,
) -> tuple[TransformPlan, Quantized]:  # fmt: skip
    """Return the plan of a volume of 1 to 4 axes, and its integers and segments."""
    shape = three_axes(values.shape)
    plan = wavelet.transform_plan(shape, splits, closed=closed)
    real, worth = wavelet.forward(values.reshape(shape), plan, run), segments.ones(plan)
    coded = segments.encode(
        real,
        worth,
        prior.learnt(),
        step=step,
        price=price,
        cuts=cuts_of(cuts, plan),
        most=most,
        run=run,
    )
    assert coded is not None
    return plan, coded


def section_of(
    values: Float32Array, splits: Sequence[int], *, step: float, offset: float = 0.5,
    bias: float = 0.125, cuts: int | Cuts = 0, price: float = 0.08, run: Any = in_turn,
    closed: bool = False,
) -> bytes:  # fmt: skip
    """Return the data of a section."""
    step = section.stored_step(step)
    offset = round(offset * section.OFFSET_UNIT) / section.OFFSET_UNIT
    plan, coded = quantized(
        values - np.float32(offset), splits, step=step, price=price, cuts=cuts, run=run,
        closed=closed,
    )  # fmt: skip
    header = Header(plan=plan, step=step, offset=offset, bias=bias, cuts=cuts_of(cuts, plan))
    return section.to_bytes(header, coded.segments)
