"""The n-gram index against a dictionary of tuples."""

from __future__ import annotations

import tracemalloc
from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pyneurons import backends, corpus, ops
from pyneurons.corpus import Corpus, ngram_index
from pyneurons.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from pyneurons.corpus.ngram_index import NgramIndex

# 64-bit keys hold n * bits(V): up to 5-grams at 8 bits, only 3-grams at 17, 2-grams at 20.
VOCABULARIES = (5, 200, 50272, 70000, 1_000_000)
BACKENDS = [name for name in ("reference", "cpp") if name in backends.available()]


def made_up(vocab_size: int, seed: int, **options: Any) -> Corpus:
    """Return a corpus of few different tokens, so that n-grams repeat, up to the largest id."""
    generator = np.random.default_rng(seed)
    few = np.unique([*range(3, min(vocab_size, 7)), vocab_size - 1])
    documents = [generator.choice(few, size=generator.integers(0, 30)).tolist() for _ in range(40)]
    options = {"context": 11, "vocab_size": vocab_size} | options
    return corpus.read(documents, None, **options)


def ngrams(made: Corpus, n: int) -> dict[tuple[int, ...], list[int]]:
    """Return the rows that end each countable n-gram."""
    rows = defaultdict(list)
    for start, end in pairwise(made.starts.tolist()):
        for row in range(start + n - 1, end):
            gram = tuple(made.ids[row - n + 1 : row + 1].tolist())
            if made.boundary_id not in gram:
                rows[gram].append(row)
    return dict(rows)


def check(made: Corpus, index: NgramIndex, n: int) -> None:
    """Compare everything in the index with the dictionary."""
    expected = ngrams(made, n)
    by_count = sorted(expected, key=lambda gram: (len(expected[gram]), expected[gram][0]))
    lexicographic = {gram: rank for rank, gram in enumerate(sorted(expected))}
    assert index.n == n
    groups = [index.order[a:b].tolist() for a, b in pairwise(index.segments)]
    assert groups == [expected[gram] for gram in by_count]
    assert index.rank.tolist() == [lexicographic[gram] for gram in by_count]
    tokens = index.tokens(np.arange(len(expected)), made.ids)
    assert [tuple(gram) for gram in tokens.tolist()] == by_count
    countable = {row for rows in expected.values() for row in rows}
    assert index.uncountable.tolist() == [r for r in range(made.tokens) if r not in countable]
    occurrences, number = index.spectrum
    spectrum = Counter(map(len, expected.values()))
    assert dict(zip(occurrences.tolist(), number.tolist(), strict=True)) == spectrum
    assert occurrences.tolist() == sorted(spectrum)
    assert index.segments[0] == 0
    assert index.segments[-1] == index.order.size
    dtypes = [index.order, index.segments, index.rank, index.uncountable, tokens, *index.spectrum]
    assert [array.dtype.name for array in dtypes] == [
        *("int32", "int64", "int32", "int32", "uint32", "int64", "int64")
    ]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("vocab_size", VOCABULARIES)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_index_is_that_of_a_dictionary(n: int, vocab_size: int, backend: str) -> None:
    for seed in range(3):
        made = made_up(vocab_size, seed)
        check(made, ngram_index.build(made, n, backend=backend), n)


@pytest.mark.parametrize("sorted_rows", [1, 7, 100, 400])
@pytest.mark.parametrize("vocab_size", VOCABULARIES)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_sorted_in_parts(
    n: int, vocab_size: int, sorted_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ngram_index.build(made_up(vocab_size, 7), n)
    monkeypatch.setattr(ngram_index, "_BLOCK_ROWS", 25)
    made = made_up(vocab_size, 7)
    sizes: list[int] = []
    sort = ngram_index._sort
    monkeypatch.setattr(
        ngram_index, "_sort", lambda rows, keys: sizes.append(rows.size) or sort(rows, keys)
    )
    index = ngram_index.build(made, n, sorted_rows=sorted_rows)
    check(made, index, n)
    for name in ("order", "segments", "rank", "uncountable"):
        assert np.array_equal(getattr(index, name), getattr(whole, name)), name
    assert all(size <= sorted_rows for size in sizes)
    assert index.order.size > 400 or n > 1


@pytest.mark.parametrize("mode", ["pack", "document"])
def test_domains_and_documents(mode: str) -> None:
    made = corpus.read(
        {"a": [[5, 6, 5, 6], [5], [6, 5, 6, 5, 6]], "b": [[5, 6, 5, 6, 7]]},
        None,
        context=8,
        vocab_size=10,
        packing=mode,
    )
    for n in (1, 2, 3):
        check(made, ngram_index.build(made, n), n)
    # The same bigram in both domains is one n-gram; none spans documents or holds BOS.
    index = ngram_index.build(made, 2)
    assert index.tokens(np.arange(index.rank.size), made.ids).tolist() == [[6, 7], [6, 5], [5, 6]]
    assert np.diff(index.segments).tolist() == [1, 4, 6]


def test_boundary_ids_inside_rows() -> None:
    rows = np.array(
        [[5, 6, 2, 6, 5, 6], [2, 5, 6, 1, 5, 2], [2, 2, 2, 2, 2, 2], [5, 6, 5, 6, 1, 1]]
    )
    made = corpus.read(rows, None, context=6, vocab_size=10)
    for n in (1, 2, 3, 4):
        check(made, ngram_index.build(made, n), n)


@pytest.mark.parametrize("n", [1, 4, 5, 12])
def test_a_corpus_without_n_grams(n: int) -> None:
    made = corpus.read(np.array([[2, 2], [2, 2]]), None, context=2, vocab_size=50272)
    index = ngram_index.build(made, n)
    check(made, index, n)
    assert index.segments.tolist() == [0]
    assert index.uncountable.tolist() == [0, 1, 2, 3]
    assert index.tokens(np.zeros(0, int), made.ids).shape == (0, n)


def test_n_below_one() -> None:
    with pytest.raises(InputError, match="ngrams: 0, expected at least 1"):
        ngram_index.build(made_up(10, 0), 0)


def test_a_hash_collision_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    made = made_up(1_000_000, 0)
    expected = ngrams(made, 4)
    one, other, *_ = sorted(expected)
    exact = ops.ngram_keys

    def colliding(*arguments: Any, **options: Any) -> None:
        exact(*arguments, **options)
        keys = arguments[5]
        keys[expected[other]] = keys[expected[one][0]]

    monkeypatch.setattr(ops, "ngram_keys", colliding)
    rows = f"({expected[one][0]}|{expected[other][0]})"
    with pytest.raises(IntegrityError, match=rf"n-grams of 4 tokens.* rows {rows} and \d+"):
        ngram_index.build(made, 4)


@pytest.mark.parametrize(("vocab_size", "n"), [(50272, 1), (50272, 3), (50272, 5), (70000, 6)])
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("sorted_rows", [10_000, 1 << 20])
def test_memory_is_bounded_as_promised(
    vocab_size: int, n: int, alike: bool, sorted_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngram_index, "SORTED_ROWS", sorted_rows)
    monkeypatch.setattr(ngram_index, "_BLOCK_ROWS", min(sorted_rows, 1 << 18))
    # Nearly all n-grams different is the worst case, a single token the other extreme.
    generator = np.random.default_rng(0)
    ids = np.full(120_000, 9) if alike else generator.integers(3, vocab_size, 120_000)
    made = corpus.read(ids, None, context=512, vocab_size=vocab_size)
    kept, transient = ngram_index.index_bytes(made.tokens, n, vocab_size)
    ngram_index.build(made, n)  # what is made once
    tracemalloc.start()
    index = ngram_index.build(made, n, sorted_rows=sorted_rows)
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert index.order.size
    assert now <= kept
    assert peak <= kept + transient
    if not alike and n > 1:
        assert peak > (kept + transient) / 2  # a bound, not a guess


def test_a_million_tokens() -> None:
    generator = np.random.default_rng(1)
    ids = np.minimum(generator.zipf(1.3, 1_000_000) + 2, 50_000)
    made = corpus.read(ids, None, context=2048, vocab_size=50272)
    index = ngram_index.build(made, 3)
    lengths = np.diff(index.segments)
    first = index.order[index.segments[:-1]]
    assert (np.diff(lengths) >= 0).all()
    assert (np.diff(first)[np.diff(lengths) == 0] > 0).all()
    assert sorted(index.rank.tolist()) == list(range(lengths.size))
    rows = np.concatenate([index.order, index.uncountable])
    rows.sort()
    assert (rows == np.arange(made.tokens)).all()
    tokens = index.tokens(np.argsort(index.rank), made.ids).astype(np.int64)
    keys = (tokens[:, 0] * 50272 + tokens[:, 1]) * 50272 + tokens[:, 2]
    assert (np.diff(keys) > 0).all()  # ranks follow the tokens, and no n-gram is there twice
