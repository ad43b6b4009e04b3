"""The statistics that the coder of coefficients starts from."""

from __future__ import annotations

import numpy as np
from wavelets import in_turn

from tinc_codec.phantom import phantom
from tinc_codec.stream.residual.axes import three_axes
from tinc_codec.stream.residual.coder import mixing
from tinc_codec.stream.residual.wavelets import contexts, prior, segments, wavelet
from tinc_codec.stream.residual.wavelets.tiles import NO_CUTS


def test_the_file_holds_what_the_coder_takes() -> None:
    words, weights = prior.learnt()
    assert words.dtype == np.uint32
    assert words.shape == (contexts.SLOTS,)
    assert weights.dtype == np.int32
    assert weights.shape == (contexts.ROWS, mixing.INPUTS)
    probabilities = words & mixing.PROBABILITY
    assert probabilities.min() >= 16
    assert probabilities.max() <= 65519
    assert (words >> mixing.COUNT_SHIFT).max() <= 8
    assert prior.to_bytes((words, weights)) == prior.FILE.read_bytes()


def test_what_a_chunk_learns_is_not_kept() -> None:
    for start in (prior.learnt, prior.even):
        words, weights = start()
        words[:], weights[:] = 7, 7
        again = start()
        assert (again[0] != 7).all()
        assert (again[1] != 7).all()


def test_a_small_chunk_takes_fewer_bytes_than_from_even_statistics() -> None:
    values = phantom((48, 48, 48), seed=5).astype(np.float32) / 4000
    plan = wavelet.transform_plan(three_axes(values.shape), (7, 7, 7, 7))
    bands = wavelet.forward(values - values.mean(), plan, in_turn)
    sizes = []
    for start in (prior.learnt(), prior.even()):
        coded = segments.encode(
            bands, segments.ones(plan), start, step=0.05, price=0.0, cuts=NO_CUTS, most=9999,
            run=in_turn,
        )  # fmt: skip
        assert coded is not None
        sizes.append(coded.nbytes)
    assert 300 < sizes[1] < 3000
    assert sizes[0] < sizes[1] - 20
