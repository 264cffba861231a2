"""Which code: what every record stands on, beside the machine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent


def commit() -> str:
    """Return the commit that runs, with a plus where files differ from it, results apart."""
    head = _git("rev-parse", "--short", "HEAD")
    made = (":!bench/results", ":!bench/plots", ":!bench/README.md")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *made)
    return head + ("+" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    return done.stdout.strip()
