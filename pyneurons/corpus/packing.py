"""Documents into sequences, and the file that sequences are kept in.

A sequence is BOS and at most ``context - 1`` tokens. A packer writes sequences to the spool as they
are complete, so memory holds one open sequence per domain and two integers per written one.
"""

from __future__ import annotations

import tempfile
from array import array
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons.corpus.documents import BOUNDARY_ID, PADDING_ID, Ids
from pyneurons.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pyneurons.corpus.tally import Tally

SPOOL_BUFFER_BYTES: Final = 1 << 20


class Spool:
    """A temporary file of sequences, end to end, that vanishes with its last user.

    The file has no name: nothing is left behind however the process ends.

    Parameters
    ----------
    dtype : type
        uint16 or uint32.
    scratch : Path or None
        The folder whose disk holds it; None is the system's.
    """

    def __init__(self, dtype: type[np.uint16 | np.uint32], scratch: Path | None) -> None:
        self.dtype = dtype
        self.positions = 0
        self._scratch = scratch
        self._lengths = array("q")
        self._domains = array("i")
        try:
            self._file = tempfile.TemporaryFile(  # noqa: SIM115 - lives as long as the spool
                dir=scratch, buffering=SPOOL_BUFFER_BYTES
            )
        except OSError as error:
            raise self._failed(error) from error

    def write(self, domain: int, ids: Ids, lengths: Sequence[int]) -> None:
        """Append the sequences of these lengths that ``ids`` holds end to end."""
        try:
            self._file.write(np.ascontiguousarray(ids, self.dtype).data)
        except OSError as error:
            raise self._failed(error) from error
        self._lengths.extend(lengths)
        self._domains.extend([domain] * len(lengths))
        self.positions += ids.size

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of every sequence written, [S]."""
        return np.array(self._lengths, np.int64)

    @property
    def domains(self) -> NDArray[np.int32]:
        """Domain of every sequence written, [S]."""
        return np.array(self._domains, np.int32)

    def ids(self) -> NDArray[np.unsignedinteger[Any]]:
        """Map the ids of all sequences, [N], and close the file, which lives on in the map."""
        try:
            self._file.flush()
            mapped = np.memmap(self._file, self.dtype, mode="r", shape=(self.positions,))
        except OSError as error:
            raise self._failed(error) from error
        self.close()
        return np.asarray(mapped)

    def close(self) -> None:
        """Close the file; without a map of it, it is gone."""
        self._file.close()

    def _failed(self, error: OSError) -> ResourceError:
        folder = self._scratch or tempfile.gettempdir()
        return ResourceError(
            f"{folder}: the token ids cannot be kept there ({error.strerror}), after "
            f"{self.positions * np.dtype(self.dtype).itemsize} bytes; free space or pass scratch="
        )


class Packer:
    """Packs the documents of one domain.

    Parameters
    ----------
    spool : Spool
    domain : int
    context : int
        Positions of a full sequence.
    joined : bool
        Documents share sequences, with one boundary id between them. A boundary id that would
        stand first or last in a sequence is dropped; in the latter case the sequence ends there.
    limit : int or None
        Positions that may be kept: whole sequences, from the first on.
    tally : Tally
    """

    def __init__(
        self,
        spool: Spool,
        domain: int,
        *,
        context: int,
        joined: bool,
        limit: int | None,
        tally: Tally,
    ) -> None:
        self._spool = spool
        self._domain = domain
        self._context = context
        self._joined = joined
        self._tally = tally
        self._room = limit
        self._sequence = np.full(context, BOUNDARY_ID, spool.dtype)
        self._length = 0
        self._document_begun = False
        self._separator_due = False
        self.full = False
        """The limit is reached: a token came that cannot be kept."""

    def add(self, ids: Ids) -> None:
        """Append tokens of the document at hand, none of them the boundary id."""
        if not ids.size or self.full:
            return
        if self._separator_due:
            self._separate()
        self._document_begun = True
        start = 0
        while start < ids.size and not self.full:
            if self._length == 0:
                start += self._add_sequences(ids[start:])
                if start == ids.size:
                    break
                self._length = 1  # position 0 of the buffer is BOS for good
            count = min(self._context - self._length, ids.size - start)
            self._sequence[self._length : self._length + count] = ids[start : start + count]
            self._length += count
            start += count
            self.full = self._room is not None and self._length > self._room
            if self._length == self._context and not self.full:
                self._end_sequence()

    def end_document(self) -> None:
        """Say that the document at hand is complete."""
        if not self._document_begun:
            self._tally.empty_documents += 1
            return
        self._document_begun = False
        self._tally.documents += 1
        if self._joined:
            self._separator_due = True
        else:
            self._end_sequence()

    def finish(self) -> None:
        """Write the shorter tail."""
        if self._document_begun:  # cut short by the limit
            self.end_document()
        self._end_sequence()

    def _separate(self) -> None:
        """Write the boundary id that is due, unless it would stand first or last."""
        self._separator_due = False
        if self._length in {0, self._context - 1}:
            self._tally.dropped_separators += 1
            self._end_sequence()
        else:
            self._sequence[self._length] = BOUNDARY_ID
            self._length += 1

    def _add_sequences(self, ids: Ids) -> int:
        """Write as many full sequences as ``ids`` fills; return the tokens taken."""
        width = self._context - 1
        count = ids.size // width
        if self._room is not None:
            count = min(count, self._room // self._context)
        if count == 0:
            return 0
        block = np.empty((count, self._context), self._spool.dtype)
        block[:, 0] = BOUNDARY_ID
        block[:, 1:] = ids[: count * width].reshape(count, width)
        self._write(block.reshape(-1), [self._context] * count)
        return count * width

    def _end_sequence(self) -> None:
        if self._length and not self.full:
            self._write(self._sequence[: self._length], [self._length])
        self._length = 0

    def _write(self, ids: Ids, lengths: list[int]) -> None:
        self._spool.write(self._domain, ids, lengths)
        if self._room is not None:
            self._room -= ids.size


class RowPacker:
    """Takes the rows of a 2-d array of ids as the sequences of one domain.

    Trailing `PADDING_ID` is cut off and counted; a row of nothing else is an empty document.
    Parameters as of `Packer`.
    """

    def __init__(self, spool: Spool, domain: int, *, limit: int | None, tally: Tally) -> None:
        self._spool = spool
        self._domain = domain
        self._room = limit
        self._tally = tally
        self.full = False

    def add(self, rows: NDArray[np.unsignedinteger[Any]]) -> None:
        """Append rows ``[k, context]``."""
        columns = np.arange(1, rows.shape[1] + 1)
        lengths = np.where(rows != PADDING_ID, columns, 0).max(axis=1, initial=0)
        kept = rows.shape[0]
        if self._room is not None:
            kept = int(np.searchsorted(np.cumsum(lengths), self._room, side="right"))
            self.full = kept < rows.shape[0]
        rows, lengths = rows[:kept], lengths[:kept]
        found = lengths[lengths > 0]
        self._tally.documents += found.size
        self._tally.empty_documents += kept - found.size
        self._tally.padding += rows.size - int(lengths.sum())
        ids = rows[columns <= lengths[:, np.newaxis]]
        self._spool.write(self._domain, ids, found.tolist())
        if self._room is not None:
            self._room -= ids.size
