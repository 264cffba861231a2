"""A corpus: token ids cut into sequences, domain by domain, and what is known about them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from pyneurons.corpus.documents import Ids
    from pyneurons.corpus.tally import SourceRecord

Packing = Literal["pack", "document", "rows"]

_BLOCK_IDS = 1 << 22


@dataclass(frozen=True, eq=False, repr=False)
class Corpus:
    """The positions that a scan runs, row by row.

    Sequences lie end to end, domain by domain in the order of ``domains``; within a domain in the
    order of the input, or in the drawn order under a ``shuffle_seed``. Letters: N positions, S
    sequences, T context, V vocabulary.

    Parameters
    ----------
    ids : [N], uint16 (uint32 where V > 65,536)
        Token ids, mapped from a temporary file without a name.
    starts : [S + 1], int64
        First row of each sequence, then N.
    sequence_domain : [S], int32
        Index into ``domains``, never decreasing (but in a merged run, whose parts follow each other).
    domains : tuple of str
    context : int
        T, the length of a full sequence.
    vocab_size : int
    boundary_id : int
        The id of BOS and of the separator between documents.
    packing : {"pack", "document", "rows"}
    left_out : dict
        What was met and is not in ``ids``:

        - ``dropped_separators``: those that would have stood first or last in a sequence,
        - ``empty_documents``: documents (rows) without a token,
        - ``padding``: trailing padding ids of rows,
        - ``boundary_ids``: boundary ids read in documents given as ids, where they only mark the
          ends of documents (a BOS in front included), while packing writes its own,
        - ``byte_order_marks``, and ``replaced_characters`` under ``errors="replace"``,
        - ``over_max_tokens:DOMAIN``, for each limited domain: positions that were not kept because
          of ``max_tokens``; None where reading stopped there, so that nobody knows.

        All but the last count what was read, kept or not.
    documents : int
        Documents (rows) read that have tokens.
    sources : list of dict
        The inputs in order: domain, path, bytes, sha256.
    strings : list of (str or None), V of them
        Text of each token id, None where the tokenizer has none; empty without a tokenizer.
    """

    ids: Ids
    starts: NDArray[np.int64]
    sequence_domain: NDArray[np.int32]
    domains: tuple[str, ...]
    context: int
    vocab_size: int
    boundary_id: int
    packing: Packing
    left_out: dict[str, int | None]
    documents: int
    sources: list[SourceRecord]
    strings: list[str | None]

    def __repr__(self) -> str:
        return (
            f"Corpus(tokens={self.tokens}, sequences={self.sequences}, context={self.context}, "
            f"packing={self.packing!r}, domains={self.domains})"
        )

    @property
    def tokens(self) -> int:
        """N: every position that is run."""
        return int(self.starts[-1])

    @property
    def sequences(self) -> int:
        """S."""
        return self.starts.size - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each sequence, [S]."""
        return np.diff(self.starts)

    @cached_property
    def full(self) -> NDArray[np.bool_]:
        """Which sequences have ``context`` positions, [S]."""
        full: NDArray[np.bool_] = self.lengths == self.context
        return full

    @cached_property
    def bos_rows(self) -> NDArray[np.int64]:
        """Rows of the boundary id at position 0 of a sequence, ascending."""
        first = self.starts[:-1]
        rows: NDArray[np.int64] = first[self.ids[first] == self.boundary_id]
        return rows

    @cached_property
    def separator_rows(self) -> NDArray[np.int64]:
        """Rows of the boundary id at any other position, ascending."""
        rows = np.flatnonzero(self.ids == self.boundary_id)
        return np.setdiff1d(rows, self.bos_rows, assume_unique=True)

    @property
    def corpus_tokens(self) -> int:
        """Positions that are neither BOS nor separator."""
        return self.tokens - self.bos_rows.size - self.separator_rows.size

    @cached_property
    def domain_rows(self) -> NDArray[np.int64]:
        """First row of each domain, then N, [domains + 1]."""
        first = np.searchsorted(self.sequence_domain, np.arange(len(self.domains) + 1))
        return self.starts[first]

    @property
    def domain_tokens(self) -> dict[str, int]:
        """Positions of each domain."""
        tokens = np.zeros(len(self.domains), dtype=np.int64)
        np.add.at(tokens, self.sequence_domain, self.lengths)
        return dict(zip(self.domains, tokens.tolist(), strict=True))

    @cached_property
    def token_counts(self) -> NDArray[np.int64]:
        """How often each id is in the corpus, [V]."""
        counts = np.zeros(self.vocab_size, dtype=np.int64)
        for start in range(0, self.tokens, _BLOCK_IDS):
            counts += np.bincount(self.ids[start : start + _BLOCK_IDS], minlength=self.vocab_size)
        return counts

    @cached_property
    def sha256(self) -> str:
        """Digest of ids, starts and domains: equal for two corpora exactly if those are."""
        digest = hashlib.sha256()
        for start in range(0, self.tokens, _BLOCK_IDS):
            block = self.ids[start : start + _BLOCK_IDS]
            digest.update(block.astype(np.dtype(np.uint32).newbyteorder("<")).data)
        digest.update(self.starts.astype(np.dtype(np.int64).newbyteorder("<")).data)
        digest.update(self.sequence_domain.astype(np.dtype(np.int32).newbyteorder("<")).data)
        digest.update("\0".join(self.domains).encode())
        return digest.hexdigest()

    def manifest(self) -> dict[str, Any]:
        """Describe the corpus in plain JSON values."""
        return {
            "sources": [dict(source) for source in self.sources],
            "packing": self.packing,
            "attention_crosses_documents": self.packing == "pack",
            "context": self.context,
            "vocab_size": self.vocab_size,
            "boundary_id": self.boundary_id,
            "domains": list(self.domains),
            "domain_tokens": self.domain_tokens,
            "tokens": self.tokens,
            "corpus_tokens": self.corpus_tokens,
            "bos": self.bos_rows.size,
            "separators": self.separator_rows.size,
            "sequences": self.sequences,
            "full_sequences": int(np.count_nonzero(self.full)),
            "documents": self.documents,
            "left_out": dict(self.left_out),
            "sha256": self.sha256,
        }

    def close(self) -> None:
        """Let go of the ids; their temporary file goes with the last array that shows them."""
        self.__dict__.pop("ids", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
