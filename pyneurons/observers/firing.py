"""How often, where first, and on which sampled rows each neuron fires."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyneurons import ops

if TYPE_CHECKING:
    from pyneurons.corpus import Corpus

EXAMPLES = 16


def hashed_order(rows: int) -> np.ndarray:
    """Return the rows 0..rows-1 in the order of a 64-bit hash of their index, int32 [rows].

    The hash is splitmix64's finaliser, so the order is a fixed pseudo-random permutation that
    depends on nothing but the index. Cost: 8 bytes a row while it is made, 4 kept.
    """
    with np.errstate(over="ignore"):
        mixed = np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    # No two are equal; the sort that is not stable takes a third of the time and less memory.
    return np.argsort(mixed).astype(np.int32)


@dataclass(frozen=True)
class FiringObserver:
    """Counts fires by domain, at BOS, at separators and in partial sequences.

    Built once for a corpus; holds 4 bytes a row for the sampling order, and the rows of partial
    sequences.
    """

    domain_rows: np.ndarray  # [domains + 1] first row of each domain
    special_order: np.ndarray  # BOS rows, then separator rows
    special_segments: np.ndarray  # [3]
    partial_order: np.ndarray  # rows of sequences shorter than the context, by domain
    partial_segments: np.ndarray  # [domains + 1]
    sample_order: np.ndarray  # [N]

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
        return cls(
            domain_rows=np.asarray(corpus.domain_rows, dtype=np.int64),
            special_order=np.concatenate([bos, separators]).astype(np.int32),
            special_segments=np.array([0, bos.size, bos.size + separators.size], dtype=np.int64),
            partial_order=rows.astype(np.int32),
            partial_segments=np.concatenate([[0], np.cumsum(per_domain)]).astype(np.int64),
            sample_order=hashed_order(corpus.tokens),
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
            fires; ``examples`` int64 [16, F] rows in hash order, -1 where there are fewer.

        Notes
        -----
        Cost: one pass over the bits in order, and part of one in hash order: it ends early for a
        word whose neurons all have their 16 rows, or all that there are.
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
        first = self._rows(mask, None, fires, 1, backend, threads)
        examples = self._rows(mask, self.sample_order, fires, EXAMPLES, backend, threads)
        return {
            "fires": fires,
            "bos_fires": special[0],
            "separator_fires": special[1],
            "domain_fires": by_domain,
            "partial_fires": partial,
            "first_fire": first[0],
            "examples": examples,
        }

    @staticmethod
    def _rows(
        mask: np.ndarray,
        order: np.ndarray | None,
        fires: np.ndarray,
        limit: int,
        backend: str | None,
        threads: int,
    ) -> np.ndarray:
        """Return the first ``limit`` rows of each neuron in an order, int64 [limit, F]."""
        rows = np.full((fires.size, limit), -1, dtype=np.int64)
        # What a neuron lacks is counted as found: it ends with its last fire. One that waited for
        # rows that do not exist would have the whole mask read, in the order of hashes.
        lacking = np.maximum(limit - fires, 0)
        found = lacking.copy()
        ops.firing_rows(mask, order, rows, found, backend=backend, threads=threads)
        for neuron in np.flatnonzero((lacking > 0) & (lacking < limit)):
            rows[neuron] = np.roll(rows[neuron], -lacking[neuron])
        return np.ascontiguousarray(rows.T)
