"""Which cuts of a transform's finest levels are tried, and which are taken."""

from __future__ import annotations

import numpy as np
import pytest
from wavelets import whole, zeros

from tinc_codec.fit import cutting, rate_control, residual
from tinc_codec.phantom import phantom
from tinc_codec.stream.residual.axes import Shape
from tinc_codec.stream.residual.wavelets import prior, section, segments, tiles, wavelet
from tinc_codec.stream.residual.wavelets.tiles import NO_CUTS, Cuts
from tinc_codec.threads import each


def integers(shape: Shape, splits: tuple[int, ...]) -> wavelet.Bands:
    """Return the bands of a plan, all 0."""
    return zeros(wavelet.transform_plan(shape, splits))


def test_both_tiles_are_the_same_work() -> None:
    q = integers((64, 64, 64), (7, 7))
    q.levels[0][1][4:8, :, :] = 1
    q.levels[0][1][24:28, :8, :] = 1
    q.levels[0][6][24:28, 8:, :] = 1
    # Along axis 0 blocks 1 and 6 have half of the work each; it is all along the others.
    assert list(cutting.candidates(q)) == [Cuts(levels=1, at=(2, 0, 0))]


def test_levels_without_work_are_not_cut_alone() -> None:
    q = integers((64, 64, 64), (7, 7, 7))
    q.levels[1][2][:, :, :] = 1
    (cuts,) = cutting.candidates(q)
    assert cuts == Cuts(levels=2, at=(2, 0, 0))
    assert not list(cutting.candidates(integers((64, 64, 64), (7, 7, 7))))


def test_work_counts_where_it_lies_in_the_coarsest_level() -> None:
    q = integers((64, 128, 64), (7, 7, 7))
    for level in (0, 1):
        q.levels[level][1][:, : 16 >> level, :1] = 1
        q.levels[level][1][:, 40 >> level : 56 >> level, :1] = 1
    deepest = list(cutting.candidates(q))[-1]
    assert deepest.levels == 2
    first, second = deepest.tiles(q.plan)
    works = [
        sum(np.count_nonzero(q.levels[k][1][tuple(slice(*w) for w in tile[k])]) for k in (0, 1))
        for tile in (first, second)
    ]
    assert works[0] == works[1] > 0


def test_no_more_levels_are_cut_than_the_header_can_say() -> None:
    shape, splits = (1, 1, 8 << 10), (4,) * 10
    q = integers(shape, splits)
    q.levels[tiles.MOST_CUT_LEVELS][4][...] = 1
    assert not list(cutting.candidates(q))
    q.levels[tiles.MOST_CUT_LEVELS - 1][4][...] = 1
    (cuts,) = cutting.candidates(q)
    header = section.Header(plan=q.plan, step=1.0, offset=0.0, bias=0.0, cuts=cuts)
    data = section.to_bytes(header, [b""] * (1 + len(cuts.tiles(q.plan))))
    assert section.from_bytes(data, shape).header == header


def test_short_axes_are_not_cut() -> None:
    q = integers((12, 64, 14), (7, 7))
    q.levels[0][7][...] = 1
    assert {cuts.at for cuts in cutting.candidates(q)} == {(0, 4, 0)}


def coded(volume: residual.Residual, size: int) -> residual.Coding:
    settled = rate_control.settle_about(volume, size)
    assert settled is not None
    coding = rate_control.within_size(settled[0], size, settled[1])
    assert coding is not None
    return coding


@pytest.mark.parametrize("shape", [(64, 64, 64), (8, 128, 260)])
def test_a_large_section_has_two_tiles_and_decodes_the_same(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(3)
    values = phantom(shape).astype(np.float32) / np.float32(65535)
    volume = residual.Residual.of(values + rng.normal(0, 0.05, shape).astype(np.float32))
    coding = coded(volume, 20_000)
    assert 0.99 * 20_000 < len(coding.data) <= 20_000
    read = section.from_bytes(coding.data, shape)
    cuts = read.header.cuts
    assert volume.cuts == NO_CUTS  # it is as it was
    first, *tiles = map(len, read._segments)
    assert len(tiles) == 2
    assert first + max(tiles) < 0.75 * len(coding.data)
    with_tiles = read.values(whole(read.header.plan), each)
    plain = residual.Residual.of(volume.values, plan=read.header.plan).transform
    again = segments.encode(
        plain.bands, plain.worth, prior.learnt(), step=coding.step, price=residual.PRICE, cuts=cuts,
        most=1 << 20, run=map,
    )  # fmt: skip
    assert again is not None
    assert again.segments == tuple(segment.tobytes() for segment in read._segments)
    assert with_tiles.shape == shape


def test_a_small_section_is_not_cut() -> None:
    values = phantom((64, 64, 64)).astype(np.float32) / np.float32(65535)
    coding = coded(residual.Residual.of(values), 2_000)
    assert section.from_bytes(coding.data, values.shape).header.cuts == NO_CUTS


def test_cuts_by_rule_are_those_of_most_levels() -> None:
    shape = (64, 64, 64)
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.05, shape).astype(np.float32)
    volume = residual.Residual.of(phantom(shape).astype(np.float32) / np.float32(65535) + noise)
    cut, start = rate_control.foretold(volume, 20_000)
    coding = rate_control.within_size(cut, 20_000, start, enough=0.99)
    assert coding is not None
    assert 0.98 * 20_000 < len(coding.data) <= 20_000
    cuts = section.from_bytes(coding.data, shape).header.cuts
    uncut = cut.whole(coding.step)
    assert uncut is not None
    deepest = list(cutting.candidates(uncut.bands))[-1]
    assert cuts.levels == deepest.levels
    assert len(section.from_bytes(coding.data, shape)._segments) == 3


def test_a_section_that_will_be_small_is_not_cut_by_rule() -> None:
    values = phantom((64, 64, 64)).astype(np.float32) / np.float32(65535)
    volume = residual.Residual.of(values)
    large, _ = rate_control.foretold(volume, 20_000)
    assert large.cuts != NO_CUTS
    small, _ = rate_control.foretold(large, 2_000)
    assert small.cuts == NO_CUTS
