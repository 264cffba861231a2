"""Run benchmarks part by part and keep what they found: `make bench`.

    python bench/run.py                 every part, then the README and the plots
    python bench/run.py ffn attention   these parts; their records replace the older ones
    python bench/run.py --rounds 1      figures without a spread, sooner
    python bench/run.py --small         small inputs, to see that everything works; keeps nothing

Each part is one file `bench_PART.py`, run by pytest in a process of its own. Nothing else should
run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import report
import results
from commit import ROOT, commit

HERE = Path(__file__).resolve().parent

# From the short ones to the long ones; all of them are files beside this one.
PARTS = (
    "roofline",
    *report.OP_PARTS,
    "counting_scale",
    "ngram_program",
    "scan",
    "scan_float32",
    "scan_demo",
    "commits",
    "scan_scale",
)


def run_part(part: str, *extra: str) -> dict[str, Any]:
    """Run one part; return what is kept of it.

    Raises
    ------
    SystemExit
        If an answer is wrong or a benchmark does not run.
    """
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        command = [sys.executable, "-m", "pytest", str(HERE / f"bench_{part}.py"), "-q", "-rs"]
        command += ["--benchmark-enable", "--benchmark-only", "--benchmark-quiet"]
        command += [f"--benchmark-json={found}", "-p", "no:cacheprovider"]
        command += extra
        done = subprocess.run(command, check=False, cwd=ROOT)
        if done.returncode:
            message = f"bench: the part {part} failed; nothing of it is kept"
            raise SystemExit(message)
        benchmarks = json.loads(found.read_text())["benchmarks"]
    return {
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime(began)),
        "seconds": round(time.time() - began),
        "records": [
            {"name": one["name"], **one["extra_info"]["record"]}
            for one in benchmarks
            if "record" in one["extra_info"]
        ],
    }


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--small", action="store_true", help="small inputs; results are not kept")
    parser.add_argument("--rounds", type=int, help="of everything; default: as each part wants")
    options = parser.parse_args()
    extra = ["--small"] if options.small else []
    extra += [f"--rounds={options.rounds}"] if options.rounds else []
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for part in options.parts or PARTS:
        print(f"== {part}", flush=True)
        kept = run_part(part, *extra)
        print(f"   {len(kept['records'])} records in {kept['seconds']} s", flush=True)
        if not options.small:
            results.keep(part, kept)
    if not options.small:
        report.write(PARTS)


if __name__ == "__main__":
    main()
