"""Two layers as wide as those of 66b within 6 GB, from a checkpoint in shards; slow: 4.1 GB on disk."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional
from transformers import OPTConfig

import pyneurons

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HIDDEN, NEURONS, HEADS, LAYERS = 9216, 36_864, 72, 2
VOCABULARY, CONTEXT, SEQUENCES = 512, 192, 2
BUDGET = 6_000_000_000

BAND = 0.03
"""Pre-activations have a deviation of .9. In bfloat16 they are off by some .003 of it: what is rounded
is x, to 8 bits, and before it q, k, v, attention, h."""

MOST_INSIDE = 0.03
"""Share of cells in the band: the density of a normal at 1.1 deviations, times its width, is .015."""

PROGRAM = """
import sys, pyneurons
from pyneurons import _env
model, rows, out, budget = sys.argv[1:]
scan = pyneurons.scan(
    model, rows, out=out, memory=int(budget), dtype="bfloat16", threads=1, flip_sample=0,
    keep_bits=True, progress=False,
)
timing, plan = scan.manifest["timing"], scan.manifest["plan"]
print(_env.peak_resident_bytes(), plan["predicted_peak_bytes"], timing["wall_s"])
"""


def values(shape: tuple[int, ...], name: str, seed: int) -> torch.Tensor:
    """Random multiples of a power of two: float16 and bfloat16 both hold them exactly."""
    drawn = np.random.default_rng(seed).bytes(math.prod(shape))
    integers = torch.from_numpy(np.frombuffer(drawn, dtype=np.int8).reshape(shape).copy())
    if "layer_norm" in name:
        return (integers.float() / 512 + ("weight" in name)).half()  # used in float32
    if name.endswith("fc1.bias"):
        return (integers // 2).half() / 128 - 1  # an eighth of all cells fire
    if name.endswith("bias"):
        return integers.half() / 256
    if "embed" in name:
        return integers.half() / 64
    return integers.half().mul_(2.0**-14 if "fc2" in name else 2.0**-13)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint of three shards: a layer each, and the embeddings."""
    from pyneurons.model.checkpoint import read_config

    path = tmp_path_factory.mktemp("wide")
    OPTConfig(
        hidden_size=HIDDEN,
        word_embed_proj_dim=HIDDEN,
        ffn_dim=NEURONS,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
    ).save_pretrained(path)
    shapes = read_config(path / "config.json").tensor_shapes()
    weight_map: dict[str, str] = {}
    for shard in range(LAYERS + 1):
        file = f"model-{shard + 1:05}-of-{LAYERS + 1:05}.safetensors"
        held = {
            name: shape
            for name, shape in shapes.items()
            if (f".layers.{shard}." in name) or (shard == LAYERS and ".layers." not in name)
        }
        tensors = {
            f"model.{name}": values(shape, name, list(shapes).index(name))
            for name, shape in held.items()
        }
        save_file(tensors, path / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    yield path
    shutil.rmtree(path)


def pre_activations(directory: Path, ids: np.ndarray) -> Iterator[torch.Tensor]:
    """Yield z of each layer, float32 [tokens, F]: plain torch in float32, one weight at a time."""
    index = json.loads((directory / "model.safetensors.index.json").read_text(encoding="utf-8"))

    def get(name: str) -> torch.Tensor:
        full = f"model.decoder.{name}"
        with safe_open(directory / index["weight_map"][full], framework="pt") as file:
            return file.get_tensor(full).float()

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, get(f"{name}.weight"), get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, (HIDDEN,), get(f"{name}.weight"), get(f"{name}.bias"))

    tokens = torch.from_numpy(ids.astype(np.int64))  # [sequences, context]
    hidden = get("embed_tokens.weight")[tokens] + get("embed_positions.weight")[2 : 2 + CONTEXT]
    for layer in range(LAYERS):
        place = f"layers.{layer}"
        x = norm(hidden, f"{place}.self_attn_layer_norm")
        q, k, v = (
            linear(x, f"{place}.self_attn.{part}_proj")
            .view(SEQUENCES, CONTEXT, HEADS, -1)
            .transpose(1, 2)
            for part in "qkv"
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(hidden.shape)
        hidden = hidden + linear(mixed, f"{place}.self_attn.out_proj")
        z = linear(norm(hidden, f"{place}.final_layer_norm"), f"{place}.fc1")
        yield z.view(-1, NEURONS)
        if layer + 1 < LAYERS:
            hidden = hidden + linear(z.relu(), f"{place}.fc2")


@pytest.mark.slow
def test_two_layers_of_66b_within_6_gb(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(9)
    ids = generator.integers(4, VOCABULARY, size=(SEQUENCES, CONTEXT), dtype=np.int32)
    ids[:, 0] = 2
    np.save(tmp_path / "rows.npy", ids)
    began = time.perf_counter()
    arguments: list[Any] = [directory, tmp_path / "rows.npy", tmp_path / "run", BUDGET]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    took = time.perf_counter() - began
    peak, predicted, wall = map(float, done.stdout.split())
    assert peak <= predicted <= BUDGET
    # Two layers at once are in memory, one of them read and one converted.
    assert peak > 2 * sum(file.stat().st_size for file in directory.glob("model-00001*"))

    scan = pyneurons.load(tmp_path / "run")
    inside = []
    for layer, z in enumerate(pre_activations(directory, ids)):
        bits = torch.from_numpy(scan.bits(layer))
        near = z.abs() <= BAND
        assert torch.equal(bits[~near], (z > 0)[~near]), layer
        inside.append(float(near.float().mean()))
        np.testing.assert_array_equal(scan.fires[layer], bits.sum(dim=0).numpy())
        # Neurons without a cell in the band: counts equal, no exception left.
        sure = ~near.any(dim=0)
        assert sure.sum() > 0
        counted = torch.from_numpy(scan.fires[layer])[sure]
        assert torch.equal(counted, (z[:, sure] > 0).sum(dim=0))
        greatest = torch.from_numpy(scan.z_max[layer])
        assert float((greatest - z.max(dim=0).values).abs().max()) <= BAND
        assert 0.05 < bits.float().mean() < 0.3
    assert max(inside) <= MOST_INSIDE
    with capsys.disabled():
        shares = ", ".join(f"{100 * share:.2f} %" for share in inside)
        print(
            f"\ntwo layers of 66b: {took:.1f} s in all, {wall:.1f} s of scan, peak {peak / 1e9:.2f} "
            f"GB of {predicted / 1e9:.2f} predicted; cells in the band: {shares}"
        )
