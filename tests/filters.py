"""Post-filters that no encoder fits, for tests: every field apart from its neighbours."""

from __future__ import annotations

from tinc_codec.stream import container
from tinc_codec.stream.container import SectionKind
from tinc_codec.stream.residual.filters import postfilter
from tinc_codec.stream.residual.filters.filtering import REACH
from tinc_codec.stream.residual.filters.postfilter import Curve, PostFilter, Term


def some_filter(axes: int, *, by_activity: bool = True, by_value: bool = True) -> PostFilter:
    """Return a filter of a volume of some axes, its weights of both signs."""
    taps = REACH * min(axes, 3)

    def curve(exponent: int, count: int) -> Curve:
        return Curve(exponent=exponent, integers=tuple((37 * k) % 50 - 25 for k in range(count)))

    def term(exponent: int, count: int, first: int) -> Term:
        weights = tuple((29 * k + first) % 41 - 20 for k in range(taps))
        return Term(strength=curve(exponent, count), weights=weights)

    return PostFilter(
        knots=(0, 3, 40, 41, 150, 255),
        tone=curve(10, 6),
        finest=5 if by_activity else 0,
        by_activity=term(6, 5, 1) if by_activity else None,
        by_value=term(7, 6, 8) if by_value else None,
    )


def filtered(payload: bytes, found: PostFilter) -> bytes:
    """Return a payload with a filter."""
    data = postfilter.to_bytes(found)
    return container.pack(container.unpack(payload) | {SectionKind.FILTER: data})
