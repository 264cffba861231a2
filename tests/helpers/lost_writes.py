"""Scans on a disk that loses what was not synced, started again on what is left.

A program of its own, as `killed_scans`: it forks. Prints a line of JSON.
"""

from __future__ import annotations

import json
import pickle
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from killed_scans import child, damaged, ended, scan
from lossy_disk import Disk, Look, Recorder, Said, Sync, Tree, write
from same_files import contents

from pyneurons import failpoints
from pyneurons._verify import standing, verify
from pyneurons.durable import LOCK
from pyneurons.errors import InputError
from pyneurons.ledger import Ledger, Plan
from pyneurons.result import SUMS
from pyneurons.run_writer import REPLACES, RunWriter

# What becomes of names, and of contents, that were not synced.
VARIANTS = [("lost", "lost"), ("kept", "lost"), ("lost", "kept"), ("kept", "half")]


def recorded(
    options: dict[str, Any], folder: Path, kind: str, old: Path
) -> list[Look | Sync | Said]:
    """Run once, in a process of its own; return what it did to the folder with the run's place."""
    folder.mkdir()
    if kind == "replaces":
        shutil.copytree(old, folder / "run")

    def stop() -> None:
        failpoints.arm("layer=kill@2")
        scan(options, folder / "run")

    def work() -> None:
        recorder = Recorder(folder)
        put = Ledger.put

        def noted(ledger: Ledger, name: str, *given: Any) -> None:
            put(ledger, name, *given)
            recorder.said(name)

        Ledger.put = noted
        scan(options, folder / "run", overwrite=kind == "replaces")
        recorder.look()
        with (folder.parent / "steps").open("wb") as file:
            pickle.dump(recorder.steps, file)

    if kind == "continues":
        assert ended(child(stop)) == -signal.SIGKILL
    assert ended(child(work)) == 0
    shutil.rmtree(folder)
    with (folder.parent / "steps").open("rb") as file:
        steps: list[Look | Sync | Said] = pickle.load(file)  # of our own child
    return steps


class Judge:
    """Says what is wrong with what a power loss left.

    Parameters
    ----------
    plan : Plan
        Of the run.
    whole, old : dict
        What the run, and the finished one that it replaces, hold (`same_files.contents`).
    """

    def __init__(
        self, options: dict[str, Any], plan: Plan, whole: dict[str, Any], old: dict[str, Any] | None
    ) -> None:
        self.options, self.plan, self.whole, self.old = options, plan, whole, old
        self.said: set[str] = set()  # layers that are to be there from now on

    def looked_at(self, out: Path) -> list[str]:
        """Begin the same run, and look at what it would go on with."""
        wrong = self._stands(out)
        with RunWriter(out) as writer:
            try:
                finished = writer.begin(self.plan)
            except InputError as error:
                # Nothing of the new run is there yet: the old one is not touched.
                kept = self.old is not None and contents(out) == self.old and not self.said
                return wrong if kept else [*wrong, str(error)]
            wrong += [f"{name}: {how}" for name, how in writer.set_aside.items()]
            for entry in writer.entries.values():
                wrong += [
                    f"{name} is another file"
                    for name, said in entry.files.items()
                    if self.whole.get(name, said.get("sha256")) != said.get("sha256")
                ]
        if not finished:
            wrong += [f"{name} was committed and is lost" for name in self.said - {*writer.entries}]
        elif contents(out) != self.whole:
            wrong.append("a finished run that is not what it should be")
        return wrong

    def _stands(self, out: Path) -> list[str]:
        """Look at what is there before anything is mended."""
        there = standing(out, whole=True)
        if there is not None and there.wrong and not (there.folder / SUMS).exists():
            return [f"{name}: {how}" for name, how in there.wrong.items()]
        if out.exists() and any(out.iterdir()):
            whole = contents(out, without={LOCK, REPLACES}) in (self.whole, self.old)
            return [] if whole else ["calls itself finished"]
        replaced = out.with_name(".run.replaced")
        if self.old is not None and not (replaced.exists() and contents(replaced) == self.old):
            return ["the old run is gone before the new one stands"]
        return []

    def run_again(self, out: Path) -> list[str]:
        """Start the command again; it is to end as the run that nothing disturbed."""

        def work() -> None:
            try:
                scan(self.options, out)
            except InputError:
                # Where nothing of the new run is kept yet, the command has to say --overwrite again.
                if self.old is None or contents(out) != self.old:
                    raise
                scan(self.options, out, overwrite=True)

        if ended(child(work)) != 0:
            return ["the same command failed"]
        same = contents(out) == self.whole and not damaged(out) and not verify(out).problems
        alone = [path.name for path in out.parent.iterdir()] == ["run"]
        return [] if same and alone else ["the same command ended otherwise"]


def replay(job: dict[str, Any], folder: Path, kind: str, whole: Path) -> dict[str, Any]:
    """Lose power after each step of one kind of run; return how much was tried, and what was lost.

    ``memory``, ``file``: where the residual stream is; ``replaces``: a finished run stands at the
    place; ``continues``: the run was killed before.
    """
    folder.mkdir()
    options = job["options"] | ({"residual": kind} if kind in ("memory", "file") else {})
    old, old_contents = folder / "old", None
    if kind == "replaces":
        assert ended(child(lambda: scan(options | {"list_limit": 100}, old))) == 0
        old_contents = contents(old)
    judge = Judge(options, Plan.read(whole), contents(whole), old_contents)
    steps = recorded(options, folder / "recorded", kind, old)
    disk, chance, again = Disk(), random.Random(0), 0
    seen: set[bytes] = set()
    lost: list[str] = []
    for number, step in enumerate(steps):
        if isinstance(step, Said):
            judge.said |= {step.name} if step.name.startswith("layer-") else set()
        else:
            disk.play(step)
        if number == 0:
            disk.settle()
        left: list[Tree] = [disk.left(*variant, chance) for variant in VARIANTS]
        left += [disk.left("some", "some", chance) for _ in range(job["random"])]
        for tree in left:
            state = pickle.dumps(tree)
            if state in seen and not isinstance(step, Said):
                continue
            seen.add(state)
            rerun = len(seen) % job["again"] == 0
            again += rerun
            for judged in [judge.looked_at] + [judge.run_again] * rerun:
                write(tree, folder / "disk")
                try:
                    wrong = judged(folder / "disk" / "run")
                except Exception as error:  # noqa: BLE001
                    wrong = [f"{type(error).__name__}: {error}"]
                lost += [f"{kind}, step {number} of {len(steps)}: {each}" for each in wrong]
                shutil.rmtree(folder / "disk")
    syncs = sum(isinstance(step, Sync) for step in steps)
    found = {"steps": len(steps), "syncs": syncs, "states": len(seen), "again": again}
    return found | {"lost": lost[:5]}


def main() -> None:
    """Read what to do from the first argument, JSON."""
    job = json.loads(sys.argv[1])
    folder = Path(job["folder"])
    whole = folder / "whole"
    assert ended(child(lambda: scan(job["options"], whole))) == 0
    print(json.dumps({kind: replay(job, folder / kind, kind, whole) for kind in job["kinds"]}))


if __name__ == "__main__":
    main()
