"""The threads behind every op: `parallel` of csrc/core, called as a test wants it."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import inputs
from pyneurons import ops, reference

TESTS = Path(__file__).parent
CORE = TESTS.parent / "csrc" / "core"


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler for the calls")
    library = tmp_path_factory.mktemp("parallel") / "calls.so"
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    folders = [f"-I{CORE}", f"-I{CORE.parent / 'include'}"]
    sources = [TESTS / "helpers" / "parallel_calls.cpp", CORE / "parallel.cpp"]
    subprocess.run([compiler, *flags, *folders, "-o", library, *sources], check=True)
    loaded = ctypes.CDLL(str(library))
    for name in ("done_once", "done_once_inside", "threads_that_meet", "thrown"):
        getattr(loaded, name).restype = ctypes.c_int64
    for name, arguments in {
        "done_once": [ctypes.c_int64, ctypes.c_int],
        "done_once_inside": [ctypes.c_int64, ctypes.c_int],
        "threads_that_meet": [ctypes.c_int],
        "thrown": [ctypes.c_int64, ctypes.c_int, ctypes.c_int64],
    }.items():
        getattr(loaded, name).argtypes = arguments
    return loaded


def in_a_child(work):
    """Run in a forked child; its exit status, or None if it hangs."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    for _ in range(1000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("pieces", [0, 1, 2, 3, 100])
def test_every_piece_is_done_once(calls, pieces, threads):
    assert all(calls.done_once(pieces, threads) == pieces for _ in range(50))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_as_many_threads_come_as_are_asked_for(calls, threads):
    assert calls.threads_that_meet(threads) == threads
    # Those that came before are there again, and do not come twice.
    assert calls.threads_that_meet(threads) == threads


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_body_may_share_its_own_work(calls, threads):
    assert calls.done_once_inside(20, threads) == 400


def test_several_threads_call_at_once(calls):
    with ThreadPoolExecutor(4) as pool:
        plain = pool.map(lambda i: calls.done_once(30 + i % 3, 1 + i % 4), range(400))
        assert list(plain) == [30 + i % 3 for i in range(400)]
        meeting = pool.map(lambda _: calls.threads_that_meet(3), range(40))
        assert set(meeting) == {3}


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_first_exception_arrives_and_the_next_call_is_sound(calls, threads):
    for _ in range(50):
        assert calls.thrown(100, threads, 100) == -1
        # Others may have begun, but none that was not taken before the first one failed.
        assert 7 <= calls.thrown(100, threads, 7) < 7 + threads
        assert calls.done_once(100, threads) == 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_threads_of_its_own(calls):
    assert calls.threads_that_meet(3) == 3
    assert in_a_child(lambda: calls.threads_that_meet(3) == 3) == 0
    # A fork in the midst of other calls, whose locks nobody opens in the child.
    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(lambda: [calls.done_once(4, 2) for _ in range(2000)]) for _ in "ab"]
        children = [in_a_child(lambda: calls.threads_that_meet(2) == 2) for _ in range(5)]
        assert children == [0] * 5
        assert all(set(one.result()) == {4} for one in busy)
    assert calls.threads_that_meet(3) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_an_op_runs_in_a_forked_child():
    mask = reference.pack(inputs.bits(3000, 100))

    def count(threads):
        counts = np.zeros((1, 100), dtype=np.int64)
        ops.segment_counts(
            mask, None, inputs.bounds([3000]), counts, backend="cpp", threads=threads
        )
        return counts

    expected = count(2)
    assert in_a_child(lambda: np.array_equal(count(2), expected)) == 0


def test_the_interpreter_ends_while_threads_sleep():
    program = """
import numpy as np
from pyneurons import ops
counts = np.zeros((1, 32), dtype=np.int64)
mask = np.full((100_000, 1), 3, dtype=np.uint32)
ends = np.array([0, 100_000], dtype=np.int64)
ops.segment_counts(mask, None, ends, counts, backend="cpp", threads=4)
print(counts[0, 1])
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "100000", "")
