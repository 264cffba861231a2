"""How often each neuron fires at each position of full-length sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyneurons import ops

if TYPE_CHECKING:
    from pyneurons.corpus import Corpus


@dataclass(frozen=True)
class PositionObserver:
    """Counts fires by (domain, position) over the sequences that fill the context.

    Holds 4 bytes for every row of a full sequence.
    """

    context: int
    domains: int
    order: np.ndarray  # rows by domain, then position, then sequence
    segments: np.ndarray  # [domains * T + 1]

    @classmethod
    def build(cls, corpus: Corpus) -> PositionObserver:
        """Order the rows of full sequences by domain and position."""
        orders: list[np.ndarray] = []
        sizes: list[np.ndarray] = []
        positions = np.arange(corpus.context, dtype=np.int64)[:, None]
        for domain in range(len(corpus.domains)):
            sequences = np.flatnonzero(corpus.full & (corpus.sequence_domain == domain))
            orders.append(
                (corpus.starts[sequences][None, :] + positions).astype(np.int32).reshape(-1)
            )
            sizes.append(np.full(corpus.context, sequences.size, dtype=np.int64))
        segments = np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)
        return cls(corpus.context, len(corpus.domains), np.concatenate(orders), segments)

    def counters(self, neurons: int) -> np.ndarray:
        """Return unsigned zeros [domains * T, F], as narrow as the number of sequences allows."""
        most = int(np.diff(self.segments).max(initial=0))
        return np.zeros((self.domains * self.context, neurons), dtype=np.min_scalar_type(most))

    def observe(
        self,
        mask: np.ndarray,
        neurons: int,
        *,
        backend: str | None,
        threads: int,
        into: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Return ``position_fires`` unsigned [domains, T, F] of one strip.

        ``into``, zeros as of `counters`, is where they go; it may be a part of those of a layer,
        [:, start:stop], so that strips need not be joined.
        """
        fires = self.counters(neurons) if into is None else into
        ops.segment_counts(mask, self.order, self.segments, fires, backend=backend, threads=threads)
        return {"position_fires": fires.reshape(self.domains, self.context, neurons)}
