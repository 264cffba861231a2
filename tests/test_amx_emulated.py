"""The kernels for AMX, instruction by instruction, where the processor has no AMX."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyneurons import _core

TESTS = Path(__file__).parent


@pytest.mark.skipif("amx" in _core.isas(), reason="this processor has AMX: its tests run without")
@pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux" or "avx512bf16" not in _core.isas(),
    reason="the kernels for AMX use AVX512-BF16 besides, and the emulator signals of Linux",
)
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for the emulator")
def test_the_kernels_for_amx_give_the_reference_s_bits(tmp_path: Path) -> None:
    """All tests of the products, on the machine code that an AMX processor would run."""
    library = tmp_path / "amx_emulator.so"
    source = TESTS / "helpers" / "amx_emulator.c"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-mfma", "-ffp-contract=off"]
    subprocess.run(["cc", *flags, "-shared", "-fPIC", "-o", library, source, "-lm"], check=True)
    environment = os.environ | {
        "LD_PRELOAD": str(library),
        "PYNEURONS_ASSUME_AMX": "1",
        "PYNEURONS_REQUIRE_BACKENDS": "cpp:amx",
    }
    tests = [
        str(TESTS / f"test_{op}.py") for op in ("ffn", "attention", "linear", "linear_bfloat16")
    ]
    # faulthandler would take the signal for itself.
    options = ["-q", "-p", "no:faulthandler", "-p", "no:cacheprovider", "-k", "cpp and amx"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        env=environment,
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) > 200
    assert "skipped" not in run.stdout
