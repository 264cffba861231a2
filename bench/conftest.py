"""Fixtures of all benchmarks: the timer, the size of the inputs, a checkpoint, torch's threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import machine
from interleaved import Interleaved
from opt_shapes import SHAPES, SMALL, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--small", action="store_true", help="small inputs, to try the benchmarks")
    parser.addoption("--rounds", type=int, help="rounds of everything, to be done sooner")


@pytest.fixture(scope="session")
def small(pytestconfig: pytest.Config) -> bool:
    """Whether only the answers matter: without timing, or when asked for."""
    return bool(pytestconfig.getoption("--small") or not pytestconfig.getoption("benchmark_enable"))


@pytest.fixture(scope="session")
def cores() -> int:
    return machine.cores()


@pytest.fixture(autouse=True)
def all_threads_of_torch(cores: int):
    """Rivals may use every core; the engine sets its own number while it runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, *, small: bool) -> Path:
    """A random checkpoint of OPT-125m's shape that fires on 5 % of cells."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return write_checkpoint(folder / "model", SMALL if small else SHAPES["opt-125m"])


@pytest.fixture
def compare(benchmark: BenchmarkFixture, pytestconfig: pytest.Config) -> Interleaved:
    return Interleaved(benchmark, pytestconfig.getoption("--rounds"))
