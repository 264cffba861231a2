"""Every Triton kernel in machine code, without a GPU: what it takes on sm_80 and sm_90.

The launchers of `pyneurons.backends.triton_ffn` and `.triton_counting` run on meta tensors in the shapes of published models;
what they would launch is compiled to a cubin instead, which is then read by the tools in Triton's
package. ``python bench/compiled_kernels.py`` writes ``bench/results/triton-VERSION.md``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

MODELS: Final = {"125m": (768, 3072), "6.7b": (4096, 16_384), "66b": (9216, 36_864)}
"""Hidden size and feed-forward neurons."""

ROWS: Final = 16_384
"""Of a micro-batch."""

DTYPES: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
SHARED: Final = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes of shared memory that a program may have."""
MULTIPROCESSORS: Final = {80: 108, 90: 132}


@dataclass(frozen=True)
class Compiled:
    """One kernel on one architecture; ``stack`` and ``spills`` are what registers did not hold.

    ``spills`` counts instructions that store to or load from a thread's own memory. The last five are
    instructions as well: of tensor cores on 16-bit operands (hgmma: of a whole warp group, Hopper's),
    asynchronous copies from global to shared memory by threads (ldgsts) and by the tensor memory
    accelerator (utmaldg), and its copies back (utmastg).
    """

    architecture: int
    kernel: str
    variant: str
    models: str
    warps: int
    registers: int
    stack: int
    spills: int
    shared: int
    hmma: int
    hgmma: int
    ldgsts: int
    utmaldg: int
    utmastg: int


class Driver:
    """Stands for the driver of a device that is not there: enough to compile for it."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return self.architecture

    def get_current_stream(self, _: int) -> int:
        return 0


class Recorder:
    """In the place of a kernel: compiles what is launched, and keeps it by its cubin."""

    def __init__(self, kernel: Any, found: list[tuple[str, str, Any]]) -> None:
        self._kernel, self._found = kernel, found

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        assert all(0 < length < 2**31 for length in grid)
        assert all(length < 2**16 for length in grid[1:])

        def launch(*arguments: Any, **options: Any) -> None:
            compiled = self._kernel.warmup(*arguments, grid=grid, **options)
            names = [
                name for name in options if name in ("HAS_ORDER", "PLANES", "ATOMIC", "N", "BLOCK")
            ]
            variant = ", ".join(f"{name} {options[name]}" for name in names)
            if "BLOCK_M" in options:
                axes = [f"BLOCK_{axis}" for axis in "MNK" if f"BLOCK_{axis}" in options]
                variant = " x ".join(str(options[axis]) for axis in axes)
                if "num_stages" in options:
                    variant += f", {options['num_stages']} stages"
            self._found.append((self._kernel.fn.__name__, variant, compiled))

        return launch


def meta(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ways(hidden: int, neurons: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Return the ways of `ffn` on this architecture.

    Both routes, and the variant for Hopper; in one shape all tiles as well that a device may measure.
    """
    from pyneurons.backends import triton_ffn
    from pyneurons.backends.triton_measure import CANDIDATES

    found: list[dict[str, Any]] = [{}, {"route": "torch"}]
    x = meta(ROWS, hidden, dtype=dtype)
    stored = triton_ffn.stored_tiles(x, neurons)
    cuts = [replace(stored, variant="pointer"), replace(stored, variant="tma")]
    if (hidden, neurons) == MODELS["6.7b"] and dtype == torch.bfloat16:
        cuts += [replace(cut, band=stored.band) for cut in CANDIDATES]
    for cut in cuts:
        hopper = triton_ffn.capability(x.device) >= 90 and dtype != torch.float32
        if cut != stored and (cut.variant == "pointer" or hopper):
            found.append({"cut": cut})
    return found


def launch(hidden: int, neurons: int, dtype: torch.dtype | None) -> None:
    """Call every launcher as a scan of a model of this shape would; `ffn` alone with a dtype."""
    from pyneurons.backends import triton_counting, triton_ffn

    if dtype is not None:
        for options in ways(hidden, neurons, dtype):
            triton_ffn.ffn(
                meta(ROWS, hidden, dtype=dtype),
                meta(neurons, hidden, dtype=dtype),
                meta(neurons, dtype=dtype),
                meta(hidden, neurons, dtype=dtype),
                meta(hidden, dtype=dtype),
                meta(ROWS, hidden, dtype=torch.float32),
                meta(neurons // 1024, ROWS, 32, dtype=torch.int32),
                meta(neurons, dtype=torch.float32),
                **options,
            )
        return
    tokens = 5_000_000
    mask = meta(tokens, neurons // 32, dtype=torch.int32)
    order = meta(tokens, dtype=torch.int32)
    positions = np.linspace(0, tokens, 2049).astype(np.int64)
    triton_counting.segment_counts(mask, order, positions, meta(2048, neurons, dtype=torch.int16))
    triton_counting.segment_counts(
        mask, None, positions[[0, -1]], meta(1, neurons, dtype=torch.int64)
    )
    lengths = np.array([1, 2, 3, 4, 15, 16, 255, 256, 4095, 4096, 100_000])
    triton_counting.ngram_coverage(
        mask,
        order,
        np.concatenate([[0], np.cumsum(lengths)]),
        meta(neurons, dtype=torch.int64),
        meta(4097, neurons, dtype=torch.int32),
        meta(1, neurons, dtype=torch.int64),
    )
    rows, numbers = meta(neurons, 16, dtype=torch.int64), meta(neurons + 1, dtype=torch.int64)
    triton_counting.firing_rows(mask, None, rows, numbers)
    triton_counting.firing_rows(mask, order, rows, numbers)
    begin = meta(len(lengths), dtype=torch.int64)
    lists = triton_counting.Lists(numbers, numbers, numbers, order, numbers)
    least = meta(neurons, dtype=torch.int64)
    triton_counting.short_triggers(mask, order, begin, begin, lengths, least, numbers, lists, 0)
    ids, starts = meta(tokens, dtype=torch.uint16), meta(2442, dtype=torch.int64)
    for n in (1, 2, 3, 5):
        triton_counting.ngram_keys(ids, starts, n, 16, 2, meta(tokens, dtype=torch.uint64))


def compile_all(architecture: int) -> list[Compiled]:
    """Return what all kernels take, each variant once."""
    import triton

    from pyneurons.backends import triton_ffn
    from pyneurons.kernels import (
        ffn,
        ffn_tma,
        firing_rows,
        ngram_coverage,
        ngram_keys,
        ngram_triggers,
        segment_counts,
    )

    assert not triton.knobs.runtime.interpret, "TRITON_INTERPRET is set: nothing is compiled"
    triton.runtime.driver.set_active(Driver(architecture))
    triton_ffn.capability = lambda _: architecture
    triton_ffn.multiprocessors = lambda _: MULTIPROCESSORS[architecture]
    found: list[tuple[str, str, Any]] = []
    modules = (ffn, ffn_tma, firing_rows, ngram_coverage, ngram_keys, ngram_triggers)
    for module in (*modules, segment_counts):
        for name, kernel in list(vars(module).items()):
            if name.endswith("_kernel"):
                plain = kernel._kernel if isinstance(kernel, Recorder) else kernel
                setattr(module, name, Recorder(plain, found))
    variants: dict[tuple[str, str, str], tuple[Any, list[str]]] = {}
    for model, (hidden, neurons) in MODELS.items():
        for label, dtype in (("", None), *DTYPES.items()):
            found.clear()
            launch(hidden, neurons, dtype)
            for kernel, variant, compiled in found:
                kind = label if kernel.startswith(("ffn", "pack")) else ""
                text = ", ".join(filter(None, (kind, variant)))
                models = variants.setdefault((kernel, text, compiled.hash), (compiled, []))[1]
                if model not in models:
                    models.append(model)
    return [
        read(architecture, kernel, variant, ", ".join(models), compiled)
        for (kernel, variant, _), (compiled, models) in sorted(
            variants.items(), key=lambda item: item[0]
        )
    ]


def read(architecture: int, kernel: str, variant: str, models: str, compiled: Any) -> Compiled:
    """Read a cubin by cuobjdump and nvdisasm."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = _output(tools / "cuobjdump", "-res-usage", cubin)
        code = _output(tools / "nvdisasm", "-c", cubin)
    taken = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    instructions = Counter(
        re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_]*)", code, re.MULTILINE)
    )
    assert instructions["EXIT"], f"no machine code found in {code[:500]}"
    return Compiled(
        architecture=architecture,
        kernel=kernel.removesuffix("_kernel"),
        variant=variant,
        models=models,
        warps=compiled.metadata.num_warps,
        registers=taken["REG"],
        stack=taken["STACK"] + taken["LOCAL"],
        spills=instructions["STL"] + instructions["LDL"],
        shared=compiled.metadata.shared,
        hmma=instructions["HMMA"],
        hgmma=instructions["HGMMA"],
        ldgsts=instructions["LDGSTS"],
        utmaldg=instructions["UTMALDG"],
        utmastg=instructions["UTMASTG"],
    )


def _output(*command: Any) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    return done.stdout


def table(rows: list[Compiled]) -> str:
    """Return the page."""
    import triton

    names = [field.name for field in fields(Compiled)]
    lines = [
        f"# Triton {triton.__version__}: what the kernels take",
        "",
        "Made by `bench/compiled_kernels.py`, which needs no GPU; nothing here was run. Limits of",
        "shared memory: 166,912 bytes on sm_80, 232,448 on sm_90. Of the machine code: `spills`, stores",
        "to and loads from a thread's own memory; `hmma`, `hgmma`, products on tensor cores; `ldgsts`,",
        "`utmaldg`, asynchronous copies to shared memory, the latter by the tensor memory accelerator;",
        "`utmastg`, its copies back.",
        "",
        "| " + " | ".join(names) + " |",
        "|"
        + "|".join("---" if name in ("kernel", "variant", "models") else "--:" for name in names)
        + "|",
    ]
    lines += [
        f"| sm_{row.architecture} | `{row.kernel}` | "
        + " | ".join(str(value) for value in astuple(row)[2:])
        + " |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    os.environ.pop("TRITON_INTERPRET", None)
    import triton

    page = table([row for architecture in SHARED for row in compile_all(architecture)])
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results"
    (folder / f"triton-{triton.__version__}.md").write_text(page)


if __name__ == "__main__":
    main()
