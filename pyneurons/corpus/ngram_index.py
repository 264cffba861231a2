"""The n-grams of a corpus: which rows end each of them, grouped by how often it occurs.

One sort of 64-bit keys per n, for the whole corpus; every layer of a scan shares it. Keys are never
all in memory: a range of them at a time is gathered and sorted, ranges with few enough rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from pyneurons import ops
from pyneurons.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from pyneurons.corpus.corpus import Corpus
    from pyneurons.corpus.documents import Ids

NO_KEY: Final = np.uint64(2**64 - 1)
"""The key of a row that ends no countable n-gram."""

KEY_BITS: Final = 64

SORTED_ROWS: Final = 1 << 20
"""Rows sorted at a time: 38 MB of keys, rows and their order."""

_BLOCK_ROWS: Final = 1 << 18
_RADIX_BITS: Final = 16
# Bytes a row of what is sorted, and of a block of keys while they are computed and looked through.
_SORT_BYTES: Final = 38
_BLOCK_BYTES: Final = 28


@dataclass(frozen=True, eq=False)
class NgramIndex:
    """The countable n-grams of a corpus, M rows that end one and G different ones.

    N-grams are sorted by (occurrences, first row): those that occur once come first, which is the
    order `pyneurons.ops.ngram_coverage` needs.

    Parameters
    ----------
    n : int
    order : [M], int32
        Rows, n-gram by n-gram, ascending inside each.
    segments : [G + 1], int64
        Bounds of each n-gram's rows in ``order``.
    rank : [G], int32
        Number of each n-gram in the lexicographic order of tokens, 0 to G - 1: its id.
    uncountable : [N - M], int32
        Rows that end no countable n-gram, ascending.
    """

    n: int
    order: NDArray[np.int32]
    segments: NDArray[np.int64]
    rank: NDArray[np.int32]
    uncountable: NDArray[np.int32]

    def tokens(self, g_indices: NDArray[np.integer[Any]], ids: Ids) -> NDArray[np.uint32]:
        """Return the tokens of n-grams.

        Parameters
        ----------
        g_indices : [k], integers below G
            Segments, not ranks.
        ids : [N]
            The ids of the corpus.

        Returns
        -------
        [k, n], uint32
        """
        last = self.order[self.segments[:-1][g_indices]].astype(np.int64)
        rows = last[:, np.newaxis] + np.arange(1 - self.n, 1)
        return np.asarray(ids[rows], np.uint32)

    def lengths(self, g_indices: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return how often n-grams occur."""
        lengths: NDArray[np.int64] = self.segments[g_indices + 1] - self.segments[g_indices]
        return lengths

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        arrays = (self.order, self.segments, self.rank, self.uncountable)
        return sum(array.nbytes for array in arrays)

    def load(self) -> NgramIndex:
        """Return the index itself: one that is not kept in memory is read here."""
        return self

    @cached_property
    def spectrum(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many n-grams occur how often: (occurrences [K] ascending, number [K]), int64."""
        # N-grams are sorted by it already.
        lengths = np.diff(self.segments)
        last = np.flatnonzero(np.append(lengths[1:] != lengths[:-1], lengths.size > 0))
        number: NDArray[np.int64] = np.diff(last, prepend=-1)
        return lengths[last], number


class KeptIndex(Protocol):
    """An index, or where it is kept."""

    @property
    def n(self) -> int:
        """Tokens of an n-gram."""

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""

    @property
    def spectrum(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `NgramIndex.spectrum`."""

    def load(self) -> NgramIndex:
        """Return the index; of several kept together, the one that was asked for last is valid."""


@dataclass(frozen=True)
class _Keys:
    """The keys of a corpus, computed block by block as often as they are asked for."""

    corpus: Corpus
    n: int
    bits: int
    backend: str | None
    threads: int

    def blocks(self) -> Iterator[tuple[int, NDArray[np.uint64]]]:
        """Yield (first row, keys) of runs of whole sequences, in a buffer that is used again."""
        starts = self.corpus.starts
        buffer = np.empty(0, np.uint64)
        first = 0
        while first < starts.size - 1:
            begin = int(starts[first])
            last = int(np.searchsorted(starts, begin + _BLOCK_ROWS, side="right")) - 1
            last = max(last, first + 1)
            end = int(starts[last])
            if buffer.size < end - begin:
                buffer = np.empty(end - begin, np.uint64)
            keys = buffer[: end - begin]
            ops.ngram_keys(
                self.corpus.ids[begin:end],
                starts[first : last + 1] - begin,
                self.n,
                self.bits,
                self.corpus.boundary_id,
                keys,
                backend=self.backend,
                threads=self.threads,
            )
            yield begin, keys
            first = last

    def ranges(self, most: int) -> Iterator[tuple[int, int, int]]:
        """Split the keys into ranges of at most ``most`` rows, or of a single key, ascending.

        Yields (lowest key, highest key, rows).
        """
        shift = max(min(self.n * self.bits, KEY_BITS) - _RADIX_BITS, 0)
        yield from self._ranges(0, int(NO_KEY) - 1, shift, most)

    def _ranges(self, low: int, high: int, shift: int, most: int) -> Iterator[tuple[int, int, int]]:
        """Split the keys ``low`` to ``high``, of which there are 2**16 times 2**shift at most."""
        counts = np.zeros(1 << _RADIX_BITS, np.int64)
        for _, keys in self.blocks():
            own = keys[(keys >= np.uint64(low)) & (keys <= np.uint64(high))]
            bucket = ((own - np.uint64(low)) >> np.uint64(shift)).astype(np.int64)
            counts += np.bincount(bucket, minlength=counts.size)
        begin, rows = low, 0
        for at in np.flatnonzero(counts).tolist():
            first, size = low + (at << shift), int(counts[at])
            last = min(first + (1 << shift) - 1, high)
            if rows and rows + size > most:
                yield begin, first - 1, rows
                begin, rows = first, 0
            if size > most:
                if first < last:
                    yield from self._ranges(first, last, max(shift - _RADIX_BITS, 0), most)
                else:
                    yield first, first, size
                begin = last + 1
            else:
                rows += size
        if rows:
            yield begin, high, rows


def build(
    corpus: Corpus,
    n: int,
    *,
    backend: str | None = None,
    threads: int = 1,
    sorted_rows: int = SORTED_ROWS,
) -> NgramIndex:
    """Index the countable n-grams of a corpus.

    Parameters
    ----------
    corpus : Corpus
        At most 2**31 - 1 positions.
    n : int
        At least 1.
    backend : str, optional
        For `pyneurons.ops.ngram_keys`.
    threads : int
        For the same.
    sorted_rows : int
        How many rows are sorted at a time; the result does not depend on it.

    Raises
    ------
    InputError
        For an n below 1.
    IntegrityError
        If two n-grams have one hash. Only where ``n * bit_length(V) > 64``: below, a key is the
        tokens themselves.

    Notes
    -----
    Cost: the keys of the corpus once for every ``sorted_rows`` rows and once or twice more; sorts
    of N keys in parts, and of G numbers. Memory as `index_bytes`.
    """
    if n < 1:
        message = f"ngrams: {n}, expected at least 1"
        raise InputError(message)
    keys = _Keys(corpus, n, corpus.vocab_size.bit_length(), backend, threads)
    none = [
        (begin + np.flatnonzero(block == NO_KEY)).astype(np.int32) for begin, block in keys.blocks()
    ]
    uncountable = np.concatenate([np.zeros(0, np.int32), *none])
    del none
    rows, starts = _rows_by_key(keys, corpus.tokens - uncountable.size, sorted_rows)
    ranked: Callable[[NDArray[np.int32]], NDArray[np.int32]] | None = None
    if n * keys.bits > KEY_BITS:
        ranked = partial(_lexicographic_rank, corpus.ids, n=n)
    segments, rank, source = _by_count(rows, starts, corpus.tokens, ranked)
    del starts
    order = np.empty(rows.size, np.int32)
    for first, last in _runs(segments, _BLOCK_ROWS):
        begin, end = int(segments[first]), int(segments[last])
        if last == first + 1:
            order[begin:end] = rows[source[first] : source[first] + end - begin]
            continue
        # Where each row of the new order stands in the old: its segment moved as a whole.
        moved = source[first:last] - segments[first:last]
        place = np.repeat(moved, np.diff(segments[first : last + 1]))
        place += np.arange(begin, end)
        order[begin:end] = rows[place]
    return NgramIndex(n, order, segments, rank, uncountable)


def index_bytes(tokens: int, n: int, vocab_size: int) -> tuple[int, int]:
    """Bound the memory of `build`.

    Parameters
    ----------
    tokens : int
        Positions of the corpus.
    n : int
    vocab_size : int

    Returns
    -------
    kept : int
        Bytes of the index: 4 a row, and 12 for each different n-gram, of which there are at most
        as many as rows.
    transient : int
        Bytes needed besides while it is built.
    """
    constant = 1 << 16
    hashed = n * vocab_size.bit_length() > KEY_BITS
    # Rows in the order of their keys and where each n-gram begins in them; then what is sorted, or
    # n-grams by their count with new bounds and ranks. A hash path also ranks the n-grams by their
    # tokens, of 2 or 4 bytes.
    sorting = _SORT_BYTES * min(tokens, SORTED_ROWS) + _BLOCK_BYTES * min(tokens, _BLOCK_ROWS)
    if tokens > SORTED_ROWS:
        sorting += 16 << _RADIX_BITS  # counts
    ordering = 12 * tokens + 40 * min(tokens, _BLOCK_ROWS)
    ranking = ((2 if vocab_size <= 1 << 16 else 4) * n + 24) * tokens if hashed else 0
    return 16 * tokens + constant, max(sorting - 8 * tokens, ordering, ranking) + constant


def _rows_by_key(
    keys: _Keys, size: int, sorted_rows: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the countable rows by key, ascending for each; and where each key's rows begin."""
    rows = np.empty(size, np.int32)
    starts = [np.zeros(0, np.int32)]
    if size <= sorted_rows:
        ranges: Iterator[tuple[int, int, int]] = iter([(0, int(NO_KEY) - 1, size)][: bool(size)])
    else:
        ranges = keys.ranges(sorted_rows)
    done = 0
    for low, high, number in ranges:
        own = rows[done : done + number]
        own_keys = np.empty(number if low < high else 0, np.uint64)
        filled = 0
        for begin, block in keys.blocks():
            place = np.flatnonzero((block >= np.uint64(low)) & (block <= np.uint64(high)))
            part = slice(filled, filled + place.size)
            if low < high:
                own_keys[part] = block[place]
            place += begin
            own[part] = place
            filled += place.size
        first = np.zeros(1, np.int32)
        if low < high:
            first = _sort(own, own_keys)
        if keys.n * keys.bits > KEY_BITS:
            _check_collisions(keys.corpus.ids, own, first, keys.n)
        first += np.int32(done)
        starts.append(first)
        done += number
    return rows, np.concatenate(starts)


def _sort(rows: NDArray[np.int32], keys: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Sort rows in place by (key, row); return where each key's rows begin."""
    # An unstable sort of the keys and one of numbers take a third of the time of a stable sort.
    order = np.argsort(keys)
    keys = keys[order]
    new = np.empty(keys.size, np.bool_)
    new[0] = True
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    np.cumsum(new, dtype=np.uint64, out=keys)
    keys <<= np.uint64(32)
    keys |= rows[order].astype(np.uint64)
    del order
    keys.sort()
    keys &= np.uint64(0xFFFFFFFF)
    rows[:] = keys
    return np.flatnonzero(new).astype(np.int32)


def _by_count(
    rows: NDArray[np.int32],
    starts: NDArray[np.int32],
    tokens: int,
    ranked: Callable[[NDArray[np.int32]], NDArray[np.int32]] | None,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Sort n-grams by (occurrences, first row).

    Returns their bounds in that order [G + 1], their ranks, and where their rows begin in ``rows``.
    ``ranked`` gives the ranks of n-grams from their first rows, where keys have another order.
    """
    first = rows[starts]
    # Which n-gram begins at a row: so one number each is sorted, and nothing beside it.
    at = np.empty(tokens, np.int32)
    at[first] = np.arange(starts.size, dtype=np.int32)
    rank = None if ranked is None else ranked(first)
    by_count = np.empty(starts.size, np.int64)
    by_count[:-1] = starts[1:]
    by_count[-1:] = rows.size
    by_count -= starts
    by_count <<= 32
    by_count |= first
    by_count.sort()
    np.bitwise_and(by_count, 0xFFFFFFFF, out=first, casting="unsafe")
    number = at[first]
    del at, first
    by_count >>= 32
    segments = np.zeros(starts.size + 1, np.int64)
    np.cumsum(by_count, out=segments[1:])
    del by_count
    return segments, number if rank is None else rank[number], starts[number]


def _runs(bounds: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Yield runs [first, last) of segments with at most ``most`` rows, or of one with more."""
    first = 0
    while first < bounds.size - 1:
        last = int(np.searchsorted(bounds, bounds[first] + most, side="right")) - 1
        yield first, max(last, first + 1)
        first = max(last, first + 1)


def _check_collisions(ids: Ids, rows: NDArray[np.int32], starts: NDArray[np.int32], n: int) -> None:
    """Compare the tokens of every row with those of the first row of the same key."""
    model = np.repeat(rows[starts], np.diff(starts, append=np.int32(rows.size)))
    for back in range(n):
        different = np.flatnonzero(ids[rows - back] != ids[model - back])
        if different.size:
            at = different[0]
            message = (
                f"n-grams of {n} tokens: those that end at rows {model[at]} and {rows[at]} differ "
                "and have the same 64-bit hash; scan fewer n"
            )
            raise IntegrityError(message)


def _lexicographic_rank(ids: Ids, first: NDArray[np.int32], n: int) -> NDArray[np.int32]:
    """Return the rank of each n-gram, given the first row that it ends at."""
    order = np.lexsort([ids[first - back] for back in range(n)])
    rank = np.empty(first.size, np.int32)
    rank[order] = np.arange(first.size, dtype=np.int32)
    return rank
