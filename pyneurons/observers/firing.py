"""How often, where first, and on which sampled rows each neuron fires."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyneurons import ops
from pyneurons.observers.row_keys import RowKeys

if TYPE_CHECKING:
    from pyneurons.corpus import Corpus

EXAMPLES = 16
# Neurons that fire less often than once in so many rows, and no more often than so, are those that
# fire seldom: the others have their examples after a small part of the rows.
_ROWS_A_FIRE = 2048
_SELDOM = 256
ROWS_BYTES = 48 * _SELDOM
"""What the rows of one such neuron take with their keys and order, while a strip is counted."""
_NO_KEY = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class FiringObserver:
    """Counts fires by domain, at BOS, at separators and in partial sequences.

    Built once for a corpus; holds 4 bytes a row for the order of examples, and the rows of partial
    sequences.
    """

    domain_rows: np.ndarray  # [domains + 1] first row of each domain
    special_order: np.ndarray  # BOS rows, then separator rows
    special_segments: np.ndarray  # [3]
    partial_order: np.ndarray  # rows of sequences shorter than the context, by domain
    partial_segments: np.ndarray  # [domains + 1]
    keys: RowKeys
    sample_order: np.ndarray  # [N], rows by their keys

    @classmethod
    def build(cls, corpus: Corpus) -> FiringObserver:
        """Make the orders and segments that a corpus needs."""
        bos, separators = corpus.bos_rows, corpus.separator_rows
        partial = np.flatnonzero(~corpus.full)
        lengths = corpus.lengths[partial]
        rows = (
            np.repeat(
                corpus.starts[partial] - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths
            )
            + np.arange(int(lengths.sum()))
            if partial.size
            else np.zeros(0, dtype=np.int64)
        )
        per_domain = np.bincount(
            corpus.sequence_domain[partial], weights=lengths, minlength=len(corpus.domains)
        ).astype(np.int64)
        keys = RowKeys.of(corpus)
        return cls(
            domain_rows=np.asarray(corpus.domain_rows, dtype=np.int64),
            special_order=np.concatenate([bos, separators]).astype(np.int32),
            special_segments=np.array([0, bos.size, bos.size + separators.size], dtype=np.int64),
            partial_order=rows.astype(np.int32),
            partial_segments=np.concatenate([[0], np.cumsum(per_domain)]).astype(np.int64),
            keys=keys,
            sample_order=keys.order(),
        )

    def observe(
        self, mask: np.ndarray, neurons: int, *, backend: str | None, threads: int
    ) -> dict[str, np.ndarray]:
        """Return the counters of one strip.

        Parameters
        ----------
        mask : uint32 [N, W]
            One strip of the layer's bits.
        neurons : int
            F of the strip, at most 32 W.
        backend, threads
            As in `pyneurons.ops`.

        Returns
        -------
        dict
            ``fires``, ``bos_fires``, ``separator_fires`` int64 [F]; ``domain_fires``,
            ``partial_fires`` int64 [domains, F]; ``first_fire`` int64 [F], -1 when it never
            fires; ``examples`` int64 [16, F] rows by their keys, -1 where there are fewer.

        Notes
        -----
        Cost: two passes over the bits in order, one of them for words with a neuron that fires
        seldom, and a small part of one in the order of keys: it ends where all others have their 16 rows.
        """
        domains = self.domain_rows.size - 1
        by_domain = np.zeros((domains, neurons), dtype=np.int64)
        ops.segment_counts(
            mask, None, self.domain_rows, by_domain, backend=backend, threads=threads
        )
        special = np.zeros((2, neurons), dtype=np.int64)
        ops.segment_counts(
            mask,
            self.special_order,
            self.special_segments,
            special,
            backend=backend,
            threads=threads,
        )
        partial = np.zeros((domains, neurons), dtype=np.int64)
        ops.segment_counts(
            mask,
            self.partial_order,
            self.partial_segments,
            partial,
            backend=backend,
            threads=threads,
        )
        fires = by_domain.sum(axis=0)
        first, examples = self._rows(mask, fires, backend, threads)
        return {
            "fires": fires,
            "bos_fires": special[0],
            "separator_fires": special[1],
            "domain_fires": by_domain,
            "partial_fires": partial,
            "first_fire": first,
            "examples": examples,
        }

    def _rows(
        self, mask: np.ndarray, fires: np.ndarray, backend: str | None, threads: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return ``first_fire`` [F] and ``examples`` [16, F].

        To wait for the rows of neurons that fire seldom is to read the whole mask in the order of
        keys. All their rows are found in order instead, which is three times as fast.
        """
        seldom = min(len(mask) // _ROWS_A_FIRE, _SELDOM)
        examples = np.full((EXAMPLES, fires.size), -1, dtype=np.int64)
        wanted = np.where(fires <= seldom, fires, 1)
        rows = _first_rows(mask, None, wanted, backend, threads)
        first = rows[:, 0].copy() if rows.size else np.full(fires.size, -1, dtype=np.int64)
        some = np.flatnonzero((fires > 0) & (fires <= seldom))
        rows = rows[some]
        keys = np.full(rows.shape, _NO_KEY)
        here = rows >= 0
        keys[here] = self.keys.of_rows(rows[here])
        best = np.argsort(keys, axis=1)[:, :EXAMPLES]
        examples[: best.shape[1], some] = np.take_along_axis(rows, best, axis=1).T

        often = np.flatnonzero(fires > seldom)
        wanted = np.where(fires > seldom, np.minimum(fires, EXAMPLES), 0)
        rows = _first_rows(mask, self.sample_order, wanted, backend, threads)
        examples[: rows.shape[1], often] = rows[often].T
        return first, examples


def _first_rows(
    mask: np.ndarray,
    order: np.ndarray | None,
    wanted: np.ndarray,
    backend: str | None,
    threads: int,
) -> np.ndarray:
    """Return the first ``wanted`` rows of each neuron in an order, [F, most], then -1.

    It fires at least so often: one that waited for rows that do not exist would have the whole
    mask read.
    """
    limit = int(wanted.max(initial=0))
    rows = np.empty((wanted.size, limit), dtype=np.int64)
    # What a neuron lacks of the limit is counted as found.
    lacking = limit - wanted
    found = lacking.copy()
    ops.firing_rows(mask, order, rows, found, backend=backend, threads=threads)
    rows[wanted == 0] = -1
    some = np.flatnonzero((lacking > 0) & (wanted > 0))
    place = np.arange(limit) + lacking[some, np.newaxis]
    there = place < limit
    place[~there] = 0
    rows[some] = np.where(there, np.take_along_axis(rows[some], place, axis=1), -1)
    return rows
