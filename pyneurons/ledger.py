"""The ledger of an unfinished run: what it is a run of, and which of its files are whole.

==================  =============================================================================
``plan.json``       what the run is of: everything that its counters depend on; never changed
``ledger/*.json``   one entry for each finished layer and each residual stream kept; written last
``lock``            held by the process that writes the run
==================  =============================================================================

An entry lists its files with size and checksum and is sealed (`pyneurons.durable.seal`). A file that no
entry lists does not count. Entries and files that do not match are moved to ``damaged/`` and what they
held is computed again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pyneurons import durable
from pyneurons.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PLAN: Final = "plan.json"
PLAN_FORMAT: Final = 1
LEDGER: Final = "ledger"
DAMAGED: Final = "damaged"

_ABSENT: Final = "nothing"
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_MOST_TEXT: Final = 80


@dataclass(frozen=True)
class Plan:
    """What a run is of.

    Parameters
    ----------
    identity : dict
        All that the counters depend on.
    given : dict
        How it was asked for; for messages.
    """

    identity: dict[str, Any]
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the identity."""
        return fingerprint(self.identity)

    def write(self, folder: Path) -> None:
        """Commit it to a folder."""
        content = {
            "format": PLAN_FORMAT,
            "fingerprint": self.fingerprint,
            "identity": self.identity,
            "given": self.given,
        }
        durable.commit_bytes(folder / PLAN, durable.seal(content))

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Read the plan of a run.

        Raises
        ------
        IntegrityError
            If it is damaged.
        InputError
            If it is of another format.
        """
        path = folder / PLAN
        content = durable.unseal(path)
        if content.get("format") != PLAN_FORMAT:
            message = f"{path}: format {content.get('format')}, this version continues format "
            message += f"{PLAN_FORMAT}; use the version that began it"
            raise InputError(message)
        return cls(content["identity"], content["given"])


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields in which two identities differ, each with both values as a text."""
    one, other = dict(_fields(before)), dict(_fields(now))
    return {
        name: f"{_text(one.get(name, _ABSENT))} there, {_text(other.get(name, _ABSENT))} here"
        for name in [*one, *(name for name in other if name not in one)]
        if one.get(name, _ABSENT) != other.get(name, _ABSENT)
    }


def _fields(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _fields(each, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        for i, each in enumerate(value):
            yield from _fields(each, f"{name}[{i}]")
    else:
        yield name, value


def _text(value: Any) -> str:
    text = str(value)
    if len(text) == 64 and all(c in "0123456789abcdef" for c in text):
        return text[:12] + ".."
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + ".."


@dataclass(frozen=True)
class Entry:
    """One committed step of a run: its files and what else it tells."""

    name: str
    files: dict[str, dict[str, Any]]  # name: {"bytes", "sha256" or "sha256_of_blocks"}
    facts: dict[str, Any]

    def wrong_files(self, folder: Path, *, whole: bool = True) -> list[str]:
        """Return the files that are not there, or not what was written."""
        return [
            name
            for name, said in self.files.items()
            if not _has_size(folder / name, said) or (whole and not _holds(folder / name, said))
        ]


def _has_size(path: Path, said: Mapping[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == int(said["bytes"])


def _holds(path: Path, said: Mapping[str, Any]) -> bool:
    if "sha256" in said:
        return durable.sha256_of(path) == str(said["sha256"])
    return durable.sha256_of_blocks(path) == str(said["sha256_of_blocks"])


class Ledger:
    """The entries of one unfinished run; the caller holds its lock where it writes."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint

    def put(
        self, name: str, files: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]
    ) -> None:
        """Commit an entry; its files are on disk already."""
        durable.make_folder(self.folder / LEDGER)
        content = {
            "name": name,
            "plan": self.fingerprint,
            "files": {file: dict(said) for file, said in files.items()},
            "facts": dict(facts),
        }
        durable.commit_bytes(self._path(name), durable.seal(content))

    def drop(self, name: str) -> None:
        """Take an entry back, so that its files may be written over."""
        path = self._path(name)
        if path.exists():
            durable.remove(path)
            durable.sync_folder(path.parent)

    def read(self, *, whole: bool = True) -> tuple[dict[str, Entry], dict[str, str]]:
        """Return the entries that hold, by name, and what is wrong with the files of the others.

        Cost: reads every file of the run; not ``whole``, looks at their sizes alone.
        """
        entries: dict[str, Entry] = {}
        wrong: dict[str, str] = {}
        for path in self.entry_files():
            file = f"{LEDGER}/{path.name}"
            try:
                content = durable.unseal(path)
                entry = Entry(content["name"], content["files"], content["facts"])
                if content["plan"] != self.fingerprint or path != self._path(entry.name):
                    wrong[file] = "an entry of another run"
                    continue
                if not all(_PLAIN_NAME.fullmatch(name) for name in entry.files):
                    wrong[file] = "names files outside the run"
                    continue
            except (IntegrityError, KeyError, TypeError):
                wrong[file] = "its checksum does not match"
                continue
            bad = entry.wrong_files(self.folder, whole=whole)
            if bad:
                wrong[file] = "names damaged files"
                wrong |= dict.fromkeys(bad, "missing, or its checksum does not match")
            else:
                entries[entry.name] = entry
        return entries, wrong

    def entry_files(self) -> list[Path]:
        """Return the files of all entries, sorted."""
        folder = self.folder / LEDGER
        found = folder.glob("*.json") if folder.is_dir() else []
        return sorted(path for path in found if not path.name.startswith(durable.TEMPORARY))

    def set_aside(self, file: str) -> None:
        """Move a damaged file out of the way, to be looked at."""
        source = self.folder / file
        if not source.exists():
            return
        durable.make_folder(self.folder / DAMAGED)
        target = self.folder / DAMAGED / source.name
        number = 0
        while target.exists():
            number += 1
            target = self.folder / DAMAGED / f"{source.name}.{number}"
        durable.rename(source, target)

    def sweep(self, entries: Mapping[str, Entry], *, keep: frozenset[str]) -> None:
        """Remove what no entry lists: temporaries and files of steps that did not finish."""
        listed = {name for entry in entries.values() for name in entry.files}
        for path in self.folder.iterdir():
            if path.is_dir() or path.name in keep or path.name in listed:
                continue
            durable.remove(path)
        for path in self._temporaries():
            durable.remove(path)

    def _temporaries(self) -> list[Path]:
        folder = self.folder / LEDGER
        return sorted(folder.glob(f"{durable.TEMPORARY}*")) if folder.is_dir() else []

    def clear(self) -> None:
        """Remove entries and what was set aside."""
        for path in [*self.entry_files(), *self._temporaries()]:
            durable.remove(path)
        for name in (LEDGER, DAMAGED):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / LEDGER / f"{name}.json"
