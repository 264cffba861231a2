"""transformers on a device with the weights of a `RandomCheckpoint`: what users run today.

Counting hooks behind every fc1; the layers on the device, or in host memory by accelerate's offload.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from accelerate import cpu_offload, init_empty_weights
from transformers import OPTConfig, OPTForCausalLM

from pyneurons.model.config import layer_name

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from device.random_checkpoint import RandomCheckpoint


class Hooked:
    """transformers' OPT without its head; counts z > 0 behind every fc1, on the device.

    Parameters
    ----------
    checkpoint : RandomCheckpoint
    device : torch.device
        That computes.
    dtype : torch.dtype
    offload : bool
        Keep the weights in host memory: accelerate copies each module's before it runs.
    together : int
        Sequences of a batch.
    """

    def __init__(
        self,
        checkpoint: RandomCheckpoint,
        device: torch.device,
        dtype: torch.dtype,
        *,
        offload: bool = False,
        together: int = 8,
    ) -> None:
        self.device, self.together = device, together
        with init_empty_weights():
            model = OPTForCausalLM(transformers_config(checkpoint)).eval()
        place = torch.device("cpu") if offload else device
        state = {
            f"model.{name}": checkpoint.read(name).to(place, dtype) for name in checkpoint.tensors
        }
        state["lm_head.weight"] = state["model.decoder.embed_tokens.weight"]
        model.load_state_dict(state, assign=True)
        del state
        if offload:
            cpu_offload(model, device)
        self.model = model.model
        self.counts: list[torch.Tensor] = []
        for i, layer in enumerate(self.model.decoder.layers):
            self.counts.append(torch.zeros(layer.fc1.out_features, device=device).long())
            layer.fc1.register_forward_hook(self._counter(i))

    def _counter(self, layer: int) -> Callable[..., None]:
        def count(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            fires = (output > 0).reshape(-1, output.shape[-1])
            self.counts[layer] += fires.sum(dim=0)

        return count

    def run(self, rows: np.ndarray) -> None:
        """Run the decoder on every row; the device may still be at work afterwards."""
        with torch.inference_mode():
            for start in range(0, len(rows), self.together):
                ids = torch.from_numpy(rows[start : start + self.together]).long()
                self.model(input_ids=ids.to(self.device), use_cache=False)

    def fires(self, rows: np.ndarray) -> torch.Tensor:
        """Return how often each neuron fires on these rows alone, int64 [L, F]."""
        for counts in self.counts:
            counts.zero_()
        self.run(rows)
        return torch.stack(self.counts).cpu()


def transformers_config(checkpoint: RandomCheckpoint) -> OPTConfig:
    """Return a checkpoint's configuration in transformers' words."""
    config = checkpoint.config
    return OPTConfig(
        hidden_size=config.hidden_size,
        word_embed_proj_dim=config.word_embed_proj_dim,
        ffn_dim=config.ffn_dim,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        do_layer_norm_before=config.do_layer_norm_before,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
    )


def layer_bytes(checkpoint: RandomCheckpoint) -> int:
    """Return the bytes of one layer's weights."""
    return sum(
        checkpoint.tensors[layer_name(0, name)].bytes for name in checkpoint.config.layer_shapes()
    )
