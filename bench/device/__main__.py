"""Build, check and measure on this machine's GPU, in under 8 minutes, without a network.

    PYTHONPATH=bench python3 -m device                  everything, into bench/results/CARD.json
    PYTHONPATH=bench python3 -m device products forward  these parts; their records replace the older ones

This process needs Python and nothing else, so that it lives to tell what failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from commit import ROOT, commit
from device import summary
from results import FOLDER, Results

SITE: Final = ROOT / "build" / "device" / "site"
"""Where the package is installed for these measurements."""

SECONDS: Final = 470
"""For all parts together."""

TAIL: Final = 3000
"""Characters of a failed part's output that are kept."""


@dataclass(frozen=True)
class Step:
    """A part, after how many seconds it is stopped, and how many the parts before must leave it.

    ``asked``: it runs only when it is asked for.
    """

    name: str
    seconds: int
    least: int = 0
    asked: bool = False


STEPS: Final = (
    Step("machine", 40),
    Step("build", 150),
    Step("products", 45, 25),
    Step("counting", 30, 20),
    Step("counters", 60, 30),
    Step("forward", 120, 70),
    Step("beside", 80, 40),
    Step("suite", 100, 40),
    Step("sanitizer", 80, 30),
    Step("tiles", 200, asked=True),
)
"""In this order: what the others need, then what is measured, then what takes what time is left."""

NEEDED: Final = ("machine", "build")


def environment(*, toy: bool, installed: bool) -> dict[str, str]:
    """Return what the parts see: the benchmarks and the package built here, not the folder at hand."""
    places = [str(ROOT / "bench")] + ([] if installed else [str(SITE)])
    given = os.environ.get("PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return (
        kept
        | ({"TRITON_INTERPRET": "1"} if toy else {})
        | {
            "PYTHONPATH": os.pathsep.join(places + ([given] if given else [])),
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
        }
    )


def run_step(
    step: Step, seconds: float, folder: Path, *, toy: bool, installed: bool
) -> dict[str, Any]:
    """Run one part for at most so many seconds; return its records, and what went wrong."""
    began, date = time.monotonic(), time.strftime("%Y-%m-%d", time.gmtime())
    records, log = folder / f"{step.name}.jsonl", folder / f"{step.name}.log"
    command = [sys.executable, "-m", f"device.{step.name}", str(records), f"{seconds:.0f}"]
    command += ["--toy"] if toy else []
    error = None
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment(toy=toy, installed=installed),
            start_new_session=True,  # what it starts is ended with it
        )
        try:
            status = process.wait(seconds)
            if status:
                error = f"ended with status {status}"
        except subprocess.TimeoutExpired:
            error = f"stopped after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    lines = records.read_text(encoding="utf-8").splitlines() if records.exists() else []
    kept: dict[str, Any] = {
        "date": date,
        "seconds": round(time.monotonic() - began, 1),
        "records": [json.loads(line) for line in lines],
    }
    if error is not None:
        kept |= {"error": error, "output": plain(log.read_text(encoding="utf-8")[-TAIL:])}
    return kept


def plain(text: str) -> str:
    """Leave out where on this machine the files lie."""
    return text.replace(str(ROOT), ".").replace(str(Path.home()), "~")


def card_of(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what the part ``machine`` found, or nothing where it failed."""
    records = parts.get("machine", {}).get("records", [])
    return next((record for record in records if record["what"] == "machine"), {})


def file_name(card: str) -> str:
    """Return the name of a card as a file bears it."""
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


def main() -> int:
    """Run the parts asked for; return the exit code: 1 where a part failed."""
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser(prog="device", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(names))
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the results")
    parser.add_argument("--commit", help="of the tree, where git cannot tell")
    parser.add_argument(
        "--installed", action="store_true", help="take the package that is installed"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts together")
    options = parser.parse_args()
    unknown = set(options.parts) - set(names)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    wanted = [
        step
        for step in STEPS
        if step.name in options.parts or step.name in NEEDED or not (options.parts or step.asked)
    ]
    end = time.monotonic() + options.seconds
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="pyneurons-device-") as scratch:
        for at, step in enumerate(wanted):
            if step.name == "build" and options.installed:
                continue
            toy = step.name != "machine" and not card_of(found).get("card")
            later = sum(other.least for other in wanted[at + 1 :])
            seconds = min(step.seconds, end - time.monotonic() - later)
            print(f"== {step.name}", flush=True)
            if seconds < 1:
                kept = {"seconds": 0, "records": [], "error": "no time was left"}
            else:
                kept = run_step(step, seconds, Path(scratch), toy=toy, installed=options.installed)
            kept["commit"] = options.commit or commit() or "unknown"
            found[step.name] = kept
            print(f"   {len(kept['records'])} records in {kept['seconds']} s", flush=True)
            if "error" in kept:
                print(f"   FAILED: {kept['error']}\n{kept.get('output', '')}", flush=True)
            keep(options.out, card_of(found), found, Path(scratch))
        results = Results.load(place(options.out, card_of(found), Path(scratch)))
        print(summary.page(results))
    failed = [name for name, kept in found.items() if "error" in kept]
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def place(folder: Path, card: dict[str, Any], scratch: Path) -> Path:
    """Return where results go: toy shapes are no results, they are only shown."""
    if not card.get("card"):
        return scratch / "toy.json"
    return folder / f"{file_name(card['card'])}.json"


def keep(folder: Path, card: dict[str, Any], found: dict[str, Any], scratch: Path) -> None:
    """Write what was found up to here, in place of older records of the same parts."""
    path = place(folder, card, scratch)
    path.parent.mkdir(parents=True, exist_ok=True)
    older = Results.load(path).parts if path.exists() else {}
    kept = {"machine": card, "parts": older | found}
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
