"""The n-grams of a corpus: which rows end each of them, grouped by how often it occurs.

One sort of 64-bit keys per n, for the whole corpus; every layer of a scan shares it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons import ops
from pyneurons.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyneurons.corpus.corpus import Corpus
    from pyneurons.corpus.documents import Ids

NO_KEY: Final = np.uint64(2**64 - 1)
"""The key of a row that ends no countable n-gram."""

KEY_BITS: Final = 64


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
    rank : [G], int64
        Number of each n-gram in the lexicographic order of tokens, 0 to G - 1: its id.
    uncountable : [N - M], int32
        Rows that end no countable n-gram, ascending.
    """

    n: int
    order: NDArray[np.int32]
    segments: NDArray[np.int64]
    rank: NDArray[np.int64]
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

    @cached_property
    def spectrum(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many n-grams occur how often: (occurrences [K] ascending, number [K]), int64."""
        occurrences, number = np.unique(np.diff(self.segments), return_counts=True)
        return occurrences, number.astype(np.int64)


def build(corpus: Corpus, n: int, *, backend: str | None = None, threads: int = 1) -> NgramIndex:
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

    Raises
    ------
    InputError
        For an n below 1.
    IntegrityError
        If two n-grams have one hash. Only where ``n * bit_length(V) > 64``: below, a key is the
        tokens themselves.

    Notes
    -----
    Cost: two stable sorts, of N keys and of G numbers; memory as `index_bytes`.
    """
    if n < 1:
        message = f"ngrams: {n}, expected at least 1"
        raise InputError(message)
    bits = corpus.vocab_size.bit_length()
    keys = np.empty(corpus.tokens, np.uint64)
    ops.ngram_keys(
        corpus.ids,
        corpus.starts,
        n,
        bits,
        corpus.boundary_id,
        keys,
        backend=backend,
        threads=threads,
    )
    countable = keys != NO_KEY
    uncountable = np.flatnonzero(~countable).astype(np.int32)
    rows = np.flatnonzero(countable).astype(np.int32)
    keys = keys[countable]
    del countable
    by_key = np.argsort(keys, kind="stable")
    rows = rows[by_key]
    keys = keys[by_key]
    del by_key
    new = np.concatenate([[True], keys[1:] != keys[:-1]])[: keys.size]
    del keys
    # Rows, and with them all places in `rows`, fit int32, which halves what is needed at once.
    starts = np.flatnonzero(new).astype(np.int32)
    del new
    occurrences = np.diff(starts, append=np.int32(rows.size))
    first = rows[starts]
    if n * bits > KEY_BITS:
        _check_collisions(corpus.ids, rows, occurrences, first, n)
        rank = _lexicographic_rank(corpus.ids, first, n)
    else:
        rank = np.arange(starts.size)
    # Both fit 31 bits, so one number orders by (occurrences, first row).
    by_count = np.argsort(occurrences.astype(np.int64) << 32 | first, kind="stable")
    del first
    rank = rank[by_count]
    starts = starts[by_count]
    occurrences = occurrences[by_count]
    del by_count
    segments = np.zeros(starts.size + 1, np.int64)
    np.cumsum(occurrences, out=segments[1:])
    # Where each row of the new order stands in the old: its segment moved as a whole.
    starts -= segments[:-1].astype(np.int32)
    source = np.repeat(starts, occurrences)
    source += np.arange(rows.size, dtype=np.int32)
    return NgramIndex(n, rows[source], segments, rank, uncountable)


def index_bytes(tokens: int, n: int) -> tuple[int, int]:
    """Bound the memory of `build`.

    Parameters
    ----------
    tokens : int
        Positions of the corpus.
    n : int

    Returns
    -------
    kept : int
        Bytes of the index: 4 a row, and 16 for each different n-gram, of which there are at most
        as many as rows.
    transient : int
        Bytes needed besides while it is built.
    """
    constant = 1 << 16
    # At the second sort: its keys, its result and its work space, beside rows, bounds and ranks.
    # A hash path also ranks the n-grams by their tokens, of at most 4 bytes.
    hashed = 4 * n * tokens
    return 20 * tokens + constant, 24 * tokens + hashed + constant


def _check_collisions(
    ids: Ids,
    rows: NDArray[np.int32],
    occurrences: NDArray[np.int64],
    first: NDArray[np.int32],
    n: int,
) -> None:
    """Compare the tokens of every row with those of the first row of the same key."""
    model = np.repeat(first, occurrences)
    for back in range(n):
        different = np.flatnonzero(ids[rows - back] != ids[model - back])
        if different.size:
            at = different[0]
            message = (
                f"n-grams of {n} tokens: those that end at rows {model[at]} and {rows[at]} differ "
                "and have the same 64-bit hash; scan fewer n"
            )
            raise IntegrityError(message)


def _lexicographic_rank(ids: Ids, first: NDArray[np.int32], n: int) -> NDArray[np.int64]:
    """Return the rank of each n-gram, given the first row that it ends at."""
    order = np.lexsort([ids[first - back] for back in range(n)])
    rank = np.empty(first.size, np.int64)
    rank[order] = np.arange(first.size)
    return rank
