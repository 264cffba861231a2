"""How often each neuron fires at each position of full-length sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyneurons import ops
from pyneurons.result import narrowest

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

    def observe(
        self, mask: np.ndarray, neurons: int, *, backend: str | None, threads: int
    ) -> dict[str, np.ndarray]:
        """Return ``position_fires`` unsigned [domains, T, F] of one strip."""
        counts = np.zeros((self.domains * self.context, neurons), dtype=np.int64)
        ops.segment_counts(
            mask, self.order, self.segments, counts, backend=backend, threads=threads
        )
        shaped = counts.reshape(self.domains, self.context, neurons)
        return {"position_fires": narrowest(shaped)}
