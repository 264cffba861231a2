"""A pre-activation that is not finite stops the run: layer, row, token and neuron are named, nothing is kept of it."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import checkpoints
import pyneurons
from pyneurons import _scan
from pyneurons._verify import standing, verify
from pyneurons.engine import device_plan, plan, run
from pyneurons.engine.device_threads import ThreadDevice
from pyneurons.errors import IntegrityError, NonFiniteError
from pyneurons.result import counts_file, unfinished

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT = 24
BATCH = 72
"""Rows of a micro-batch: three whole sequences."""
NEURON = 61


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, int]:
    """A model one neuron of whose layer 1 overflows here and there; ids; the first row where it does.

    As transformers computes it. Most neurons are silent, so that a device puts them in another order.
    """
    directory = tmp_path_factory.mktemp("overflows")
    built = checkpoints.build("pre", seed=3, num_hidden_layers=3)
    layer = built.model.decoder.layers[1]
    with torch.no_grad():
        layer.fc1.bias[: NEURON - 1] = -40.0
        layer.fc1.weight[NEURON] = 0
        layer.fc1.weight[NEURON, 5] = 1.5e38
    checkpoints.write_model(built, directory)
    ids = np.random.default_rng(0).integers(4, 101, size=(20, CONTEXT))
    found: list[torch.Tensor] = []
    layer.fc1.register_forward_hook(lambda _, __, output: found.append(output))
    with torch.no_grad():
        built(torch.from_numpy(ids))
    wrong = ~torch.isfinite(found[0].reshape(ids.size, -1))
    assert not wrong[:, torch.arange(96) != NEURON].any()
    rows = torch.nonzero(wrong[:, NEURON])[:, 0].tolist()
    # Not in the first micro-batch, nor everywhere.
    assert rows[0] > BATCH
    assert len(rows) < ids.size / 10
    return directory, ids, rows[0]


@pytest.mark.parametrize("place", ["cpu", "cuda"])
@pytest.mark.parametrize("threads", [1, 2])
def test_layer_and_token_are_named_and_the_layer_is_not_kept(
    model: tuple[Path, np.ndarray, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    threads: int,
) -> None:
    directory, ids, row = model
    monkeypatch.setattr(device_plan, "BATCH", BATCH)
    monkeypatch.setattr(device_plan, "WIDE_BATCH", BATCH)
    monkeypatch.setattr(run, "micro_batches", partial(plan.micro_batches, most=BATCH))
    monkeypatch.setattr(_scan, "open_device", lambda: ThreadDevice(0, 2e-4))
    options: dict[str, Any] = {"dtype": "float32", "ngrams": (1,), "progress": False}
    options |= {"device": place, "backend": "cpp", "threads": threads, "checkpoint_minutes": 0}
    out = tmp_path / "run"
    with pytest.raises(NonFiniteError) as raised:
        pyneurons.scan(directory, ids, out=out, **options)
    assert raised.value.exit_code == IntegrityError.exit_code == 4
    said = str(raised.value)
    assert said.startswith(
        f"layer 1: ffn: the pre-activation of neuron {NEURON} on row {row} is not"
    )
    sequence, position = divmod(row, CONTEXT)
    token = ids[sequence, position]
    assert f"(position {position} of sequence {sequence}, token {token})" in said
    assert "float32" in said
    if place == "cpu":
        reaches = re.search(r"the residual stream around it reaches ([\d.e+]+);", said)
        assert reaches is not None
        assert 1 < float(reaches[1]) < 100

    assert not out.exists()
    there = standing(out, whole=True)
    assert there is not None
    assert (there.done, there.boundary, there.wrong) == ([0], 1, {})
    names = {path.name for path in unfinished(out).iterdir()}
    assert counts_file(0) in names
    assert counts_file(1) not in names
    assert verify(out).problems == []
    with pytest.raises(NonFiniteError, match=re.escape(said)):
        pyneurons.scan(directory, ids, out=out, **options)


def test_string_and_mode_are_told(tmp_path: Path) -> None:
    built = checkpoints.build("pre", seed=3, vocab_size=400)
    with torch.no_grad():
        built.model.decoder.layers[0].fc1.weight[7] = 3e38
    checkpoints.write_model(built, tmp_path)
    checkpoints.write_tokenizer(tmp_path)
    told = r"layer 0: .*neuron 7 .* sequence 0, token \d+ '.+'\)"
    for mode in ("float32", "bfloat16"):
        with pytest.raises(NonFiniteError, match=f"{told}.* range of {mode}"):
            pyneurons.scan(tmp_path, ["a b c a b"], context=8, dtype=mode, progress=False)
