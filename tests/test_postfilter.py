"""The FILTER section: its bytes, its arithmetic, parts of it, and the encoder's choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import goldens
import numpy as np
import pytest
from filters import filtered, some_filter
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from second_reader_filter import evaluate_filter
from volumes import volume

from tinc_codec import (
    CorruptPayload,
    TruncatedPayload,
    decode,
    encode,
    inspect,
    runtime,
)
from tinc_codec.decoding.filtered import filtered_values
from tinc_codec.decoding.opened import open_chunk
from tinc_codec.fit import postfilter as fit
from tinc_codec.fit.normal_equations import normal_equations
from tinc_codec.forms import candidate, choice, portability, wavelets
from tinc_codec.phantom import phantom
from tinc_codec.stream import container
from tinc_codec.stream.container import SectionKind
from tinc_codec.stream.residual.filters import postfilter
from tinc_codec.stream.residual.filters.postfilter import Curve, PostFilter, Term
from tinc_codec.stream.wire import BitWriter

Array = NDArray[Any]
SHAPES = [(40,), (9, 14), (7, 8, 9), (3, 5, 6, 7), (2, 2, 2)]


def noise(shape: tuple[int, ...]) -> Array:
    """Values that go beyond 0 and 1."""
    return np.random.default_rng(1).uniform(-0.2, 1.2, shape).astype(np.float32)


def part(
    found: PostFilter, values: Array, axes: Sequence[Array], *, pointwise: bool = False
) -> Array:
    def evaluate(index: Sequence[Array]) -> Array:
        picked: Array = values[tuple(index)] if pointwise else values[np.ix_(*index)]
        return picked

    return filtered_values(found, values.shape, axes, evaluate, pointwise=pointwise)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("by_activity", [True, False])
@pytest.mark.parametrize("by_value", [True, False])
def test_is_what_the_format_says(shape: tuple[int, ...], by_activity: bool, by_value: bool) -> None:
    found = some_filter(len(shape), by_activity=by_activity, by_value=by_value)
    data = postfilter.to_bytes(found)
    assert postfilter.from_bytes(data, len(shape)) == found
    values = noise(shape)
    whole = part(found, values, [np.arange(n) for n in shape])
    np.testing.assert_array_equal(whole, evaluate_filter(data, values))
    assert np.abs(whole - values).max() > 0.01


@settings(max_examples=60)
@given(st.data())
def test_parts_are_those_of_the_whole(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from(SHAPES))
    found, values = some_filter(len(shape)), noise(shape)
    whole = part(found, values, [np.arange(n) for n in shape])
    some = [st.lists(st.integers(0, n - 1), min_size=1, max_size=6) for n in shape]
    axes = [np.array(data.draw(index)) for index in some]
    np.testing.assert_array_equal(part(found, values, axes), whole[np.ix_(*axes)])
    count = min(map(len, axes))
    points = [index[:count] for index in axes]
    np.testing.assert_array_equal(part(found, values, points, pointwise=True), whole[tuple(points)])


# Right behind 223 the rounded quotient of what is passed since 64 is below 1.
KNOTS = {
    "looked up": (0, 1, 2, 5, 90, 255),
    "as many as are looked up": tuple(range(3, 99, 6)),
    "a quotient below 1": (10, 64, 223, 240),
    "more than are looked up": tuple(range(0, 255, 4)),
    "two": (10, 200),
}


@pytest.mark.parametrize("kind", KNOTS)
def test_values_at_knots_and_right_beside_them(kind: str) -> None:
    """Each segment of a curve begins and ends where the format says, to the last bit."""
    knots = KNOTS[kind]
    # From a 0 on, and with large numbers, nothing is lost in the sum with the voxel's own value.
    integers = tuple(0 if n == 64 else (53 * k) % 255 - 127 for k, n in enumerate(knots))
    curve = Curve(exponent=0, integers=integers)
    activities = Curve(exponent=5, integers=tuple((91 * k) % 255 - 127 for k in range(16)))
    weights = tuple((29 * k) % 41 - 20 for k in range(3))
    found = PostFilter(
        knots=knots, tone=curve, finest=14,
        by_activity=Term(strength=activities, weights=weights),
        by_value=Term(strength=curve, weights=weights[::-1]),
    )  # fmt: skip
    looked_up = postfilter.tables(found, 1).looked_up.tolist()
    assert looked_up == [1, kind not in ("a quotient below 1", "more than are looked up")]
    at = postfilter.value_knots(knots)
    powers = np.float32(2.0) ** -np.arange(18, dtype=np.float32)
    places = np.concatenate([at, powers, [np.float32(0)]])
    below, above = (np.nextafter(places, np.float32(to)) for to in (-1, 2))
    values = np.stack([below, places, above], axis=1).reshape(-1)
    values = np.concatenate([values, np.repeat(places, 7), [np.inf, 0, -np.inf]]).astype(np.float32)
    with np.errstate(invalid="ignore"):
        wanted = evaluate_filter(postfilter.to_bytes(found), values)
        np.testing.assert_array_equal(part(found, values, [np.arange(len(values))]), wanted)


def test_nothing_asked_for_is_nothing() -> None:
    found, values = some_filter(3), noise((4, 5, 6))
    none = [np.arange(4), np.zeros(0, np.int64), np.arange(6)]
    assert part(found, values, none).shape == (4, 0, 6)


def test_threads_and_slabs_change_nothing() -> None:
    found, values = some_filter(3), noise((70, 64, 66))
    axes = [np.arange(n) for n in values.shape]
    with runtime(threads=1):
        alone = part(found, values, axes)
    with runtime(threads=3):
        np.testing.assert_array_equal(part(found, values, axes), alone)


def test_what_is_not_a_number_stays_where_it_is() -> None:
    values = noise((9, 9, 9))
    values[4, 4, 4] = np.nan
    with np.errstate(invalid="ignore"):
        out = part(some_filter(3), values, [np.arange(9)] * 3)
    known = np.isfinite(out)
    assert not known[4, 4, 4]
    assert known[0].all()
    assert (~known).sum() == 19  # with the neighbours along the axes, up to three voxels away


# As it was before numbers were packed, and as goldens of the first version have it: each in a byte.
BROKEN = {
    "reserved flag": (lambda d: d[:0] + bytes([8]) + d[1:], "flags"),
    "one knot": (lambda d: d[:1] + bytes([1]) + d[2:], "knots 1"),
    "equal knots": (lambda d: d[:3] + d[2:3] + d[4:], "do not increase"),
    "exponent": (lambda d: d[:8] + bytes([32]) + d[9:], "exponent 32"),
    "activities": (lambda d: d[:15] + bytes([17]) + d[16:], "activity 17"),
    "finest": (lambda d: d[:16] + bytes([99]) + d[17:], "exponent 99"),
    "more": (lambda d: d + b"0", "after its end"),
}


def in_bytes(found: PostFilter) -> bytes:
    """Return the section of a filter with both terms, every number in a byte."""
    activity, value = found.by_activity, found.by_value
    assert activity is not None
    assert value is not None
    out = [3, len(found.knots), *found.knots, found.tone.exponent, *found.tone.integers]
    out += [len(activity.strength.integers), found.finest]
    for term in (activity, value):
        out += [term.strength.exponent, *term.strength.integers, *term.weights]
    return bytes(number & 255 for number in out)


@pytest.mark.parametrize("how", BROKEN)
def test_refuses_numbers_in_bytes(how: str) -> None:
    broken, what = BROKEN[how]
    data = in_bytes(some_filter(3))
    assert postfilter.from_bytes(data, 3) == some_filter(3)
    with pytest.raises(CorruptPayload, match=what):
        postfilter.from_bytes(broken(data), 3)


def packed(flags: int, *fields: tuple[int, int]) -> bytes:
    """Return a section of numbers, each with its bits."""
    out = BitWriter()
    for value, bits in fields:
        out.put(value, bits)
    return bytes([flags]) + out.getvalue()


# Two knots, at 5 and 7; a tone of 2**-3 and -2**-3.
TWO_KNOTS, TONE = ((2, 7), (5, 8), (1, 4), (1, 1)), ((3, 5), (1, 3), (1, 2), (-1, 2))
STRENGTH = ((2, 5), (1, 3), (-2, 2), (1, 2))
ZEROS = ((0, 3), *((0, 1),) * 3)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (packed(12, *TWO_KNOTS, *TONE), "flags 0x0c"),
        (packed(4, (1, 7), *TWO_KNOTS[1:], *TONE), "knots 1"),
        (packed(4, (65, 7), *TWO_KNOTS[1:], *TONE), "knots 65"),
        (packed(4, (2, 7), (255, 8), (0, 4), *TONE), "last knot 256"),
        (packed(4, (2, 7), (5, 8), (2, 4), (1, 2), *TONE), "more bits than they need"),
        (packed(4, *TWO_KNOTS, (3, 5), (2, 3), (1, 3), (-1, 3)), "more bits than they need"),
        (packed(4, *TWO_KNOTS, *TONE, (0, 8)), "after its end"),
        (packed(4, *TWO_KNOTS, *TONE, (1, 1)), "after its end"),
        (packed(5, *TWO_KNOTS, *TONE, (1, 5), (0, 5)), "knots of activity 1"),
        (packed(5, *TWO_KNOTS, *TONE, (17, 5), (0, 5)), "knots of activity 17"),
        (packed(6, *TWO_KNOTS, *TONE, *STRENGTH, (7, 3), (1, 3), *((1, 2),) * 3), "a weight 128"),
        (packed(6, *TWO_KNOTS, *TONE, *STRENGTH, (1, 3), *ZEROS), "more bits than they need"),
        (packed(6, *TWO_KNOTS, *TONE, *STRENGTH, (0, 3), (2, 3), *((2, 3),) * 3), "more bits than"),
    ],
)
def test_refuses_packed_numbers(data: bytes, match: str) -> None:
    with pytest.raises(CorruptPayload, match=match):
        postfilter.from_bytes(data, 1)


def test_packed_numbers() -> None:
    data = packed(6, *TWO_KNOTS, *TONE, *STRENGTH, (5, 3), (2, 3), (-4, 3), (0, 3), (3, 3))
    assert postfilter.from_bytes(data, 1) == PostFilter(
        knots=(5, 7),
        tone=Curve(exponent=3, integers=(1, -1)),
        by_activity=None,
        by_value=Term(strength=Curve(exponent=2, integers=(-2, 1)), weights=(-128, 0, 96)),
    )
    data = packed(6, *TWO_KNOTS, *TONE, *STRENGTH, (0, 3), *ZEROS)
    assert postfilter.from_bytes(data, 1).by_value.weights == (0, 0, 0)  # type: ignore[union-attr]


def test_refuses_what_ends_early_and_weights_of_other_axes() -> None:
    data = postfilter.to_bytes(some_filter(3))
    for size in range(len(data)):
        with pytest.raises(TruncatedPayload):
            postfilter.from_bytes(data[:size], 3)
    with pytest.raises(CorruptPayload):
        postfilter.from_bytes(data, 2)


def test_a_filter_without_a_wavelet_is_refused() -> None:
    tree = encode(volume((12, 12, 12)), ratio=8, form="tree", iterations=2)
    with pytest.raises(CorruptPayload, match="contradict"):
        decode(filtered(tree, some_filter(3)))


# The encoder.


def blurred(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Two materials with an edge between them, and what a blur makes of it."""
    z, y, x = np.indices(shape) / np.array(shape).reshape(3, 1, 1, 1)
    sharp = (((z - 0.5) ** 2 + (y - 0.4) ** 2 + (x - 0.6) ** 2) < 0.1).astype(np.float32)
    soft = sharp.copy()
    for axis in range(3):
        soft = (np.roll(soft, 1, axis) + 2 * soft + np.roll(soft, -1, axis)) / 4
    return 0.8 * sharp + 0.1, (0.8 * soft + 0.1).astype(np.float32)


def error(values: Array, wanted: Array) -> float:
    return float(np.mean((values - wanted) ** 2, dtype=np.float64))


def test_the_fit_makes_edges_sharp() -> None:
    sharp, soft = blurred((30, 32, 34))
    found = fit.choose(soft, sharp, None, 0.0)
    assert found is not None
    out = part(found, soft, [np.arange(n) for n in soft.shape])
    assert error(out, sharp) < 0.25 * error(soft, sharp)


def test_normal_equations_are_sums_over_voxels() -> None:
    """Of products of what each voxel has to say, written down for one after the other."""
    rng = np.random.default_rng(0)
    taps, activities, knots = 3, 8, (10, 60, 90, 200)
    stencil = rng.random((1 + 2 * taps, 300)).astype(np.float32)
    wanted = rng.normal(size=300)
    found = normal_equations(stencil, wanted, taps, knots, finest=2)
    said = np.zeros((300, taps * (activities + len(knots)) + len(knots)))
    at = [postfilter.activity_knots(activities, 2), postfilter.value_knots(knots)]
    for row, (own, *beside) in zip(said, stencil.T.astype(float), strict=True):
        differences = np.array(beside).reshape(taps, 2).mean(axis=1) - own
        activity = np.abs(np.array(beside[:2]) - own).sum()
        shares = [
            np.array([np.interp(x, knots_of, one) for one in np.eye(len(knots_of))])
            for x, knots_of in zip((activity, own), at, strict=True)
        ]
        row[:] = np.concatenate([np.kron(np.concatenate(shares), differences), shares[1]])
    np.testing.assert_allclose(found.matrix, said.T @ said, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.wanted, said.T @ wanted, rtol=1e-5, atol=1e-5)


def test_the_fit_knows_the_price_of_bytes() -> None:
    sharp, soft = blurred((30, 32, 34))
    squares = soft.size * error(soft, sharp)
    sizes = []
    for price in (0.0, 0.002 * squares, squares):
        found = fit.choose(soft, sharp, None, price)
        sizes.append(0 if found is None else len(postfilter.to_bytes(found)))
    assert sizes[0] > sizes[1] > sizes[2] == 0


@pytest.mark.parametrize("price", [0.0, 0.002])
def test_the_fit_of_a_filter_like_another_has_its_terms_and_no_more_bytes(price: float) -> None:
    sharp, soft = blurred((30, 32, 34))
    like = fit.choose(soft, sharp, None, price * soft.size * error(soft, sharp))
    assert like is not None
    assert fit.choose(soft, sharp, None, 0.0, like) == like
    other = fit.choose(0.9 * soft, sharp, None, 0.0, like)
    assert other is not None
    assert (other.by_activity is None) == (like.by_activity is None)
    assert (other.by_value is None) == (like.by_value is None)
    assert len(postfilter.to_bytes(other)) <= len(postfilter.to_bytes(like))


def test_the_fit_does_not_look_at_voxels_that_do_not_count() -> None:
    sharp, soft = blurred((30, 32, 34))
    weight = np.ones_like(sharp)
    weight[:, :9] = 0
    spoilt = np.where(weight == 0, np.float32(0.3), sharp)
    assert fit.choose(soft, spoilt, weight, 0.0) == fit.choose(soft, sharp, weight, 0.0)


def test_nothing_to_gain_is_no_filter() -> None:
    values = noise((8, 8, 8))
    assert fit.choose(values, values, None, 0.0) is None


@pytest.mark.parametrize("shape", [(40,), (30, 31), (12, 13, 14), (3, 9, 10, 11)])
def test_the_fit_takes_any_axes(shape: tuple[int, ...]) -> None:
    wanted = noise(shape)
    found = fit.choose(0.9 * wanted + np.float32(0.02), wanted, None, 0.0)
    assert found is not None
    out = part(found, 0.9 * wanted + np.float32(0.02), [np.arange(n) for n in shape])
    assert error(out, wanted) < 0.2 * error(0.9 * wanted + np.float32(0.02), wanted)


def without_filter(array: Array, monkeypatch: pytest.MonkeyPatch, **options: Any) -> bytes:
    with monkeypatch.context() as patched:
        patched.setattr(fit, "choose", lambda *_: None)
        return encode(array, **options)


def test_a_filter_that_pays_is_taken_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    array, options = phantom((48, 48, 48)), {"ratio": 40, "form": "wavelet", "effort": 3}
    payload = encode(array, **options)
    assert SectionKind.FILTER in container.unpack(payload)
    assert len(payload) <= array.nbytes / 40
    plain = inspect(without_filter(array, monkeypatch, **options))
    assert inspect(payload).psnr_db > plain.psnr_db
    difference = decode(payload).astype(float) - array
    psnr = 20 * np.log10(np.ptp(array) / np.sqrt(np.mean(difference**2)))
    assert inspect(payload).psnr_db == pytest.approx(psnr, abs=0.006)


def test_a_fidelity_is_met_with_fewer_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    array, options = phantom((40, 40, 40)), {"psnr": 36, "form": "wavelet", "effort": 3}
    payload = encode(array, **options)
    assert SectionKind.FILTER in container.unpack(payload)
    assert 36 <= inspect(payload).psnr_db < 36.3
    assert len(payload) < len(without_filter(array, monkeypatch, **options))


def test_a_filter_that_gains_next_to_nothing_is_not_worth_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    array, options = phantom((40, 40, 40)), {"ratio": 20, "form": "wavelet", "effort": 3}
    plain = encode(array, **options)
    assert SectionKind.FILTER not in container.unpack(plain)
    monkeypatch.setattr(wavelets, "_FILTER_WORTH_DB", 0.0)
    payload = encode(array, **options)
    assert SectionKind.FILTER in container.unpack(payload)
    assert 0 < inspect(payload).psnr_db - inspect(plain).psnr_db < 0.06


def test_of_forms_alike_in_error_the_most_similar_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    forms = [
        candidate.Form(sections={}, payload=bytes([k]), psnr_db=psnr_db, price=None)
        for k, psnr_db in enumerate((40.0, 39.99, 39.985, 39.9))
    ]
    similar = {0: 0.8, 1: 0.9, 2: 0.85, 3: 1.0}
    monkeypatch.setattr(candidate, "ssim", lambda payload, _: similar[payload[0]])
    volume: Any = None
    assert candidate.best(volume, forms) is forms[1]
    assert candidate.best(volume, forms[2:]) is forms[2]


def test_the_least_effort_and_bounded_chunks_have_none() -> None:
    array = phantom((32, 32, 32))
    for options in ({"ratio": 32, "effort": 1}, {"max_error": 30, "effort": 3}):
        assert SectionKind.FILTER not in container.unpack(encode(array, **options))


def test_engines_agree_where_a_tree_is_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    original = portability.unit_values

    def spied(chunk: Any, *args: Any, **kwargs: Any) -> Array:
        if chunk.postfilter is not None and kwargs.get("engine") is not None:
            asked.append(1)
        values: Array = original(chunk, *args, **kwargs)
        return values

    monkeypatch.setattr(portability, "unit_values", spied)
    array = phantom((32, 32, 32))
    monkeypatch.setattr(choice, "_higher", lambda form, than: 1.0)  # take the tree
    payload = encode(array, ratio=32, effort=2, iterations=40)
    assert {SectionKind.TREE, SectionKind.FILTER} < container.unpack(payload).keys()
    assert asked
    with runtime(device="reference"):
        expected = decode(payload)
    np.testing.assert_allclose(decode(payload).astype(float), expected, atol=1)
    monkeypatch.setattr(portability, "_TOLERANCE", 0.0)
    payload = encode(array, ratio=32, effort=2, iterations=40)
    assert SectionKind.TREE not in container.unpack(payload)


def test_a_part_of_a_payload_is_that_of_the_whole() -> None:
    array = np.zeros((30, 34, 1, 38), "u2")
    array[2:, :, 0, 3:] = phantom((28, 34, 35))
    payload = encode(array, ratio=30, form="wavelet", effort=3)
    assert open_chunk(payload).postfilter is not None
    whole = decode(payload)
    for selection in (np.s_[3, 4, 0, 5], np.s_[:, 7], np.s_[::4, ::4, :, ::4], np.s_[..., 36:]):
        np.testing.assert_array_equal(decode(payload, selection), whole[selection])
    points = (np.array([2, 29, 9]), np.array([0, 33, 9]), 0, np.array([3, 37, 9]))
    np.testing.assert_array_equal(decode(payload, points), whole[points])


@pytest.mark.parametrize(
    "name", ["v2/filter_one_axis", "v2/filter_four_axes", "v2/filter_by_activity"]
)
def test_narrow_parts_of_any_axes_are_those_of_the_whole(name: str) -> None:
    payload = goldens.payload(name)
    whole = decode(payload)
    for width in range(1, 6):
        selection = (..., slice(2, 2 + width))
        np.testing.assert_array_equal(decode(payload, selection), whole[selection])
