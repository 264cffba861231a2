from __future__ import annotations

import os

import pytest
import torch

from pyneurons import _core, _env, backends

CPP = ("cpp:scalar", "cpp:avx2", "cpp:avx512", "cpp:avx512bf16", "cpp:amx")

# Read when a kernel is first imported: one process has one way to run them.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_configure() -> None:
    unknown = sorted(_env.required_backends() - set(backends.names()))
    if unknown:
        message = f"PYNEURONS_REQUIRE_BACKENDS names {', '.join(unknown)}, which do not exist"
        raise pytest.UsageError(message)


def pytest_report_header() -> str:
    reason = backends.why_not("cpp")
    isa = backends.resolve("cpp").isa if reason is None else f"none ({reason})"
    required = ",".join(sorted(_env.required_backends())) or "none"
    triton = "interpreted" if os.environ.get("TRITON_INTERPRET") == "1" else "compiled"
    return (
        f"pyneurons: isa={isa} of {','.join(_core.isas())}; triton={triton}; "
        f"required backends: {required}"
    )


def _available(name: str) -> str:
    """The name, where the backend runs; a skip must not pass for a test that was asked for."""
    reason = backends.why_not(name)
    if reason is not None:
        if name in _env.required_backends():
            pytest.fail(reason)
        pytest.skip(reason)
    return name


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give `backend` its parameters: ``triton`` where the module says that it has the op."""
    own: set[str] = set()
    for mark in metafunc.definition.iter_markers("parametrize"):
        names = mark.args[0]
        own |= set(names.replace(" ", "").split(",") if isinstance(names, str) else names)
    if "backend" not in metafunc.fixturenames or "backend" in own:
        return
    also = [mark.args[0] for mark in metafunc.definition.iter_markers("also_on")]
    # Where it is built, and asked for: everywhere else it would be one more skip for each test.
    also += ["cuda"] if also and "cuda" in _env.required_backends() else []
    without = [mark.args[0] for mark in metafunc.definition.iter_markers("not_on")]
    names = [name for name in ("reference", *CPP, *also) if name not in without]
    metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend in turn: one body of a test for all of them."""
    return _available(request.param)


@pytest.fixture(params=CPP)
def cpp_backend(request: pytest.FixtureRequest) -> str:
    """Every instruction set in turn, for what the reference is too slow for."""
    return _available(request.param)
