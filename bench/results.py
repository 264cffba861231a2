"""`results/MACHINE.json`: one file for each machine, the records of every part in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

FOLDER: Final = Path(__file__).resolve().parent / "results"

Record = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """What was measured on one machine; a part that was never run has no records."""

    machine: str
    facts: dict[str, Any]
    parts: dict[str, dict[str, Any]]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file."""
        kept = json.loads(path.read_text(encoding="utf-8"))
        return cls(path.stem, kept["machine"], kept["parts"])

    @classmethod
    def all(cls) -> list[Self]:
        """Read the files of all machines."""
        return [cls.load(path) for path in sorted(FOLDER.glob("*.json"))]

    @property
    def card(self) -> str | None:
        """Name of the GPU that was measured, or None where it was the processor."""
        return self.facts.get("card")

    def records(self, part: str, **equal: Any) -> list[Record]:
        """Return the records of a part whose fields equal the values given."""
        records = self.parts.get(part, {}).get("records", [])
        return [r for r in records if all(r.get(key) == value for key, value in equal.items())]

    def record(self, part: str, **equal: Any) -> Record | None:
        """Return the one record that fits, or None where it was not measured."""
        found = self.records(part, **equal)
        return found[0] if found else None


def keep(part: str, found: dict[str, Any]) -> None:
    """Put the records of one part into this machine's file, in place of its older ones."""
    import machine  # the package must be built for it, and need not be to read results

    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{machine.name()}.json"
    parts = Results.load(path).parts if path.exists() else {}
    kept = {"machine": machine.facts(), "parts": parts | {part: found}}
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
