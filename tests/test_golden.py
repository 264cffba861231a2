"""Runs of a release (`golden/make.py`) are read by this version and all that follow."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import make as golden
import pyneurons
from pyneurons import durable
from pyneurons._verify import standing, verify
from pyneurons.engine import identity
from pyneurons.errors import InputError
from pyneurons.ledger import PLAN_FORMAT
from pyneurons.result import FORMAT, unfinished

if TYPE_CHECKING:
    from pathlib import Path


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != durable.LOCK
    }


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """The place of a copy of the unfinished run."""
    shutil.copytree(golden.UNFINISHED, unfinished(tmp_path / "run"))
    return tmp_path / "run"


def test_a_finished_run_of_a_release_is_read() -> None:
    """Counters, tables, detectors, as the release itself read them; logarithms to nine digits."""
    expected = json.loads(golden.EXPECTED.read_text(encoding="utf-8"))
    found = golden.reading(pyneurons.load(golden.FINISHED))
    assert expected["detectors_1"]["neuron"]
    for name, values in expected.items():
        assert found[name] == values, name


def test_a_finished_run_of_a_release_holds_every_law() -> None:
    found = verify(golden.FINISHED)
    assert found.finished
    assert found.problems == []


def test_an_unfinished_run_of_a_release_is_understood(half: Path) -> None:
    there = standing(half, whole=True)
    assert there is not None
    assert (there.layers, there.done, there.boundary, there.wrong) == ([0, 1], [0], 1, {})


def test_an_unfinished_run_of_another_version_is_refused_and_kept(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden.write_model(tmp_path / "model")
    monkeypatch.setattr(identity, "version", lambda _: "99.0")
    monkeypatch.setattr(identity, "code_hash", lambda: "f" * 64)
    before = files(unfinished(half))
    with pytest.raises(InputError, match="holds an unfinished run that differs") as refused:
        golden.scan(tmp_path / "model", half)
    plan = durable.unseal(unfinished(half) / "plan.json")
    numeric: dict[str, Any] = plan["identity"]["numeric"]
    for name, there, here in (
        ("pyneurons", numeric["pyneurons"], "99.0"),
        ("code", f"{numeric['code'][:12]}..", f"{'f' * 12}.."),
    ):
        assert f"numeric.{name}: {there} there, {here} here" in str(refused.value)
    assert files(unfinished(half)) == before
    # What is asked for is the same: model, corpus, options.
    for name in ("model.weights", "model.config", "corpus.sha256", "options"):
        assert name not in str(refused.value)


def test_runs_of_a_newer_format_are_refused(half: Path, tmp_path: Path) -> None:
    shutil.copytree(golden.FINISHED, tmp_path / "newer")
    path = tmp_path / "newer" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": FORMAT + 1}))
    said = f"format {FORMAT + 1}, this version reads format {FORMAT}; a newer version"
    with pytest.raises(InputError, match=said):
        pyneurons.load(tmp_path / "newer")
    golden.write_model(tmp_path / "model")
    plan = unfinished(half) / "plan.json"
    plan.write_bytes(durable.seal(durable.unseal(plan) | {"format": PLAN_FORMAT + 1}))
    before = files(unfinished(half))
    said = f"format {PLAN_FORMAT + 1}, this version continues format {PLAN_FORMAT}"
    with pytest.raises(InputError, match=said):
        golden.scan(tmp_path / "model", half)
    assert files(unfinished(half)) == before
