"""Whole forward passes of random models: the engine itself, on tokens of Zipf's frequencies."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from opt_shapes import corpus_of, zipf_rows
from pyneurons import _env, backends
from pyneurons._progress import Progress
from pyneurons.engine.run import Engine, Settings
from pyneurons.model.config import PUBLISHED
from pyneurons.result import RunWriter

if TYPE_CHECKING:
    import numpy as np
    import torch

    from device.random_checkpoint import RandomCheckpoint
    from pyneurons.corpus import Corpus
    from pyneurons.model.config import OptConfig

MODE: Final = "float16"
"""As the published checkpoints are."""

TOY_MODE: Final = "float32"


@dataclass(frozen=True)
class Case:
    """One shape: how many of its layers run, and on how many tokens."""

    model: str
    layers: int
    tokens: int
    context: int = 2048

    def config(self, *, toy: bool) -> OptConfig:
        """Return the published configuration with fewer layers, or a toy."""
        config = replace(PUBLISHED[self.model], num_hidden_layers=self.layers)
        if not toy:
            return config
        return replace(
            config,
            hidden_size=64,
            word_embed_proj_dim=64,
            ffn_dim=96,
            num_attention_heads=2,
            num_hidden_layers=2,
            vocab_size=512,
            max_position_embeddings=32,
        )

    def rows(self, *, toy: bool) -> np.ndarray:
        """Return token ids [sequences, context]."""
        if toy:
            return zipf_rows(4, 32, 512)
        return zipf_rows(self.tokens // self.context, self.context)

    def flops_per_token(self, config: OptConfig, context: int) -> float:
        """Return the operations of all layers: products and causal attention, nothing skipped."""
        width, neurons = config.hidden_size, config.ffn_dim
        layer = 8 * width**2 + 4 * width * neurons + 2 * context * width
        return config.num_hidden_layers * layer


def run_engine(
    checkpoint: RandomCheckpoint, corpus: Corpus, device: torch.device, *, statistics: bool
) -> dict[str, Any]:
    """Run the engine over a corpus; return what it says of its time.

    Without statistics the bits are made all the same, and only those of the last layer counted.
    """
    depth = checkpoint.config.num_hidden_layers
    chosen = backends.resolve(None)
    wanted = {
        "layers": tuple(range(depth)) if statistics else (depth - 1,),
        "ngrams": (1, 2, 3) if statistics else (),
        "mode": MODE if device.type == "cuda" else TOY_MODE,
        "backend": chosen.name,
        "float32_products": chosen.float32_products,
        "threads": _env.cpu_count(),
        "memory_bytes": int(0.8 * (_env.available_bytes() or 8 << 30)),
        "list_limit": 200,
        "flip_sample": 0,
        "keep_bits": False,
        "projection": "dot",
    }
    settings = Settings(**wanted, **on_device(device))
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(enabled=False) as shown,
        RunWriter(Path(folder) / "run", overwrite=False) as writer,
    ):
        return Engine(checkpoint, corpus, settings, writer, shown).run()


def on_device(device: torch.device) -> dict[str, str]:
    """Return how the settings name a device; the CPU's engine needs no name."""
    named = "device" in {field.name for field in fields(Settings)}
    return {"device": device.type} if named and device.type == "cuda" else {}


def why_no_engine(device: torch.device) -> str | None:
    """Return why there is no whole forward pass on this device, or None."""
    if device.type == "cuda" and not on_device(device):
        return "the engine of this version runs on the CPU alone"
    return None


def corpus(rows: np.ndarray, vocab_size: int) -> Corpus:
    """Return rows of ids as the engine sees a corpus."""
    return replace(corpus_of(rows), vocab_size=vocab_size)
