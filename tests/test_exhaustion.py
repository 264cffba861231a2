"""What grows, and what a device does that has no memory left or fails: nothing is changed silently."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from same_files import contents

import checkpoints
import pyneurons
from pyneurons import _scan
from pyneurons._verify import standing
from pyneurons.engine import device_plan
from pyneurons.engine.device_threads import ThreadDevice
from pyneurons.errors import DeviceError, IncompleteError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTEXT, BATCH = 24, 72

GROWTH = """
import os, sys, numpy as np
from functools import partial
import pyneurons
from pyneurons import _env, failpoints
from pyneurons.engine import plan, run
model, batches = sys.argv[1], int(sys.argv[2])
rows = np.random.default_rng(0).integers(4, 101, size=(batches, 24))
run.micro_batches = partial(plan.micro_batches, most=24)
seen = []
def at(point):
    if point == "batch":
        seen.append((_env.resident_bytes(), len(os.listdir("/proc/self/fd"))))
failpoints.at = at
# The first layers take what is taken once; of the layers after them nothing may be left.
pyneurons.scan(model, rows, context=24, ngrams=(1,), dtype="float32", threads=1, progress=False)
resident, files = np.array(seen).T
rest = slice(len(seen) // 3, None)
x = np.arange(len(seen))[rest]
print(len(seen), 1000 * np.polyfit(x, resident[rest], 1)[0], files[rest].max() - files[rest].min())
"""


@pytest.mark.parametrize("batches", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_memory_and_open_files_are_flat_over_thousands_of_micro_batches(
    tmp_path: Path, batches: int
) -> None:
    """Six layers of so many micro-batches of one sequence each, in one process."""
    checkpoints.make(tmp_path, "pre", seed=3, num_hidden_layers=6)
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tmp_path), str(batches)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    passed, slope, files = map(float, done.stdout.split())
    assert passed == 6 * batches
    assert slope < 1e6, f"{slope / 1e6:.2f} MB more every 1,000 micro-batches"
    assert files == 0


# ----- a device ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    directory = tmp_path_factory.mktemp("model")
    checkpoints.make(directory, "pre", seed=3, num_hidden_layers=3)
    return directory, np.random.default_rng(0).integers(4, 101, size=(20, CONTEXT))


Scanner = Any  # a function of a device, an out= and options


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch, model: tuple[Path, np.ndarray]) -> Scanner:
    monkeypatch.setattr(device_plan, "BATCH", BATCH)
    monkeypatch.setattr(device_plan, "WIDE_BATCH", BATCH)

    def scan(device: ThreadDevice, out: Path, **options: Any) -> pyneurons.Scan:
        monkeypatch.setattr(_scan, "open_device", lambda: device)
        options = {"dtype": "float32", "ngrams": (1,), "checkpoint_minutes": 0} | options
        directory, ids = model
        return pyneurons.scan(
            directory, ids, out=out, device="cuda", backend="cpp", progress=False, **options
        )

    return scan


class Full(ThreadDevice):
    """A device that gives out so many bytes; then it says what torch says."""

    def __init__(self, room: int) -> None:
        super().__init__(0, 2e-4)
        self.room, self.given = room, 0

    def allocate(self, size: int) -> torch.Tensor:
        self.given += size
        if self.given > self.room:
            message = f"CUDA out of memory. Tried to allocate {size} bytes."
            raise torch.OutOfMemoryError(message)
        return super().allocate(size)


def planned(run: pyneurons.Scan) -> dict[str, Any]:
    """What was planned, without what the process and the machine had by then."""
    of_the_moment = {"predicted_peak", "host", "budgets", "reserves"}
    return {k: v for k, v in run.manifest["plan"].items() if k not in of_the_moment}


def test_a_device_without_room_says_so_and_the_plan_stays(
    on_device: Scanner, tmp_path: Path
) -> None:
    whole_device = Full(1 << 40)
    whole = on_device(whole_device, tmp_path / "whole")
    kept = 0
    for room in (
        0,
        *(whole_device.given * part // 4 for part in (1, 2, 3)),
        whole_device.given - 1,
    ):
        out = tmp_path / f"run-{room}"
        device = Full(room)
        with pytest.raises(ResourceError, match=r"out of memory \(CUDA out .*give gpu_memory="):
            on_device(device, out)
        there = standing(out, whole=True)
        assert there is None or there.wrong == {}
        kept += 0 if there is None else len(there.done)
        run = on_device(Full(1 << 40), out)
        assert contents(run.directory) == contents(whole.directory)
        # Neither were micro-batches made smaller, nor was anything put elsewhere.
        assert planned(run) == planned(whole)
    assert kept > 0


class Broken(ThreadDevice):
    """A device that fails at its N-th piece of work, and at every one after it."""

    def __init__(self, number: int) -> None:
        super().__init__(0, 2e-4)
        self.left = number

    def stream(self, name: str) -> Any:
        made = super().stream(name)
        run = made.run

        def failing(work: Callable[[], None]) -> None:
            def guarded() -> None:
                self.left -= 1
                if self.left < 0:
                    message = "CUDA error: an illegal memory access was encountered\nCompile with"
                    raise torch.AcceleratorError(message)
                work()

            run(guarded)

        made.run = failing  # type: ignore[method-assign]
        return made


def test_a_device_that_fails_ends_the_run_and_another_process_goes_on(
    on_device: Scanner, tmp_path: Path
) -> None:
    whole_device = Broken(1 << 40)
    whole = on_device(whole_device, tmp_path / "whole")
    number = (1 << 40) - whole_device.left
    out = tmp_path / "run"
    done: list[int] = []
    said = (
        r"\(CUDA error: an illegal memory access was encountered\).* goes on with the same command"
    )
    for at in (0, number // 4, number // 3, number // 2):
        with pytest.raises(DeviceError, match=said) as raised:
            on_device(Broken(at), out)
        assert raised.value.exit_code == IncompleteError.exit_code == 3
        there = standing(out, whole=True)
        done.append(0 if there is None else len(there.done))
        assert there is None or there.wrong == {}
    assert done == sorted(done)
    assert done[-1] > 0
    run = on_device(Broken(1 << 40), out)
    assert contents(run.directory) == contents(whole.directory)


FAULT = """
import ctypes, sys, pyneurons
from pyneurons import failpoints
reached = [0]
at = failpoints.at
def fault(point):
    reached[0] += point == "batch"
    if reached[0] == int(sys.argv[4]):
        ctypes.string_at(0)
    at(point)
failpoints.at = fault
pyneurons.scan(sys.argv[1], sys.argv[2], out=sys.argv[3], dtype="float32", ngrams=(1,), threads=1,
    checkpoint_minutes=0, progress=False)
"""


def test_a_segmentation_fault_loses_nothing(model: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    directory, ids = model
    np.save(tmp_path / "rows.npy", ids)
    out = tmp_path / "runs" / "run"
    command = [sys.executable, "-c", FAULT, str(directory), str(tmp_path / "rows.npy"), str(out)]
    done = subprocess.run([*command, "3"], check=False, capture_output=True)
    assert done.returncode == -signal.SIGSEGV
    there = standing(out, whole=True)
    assert there is not None
    assert (there.done, there.boundary, there.wrong) == ([0, 1], 2, {})
    options: dict[str, Any] = {
        "dtype": "float32", "ngrams": (1,), "checkpoint_minutes": 0, "progress": False,
    }  # fmt: skip
    run = pyneurons.scan(directory, tmp_path / "rows.npy", out=out, **options)
    assert run.manifest["timing"]["first_layer"] == 2
    whole = pyneurons.scan(directory, tmp_path / "rows.npy", out=tmp_path / "whole", **options)
    assert contents(run.directory) == contents(whole.directory)
    assert [path.name for path in out.parent.iterdir()] == ["run"]
