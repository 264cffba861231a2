"""Every kernel in machine code, in a process in which Triton compiles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parent.parent
CODE = """
import json, sys
from dataclasses import asdict
import compiled_kernels
rows = [row for architecture in (80, 90) for row in compiled_kernels.compile_all(architecture)]
json.dump([[asdict(row) for row in rows], compiled_kernels.table(rows)], sys.stdout)
"""


@pytest.fixture(scope="module")
def compiled():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"PYTHONPATH": str(ROOT / "bench")},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def rows(compiled):
    return compiled[0]


def test_every_kernel_is_there_for_every_model(rows):
    kernels = {"ffn_up", "ffn_down", "pack", "live_tiles", "firing_rows"}
    kernels |= {"segment_counts", "ngram_keys", "ngram_coverage", "ngram_triggers"}
    for architecture in (80, 90):
        for model in ("125m", "6.7b", "66b"):
            found = {
                row["kernel"]
                for row in rows
                if row["architecture"] == architecture and model in row["models"].split(", ")
            }
            hopper = {"ffn_up_tma", "ffn_down_tma"} if architecture == 90 else set()
            assert found == kernels | hopper


def test_nothing_spills(rows):
    spilling = [row for row in rows if row["stack"] or row["spills"] or row["registers"] > 255]
    assert not spilling


def test_shared_memory_is_within_the_limit(rows):
    limit = {80: 163 * 1024, 90: 227 * 1024}
    assert not [row for row in rows if row["shared"] > limit[row["architecture"]]]


def test_products_run_on_tensor_cores_and_their_operands_arrive_by_themselves(rows):
    products = [row for row in rows if row["kernel"].startswith(("ffn_up", "ffn_down"))]
    assert len(products) >= 16
    for row in products:
        sixteen_bits = "float32" not in row["variant"]
        assert (row["hmma"] > 0) == (sixteen_bits and row["architecture"] == 80), row
        assert (row["hgmma"] > 0) == (sixteen_bits and row["architecture"] == 90), row
        if row["kernel"].endswith("_tma"):
            assert row["utmaldg"] >= 4, row
        else:
            assert row["ldgsts"] >= 8, row
    assert all(row["utmastg"] for row in products if row["kernel"] == "ffn_up_tma")


def test_fc2_has_as_many_buffers_as_fc1(rows):
    """It loads the places of its tiles as well: with fc1's stages it had one on sm_80, which waits."""
    stored = {
        (row["architecture"], row["kernel"]): row["shared"]
        for row in rows
        if "66b" in row["models"] and "bfloat16" in row["variant"]
    }
    for architecture in (80, 90):
        assert stored[architecture, "ffn_down"] >= stored[architecture, "ffn_up"]
    assert stored[90, "ffn_down_tma"] >= 128 * 1024


def test_the_committed_table_is_that_of_these_kernels(compiled):
    committed = ROOT / "bench" / "results" / f"triton-{triton.__version__}.md"
    assert list(committed.parent.glob("triton-*.md")), "the tables are gone"
    if not committed.exists():  # another Triton makes other machine code
        pytest.skip(f"no table of Triton {triton.__version__}")
    assert committed.read_text() == compiled[1], "run bench/compiled_kernels.py"
