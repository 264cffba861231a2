"""What a GPU and its host have free, and that plans are made for it."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from accelerate import utils as accelerate_utils

from pyneurons import _env, cli
from pyneurons.engine.device_plan import Budgets
from pyneurons.model.device_memory import device_memory


def test_no_memory_of_a_device_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_memory() == {}


@pytest.mark.parametrize(
    ("found", "free", "memory"),
    [
        ({0: 70, 1: 60, "cpu": 50}, 90, {"gpu": 70, "host": 50}),
        ({0: 70, "cpu": 50}, 40, {"gpu": 70, "host": 40}),  # what this process may have
        ({0: 70, "cpu": 50}, None, {"gpu": 70, "host": 50}),
        ({0: 70}, 90, {"gpu": 70}),
    ],
)
def test_memory_of_the_first_device(
    found: dict[int | str, int],
    free: int | None,
    memory: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(accelerate_utils, "get_max_memory", lambda: found)
    monkeypatch.setattr(_env, "available_bytes", lambda: free)
    assert device_memory() == memory


def test_plans_are_for_the_memory_that_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def budgets(*options: str) -> dict[str, int]:
        with pytest.raises(SystemExit) as stop:
            cli.app(["plan", "125m", "--json", *options])
        assert stop.value.code == 0
        found: dict[str, int] = json.loads(capsys.readouterr().out)["budgets"]
        return found

    memory: dict[str, int] = {}
    monkeypatch.setattr("pyneurons.model.device_memory.device_memory", lambda: memory)
    assert budgets() == asdict(Budgets())
    memory |= {"gpu": 30 << 30, "host": 20 << 30}
    expected = asdict(Budgets(gpu_memory=30 << 30, host_memory=20 << 30))
    assert budgets() == expected
    expected["gpu_memory"] = 24 << 30
    assert budgets("--gpu-memory", "24GiB") == expected
    del memory["host"]
    assert budgets("--gpu-memory", "24GiB") == asdict(Budgets(gpu_memory=24 << 30))
