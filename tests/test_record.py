"""What the recorder is given, and what it reads itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pyneurons.engine.record import Recorder
from pyneurons.observers import vocabulary
from pyneurons.observers.suppression import Baselines
from pyneurons.observers.unembedding import Unembedding


def test_an_update_that_is_at_hand_is_not_read_again() -> None:
    generator = torch.Generator().manual_seed(0)
    fc2, rows = torch.randn(8, 40, generator=generator), torch.randn(30, 8, generator=generator)
    ids = np.arange(30)
    baselines = Baselines.build(ids, np.ones(30, dtype=np.int64), ids, boundary_id=2)
    tokens = np.array([[4], [9], [17]])
    counts = SimpleNamespace(
        coverage=np.array([2, 1] + 38 * [0]),
        rows={"neuron": np.array([0, 0, 1]), "covered": np.ones(3, dtype=bool), "tokens": tokens},
    )
    asked: list[int] = []

    def read_fc2(layer: int) -> torch.Tensor:
        asked.append(layer)
        return fc2

    given: Any = SimpleNamespace(read_fc2=read_fc2)
    unembedding = Unembedding(rows, ids, None, None)
    recorder = Recorder(given, given, given, (1,), unembedding, baselines)
    ngrams: Any = {1: counts}
    with ThreadPoolExecutor(1) as pool:
        read = recorder.updates(5, ngrams, pool)
        assert asked == [5]
        held = recorder.updates(6, ngrams, pool, fc2)
        assert asked == [5]
    for one, other in zip(read, held, strict=True):
        assert one.keys() == other.keys()
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)
    assert read[1]["token"].tolist() == [4, 9, 17]


def test_what_is_read_goes_to_the_device_of_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def look(fc2: torch.Tensor, *_: object) -> None:
        seen.append(fc2.device.type)
        raise InterruptedError

    monkeypatch.setattr(vocabulary, "extremes", look)
    given: Any = SimpleNamespace(read_fc2=lambda _: torch.ones(8, 40))
    map_ = Unembedding(torch.ones(30, 8), np.arange(30), None, None)
    for device in ("cpu", "meta"):
        recorder = Recorder(given, given, given, (), map_.to(device), given)
        with ThreadPoolExecutor(1) as pool, pytest.raises(InterruptedError):
            recorder.updates(0, {}, pool)
    assert seen == ["cpu", "meta"]
