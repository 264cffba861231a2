"""The order in which firing positions are taken as examples: by hashes that the text alone decides.

The key of a row follows from the ids of its sequence, from how many equal sequences come before it,
and from its position. It is the same wherever the sequence stands, so that the examples of a corpus
are among those of its parts (`pyneurons.merging`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyneurons.corpus import Corpus

DIGEST: Final = np.dtype("V16")
_STEP: Final = np.uint64(0x9E3779B97F4A7C15)


def sequence_digests(ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the BLAKE2b digest of the ids of each sequence, 16 bytes each, [S]."""
    words = np.dtype(np.uint32).newbyteorder("<")
    found = b"".join(
        hashlib.blake2b(ids[begin:end].astype(words).data, digest_size=DIGEST.itemsize).digest()
        for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    )
    return np.frombuffer(found, dtype=DIGEST)


@dataclass(frozen=True)
class RowKeys:
    """A 64-bit key of every row of a corpus; no two rows have one, but for chance (2^-64 a pair).

    Parameters
    ----------
    starts : int64 [S + 1]
        First row of each sequence, then N.
    sequences : uint64 [S]
        What tells a sequence from all others.
    """

    starts: NDArray[np.int64]
    sequences: NDArray[np.uint64]

    @classmethod
    def of(cls, corpus: Corpus) -> Self:
        """Return the keys of a corpus. Cost: hashes the ids, .5 GB/s; 8 bytes a sequence kept."""
        return cls.from_digests(corpus.starts, sequence_digests(corpus.ids, corpus.starts))

    @classmethod
    def from_digests(cls, starts: NDArray[np.int64], digests: np.ndarray) -> Self:
        """Return the keys, from what `sequence_digests` gives."""
        first = digests.view("<u8").reshape(-1, 2)[:, 0].astype(np.uint64)
        # Of equal sequences, how many come before.
        _, kind = np.unique(digests.view("S16"), return_inverse=True)
        by_kind = np.argsort(kind, kind="stable")
        begins = np.searchsorted(kind[by_kind], np.arange(int(kind.max(initial=-1)) + 1))
        before = np.empty(kind.size, dtype=np.uint64)
        before[by_kind] = np.arange(kind.size) - begins[kind[by_kind]]
        return cls(starts, _mixed(first + before))

    def of_rows(self, rows: np.ndarray) -> NDArray[np.uint64]:
        """Return the keys of some rows, in the shape of ``rows``."""
        sequence = np.searchsorted(self.starts, rows, side="right") - 1
        position = (rows - self.starts[sequence]).astype(np.uint64)
        return _mixed(self.sequences[sequence] + position * _STEP)

    def order(self) -> NDArray[np.int32]:
        """Return the rows by their keys, int32 [N]. Cost: 24 bytes a row while it is made."""
        lengths = np.diff(self.starts)
        first = self.sequences - self.starts[:-1].astype(np.uint64) * _STEP
        keys = np.repeat(first, lengths)
        keys += np.arange(keys.size, dtype=np.uint64) * _STEP
        # The sort that is not stable takes a third of the time and less memory.
        return np.argsort(_mixed(keys)).astype(np.int32)


def _mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the values of splitmix64's finaliser, a permutation of 64-bit numbers."""
    mixed = keys ^ (keys >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
