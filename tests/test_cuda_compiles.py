"""Every CUDA source compiled to machine code, with what each kernel takes of a multiprocessor."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parent.parent / "csrc"
SOURCES = sorted(path.stem for path in (CSRC / "cuda").glob("*.cu"))
ARCHITECTURES = ("80", "90a", "100", "120")

# Registers a thread, by job and architecture. Sixteen loads of 128 bytes per team are under way at
# once while rows are counted: at 168 registers, 12 teams a multiprocessor, still 24 KB, where 15 KB
# keep the memory of an H100 busy (computed: 3.35 TB/s, 0.6 microseconds, 132 multiprocessors).
# ptxas 13.0; what it takes for sm_100 and sm_120 does not shrink with loops that are rolled up.
COUNTING = {"80": 72, "90a": 72, "100": 168, "120": 168}
MOST_REGISTERS = dict.fromkeys(("SegmentCountsJob", "CoverageJob", "TriggersJob"), COUNTING)
ELSEWHERE = dict.fromkeys(ARCHITECTURES, 40)
MOST_SHARED_BYTES = 8192


def nvcc() -> str:
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("no nvcc: CUDA sources are compiled where there is one")
    return compiler


def compiled(source: str, architectures: tuple[str, ...], folder: Path) -> list[dict[str, str]]:
    """Compile with warnings as errors; what ptxas says of each kernel."""
    code = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures]
    options = ["-std=c++20", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v", "--threads", "0"]
    host = ["-Xcompiler", "-Wall,-Wextra,-Werror,-fPIC"]
    folders = [f"-I{CSRC / 'include'}", f"-I{CSRC / 'cuda'}"]
    target = ["-c", "-o", str(folder / "object.o"), str(CSRC / "cuda" / f"{source}.cu")]
    run = subprocess.run(
        [nvcc(), *options, *host, *folders, *code, *target],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    kernel = re.compile(
        r"Compiling entry function '(?P<kernel>\w+)' for 'sm_(?P<architecture>\w+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
        r"(?P<loads>\d+) bytes spill loads.*?"
        r"Used (?P<registers>\d+) registers(?:[^\n]*?(?P<shared>\d+) bytes smem)?",
        re.DOTALL,
    )
    return [found.groupdict(default="0") for found in kernel.finditer(run.stdout + run.stderr)]


def job(kernel: str) -> str | None:
    """The job of a kernel of ours, from its mangled name; None for those of CUB."""
    found = re.match(r"_ZN9pyneurons4cuda9run_teamsI(?:NS0_)?(\d+)", kernel)
    if found is None:
        return None
    return kernel[found.end() : found.end() + int(found[1])]


def check(source: str, architectures: tuple[str, ...], folder: Path) -> None:
    kernels = compiled(source, architectures, folder)
    if source == "devices":
        assert not kernels
        return
    assert {one["architecture"] for one in kernels} == set(architectures)
    for one in kernels:
        assert (one["stores"], one["loads"]) == ("0", "0"), one
        name = job(one["kernel"])
        if name is None:
            assert source == "sort_pairs", one
            continue
        print(f"sm_{one['architecture']} {name}: {one['registers']}, {one['shared']} B")
        assert one["stack"] == "0", one
        most = MOST_REGISTERS.get(name, ELSEWHERE)[one["architecture"]]
        assert int(one["registers"]) <= most, one
        assert int(one["shared"]) <= MOST_SHARED_BYTES, one
    if source != "sort_pairs":
        assert any(job(one["kernel"]) for one in kernels)


@pytest.mark.parametrize("source", [name for name in SOURCES if name != "sort_pairs"])
def test_compiles_without_warnings_and_spills(source, tmp_path):
    check(source, ("90a",), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_compiles_for_every_architecture(source, tmp_path):
    check(source, ARCHITECTURES, tmp_path)


def test_there_is_something_to_compile():
    assert {"segment_counts", "ngram_coverage", "ngram_triggers", "counting_table"} <= set(SOURCES)


def test_the_build_has_the_same_sources_and_architectures():
    build = (CSRC.parent / "CMakeLists.txt").read_text()
    assert re.findall(r"csrc/cuda/(\w+)\.cu\b", build) == SOURCES
    assert re.findall(r"(\w+)-real", build) == list(ARCHITECTURES)
