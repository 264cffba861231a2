"""Random checkpoints of published OPT shapes, whose neurons fire as often as trained ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import OPTConfig, OPTForCausalLM

if TYPE_CHECKING:
    from pathlib import Path

FIRING_SHARE = 0.05

# hidden_size, ffn_dim, num_hidden_layers, num_attention_heads
SHAPES = {"opt-125m": (768, 3072, 12, 12)}


def write_checkpoint(directory: Path, shape: str, *, seed: int = 0) -> Path:
    """Write a random fp16 checkpoint; fc1 biases are lowered until about 5 % of cells fire.

    With LayerNorm gain 1 and independent weights of deviation .02, z is close to normal with
    deviation .02 sqrt(D), so the bias is that times the 95 % quantile.
    """
    hidden, neurons, layers, heads = SHAPES[shape]
    config = OPTConfig(
        hidden_size=hidden,
        word_embed_proj_dim=hidden,
        ffn_dim=neurons,
        num_hidden_layers=layers,
        num_attention_heads=heads,
    )
    torch.manual_seed(seed)
    model = OPTForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.fc1.bias.fill_(-1.645 * 0.02 * hidden**0.5)
    directory.mkdir(parents=True)
    config.save_pretrained(directory)
    tensors = {
        name: tensor.half().contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def zipf_rows(sequences: int, context: int, vocabulary: int, *, seed: int = 0) -> np.ndarray:
    """Return token ids [sequences, context], BOS first, the rest with Zipf's frequencies."""
    generator = np.random.default_rng(seed)
    chance = 1 / np.arange(1, vocabulary - 3)
    rows = generator.choice(
        np.arange(4, vocabulary), size=(sequences, context), p=chance / chance.sum()
    )
    rows[:, 0] = 2
    return rows.astype(np.int32)
