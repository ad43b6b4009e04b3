"""The package itself: its default, wavelet coefficients or a tree alone, and the paper's recipe."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from benchmarks.baselines.protocol import Array, Coded, Target, timed
from tinc_codec import InvalidSetting, Settings, decode, inspect
from tinc_codec.encode import encode_chunk


@dataclass(frozen=True, slots=True)
class _Own:
    """The volume as one chunk, at the effort asked for."""

    name: str
    preset: str
    form: str
    library: str = "tinc_codec"
    fits: bool = True

    def encode(self, volume: Array, target: Target) -> Coded | None:
        settings = Settings(
            ratio=target.ratio, preset=self.preset, form=self.form, effort=target.effort
        )
        try:
            payload, encode_s = timed(lambda: encode_chunk(volume, settings))
        except InvalidSetting:
            return None  # the budget is below the smallest payload
        again = partial(decode, payload)
        decoded, decode_s = timed(again)
        facts = inspect(payload)
        form = f"{facts.form}, {facts.levels} levels" if facts.levels else facts.form
        return Coded(
            payload_bytes=len(payload),
            decoded=decoded,
            encode_s=encode_s,
            decode_s=decode_s,
            knob=f"ratio {target.ratio:g}",
            decode=again,
            note=form,
        )


BASELINES = (
    _Own("TINC", "default", "auto"),
    _Own("TINC wavelet", "default", "wavelet"),
    _Own("TINC tree", "default", "tree"),
    _Own("TINC paper", "paper", "auto"),
)
