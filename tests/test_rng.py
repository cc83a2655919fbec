"""The random streams: Philox against its published vectors, and what the streams promise."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracle

from genesis_toolkit.pipeline import rng as seeds
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.rng import Operation, draw_words, stream_key, threshold

words32 = st.integers(0, 2**32 - 1)
streams = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 2**63 - 1, 2**63, 2**64 - 1]))
seed_numbers = st.one_of(st.integers(0, 2**63 - 1), st.sampled_from([0, 2**32, 2**63 - 1]))

# Random123, kat_vectors, "philox4x32 10": counter, key, words.
PUBLISHED = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def numbers(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_philox_gives_the_published_words(counter, key, expected):
    arguments = [np.uint64(v) for v in numbers(counter) + numbers(key)]
    assert [int(w) for w in seeds.philox(*arguments)] == numbers(expected)
    assert [int(w) for w in seeds.block(*arguments)] == numbers(expected)


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_the_oracles_own_philox_gives_them_too(counter, key, expected):
    block, *high = numbers(counter)
    assert oracle.philox_words(numbers(key), high, [block])[0].tolist() == numbers(expected)


@given(seed_numbers, streams, words32, words32, st.sampled_from(Operation), st.integers(0, 9))
@settings(max_examples=200, deadline=None)
def test_streams_are_what_the_layout_says(seed, stream, cube, variant, operation, n):
    got = draw_words(seed, np.uint64(stream), cube, variant, operation, n)
    expected = oracle.StreamDraws(seed, stream, cube, variant).words(int(operation), n)
    assert got.dtype == np.uint32
    assert got.tolist() == expected.tolist()


def test_every_part_of_the_address_changes_the_words():
    base = {"seed": 1, "stream": np.uint64(2), "cube": 3, "variant": 4, "operation": Operation.NOISE, "n": 8}
    changes = [
        {},
        {"seed": 2},
        {"seed": 1 + 2**32},
        {"stream": np.uint64(1)},
        {"stream": np.uint64(2 + 2**63)},
        {"cube": 4},
        {"variant": 3},
        {"operation": Operation.PAINT},
        # what adding the parts together would have mixed up
        {"seed": 2, "stream": np.uint64(1)},
        {"cube": 4, "variant": 3},
    ]
    drawn = {draw_words(**{**base, **change}).tobytes() for change in changes}
    assert len(drawn) == len(changes)


def test_the_numbers_of_the_operations_never_change():
    assert {o.name: o.value for o in Operation} == {
        "KEY": 0, "FLIP": 1, "WHICH": 2, "CURVE": 3, "SHUFFLE": 4, "PERMUTE": 5, "PAINT": 6, "NOISE": 7,
        "CONSTANT": 8, "PLACE": 9, "ORDER": 10, "TARGET": 11, "LABELS": 12, "SKIPS": 13,
        "AUGMENT": 14,
    }  # fmt: skip


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(CallError, match=f"--seed {seed}"):
        draw_words(seed, np.uint64(0), 0, 0, Operation.PLACE, 1)


@given(words32, st.integers(1, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_a_bounded_number_stays_in_its_range(word, count):
    number, rest = seeds.bounded(np.uint64(word), np.uint64(count))
    assert int(number) == word * count >> 32
    assert int(rest) == word * count & 0xFFFFFFFF
    assert 0 <= number < count


@given(words32, st.integers(1, 40), st.integers(0, 40), st.integers(0, 3), st.integers(0, 200))
@settings(max_examples=200, deadline=None)
def test_a_window_lies_within_its_cube(word, low, more, margin, spare):
    high = low + more
    length = high + 2 * margin + spare
    start, stop = seeds.extent(*(np.uint64(v) for v in (word, low, high, length, margin)))
    assert margin <= start < stop <= length - margin
    assert low <= stop - start <= high


def test_every_place_of_a_window_is_reached_equally_often():
    """Edges 1..3 in an axis of 6: chances 1/3 each, then uniform over {0 .. 6 - edge}, both ends included."""
    found = np.zeros((4, 6))
    for word in range(0, 2**32, 2**32 // 6000):
        start, stop = seeds.extent(*(np.uint64(v) for v in (word, 1, 3, 6, 0)))
        found[int(stop - start), int(start)] += 1
    for edge in (1, 2, 3):
        assert np.allclose(found[edge, : 7 - edge] / found.sum(), 1 / 3 / (7 - edge), rtol=0.01)
        assert not found[edge, 7 - edge :].any()


def test_rates_become_thresholds_that_hold_at_both_ends():
    assert threshold(0.0) == 0
    assert threshold(1.0) == 2**32
    assert threshold(0.5) == 2**31
    assert threshold(0.9).dtype == np.uint64


def test_the_stream_key_is_the_beginning_of_the_identifiers_hash():
    identifier = "1.3.6.1.4.1.14519.5.2.1.6279.6001.é"
    expected = hashlib.sha256(identifier.encode("utf-8")).digest()[:8]
    assert stream_key(identifier).tobytes() == np.frombuffer(expected, "<u8")[0].tobytes()
    assert stream_key("a") != stream_key("b")
