"""What reading a corpus counts on its way, shared by the readers, the tokeniser and the packers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict


class SourceRecord(TypedDict):
    """One input of a corpus, as the manifest names it.

    ``bytes`` and ``sha256`` are those of the file as it lies on disk (compressed, if it is). Both
    are None for data in memory; ``sha256`` is None too where reading stopped early.
    """

    domain: str | None
    path: str
    bytes: int | None
    sha256: str | None


@dataclass
class Tally:
    """Running counts of one `pyneurons.corpus.read`."""

    documents: int = 0
    dropped_separators: int = 0
    empty_documents: int = 0
    padding: int = 0
    boundary_ids: int = 0
    byte_order_marks: int = 0
    replaced_characters: int = 0
    done_bytes: int = 0
    sources: list[SourceRecord] = field(default_factory=list)

    def left_out(self) -> dict[str, int | None]:
        """Return the counts of what was met and is not in the ids."""
        return {
            "dropped_separators": self.dropped_separators,
            "empty_documents": self.empty_documents,
            "padding": self.padding,
            "boundary_ids": self.boundary_ids,
            "byte_order_marks": self.byte_order_marks,
            "replaced_characters": self.replaced_characters,
        }
