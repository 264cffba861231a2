"""The tests of the GPU's kernels, compiled and run on the card."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from device.part import Part, PartFailed, run
from pyneurons import backends

ROOT: Final = Path(__file__).resolve().parent.parent.parent

WANTED: Final = "(triton or cuda) and not compile and not on_host"
"""By name of file, test or backend. What is compiled without a card is tested without one."""

NAMES: Final = ("test_triton", "test_cuda")
MARK: Final = "also_on("

TOY: Final = ("tests/test_ngram_keys.py", "-k", "triton")
MOST_NAMED: Final = 20


def files() -> list[str]:
    """Return the test files of ops on a GPU: others may need packages that are not there."""
    found = []
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        if path.name.startswith(NAMES) or MARK in path.read_text(encoding="utf-8"):
            found.append(str(path.relative_to(ROOT)))
    return found


def measure(part: Part) -> None:
    """Run pytest; backends that must be there fail their tests where they are not."""
    wanted = TOY if part.toy else (*files(), "-k", WANTED)
    required = ["triton"] if part.toy or backends.why_not("cuda") else ["triton", "cuda"]
    several = [] if part.toy or importlib.util.find_spec("xdist") is None else ["-n", "8"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", *wanted, "-m", "not slow", "-q", "-p"]
        # A library of another version may warn of what is no error of ours.
        command += ["no:cacheprovider", "-W", "default", f"--junitxml={report}", *several]
        environment = os.environ | {"PYNEURONS_REQUIRE_BACKENDS": ",".join(required)}
        done = subprocess.run(command, check=False, cwd=ROOT, env=environment)
        root = ET.parse(report).getroot()
    cases = list(root.iter("testcase"))
    failed = [case for case in cases if {"failure", "error"} & {child.tag for child in case}]
    skipped = [case for case in cases if case.find("skipped") is not None]
    part.record(
        "suite",
        required=required,
        tests=len(cases),
        failed=len(failed),
        skipped=len(skipped),
        seconds=round(sum(float(case.get("time", 0)) for case in cases), 1),
        names=[f"{case.get('classname')}::{case.get('name')}" for case in failed][:MOST_NAMED],
        reasons=sorted(
            {str(case.find("skipped").get("message")) for case in skipped}  # type: ignore[union-attr]
        )[:MOST_NAMED],
        status=done.returncode,
    )
    if done.returncode:
        message = f"{len(failed)} of {len(cases)} tests failed"
        raise PartFailed(message)


if __name__ == "__main__":
    run(measure)
