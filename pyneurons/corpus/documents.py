"""Documents on their way from a reader to the packer, and the checks that token ids pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyneurons.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyneurons.corpus.tally import Tally

BOUNDARY_ID: Final = 2
"""The id of ``</s>``: BOS in front of every sequence and separator between documents."""

PADDING_ID: Final = 1
"""The id that fills up the rows of a 2-d .npy."""

Ids = NDArray[np.unsignedinteger[Any]]
Integers = NDArray[np.integer[Any]]


class Part(NamedTuple):
    """A stretch of one document, in order; ``last`` ends the document."""

    content: str | Ids
    last: bool
    domain: str
    where: str


def ids_dtype(vocab_size: int) -> type[np.uint16 | np.uint32]:
    """Return the dtype that token ids are kept in."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def check_ids(ids: Integers, vocab_size: int, where: Callable[[int], str]) -> Ids:
    """Narrow token ids to their dtype.

    Parameters
    ----------
    ids : [...], integers
    vocab_size : int
    where : callable
        The place of a flat index of ``ids``, for the message.

    Raises
    ------
    InputError
        For an id that is negative or not below ``vocab_size``.
    """
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= vocab_size):
        flat = ids.reshape(-1)
        at = int(np.flatnonzero((flat < 0) | (flat >= vocab_size))[0])
        message = (
            f"{where(at)}: token id {int(flat[at])} is outside the vocabulary of {vocab_size}; "
            "the ids were made with another tokenizer or are not token ids"
        )
        raise InputError(message)
    return ids.astype(ids_dtype(vocab_size))


def as_integers(value: object, where: str) -> Integers:
    """Return a list of token ids as a 1-d array of integers.

    Raises
    ------
    InputError
        If it is not one list of integers.
    """
    try:
        ids = np.asarray(value)
    except (ValueError, OverflowError, TypeError) as error:
        message = f"{where}: not a list of token ids: {error}"
        raise InputError(message) from error
    if ids.ndim == 1 and ids.size == 0:
        return np.empty(0, np.int64)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        message = (
            f"{where}: token ids of dtype {ids.dtype} and shape {list(ids.shape)}, "
            "expected one list of integers"
        )
        raise InputError(message)
    return ids


class BoundarySplitter:
    """Cuts ids into documents at the boundary id, which is counted and never handed on.

    A run of boundary ids, and those at either end, are one boundary: they make no empty documents.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self.open = False

    def split(self, ids: Ids) -> Iterator[tuple[Ids, bool]]:
        """Yield the pieces of ``ids`` and whether each ends its document."""
        boundaries = np.flatnonzero(ids == BOUNDARY_ID)
        self._tally.boundary_ids += boundaries.size
        start = 0
        for boundary in boundaries.tolist():
            if boundary > start or self.open:
                yield ids[start:boundary], True
            self.open = False
            start = boundary + 1
        if start < ids.size:
            self.open = True
            yield ids[start:], False


def id_document(
    value: object, vocab_size: int, tally: Tally, *, domain: str, where: str
) -> Iterator[Part]:
    """Yield the parts of one list of token ids, which is several documents if it holds id 2 inside.

    A leading id 2 is a BOS that the list already has; packing writes its own.
    """
    ids = check_ids(as_integers(value, where), vocab_size, lambda at: f"{where}, token {at}")
    splitter = BoundarySplitter(tally)
    found = False
    for piece, last in splitter.split(ids):
        found = True
        yield Part(piece, last, domain, where)
    if splitter.open or not found:
        yield Part(ids[:0], True, domain, where)
