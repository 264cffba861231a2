from __future__ import annotations

import pytest

from pyneurons import _core, backends
from pyneurons.backends import cpp
from pyneurons.errors import BackendUnavailable, InputError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    monkeypatch.delenv("PYNEURONS_BACKEND", raising=False)
    monkeypatch.delenv("PYNEURONS_ISA", raising=False)
    backends._load.cache_clear()
    yield
    backends._load.cache_clear()


def test_argument_before_environment_before_default(monkeypatch):
    assert backends.resolve().name == "cpp"
    monkeypatch.setenv("PYNEURONS_BACKEND", "reference")
    assert backends.resolve().name == "reference"
    assert backends.resolve("cpp:scalar").name == "cpp:scalar"


def test_names_are_unique_and_start_with_the_truth():
    assert len(set(backends.names())) == len(backends.names())
    assert backends.names()[0] == "reference"
    assert backends.DEFAULT in backends.names()
    assert {"reference", "cpp", "cpp:scalar"} <= set(backends.available())


def test_unknown_names_list_what_there_is(monkeypatch):
    with pytest.raises(
        BackendUnavailable, match="'cuda9' does not exist; there are reference, cpp"
    ):
        backends.resolve("cuda9")
    monkeypatch.setenv("PYNEURONS_BACKEND", "nonsense")
    with pytest.raises(BackendUnavailable, match="'nonsense' does not exist"):
        backends.resolve()
    assert issubclass(BackendUnavailable, InputError)


def test_what_cannot_run_is_refused_and_not_replaced(monkeypatch):
    monkeypatch.setattr(cpp._core, "isas", lambda: ["scalar"])
    with pytest.raises(BackendUnavailable, match="does not run avx2"):
        backends.resolve("cpp:avx2")
    assert "cpp:avx2" not in backends.available()
    assert "does not run avx2" in str(backends.why_not("cpp:avx2"))
    assert backends.why_not("cpp:scalar") is None


def test_what_is_not_built_is_refused(monkeypatch):
    monkeypatch.setattr(cpp._core, "compiled_isas", lambda: ["scalar"])
    with pytest.raises(
        BackendUnavailable, match=r"this build has no avx512 kernels \(it has scalar\)"
    ):
        backends.resolve("cpp:avx512")


def test_an_instruction_set_of_the_environment_is_a_request(monkeypatch):
    monkeypatch.setenv("PYNEURONS_ISA", "avx1024")
    with pytest.raises(BackendUnavailable, match="no avx1024 kernels"):
        backends.resolve("cpp")
    assert backends.resolve("reference").name == "reference"


def test_instruction_set_in_the_record():
    assert backends.resolve("cpp").isa == _core.detect()
    assert backends.resolve("cpp:scalar").isa == "scalar"
    assert backends.resolve("reference").isa is None
