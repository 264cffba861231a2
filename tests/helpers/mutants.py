"""Take one safeguard of a run away, and see that a test fails: ``python tests/helpers/mutants.py``.

Each mutant is a change to one place of the source, taken back afterwards. Exit code 1 where one
survives. A minute and a half on one core; not part of ``make test``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

# What is taken away; file; the text there; what it becomes; the tests that look.
MUTANTS = [
    (
        "fsync of a file",
        "durable.py",
        "        os.fsync(file.fileno())\n",
        "        pass\n",
        "on_the_disk",
    ),
    (
        "fsync of the folder before a layer's entry",
        "run_writer.py",
        "            durable.sync_folder(self.staging)\n            name = LAYER",
        "            name = LAYER",
        "on_the_disk",
    ),
    (
        "fsync of the residual stream",
        "engine/scratch.py",
        "            os.fsync(self._descriptor)\n",
        "            pass\n",
        "on_the_disk",
    ),
    (
        "checksums of files",
        "ledger.py",
        '    if "sha256" in said:\n',
        '    return True\n    if "sha256" in said:\n',
        "set_aside",
    ),
    (
        "checksums of entries",
        "durable.py",
        "good = isinstance(content, dict) and seal(content) == raw",
        "good = isinstance(content, dict)",
        "sealed",
    ),
    (
        "a boundary must lie before what is missing",
        "engine/checkpoints.py",
        "if self.first < layer <= missing[0]:",
        "if self.first < layer:",
        "set_aside",
    ),
    (
        "what was committed is not written over",
        "engine/residual.py",
        "        self._into = self._checkpoints.file(self._checkpoints.spare())\n",
        "        pass\n",
        "goes_on_where or on_the_disk",
    ),
]


def survives(file: str, text: str, becomes: str, tests: str) -> bool:
    """Whether the tests pass on a mutant."""
    path = ROOT / "pyneurons" / file
    source = path.read_text(encoding="utf-8")
    if source.count(text) != 1:
        message = f"{file}: {text!r} is there {source.count(text)} times"
        raise SystemExit(message)
    path.write_text(source.replace(text, becomes), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/test_resume.py"]
        done = subprocess.run(
            [*command, "-m", "not slow", "-k", tests],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            check=False,
        )
    finally:
        path.write_text(source, encoding="utf-8")
    return done.returncode != 1


def main() -> None:
    """Try all of them."""
    alive = 0
    for what, *mutant in MUTANTS:
        lives = survives(*mutant)
        alive += lives
        print(f"{'SURVIVES' if lives else 'found':<9} {what}", flush=True)
    sys.exit(alive > 0)


if __name__ == "__main__":
    main()
