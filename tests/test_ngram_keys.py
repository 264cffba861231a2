from __future__ import annotations

import numpy as np
import pytest

import inputs
from pyneurons import ops, reference

pytestmark = pytest.mark.also_on("triton")

SENTINEL = 2**64 - 1


def keys_of(ids, starts, n, bits, backend, threads=1, boundary=2):
    keys = inputs.Guarded(ids.shape, np.uint64, 12345)
    ops.ngram_keys(ids, starts, n, bits, boundary, keys.view, backend=backend, threads=threads)
    assert keys.intact()
    return keys.view.tolist()


def test_written_out(backend):
    ids = np.array([2, 5, 6, 7, 2, 5, 6, 2, 9], dtype=np.uint16)
    starts = np.array([0, 4, 7, 9], dtype=np.int64)
    none = SENTINEL
    assert keys_of(ids, starts, 1, 4, backend) == [none, 5, 6, 7, none, 5, 6, none, 9]
    two = [none, none, 5 * 16 + 6, 6 * 16 + 7, none, none, 5 * 16 + 6, none, none]
    assert keys_of(ids, starts, 2, 4, backend) == two
    three = [none] * 3 + [(5 * 16 + 6) * 16 + 7] + [none] * 5
    assert keys_of(ids, starts, 3, 4, backend) == three
    assert keys_of(ids, starts, 5, 4, backend) == [none] * 9


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("bits", [6, 13, 16])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_equal_keys_are_equal_ngrams(backend, n, bits, dtype):
    ids, starts = inputs.corpus(1200)
    keys = keys_of(ids.astype(dtype), starts, n, bits, backend)
    rows = inputs.ngram_rows(ids, starts, n)
    for gram, members in rows.items():
        if n * bits <= 64:
            expected = 0
            for token in gram:
                expected = expected * 2**bits + token
        else:
            expected = 0
            for token in gram:
                expected = reference.mix(expected, token)
        assert {keys[row] for row in members} == {expected}
    countable = {row for members in rows.values() for row in members}
    assert all(keys[row] == SENTINEL for row in range(len(ids)) if row not in countable)


def test_keys_order_as_tokens_do(backend):
    ids, starts = inputs.corpus(600)
    keys = keys_of(ids, starts, 3, 16, backend)
    rows = inputs.ngram_rows(ids, starts, 3)
    by_key = sorted(rows, key=lambda gram: keys[rows[gram][0]])
    assert by_key == sorted(rows)


def test_full_64_bits(backend):
    """The largest 4-gram of 16-bit ids is one below the sentinel's neighbourhood, and exact."""
    ids = np.full(6, 2**16 - 2, dtype=np.uint16)
    keys = keys_of(ids, inputs.bounds([6]), 4, 16, backend)
    assert keys == [SENTINEL] * 3 + [0xFFFE_FFFE_FFFE_FFFE] * 3


def test_large_ids(backend):
    ids = np.array([2**31, 2**32 - 2, 7], dtype=np.uint32)
    assert keys_of(ids, inputs.bounds([3]), 2, 32, backend, boundary=1) == [
        SENTINEL,
        2**31 * 2**32 + 2**32 - 2,
        (2**32 - 2) * 2**32 + 7,
    ]
    assert keys_of(ids, inputs.bounds([3]), 1, 32, backend, boundary=2**32 - 2)[1] == SENTINEL


@pytest.mark.parametrize("lengths", [[], [0], [1], [3, 0, 0, 2], [1] * 7, [40], [0, 40, 0]])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_short_and_empty_sequences(backend, lengths, n):
    starts = inputs.bounds(lengths)
    ids = np.arange(3, 3 + starts[-1], dtype=np.uint32)
    rows = inputs.ngram_rows(ids, starts, n)
    keys = keys_of(ids, starts, n, 9, backend)
    countable = {row for members in rows.values() for row in members}
    assert [key != SENTINEL for key in keys] == [row in countable for row in range(len(ids))]


def test_many_tokens_on_many_threads(cpp_backend):
    ids, starts = inputs.corpus(200_000, vocabulary=5000)
    one = keys_of(ids, starts, 3, 13, cpp_backend)
    rows = np.arange(2, len(ids))
    packed = (ids[rows - 2].astype(np.uint64) << np.uint64(26)) | (
        ids[rows - 1].astype(np.uint64) << np.uint64(13)
    )
    packed |= ids[rows]
    keys = np.array(one, dtype=np.uint64)
    countable = keys != np.uint64(SENTINEL)
    assert countable.mean() > 0.5
    assert np.array_equal(keys[2:][countable[2:]], packed[countable[2:]])
    for threads in (2, 3):
        assert keys_of(ids, starts, 3, 13, cpp_backend, threads) == one
