"""Inputs in the shapes of published OPT models, firing as often as trained ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import OPTConfig, OPTForCausalLM

from pyneurons.corpus import Corpus

if TYPE_CHECKING:
    from pathlib import Path

FIRING_SHARE: Final = 0.05
QUANTILES: Final = {0.05: -1.645, 0.5: 0.0}
"""Where the normal distribution leaves such a share above itself: what biases are lowered to."""

DEVIATION: Final = 0.02
"""Of random weights, as OPT starts from."""

VOCABULARY: Final = 50_272
BOUNDARY: Final = 2


@dataclass(frozen=True)
class Shape:
    """One published model."""

    hidden: int
    neurons: int
    layers: int
    heads: int
    norm_before: bool = True
    embedding: int | None = None

    def config(self, layers: int | None = None, vocabulary: int = VOCABULARY) -> OPTConfig:
        """Return the configuration of transformers, smaller if asked for."""
        return OPTConfig(
            hidden_size=self.hidden,
            word_embed_proj_dim=self.embedding or self.hidden,
            ffn_dim=self.neurons,
            num_hidden_layers=layers or self.layers,
            num_attention_heads=self.heads,
            do_layer_norm_before=self.norm_before,
            vocab_size=vocabulary,
        )

    def flops_per_token(self, context: int) -> float:
        """Return the operations of one layer: products and causal attention, nothing skipped."""
        return 8 * self.hidden**2 + 4 * self.hidden * self.neurons + 2 * context * self.hidden


SHAPES: Final = {
    "opt-125m": Shape(768, 3072, 12, 12),
    "opt-350m": Shape(1024, 4096, 24, 16, norm_before=False, embedding=512),
    "opt-1.3b": Shape(2048, 8192, 24, 32),
}
SMALL: Final = Shape(64, 128, 2, 2)
"""For trying the benchmarks."""


def fc1_bias(shape: Shape, share: float = FIRING_SHARE) -> float:
    """Return the bias at which a random fc1 fires that often on rows of LayerNorm.

    With LayerNorm gain 1 and independent weights of deviation .02, z is close to normal with
    deviation .02 sqrt(D), so the bias is that times a quantile.
    """
    return QUANTILES[share] * DEVIATION * shape.hidden**0.5


def random_model(config: OPTConfig, shape: Shape, *, seed: int = 0) -> OPTForCausalLM:
    """Return transformers' OPT with random weights, fc1 biases lowered to 5 % firing."""
    torch.manual_seed(seed)
    model = OPTForCausalLM(config).eval()
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.fc1.bias.fill_(fc1_bias(shape))
    return model


def write_checkpoint(
    directory: Path, shape: Shape, *, layers: int | None = None, vocabulary: int = VOCABULARY
) -> Path:
    """Write a random fp16 checkpoint."""
    model = random_model(shape.config(layers, vocabulary), shape)
    directory.mkdir(parents=True)
    model.config.save_pretrained(directory)
    tensors = {
        name: tensor.half().contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def zipf_rows(
    sequences: int, context: int, vocabulary: int = VOCABULARY, *, seed: int = 0
) -> np.ndarray:
    """Return token ids [sequences, context], BOS first, the rest with Zipf's frequencies."""
    generator = np.random.default_rng(seed)
    chance = np.cumsum(1 / np.arange(1, vocabulary - 3))
    drawn = generator.random((sequences, context)) * chance[-1]
    rows = np.minimum(np.searchsorted(chance, drawn, side="right"), chance.size - 1) + 4
    rows[:, 0] = BOUNDARY
    return rows.astype(np.int32)


def corpus_of(rows: np.ndarray) -> Corpus:
    """Return rows of ids as the engine sees a corpus."""
    sequences, context = rows.shape
    return Corpus(
        ids=rows.reshape(-1).astype(np.uint16),
        starts=np.arange(sequences + 1, dtype=np.int64) * context,
        sequence_domain=np.zeros(sequences, dtype=np.int32),
        domains=("corpus",),
        context=context,
        vocab_size=VOCABULARY,
        boundary_id=BOUNDARY,
        packing="rows",
        left_out={},
        documents=sequences,
        sources=[],
        strings=[],
    )


def _aligned(rows: int, words: int) -> np.ndarray:
    """Rows begin on 128 bytes, as those of the engine's masks do."""
    whole = np.zeros(rows * words + 32, dtype=np.uint32)
    begin = -(whole.ctypes.data // 4) % 32
    return whole[begin : begin + rows * words].reshape(rows, words)


def random_bits(rows: int, words: int, *, seed: int = 0) -> np.ndarray:
    """Return a mask [rows, words] of which 1 bit in 16 is set: the and of four random words."""
    mask = _aligned(rows, words)
    drawn = np.random.default_rng(seed).integers(0, 2**32, size=(4, *mask.shape), dtype=np.uint32)
    np.bitwise_and.reduce(drawn, axis=0, out=mask)
    return mask


class TokenBits:
    """Bits of neurons that follow tokens, 1 in 16 set.

    Each token has 1 neuron in 8 of its own, and each of those fires on half of its rows. So some
    n-grams hold many fires of a neuron and most hold none, as in early layers.
    """

    def __init__(self, words: int, seed: int = 0) -> None:
        self._generator = np.random.default_rng(seed)
        own = self._generator.integers(0, 2**32, size=(3, VOCABULARY, words), dtype=np.uint32)
        self._of_token = np.bitwise_and.reduce(own, axis=0)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the mask [len(ids), words] of the next rows."""
        mask = _aligned(len(ids), self._of_token.shape[1])
        for start in range(0, len(ids), 1 << 16):
            of_token = self._of_token[ids[start : start + (1 << 16)]]
            noise = self._generator.integers(0, 2**32, size=of_token.shape, dtype=np.uint32)
            np.bitwise_and(of_token, noise, out=mask[start : start + len(of_token)])
        return mask


def ffn_operands(shape: Shape, rows: int, share: float, dtype: torch.dtype) -> dict[str, Any]:
    """Return x, both weights, both biases and the residual of one feed-forward block."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    return {
        "x": normal(rows, shape.hidden).to(dtype),
        "fc1": (normal(shape.neurons, shape.hidden) * DEVIATION).to(dtype),
        "bias1": torch.full((shape.neurons,), fc1_bias(shape, share)).to(dtype),
        "fc2": (normal(shape.hidden, shape.neurons) * DEVIATION).to(dtype),
        "bias2": (normal(shape.hidden) * DEVIATION).to(dtype),
        "residual": normal(rows, shape.hidden),
    }
