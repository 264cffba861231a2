"""Every input that once went wrong in a parser of ours, and a second of new ones for each parser."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import fuzz_parsers

if TYPE_CHECKING:
    from pathlib import Path

# What NumPy says of headers that look as if Python 2 had written them.
pytestmark = pytest.mark.filterwarnings("ignore:Reading `.npy`")


@pytest.mark.parametrize("target", fuzz_parsers.TARGETS)
def test_kept_inputs(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for data in fuzz_parsers.kept(target):
        fuzz_parsers.check(target, data, tmp_path / "input")
    assert os.listdir(tmp_path) in ([], ["input"])  # noqa: PTH208


@pytest.mark.parametrize("target", fuzz_parsers.TARGETS)
def test_a_second_of_damage(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tried, read = fuzz_parsers.fuzz(target, 1.0, 0, tmp_path / "input")
    # Refusing all, or taking all, would be no test.
    assert 0 < read < tried
    assert os.listdir(tmp_path) == ["input"] or target in {"strict_json", "tensor_pickle"}  # noqa: PTH208


def test_seeds_are_read(tmp_path: Path) -> None:
    for name, (_, seeds) in fuzz_parsers.TARGETS.items():
        taken = [fuzz_parsers.check(name, data, tmp_path / "input") for data in seeds()]
        assert taken[0], name
