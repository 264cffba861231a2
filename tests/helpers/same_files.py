"""Whether two run directories hold the same, to the byte, but for clocks and places."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

CLOCKS = ("timing", "plan", "environment")
OF_A_RUN_WITH_OUT = {"plan.json", "SHA256SUMS"}


def contents(directory: Path, *, without: set[str] = frozenset()) -> dict[str, Any]:
    """Return a digest of each file; of the manifest what no clock changes."""
    found: dict[str, Any] = {}
    for path in sorted(directory.iterdir()):
        if path.name in {"SHA256SUMS", *without}:
            continue
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = json.loads((directory / "manifest.json").read_text())
    found["manifest.json"] = {k: v for k, v in manifest.items() if k not in CLOCKS}
    return found
