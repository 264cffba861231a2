"""The table keyed (neuron, n-gram): no count is lost, whatever threads and keys do."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import cuda_on_host
import inputs
from cuda_on_host import Full, Table
from pyneurons import reference

NO_KEY = 2**64 - 1


@pytest.fixture(autouse=True)
def threads_that_interrupt_each_other():
    """On few cores threads hardly meet: let them give way before one atomic operation in three."""
    cuda_on_host.library().set_yield_every(3)
    yield
    cuda_on_host.library().set_yield_every(0)


def batch(number, distinct, seed=0):
    """Keys that come again and again, a few of them very often."""
    random = np.random.default_rng((seed, number, distinct))
    pool = np.unique(random.integers(0, NO_KEY, distinct, dtype=np.uint64))
    keys = pool[np.minimum(random.zipf(1.3, number) - 1, len(pool) - 1)]
    return keys, random.integers(1, 2**20, number).astype(np.uint64)


def sums(keys, counts):
    """The truth, in Python's own numbers."""
    total = Counter()
    for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
        if key != NO_KEY:
            total[key] += count
    return sorted(total.items())


def entries(table):
    keys, counts = table.sorted()
    return list(zip(keys.tolist(), counts.tolist(), strict=True))


def keys_with_home(slots, number):
    """Keys whose first slot is the same in a table of so many slots: found by trying."""
    mixed = cuda_on_host.library().mixed
    mixed.argtypes = [cuda_on_host.ctypes.c_uint64]
    found = [key for key in range(1, 60 * number * slots) if mixed(key) % slots == 0]
    assert len(found) >= number
    return np.array(found[:number], dtype=np.uint64)


def test_mixing_is_splitmix64():
    mixed = cuda_on_host.library().mixed
    mixed.argtypes = [cuda_on_host.ctypes.c_uint64]
    for key, token in ((0, 5), (7, 0), (2**63, 50_271)):
        before = ((key ^ (token + 1)) + 0x9E3779B97F4A7C15) % 2**64
        assert mixed(before) == reference.mix(key, token)


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_counts_of_keys_that_many_threads_add_at_once(threads):
    keys, counts = batch(20_000, 700)
    table = Table(1024, 1024, 1024, threads)
    table.add(keys, counts)
    assert entries(table) == sums(keys, counts)
    assert table.capacity == 1024


@pytest.mark.parametrize("slots", [1, 2, 64, 256])
def test_a_table_filled_to_its_last_slot(slots):
    pool = np.arange(slots, dtype=np.uint64) * np.uint64(2**40 + 1)
    keys = np.random.default_rng(1).permutation(np.tile(pool, 8))
    counts = np.arange(1, len(keys) + 1, dtype=np.uint64)
    table = Table(slots, slots, slots, 8)
    table.add(keys, counts)
    assert entries(table) == sums(keys, counts)
    # One more key does not fit, and is not dropped in silence.
    with pytest.raises(Full):
        table.add(np.array([3], dtype=np.uint64), np.ones(1, dtype=np.uint64))
    with pytest.raises(Full):
        table.sorted()
    with pytest.raises(Full):
        table.add(keys, counts)


def test_keys_that_all_want_one_slot():
    keys = np.tile(keys_with_home(64, 40), 30)
    counts = np.arange(1, len(keys) + 1, dtype=np.uint64)
    table = Table(64, 64, 64, 8)
    table.add(keys, counts)
    assert entries(table) == sums(keys, counts)


@pytest.mark.parametrize("probes", [1, 2, 8, 128])
@pytest.mark.parametrize("capacity", [1, 16])
def test_a_table_grows_until_every_key_has_a_slot(capacity, probes):
    table = Table(capacity, 2**22, probes, 4)
    keys, counts = np.zeros((2, 0), dtype=np.uint64)
    for part in range(3):
        more_keys, more_counts = batch(3000, 900, seed=part)
        table.add(more_keys, more_counts)
        keys, counts = np.append(keys, more_keys), np.append(counts, more_counts)
        assert entries(table) == sums(keys, counts)
    assert table.capacity >= len(np.unique(keys))


def test_growth_ends_where_it_may():
    table = Table(16, 64, 64, 4)
    keys = np.arange(64, dtype=np.uint64)
    table.add(keys, keys + np.uint64(1))
    assert table.capacity == 64
    assert entries(table) == sums(keys, keys + np.uint64(1))
    with pytest.raises(Full):
        table.add(keys + np.uint64(1), keys)


def test_no_key_is_left_out_and_a_count_of_zero_is_not():
    keys = np.array([NO_KEY, 5, NO_KEY, 0, NO_KEY - 1], dtype=np.uint64)
    counts = np.array([9, 0, 9, 2, 3], dtype=np.uint64)
    table = Table(4, 4, 4)
    table.add(keys, counts)
    table.add(keys[:0], counts[:0])
    assert entries(table) == [(0, 2), (5, 0), (NO_KEY - 1, 3)]


def test_counts_beyond_32_bits():
    table = Table(2, 2, 2)
    for _ in range(3):
        table.add(np.full(100, 8, dtype=np.uint64), np.full(100, 2**40 + 1, dtype=np.uint64))
    assert entries(table) == [(8, 300 * (2**40 + 1))]


@pytest.mark.parametrize("capacity", [0, 3, 128])
def test_sizes_that_cannot_be(capacity):
    with pytest.raises(ValueError, match="refused"):
        Table(capacity, 64, 8)
    with pytest.raises(ValueError, match="refused"):
        Table(64, 64, 0)


def lists_of(fires, order, segments):
    """All (segment, count) of every neuron: triggers with threshold 1."""
    mask = reference.pack(fires)
    counts = np.zeros((len(segments) - 1, fires.shape[1]), dtype=np.int64)
    reference.segment_counts(mask, order, segments, counts)
    threshold = np.ones(fires.shape[1], dtype=np.int64)
    offsets = inputs.bounds((counts >= 1).sum(axis=0))
    segment_of = np.zeros(offsets[-1], dtype=np.int32)
    found = np.zeros(offsets[-1], dtype=np.int64)
    wrong = cuda_on_host.ngram_triggers(
        mask, order, segments, threshold, offsets, segment_of, found, threads=2
    )
    assert wrong is None
    return offsets, segment_of, found


def test_lists_of_parts_of_a_corpus_add_up_to_those_of_the_whole():
    """Each part numbers its own n-grams: they meet under their tokens."""
    table = Table(64, 2**20, 16)
    neurons = 70
    truth = Counter()
    for part in range(3):
        ids, starts = inputs.corpus(400, seed=part)
        rows = inputs.ngram_rows(ids, starts, 3)
        grams, order, segments = inputs.ngram_segments(rows)
        fires = inputs.bits(400, neurons, seed=part)
        ngram_of = np.array([a << 32 | b << 16 | c for a, b, c in grams], dtype=np.uint64)
        table.add_lists(*lists_of(fires, order, segments), ngram_of)
        for gram, members in rows.items():
            number = gram[0] << 32 | gram[1] << 16 | gram[2]
            for row in members:
                for neuron in np.flatnonzero(fires[row]).tolist():
                    truth[neuron << 48 | number] += 1
    assert entries(table) == sorted(truth.items())


@pytest.mark.parametrize(("neurons", "ngram"), [(2, 2**48), (65_536, 1)])
def test_pairs_without_a_key_are_refused_and_not_mixed_up(neurons, ngram):
    table = Table(16, 16, 16)
    offsets = inputs.bounds([1] + [0] * (neurons - 1))
    one = np.ones(1, dtype=np.int64)
    with pytest.raises(ValueError, match="wrong"):
        table.add_lists(offsets, np.zeros(1, np.int32), one, np.array([ngram], dtype=np.uint64))
    assert entries(table) == []
    last = inputs.bounds([0] * 65_534 + [1])
    table.add_lists(last, np.zeros(1, np.int32), one, np.array([2**48 - 1], dtype=np.uint64))
    assert entries(table) == [(65_534 << 48 | (2**48 - 1), 1)]
