"""Sums that depend on who comes first are of integers alone: a gate over the sources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ADDS = "adds in an order that differs from call to call; allowed for integers, in the places named"
# (pattern, files in which it may stand, each with why)
RULES: list[tuple[str, dict[str, str]]] = [
    # Wrapped once, by functions that take integers: see the test below.
    (
        r"\batomic(Add|Sub|Exch|Inc|Dec)\w*\s*\(",
        {"csrc/cuda/host_device.hpp": "on uint32 and uint64"},
    ),
    (r"\bred\.\w|atom\.\w", {}),
    (r"atomic(_ref)?<\s*(float|double|long double)", {}),
    (r"#\s*pragma omp", {}),
    (
        r"\batomic_add\s*\(",
        {
            "csrc/cuda/host_device.hpp": "the wrappers",
            "csrc/cuda/counting_table.hpp": "counts",
            "csrc/cuda/ngram_coverage.hpp": "counts",
            "csrc/cuda/ngram_triggers.hpp": "places",
            "csrc/cuda/bit_planes.hpp": "counts",
            "kernels/segment_counts.py": "int32 and int64, checked by `ops`",
            "kernels/ngram_coverage.py": "int32 and int64, checked by `ops`",
            "kernels/ngram_triggers.py": "places",
        },
    ),
    (
        r"\b(scatter_add|index_add|scatter_reduce|index_reduce|index_put)_?\(|accumulate\s*=\s*True|use_atomic",
        {"pyneurons/backends/triton_counting.py": "int32"},
    ),
]


def sources() -> list[Path]:
    found = [path for folder in ("csrc", "kernels") for path in (ROOT / folder).rglob("*.*")]
    found += (ROOT / "pyneurons").rglob("*.py")
    return sorted(path for path in found if "__pycache__" not in path.parts)


def found_in(name: str, text: str) -> list[str]:
    """Return what in a file is against the rules."""
    return [
        f"{name}: {match[0]} {ADDS}"
        for pattern, allowed in RULES
        if name not in allowed
        for match in re.finditer(pattern, text)
    ]


def test_no_source_adds_floats_in_an_order_of_its_own() -> None:
    assert len(sources()) > 100
    wrong = [
        one
        for path in sources()
        for one in found_in(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    ]
    assert wrong == []


def test_places_that_are_named_are_needed() -> None:
    for pattern, allowed in RULES:
        for name in allowed:
            assert re.search(pattern, (ROOT / name).read_text(encoding="utf-8")), (pattern, name)


def test_the_wrappers_take_integers() -> None:
    text = (ROOT / "csrc/cuda/host_device.hpp").read_text(encoding="utf-8")
    targets = re.findall(r"\batomic_\w+\((?:const )?([\w:]+)\*", text)
    assert len(targets) >= 5
    assert set(targets) <= {"std::uint32_t", "std::uint64_t", "std::int64_t"}


@pytest.mark.parametrize(
    "line",
    [
        "atomicAdd(z + f, 1.0f);",
        "std::atomic<float> sum;",
        "#pragma omp parallel for reduction(+ : sum)",
        "tl.atomic_add(z_ptr, z)",
        "hidden.index_add_(0, rows, values)",
        'asm("red.global.add.f32 [%0], %1;");',
    ],
)
def test_a_planted_one_is_found(line: str) -> None:
    assert len(found_in("csrc/core/new.cpp", line)) == 1
