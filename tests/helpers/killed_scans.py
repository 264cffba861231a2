"""Scans in child processes that are killed, and started again until they are done.

A program of its own: it forks, which a test process with its threads must not. One child is one run of
the command; imports are paid once. Prints a line of JSON.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from same_files import contents

import pyneurons

# What a scan imports when it begins: once, before the first fork.
import pyneurons.demo
import pyneurons.engine.device_run
import pyneurons.engine.identity
import pyneurons.model.checkpoint
from pyneurons import failpoints
from pyneurons._verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable


def child(work: Callable[[], Any]) -> int:
    """Fork; the child works and ends with 0, or with 1 after a traceback."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        os._exit(1)


def ended(pid: int) -> int:
    """Wait for a child; return 0, its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def scan(options: dict[str, Any], out: Path, **more: Any) -> pyneurons.Scan:
    plain = {"progress": False, "checkpoint_minutes": 0, "threads": 1}
    return pyneurons.scan(out=out, **(plain | options | more))


def damaged(out: Path) -> bool:
    """Whether anything had to be set aside: a kill may stop a file, never spoil one."""
    return bool(json.loads((out / "manifest.json").read_text())["timing"]["computed_again"])


def at_every_point(options: dict[str, Any], folder: Path, whole: Any, step: int) -> dict[str, Any]:
    """Kill at the N-th point that a run passes, N = 1, 1 + step, ..; then, on the way back, again."""
    kills, lost, number = 0, 0, 1
    while True:
        out = folder / f"run-{number}"

        def work(rule: str = f"*=kill@{number}", out: Path = out) -> None:
            failpoints.arm(rule)
            scan(options, out)

        if ended(child(work)) == 0:
            return {"kills": kills, "lost": lost, "points": number}
        kills += 1
        # A fault during recovery: the next process dies at an early point of its own.
        again = f"*=kill@{1 + number * 7 % 40}"
        kills += ended(child(lambda rule=again, out=out: work(rule, out))) != 0
        lost += ended(child(lambda out=out: scan(options, out))) != 0
        lost += contents(out) != whole or bool(verify(out).problems) or damaged(out)
        lost += [path.name for path in folder.iterdir()] != [out.name]
        shutil.rmtree(out)
        number += step


def at_random(options: dict[str, Any], folder: Path, whole: Any, kills: int) -> dict[str, Any]:
    """Kill at random instants, about five times a run."""
    chance = random.Random(kills)
    began = time.monotonic()
    assert ended(child(lambda: scan(options, folder / "timed"))) == 0
    seconds = time.monotonic() - began
    shutil.rmtree(folder / "timed")
    done, runs, lost = 0, 0, 0
    while done < kills:
        out = folder / f"run-{runs}"
        for _ in range(min(chance.choice((4, 5, 6)), kills - done)):
            pid = child(lambda out=out: scan(options, out))
            time.sleep(chance.uniform(0.02, 0.9) * seconds)
            os.kill(pid, signal.SIGKILL)
            done += ended(pid) == -signal.SIGKILL
        lost += ended(child(lambda out=out: scan(options, out))) != 0
        lost += contents(out) != whole or bool(verify(out).problems) or damaged(out)
        lost += [path.name for path in folder.iterdir()] != [out.name]
        shutil.rmtree(out)
        runs += 1
    return {"kills": done, "lost": lost, "runs": runs, "seconds": seconds}


def main() -> None:
    """Read what to do from the first argument, JSON."""
    job = json.loads(sys.argv[1])
    folder = Path(job["folder"])
    options = job["options"]
    assert ended(child(lambda: scan(options, folder / "whole"))) == 0
    whole = contents(folder / "whole")
    shutil.rmtree(folder / "whole")
    work = at_random if "kills" in job else at_every_point
    print(json.dumps(work(options, folder, whole, job.get("kills") or job["step"])))


if __name__ == "__main__":
    main()
