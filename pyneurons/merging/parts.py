"""Runs opened to be merged: whether they belong together, and where their rows go.

The scans behind a merged run are its parts. Their rows follow each other in the order of the checksums
of their corpora, whatever the order and the grouping in which they are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons.corpus import Corpus
from pyneurons.errors import InputError, IntegrityError
from pyneurons.ledger import PLAN, Plan, differences
from pyneurons.observers.row_keys import RowKeys, sequence_digests
from pyneurons.result import SUMS, Run, read_sums, wrong_sums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_OF_THE_CORPUS: Final = ("packing", "context", "boundary_id")
SCORED: Final = "scored"
"""The option of a merged run: whether triggers were scored. It says nothing of what is merged."""

COMMON_SHARE: Final = 0.01
"""Of the tokens of the smaller of two parts, what equal sequences may hold."""

_MOST_FIELDS: Final = 12
_UNKNOWN: Final = None


@dataclass(frozen=True)
class Part:
    """One scan: what its corpus is, and which rows of an opened run are its own.

    Parameters
    ----------
    corpus, identity : dict
        As they stand in the manifest and in the plan of the scan.
    requested : dict
        ``max_tokens`` and ``shuffle_seed``.
    given : str
        The model as it was named.
    """

    corpus: dict[str, Any]
    identity: dict[str, Any]
    requested: dict[str, Any]
    given: str

    @property
    def sha256(self) -> str:
        """Checksum of ids, sequences and domains."""
        return str(self.corpus["sha256"])

    def as_dict(self) -> dict[str, Any]:
        """Return what the manifest of a merged run keeps of it."""
        return {
            "given": self.given,
            "corpus": self.corpus,
            "identity": self.identity,
            **self.requested,
        }


@dataclass(frozen=True)
class OpenedRun:
    """A run to be merged, one scan or a merged run, with the scans in it in the order of their rows."""

    run: Run
    plan: Plan
    parts: tuple[Part, ...]

    @classmethod
    def open(cls, directory: Path) -> OpenedRun:
        """Open a run and compare all its checksums. Cost: reads every file of it.

        Raises
        ------
        InputError
            If it is not a finished run with a plan.
        IntegrityError
            If a file has changed.
        """
        run = Run.open(directory)
        if not (directory / PLAN).exists() or not (directory / SUMS).exists():
            message = f"{directory} has no {PLAN}: only runs that were scanned with out= (--out) "
            message += "say what they are of, and can be merged"
            raise InputError(message)
        wrong = wrong_sums(directory, read_sums(directory))
        if wrong:
            message = f"{directory}: {', '.join(wrong)}: missing, or not what was written; "
            message += "scan again, or take the run from a copy"
            raise IntegrityError(message)
        plan, manifest = Plan.read(directory), run.manifest
        merged = manifest.get("merged")
        if merged is None:
            requested = {
                name: manifest["settings"][name] for name in ("max_tokens", "shuffle_seed")
            }
            given = manifest["model"]["given"]
            one = Part(manifest["corpus"], plan.identity["corpus"], requested, given)
            return cls(run, plan, (one,))
        parts = tuple(
            Part(
                part["corpus"],
                part["identity"],
                {name: part[name] for name in ("max_tokens", "shuffle_seed")},
                part["given"],
            )
            for part in merged["parts"]
        )
        return cls(run, plan, parts)

    @property
    def name(self) -> str:
        """Its directory, for messages."""
        return str(self.run.directory)

    @property
    def alike(self) -> dict[str, Any]:
        """All that must be equal in runs that are merged."""
        whole = self.plan.identity
        options = {name: value for name, value in whole["options"].items() if name != SCORED}
        corpus = {name: whole["corpus"][name] for name in _OF_THE_CORPUS}
        return dict(whole) | {"options": options, "corpus": corpus}


def check_alike(opened: Sequence[OpenedRun]) -> None:
    """Refuse runs that differ in anything but the corpus.

    Raises
    ------
    InputError
        With each field that differs.
    """
    first = opened[0]
    for other in opened[1:]:
        fields = differences(first.alike, other.alike)
        if fields:
            listed = "; ".join(f"{name}: {both}" for name, both in [*fields.items()][:_MOST_FIELDS])
            if len(fields) > _MOST_FIELDS:
                listed += f"; and {len(fields) - _MOST_FIELDS} more"
            message = f"merge: {first.name} (there) and {other.name} (here) are not of the same "
            message += f"model, options, numeric mode, machine and version: {listed}"
            raise InputError(message)


@dataclass(frozen=True)
class _Block:
    """The rows, or sequences, of one part: where they are in an opened run, and where they go."""

    begin: int
    end: int
    moved: int


class Layout:
    """The corpus of a merged run, and where the rows of each opened run are in it.

    Parameters
    ----------
    opened : sequence of OpenedRun

    Attributes
    ----------
    parts : list of Part
        All scans, in the order of their rows.
    corpus : Corpus
    keys : RowKeys
        Of its rows; the same as in the scans.
    """

    def __init__(self, opened: Sequence[OpenedRun]) -> None:
        self.opened = opened
        where = [(part, i, k) for i, one in enumerate(opened) for k, part in enumerate(one.parts)]
        where.sort(key=lambda entry: entry[0].sha256)
        self.parts = [part for part, _, _ in where]
        self.domains = tuple(
            sorted({name for part in self.parts for name in part.corpus["domains"]})
        )
        self._digests = [
            sequence_digests(one.run.corpus_array("ids"), one.run.corpus_array("starts"))
            for one in opened
        ]
        self._rows: list[list[_Block]] = [[] for _ in opened]
        self._sequences: list[list[_Block]] = [[] for _ in opened]
        row = sequence = 0
        for part, i, k in where:
            begin = sum(int(before.corpus["tokens"]) for before in opened[i].parts[:k])
            first = sum(int(before.corpus["sequences"]) for before in opened[i].parts[:k])
            tokens, sequences = int(part.corpus["tokens"]), int(part.corpus["sequences"])
            self._rows[i].append(_Block(begin, begin + tokens, row - begin))
            self._sequences[i].append(_Block(first, first + sequences, sequence - first))
            row, sequence = row + tokens, sequence + sequences
        self._order = [(i, k) for _, i, k in where]
        for blocks in (*self._rows, *self._sequences):
            blocks.sort(key=lambda block: block.begin)
        self.corpus = self._corpus()
        self.keys = self._keys()

    def rows(self, i: int, rows: np.ndarray) -> np.ndarray:
        """Return where rows of the i-th run are in the merged one; -1 stays -1."""
        return _moved(self._rows[i], rows)

    def row_blocks(self, i: int) -> list[tuple[slice, slice]]:
        """Return (rows of the i-th run, rows of the merged one) of all its parts."""
        return [
            (slice(b.begin, b.end), slice(b.begin + b.moved, b.end + b.moved))
            for b in self._rows[i]
        ]

    def domain_places(self, i: int) -> list[int]:
        """Return the place of each domain of the i-th run among those of the merged one."""
        return [self.domains.index(name) for name in self.opened[i].run.domains]

    def _corpus(self) -> Corpus:
        ids, lengths, domain = [], [], []
        for i, k in self._order:
            run = self.opened[i].run
            rows, sequences = self._rows[i][k], self._sequences[i][k]
            ids.append(run.corpus_array("ids")[rows.begin : rows.end])
            starts = run.corpus_array("starts").astype(np.int64)
            lengths.append(np.diff(starts[sequences.begin : sequences.end + 1]))
            places = np.array(self.domain_places(i), dtype=np.int32)
            owner = run.corpus_array("sequence_domain")[sequences.begin : sequences.end]
            domain.append(places[owner])
        shared, strings = self.opened[0].run.manifest["corpus"], self.opened[0].run.strings
        return Corpus(
            ids=np.concatenate(ids),
            starts=np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64),
            sequence_domain=np.concatenate(domain),
            domains=self.domains,
            context=shared["context"],
            vocab_size=shared["vocab_size"],
            boundary_id=shared["boundary_id"],
            packing=shared["packing"],
            left_out=_added([part.corpus["left_out"] for part in self.parts]),
            documents=sum(int(part.corpus["documents"]) for part in self.parts),
            sources=[source for part in self.parts for source in part.corpus["sources"]],
            strings=strings if any(string is not None for string in strings) else [],
        )

    def _keys(self) -> RowKeys:
        """Return the keys that the rows have in their scans."""
        parts = []
        for i, k in self._order:
            rows, sequences = self._rows[i][k], self._sequences[i][k]
            starts = self.opened[i].run.corpus_array("starts").astype(np.int64)
            own = starts[sequences.begin : sequences.end + 1] - rows.begin
            digests = self._digests[i][sequences.begin : sequences.end]
            parts.append(RowKeys.from_digests(own, digests).sequences)
        return RowKeys(self.corpus.starts, np.concatenate(parts))

    def check_disjoint(self) -> None:
        """Refuse runs that have a file in common, or sequences that hold 1 % of the smaller one's tokens.

        Fewer are counted, as a scan counts what its files repeat: licences and other boilerplate. Text
        that two runs hold in sequences of other bounds is noticed by its files alone.

        Raises
        ------
        InputError
            Names both runs, and the files or the number of sequences.
        """
        seen: dict[str, tuple[int, str]] = {}
        for i, one in enumerate(self.opened):
            sources = [source for part in one.parts for source in part.corpus["sources"]]
            hashes = {str(s["sha256"]): str(s["path"]) for s in sources if s["sha256"] is not None}
            for sha256, path in hashes.items():
                if sha256 in seen:
                    other, there = seen[sha256]
                    self._refuse(other, i, f"{there} and {path} are the same file")
            seen |= {sha256: (i, path) for sha256, path in hashes.items()}
        for place, (i, k) in enumerate(self._order):
            for other, at in self._order[:place]:
                if other == i:
                    continue
                both, share = self._in_common((i, k), (other, at))
                if share > COMMON_SHARE:
                    what = f"{both:,} sequences, {100 * share:.3g} % of the smaller, are in both"
                    self._refuse(other, i, what)

    def repeated_sequences(self) -> int:
        """Return how many different sequences are in more than one part."""
        every = [np.unique(self._kinds(i, k)) for i, k in self._order]
        _, number = np.unique(np.concatenate(every), return_counts=True)
        return int(np.count_nonzero(number > 1))

    def _kinds(self, i: int, k: int) -> np.ndarray:
        block = self._sequences[i][k]
        return self._digests[i][block.begin : block.end].view("S16")

    def _in_common(self, one: tuple[int, int], other: tuple[int, int]) -> tuple[int, float]:
        """Return how many sequences two parts have in common, and their share of the smaller's tokens."""
        kinds, tokens, shared = np.unique(self._kinds(*one)), [], []
        both = np.intersect1d(kinds, np.unique(self._kinds(*other)), assume_unique=True)
        if not both.size:
            return 0, 0.0
        for i, k in (one, other):
            block = self._sequences[i][k]
            starts = self.opened[i].run.corpus_array("starts").astype(np.int64)
            lengths = np.diff(starts[block.begin : block.end + 1])
            tokens.append(int(lengths.sum()))
            shared.append(int(lengths[np.isin(self._kinds(i, k), both)].sum()))
        return both.size, min(shared) / min(tokens)

    def _refuse(self, one: int, other: int, what: str) -> None:
        first, second = self.opened[one].name, self.opened[other].name
        message = f"merge: the corpora of {first} and {second} overlap: {what}, and would count "
        message += "twice; leave one out, or pass allow_repeats=True (--allow-repeats)"
        raise InputError(message)


def _moved(blocks: Sequence[_Block], places: np.ndarray) -> np.ndarray:
    begins = np.array([block.begin for block in blocks])
    moved = np.array([block.moved for block in blocks])
    at = np.searchsorted(begins, places, side="right") - 1
    return np.where(places < 0, places, places + moved[np.maximum(at, 0)])


def _added(parts: Sequence[Mapping[str, int | None]]) -> dict[str, int | None]:
    """Add what was left out, name by name; what nobody knows of one part is unknown."""
    found: dict[str, int | None] = {}
    for name in sorted({name for part in parts for name in part}):
        values = [part.get(name, 0) for part in parts]
        known = [value for value in values if value is not None]
        found[name] = sum(known) if len(known) == len(values) else _UNKNOWN
    return found
