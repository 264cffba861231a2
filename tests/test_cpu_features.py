"""That the instruction set that was asked for is the one that runs."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import inputs
from pyneurons import _core, backends, ops, reference
from pyneurons.panels import Panels, SplitPanels

REPOSITORY = Path(__file__).parents[1]
CORE = REPOSITORY / "csrc" / "core"
INCLUDE = REPOSITORY / "csrc" / "include"
OPS = (
    "segment_counts",
    "firing_rows",
    "first_segments",
    "ngram_keys",
    "ngram_coverage",
    "ngram_triggers",
    "ffn_epilogue",
    "layer_norm",
    "ffn",
    "attention",
    "linear",
    "linear_split",
)
PRODUCTS = (
    "layer_norm",
    "ffn",
    "attention",
    "linear",
    "linear_split",
)  # and what rounds to bfloat16: what avx512bf16 and amx have kernels of their own for


def run_every_op(backend):
    fires = inputs.bits(8, 40)
    mask, everything = reference.pack(fires), inputs.bounds([8])
    counts = np.zeros((1, 40), dtype=np.int64)
    ops.segment_counts(mask, None, everything, counts, backend=backend)
    rows, found = np.zeros((40, 1), dtype=np.int64), np.zeros(40, dtype=np.int64)
    ops.firing_rows(mask, None, rows, found, backend=backend)
    ones = np.ones(40, dtype=np.int64)
    segments, found = np.zeros((40, 1), dtype=np.int32), np.zeros(40, dtype=np.int64)
    ops.first_segments(mask, None, everything, ones, segments, found, backend=backend)
    keys = np.zeros(8, dtype=np.uint64)
    ops.ngram_keys(np.arange(3, 11, dtype=np.uint16), everything, 2, 8, 2, keys, backend=backend)
    histogram, large = np.zeros((10, 40), dtype=np.int64), np.zeros((0, 40), dtype=np.int64)
    ops.ngram_coverage(mask, None, everything, counts[0], histogram, large, backend=backend)
    threshold = np.full(40, 100, dtype=np.int64)
    empty = np.zeros(0, dtype=np.int64)
    ops.ngram_triggers(
        mask,
        None,
        everything,
        threshold,
        inputs.bounds([0] * 40),
        np.zeros(0, dtype=np.int32),
        empty,
        backend=backend,
    )
    for dtype in (torch.float32, torch.bfloat16):
        x, weight = torch.ones(8, 4, dtype=dtype), torch.ones(40, 4, dtype=dtype)
        residual, z_max = torch.zeros(8, 4), torch.zeros(40)
        ops.ffn(x, weight, None, None, None, residual, mask[None], z_max, backend=backend)
    norm = torch.empty(8, 12, dtype=torch.bfloat16)
    ops.layer_norm(torch.ones(8, 12), None, None, 1e-5, norm, backend=backend)
    qkv, out = (torch.zeros(8, width, dtype=torch.bfloat16) for width in (12, 4))
    ops.attention(qkv, everything, 2, out, backend=backend)
    panels = Panels.of(torch.ones(4, 12, dtype=torch.bfloat16))
    ops.linear(qkv, panels, None, out, backend=backend)
    split = SplitPanels.of(torch.ones(40, 4))
    ops.linear(torch.ones(8, 4), split, None, torch.zeros(8, 40), backend=backend)


def test_the_forced_instruction_set_is_the_one_that_ran(cpp_backend):
    """Each kernel tells the instruction set that its own file was compiled for."""
    forced = cpp_backend.removeprefix("cpp:")
    before = _core.executed()
    run_every_op(cpp_backend)
    after = _core.executed()
    assert set(after) == set(OPS)
    for op in OPS:
        builds_on = "avx512" if forced in ("avx512bf16", "amx") and op not in PRODUCTS else forced
        ran = {isa: after[op][isa] - before[op][isa] for isa in after[op]}
        assert ran.pop(builds_on) > 0, op
        assert not any(ran.values()), op


def test_the_reference_runs_no_kernel():
    before = _core.executed()
    run_every_op("reference")
    assert _core.executed() == before


def test_cpp_is_the_best_there_is(monkeypatch):
    monkeypatch.delenv("PYNEURONS_ISA", raising=False)
    assert _core.detect() == _core.isas()[-1]
    assert backends.resolve("cpp").isa == _core.detect()
    assert set(_core.isas()) <= set(_core.compiled_isas())
    assert _core.isas()[0] == "scalar"


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(),
    reason="/proc/cpuinfo of an x86-64 processor to compare with",
)
def test_detection_agrees_with_the_kernel():
    flags = set(
        re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[1].split()
    )
    needed = {
        "avx2": {"avx2", "bmi1", "bmi2", "fma", "abm"},
        "avx512": {"avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl"},
        "avx512bf16": {"avx512f", "avx512_bf16"},
        "amx": {"avx512f", "avx512_bf16", "amx_tile", "amx_bf16"},
    }
    for isa, wanted in needed.items():
        assert (isa in _core.isas()) == (wanted <= flags)


def test_every_set_of_the_target_is_compiled_in():
    more = ["avx2", "avx512", "avx512bf16", "amx"] if platform.machine() == "x86_64" else []
    assert _core.compiled_isas() == ["scalar", *more]


@pytest.mark.parametrize("isa", ["sse9", "", "AVX2", "avx512 "])
def test_unknown_instruction_sets_raise(isa):
    counts = np.full((1, 32), 3, dtype=np.int64)
    with pytest.raises(ValueError, match=f"'{isa}' does not exist"):
        _core.segment_counts(
            np.zeros((1, 1), dtype=np.uint32), None, inputs.bounds([1]), counts, isa, 1
        )
    assert np.all(counts == 3)


def test_the_environment_narrows_cpp(monkeypatch):
    for isa in _core.isas():
        monkeypatch.setenv("PYNEURONS_ISA", isa)
        assert backends.resolve("cpp").isa == isa
        assert backends.resolve().isa == isa
    monkeypatch.setenv("PYNEURONS_ISA", "scalar")
    assert backends.resolve(f"cpp:{_core.detect()}").isa == _core.detect()


@pytest.mark.parametrize(
    ("op", "isa"),
    [
        *((op, isa) for op in OPS for isa in ("scalar", "avx2", "avx512")),
        *((op, isa) for op in PRODUCTS for isa in ("avx512bf16", "amx")),
    ],
)
def test_files_of_one_instruction_set_share_nothing(op, isa):
    """No standard library in them: its inline functions would be compiled with their flags, and
    the linker may keep that copy for code that runs on every processor.
    """
    allowed = {"cstddef", "cstdint", "cstring", "immintrin.h"}
    seen = set()
    waiting = [CORE / f"{op}_{isa}.cpp"]
    while waiting:
        path = waiting.pop()
        seen.add(path.name)
        for system, own in re.findall(
            r'^#\s*include (?:<(.+)>|"(.+)")', path.read_text(), re.MULTILINE
        ):
            assert not system or system in allowed, path.name
            if own and Path(own).name not in seen:
                waiting.append((INCLUDE if own.startswith("pyneurons/") else CORE) / own)
    vectors = "avx512" if isa in ("avx512bf16", "amx") else isa
    assert {f"simd_{vectors}.hpp", "kernels.hpp"} <= seen
    assert seen & {f"{op}.inl", f"{op}_tiles.inl"}


def test_objects_of_one_instruction_set_export_only_their_kernels():
    """The same, from what the compiler made of them, where a build folder is at hand."""
    folder = "build/*/CMakeFiles/pyneurons_core.dir/csrc/core"
    objects = sorted(
        path for isa in ("avx*", "amx") for path in REPOSITORY.glob(f"{folder}/*_{isa}.cpp.o")
    )
    if not Path(_core.__file__).is_relative_to(REPOSITORY):
        pytest.skip("the extension that runs was installed, not built here: no object files")
    assert objects
    for path in objects:
        names = subprocess.run(
            ["nm", "--demangle", "--defined-only", "--extern-only", path],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for line in names:
            symbol = line.split(maxsplit=2)[2]
            isa = path.name.removesuffix(".cpp.o").rsplit("_", 1)[1]
            assert symbol.startswith(f"pyneurons::{isa}::"), f"{path.name}: {line}"


def test_importing_the_extension_loads_no_torch():
    code = "import sys, pyneurons._core; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
