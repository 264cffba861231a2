"""The configuration of an OPT model: its numbers with bounds, and the tensors that it calls for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from pyneurons.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

LEAST_WIDTH: Final = 16
"""Least hidden_size and ffn_dim.

MKL's float32 product of rows that do not begin on 16 bytes depends on a row's place when it has
fewer than 12 output columns (measured, torch 2.13, AVX-512 machine); wider ones do not.
"""

BOUNDS: Final[Mapping[str, tuple[int, int]]] = {
    "hidden_size": (LEAST_WIDTH, 1 << 16),
    "ffn_dim": (LEAST_WIDTH, 1 << 18),
    "num_hidden_layers": (1, 1024),
    "num_attention_heads": (1, 1024),
    "vocab_size": (3, 1 << 24),
    "max_position_embeddings": (1, 1 << 20),
    "word_embed_proj_dim": (1, 1 << 16),
    "bos_token_id": (0, (1 << 24) - 1),
}
"""Least and greatest value of every integer of a configuration."""

DEFAULTS: Final[Mapping[str, int | bool]] = {
    "hidden_size": 768,
    "ffn_dim": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 50272,
    "max_position_embeddings": 2048,
    "bos_token_id": 2,
    "do_layer_norm_before": True,
    "_remove_final_layer_norm": False,
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "tie_word_embeddings": True,
}
"""What a config.json may leave out, as transformers' OPTConfig has it; word_embed_proj_dim is then
hidden_size. Copied, because to import that class takes 2 s."""

POSITION_OFFSET: Final = 2
"""Row of `decoder.embed_positions` that position 0 reads, as in transformers."""

NORM_EPSILON: Final = 1e-5
"""Added to the variance in every LayerNorm of OPT."""

_LAYER: Final = "decoder.layers."


@dataclass(frozen=True)
class OptConfig:
    """What pyneurons needs to know of an OPT model, in the words of its config.json.

    Raises
    ------
    InputError
        If a number is out of `BOUNDS`, a field has another type, or the heads do not divide
        hidden_size.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    ffn_dim: int
    num_attention_heads: int
    max_position_embeddings: int
    word_embed_proj_dim: int
    do_layer_norm_before: bool
    remove_final_layer_norm: bool
    enable_bias: bool
    layer_norm_elementwise_affine: bool
    tie_word_embeddings: bool
    bos_token_id: int

    def __post_init__(self) -> None:
        for name in (entry.name for entry in fields(self)):
            check_field(name, getattr(self, name), "OptConfig")
        if self.hidden_size % self.num_attention_heads:
            message = (
                f"OptConfig: hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
            raise InputError(message)
        if self.bos_token_id >= self.vocab_size:
            message = (
                f"OptConfig: bos_token_id {self.bos_token_id} is not below vocab_size "
                f"{self.vocab_size}"
            )
            raise InputError(message)

    @property
    def head_size(self) -> int:
        """Columns of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def projected(self) -> bool:
        """Whether project_in and project_out stand between the embeddings and the layers."""
        return self.word_embed_proj_dim != self.hidden_size

    @property
    def final_layer_norm(self) -> bool:
        """Whether a LayerNorm follows the last layer."""
        return self.do_layer_norm_before and not self.remove_final_layer_norm

    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the tensors of one layer, by name inside the layer."""
        hidden, neurons = self.hidden_size, self.ffn_dim
        shapes: dict[str, tuple[int, ...]] = {}
        for name, rows, columns in (
            ("self_attn.k_proj", hidden, hidden),
            ("self_attn.v_proj", hidden, hidden),
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.out_proj", hidden, hidden),
            ("fc1", neurons, hidden),
            ("fc2", hidden, neurons),
        ):
            shapes[f"{name}.weight"] = (rows, columns)
            if self.enable_bias:
                shapes[f"{name}.bias"] = (rows,)
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            if self.layer_norm_elementwise_affine:
                shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (hidden,)
        return shapes

    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the tensors between token ids and the first layer."""
        hidden, embedding = self.hidden_size, self.word_embed_proj_dim
        shapes: dict[str, tuple[int, ...]] = {
            "decoder.embed_tokens.weight": (self.vocab_size, embedding),
            "decoder.embed_positions.weight": (
                self.max_position_embeddings + POSITION_OFFSET,
                hidden,
            ),
        }
        if self.projected:
            shapes["decoder.project_in.weight"] = (hidden, embedding)
        return shapes

    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the tensors behind the last layer, without a head tied to the embeddings."""
        hidden, embedding = self.hidden_size, self.word_embed_proj_dim
        shapes: dict[str, tuple[int, ...]] = {}
        if self.final_layer_norm and self.layer_norm_elementwise_affine:
            shapes["decoder.final_layer_norm.weight"] = (hidden,)
            shapes["decoder.final_layer_norm.bias"] = (hidden,)
        if self.projected:
            shapes["decoder.project_out.weight"] = (embedding, hidden)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, embedding)
        return shapes

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return every tensor of the model: name without a leading ``model.``, and shape."""
        layer = self.layer_shapes()
        return (
            self.embedding_shapes()
            | {
                layer_name(index, name): shape
                for index in range(self.num_hidden_layers)
                for name, shape in layer.items()
            }
            | self.head_shapes()
        )


def layer_name(layer: int, name: str) -> str:
    """Return the full name of a layer's tensor: ``decoder.layers.3.fc1.weight``."""
    return f"{_LAYER}{layer}.{name}"


def check_field(name: str, value: Any, where: str) -> None:
    """Raise InputError unless ``value`` fits the field ``name``: an int in bounds, or a bool."""
    if name in BOUNDS:
        least, most = BOUNDS[name]
        # bool is an int to Python, and JSON's true is not a size.
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            message = (
                f"{where}: {name} is {value!r:.80}, expected an integer from {least} to {most}"
            )
            raise InputError(message)
    elif not isinstance(value, bool):
        message = f"{where}: {name} is {value!r:.80}, expected true or false"
        raise InputError(message)


def _published(
    hidden: int, neurons: int, layers: int, heads: int, embedding: int | None = None
) -> OptConfig:
    """Return the configuration of a model as it was published; 350m alone is post-LayerNorm."""
    return OptConfig(
        vocab_size=50272,
        hidden_size=hidden,
        num_hidden_layers=layers,
        ffn_dim=neurons,
        num_attention_heads=heads,
        max_position_embeddings=2048,
        word_embed_proj_dim=embedding or hidden,
        do_layer_norm_before=embedding is None,
        remove_final_layer_norm=False,
        enable_bias=True,
        layer_norm_elementwise_affine=True,
        tie_word_embeddings=True,
        bos_token_id=2,
    )


PUBLISHED: Final[Mapping[str, OptConfig]] = {
    "125m": _published(768, 3072, 12, 12),
    "350m": _published(1024, 4096, 24, 16, embedding=512),
    "1.3b": _published(2048, 8192, 24, 32),
    "2.7b": _published(2560, 10240, 32, 32),
    "6.7b": _published(4096, 16384, 32, 32),
    "13b": _published(5120, 20480, 40, 40),
    "30b": _published(7168, 28672, 48, 56),
    "66b": _published(9216, 36864, 64, 72),
}
"""The published sizes, by name."""
