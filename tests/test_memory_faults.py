"""Too little memory, and allocations that fail: exit 5, nothing lost, and the same command goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import checkpoints
from pyneurons import _scan
from pyneurons._foreign import device_lost, no_memory, told
from pyneurons.errors import DeviceError, ResourceError

HELPERS = Path(__file__).parent / "helpers"
MB = 1 << 20
THE_C_LIBRARY = (
    "cannot allocate memory for thread-local data",
    "failed to register TLS destructor",
)
"""With these words the C library ends a process where a thread finds no room for what it keeps itself."""


def preloaded(folder: Path) -> dict[str, str]:
    """The environment in which allocations can be made to fail; empty without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return {}
    shim = folder / "failing_allocations.so"
    source = HELPERS / "failing_allocations.c"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"]
    subprocess.run(command, check=True)
    return {"LD_PRELOAD": str(shim)}


def limited(folder: Path, dtype: str, **job: Any) -> dict[str, Any]:
    """Run `limited_scans.py` on a tiny model."""
    shim = preloaded(folder)
    if not shim:
        job = {key: value for key, value in job.items() if key == "spare"}
    checkpoints.make(folder / "model", "pre", seed=3, num_hidden_layers=3)
    np.save(folder / "rows.npy", np.random.default_rng(0).integers(4, 101, size=(200, 24)))
    options = ["--context", "24", "--ngrams", "1", "--dtype", dtype, "--threads", "2"]
    options += ["--no-progress", "--checkpoint-minutes", "0"]
    job |= {"folder": str(folder), "model": str(folder / "model"), "options": options}
    job["corpus"] = str(folder / "rows.npy")
    done = subprocess.run(
        [sys.executable, str(HELPERS / "limited_scans.py"), json.dumps(job)],
        stdout=subprocess.PIPE,
        env=os.environ | shim | {"PYTHONPATH": str(HELPERS), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    spare = [4000 * MB, 24 * MB, 5 * MB]
    return limited(tmp_path_factory.mktemp("few"), "bfloat16", spare=spare, step=9, ops=True)


def check(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        assert entry["lost"] == "", entry
        assert entry["code"] in (0, 5) or any(words in entry["said"] for words in THE_C_LIBRARY), (
            entry
        )
        assert "Traceback" not in entry["said"], entry
        assert entry["code"] != 5 or "error: " in entry["said"], entry


def test_whatever_address_space_there_is(found: dict[str, Any]) -> None:
    check(found["spare"])
    codes = [entry["code"] for entry in found["spare"]]
    assert codes[0] == 0
    assert 5 in codes


def test_large_allocations_that_fail_in_a_run(found: dict[str, Any]) -> None:
    if "step" not in found:
        pytest.skip("no compiler: allocations cannot be made to fail")
    check(found["step"])
    assert sum(entry["code"] == 5 for entry in found["step"]) >= 3


def test_large_allocations_that_fail_in_an_op(found: dict[str, Any]) -> None:
    if "ops" not in found:
        pytest.skip("no compiler: allocations cannot be made to fail")
    for op, told_of in found["ops"].items():
        assert told_of["wrong"] == [], op
        assert told_of["failures"] > 0, op


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_large_allocation_and_every_size(tmp_path: Path, dtype: str) -> None:
    spare = [size * MB for size in (*range(2, 40, 3), *range(40, 200, 20))]
    every = limited(tmp_path, dtype, spare=spare, step=1)
    check(every["spare"] + every.get("step", []))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (RuntimeError("std::bad_alloc"), "memory"),
        (RuntimeError("can't start new thread"), "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "memory"),
        (RuntimeError("CUDA: memory for counting: out of memory"), "memory"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "memory"),
        (ImportError("lib.so: failed to map segment from shared object"), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "device"),
        (RuntimeError("CUDA error: device-side assert triggered"), "device"),
        (RuntimeError("Triton Error [CUDA]: unspecified launch failure"), "device"),
        (RuntimeError("CUDA error: GPU is lost"), "device"),
        (RuntimeError("CUDA error: no kernel image is available"), ""),
        (RuntimeError("a bug"), ""),
        (ResourceError("out of memory"), ""),
        (KeyboardInterrupt("out of memory"), ""),
    ],
)
def test_what_libraries_say(error: BaseException, kind: str) -> None:
    assert no_memory(error) == (kind == "memory")
    assert device_lost(error) == (kind == "device")
    ours = {"memory": ResourceError, "device": DeviceError}.get(kind, type(error))
    expected = type(error) if isinstance(error, MemoryError) else ours
    with pytest.raises(expected), told(_scan._advice(on_device=False)):
        raise error
