"""A power loss after any step of a run: what is left is old or new, and the same command goes on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lossy_disk import Disk, Look, Sync

import checkpoints

HELPERS = Path(__file__).parent / "helpers"
KINDS = ["memory", "file", "continues", "replaces"]


def replayed(folder: Path, **job: Any) -> dict[str, dict[str, Any]]:
    checkpoints.make(folder / "model", "pre", seed=3, num_hidden_layers=2)
    ids = np.random.default_rng(0).integers(4, checkpoints.BASE["vocab_size"], size=(8, 24))
    np.save(folder / "rows.npy", ids)
    (folder / "runs").mkdir()
    options = {"model": str(folder / "model"), "corpus": str(folder / "rows.npy"), "context": 24}
    options |= {"ngrams": [1], "dtype": "bfloat16", "flip_sample": 30}
    job |= {"folder": str(folder / "runs"), "options": options, "kinds": KINDS}
    done = subprocess.run(
        [sys.executable, str(HELPERS / "lost_writes.py"), json.dumps(job)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(HELPERS), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_power_loss_after_any_step_loses_nothing(tmp_path: Path) -> None:
    """After each step, on disks that lost all, half or none, or some at random, of the unsynced."""
    found = replayed(tmp_path, random=1, again=100)
    assert {kind: each["lost"] for kind, each in found.items()} == {kind: [] for kind in KINDS}
    assert sum(each["states"] for each in found.values()) > 500
    assert sum(each["again"] for each in found.values()) > 6


@pytest.mark.slow
def test_the_command_goes_on_after_a_power_loss_at_every_step(tmp_path: Path) -> None:
    found = replayed(tmp_path, random=6, again=1)
    assert {kind: each["lost"] for kind, each in found.items()} == {kind: [] for kind in KINDS}
    assert sum(each["again"] for each in found.values()) > 1000


def test_the_disk_loses_what_was_not_synced() -> None:
    """The model itself: a folder 1 with files 2 and 3."""
    disk, chance = Disk(), random.Random(0)
    disk.play(Look({1: {"a": 2}}, {2: b"old!"}))
    disk.settle()
    disk.play(Look({1: {"a": 2, ".tmp-a": 3}}, {3: b"new!"}))
    disk.play(Look({1: {"a": 3}}, {}))
    assert disk.left("lost", "lost", chance) == {"a": b"old!"}
    assert disk.left("kept", "lost", chance) == {"a": b""}  # the file of zero length
    assert disk.left("kept", "half", chance) == {"a": b"ne"}
    assert disk.left("kept", "kept", chance) == {"a": b"new!"}
    some = [disk.left("some", "some", chance) for _ in range(100)]
    assert {"a": b"old!", ".tmp-a": b"ne"} in some  # the file was made, but not renamed
    assert {"a": b"new!"} in some
    disk.play(Sync(3))
    assert disk.left("kept", "lost", chance) == {"a": b"new!"}
    assert disk.left("lost", "lost", chance) == {"a": b"old!"}
    disk.play(Sync(1))
    disk.play(Look({1: {}}, {}))
    assert disk.left("lost", "lost", chance) == {"a": b"new!"}
    assert disk.left("kept", "lost", chance) == {}
