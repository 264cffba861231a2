"""RELIABILITY.md names tests; they exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "RELIABILITY.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"(test_\w+\.py)::(test_\w+)", PAGE)))


@cache
def functions(module: str) -> set[str]:
    tree = ast.parse((TESTS / module).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_page_names_tests() -> None:
    assert len(NAMED) > 40
    rows = [int(row) for row in re.findall(r"^\| (\d+)\. ", PAGE, flags=re.MULTILINE)]
    assert rows == list(range(1, len(rows) + 1))
    runs = [int(row) for row in re.findall(r"^\| (\d+) \| ", PAGE, flags=re.MULTILINE)]
    assert runs == [0, 2, 3, 4, 5, *range(26, 60), *range(69, 73)]


@pytest.mark.parametrize(("module", "name"), NAMED)
def test_a_named_test_exists(module: str, name: str) -> None:
    assert name in functions(module)
