"""Tiny random OPT checkpoints and tokenizers on disk, every published variant of the architecture."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import OPTConfig, OPTForCausalLM

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# What differs from `BASE`, by name.
VARIANTS: dict[str, dict[str, Any]] = {
    "pre": {},
    "post": {"do_layer_norm_before": False},
    "350m": {"do_layer_norm_before": False, "word_embed_proj_dim": 20},
    "projected": {"word_embed_proj_dim": 20},
    "no_final_norm": {"_remove_final_layer_norm": True},
    "no_bias": {"enable_bias": False},
    "no_affine": {"layer_norm_elementwise_affine": False},
    "untied": {"tie_word_embeddings": False},
    "odd": {"hidden_size": 39, "num_attention_heads": 3, "ffn_dim": 67},
}

BASE: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "ffn_dim": 96,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}

# hidden_size, ffn_dim, num_hidden_layers, num_attention_heads, word_embed_proj_dim
PUBLISHED: dict[str, tuple[int, int, int, int, int]] = {
    "125m": (768, 3072, 12, 12, 768),
    "350m": (1024, 4096, 24, 16, 512),
    "1.3b": (2048, 8192, 24, 32, 2048),
    "2.7b": (2560, 10240, 32, 32, 2560),
    "6.7b": (4096, 16384, 32, 32, 4096),
    "13b": (5120, 20480, 40, 40, 5120),
    "30b": (7168, 28672, 48, 56, 7168),
    "66b": (9216, 36864, 64, 72, 9216),
}

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")


def config(variant: str = "pre", **overrides: Any) -> OPTConfig:
    """transformers' configuration of ``variant``."""
    return OPTConfig(**{**BASE, **VARIANTS[variant], **overrides})


def published_config(size: str) -> OPTConfig:
    """The configuration of a published OPT model."""
    hidden, ffn, layers, heads, embedding = PUBLISHED[size]
    return OPTConfig(
        vocab_size=50272,
        hidden_size=hidden,
        ffn_dim=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        word_embed_proj_dim=embedding,
        max_position_embeddings=2048,
        do_layer_norm_before=size != "350m",
    )


def build(variant: str = "pre", *, seed: int = 0, **overrides: Any) -> OPTForCausalLM:
    """A random model in float32 whose pre-activations are of order one, with biases and gains."""
    model = OPTForCausalLM(config(variant, **overrides)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "layer_norm.weight" in name:
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith(".bias"):
                parameter.copy_(0.3 * noise)
            elif "embed" in name:
                parameter.copy_(noise)
            else:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
    return model


def write_model(
    model: OPTForCausalLM,
    directory: Path,
    *,
    dtype: torch.dtype = torch.float32,
    prefix: str = "model.",
    shards: int = 1,
) -> None:
    """Write ``model`` as config.json and safetensors, in one file or ``shards`` with an index.

    ``prefix`` is what stands before ``decoder.`` in the names ("model." or "").
    """
    directory.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(directory)
    names = {
        name.replace("model.", prefix, 1): tensor
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight" or not model.config.tie_word_embeddings
    }
    tensors = {name: tensor.detach().to(dtype).contiguous() for name, tensor in names.items()}
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    order = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        held = order[shard::shards]
        save_file({name: tensors[name] for name in held}, directory / file)
        weight_map |= dict.fromkeys(held, file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def make(
    directory: Path,
    variant: str = "pre",
    *,
    dtype: torch.dtype = torch.float32,
    prefix: str = "model.",
    shards: int = 1,
    seed: int = 0,
    **overrides: Any,
) -> OPTForCausalLM:
    """Write a tiny random checkpoint of ``variant``; returns it as a float32 transformers model.

    The weights of the model returned are those on disk: rounded to ``dtype``, then widened.
    ``overrides`` are fields of `OPTConfig` (hidden_size, num_hidden_layers, ...).
    """
    model = build(variant, seed=seed, **overrides).to(dtype).float()
    write_model(model, directory, dtype=dtype, prefix=prefix, shards=shards)
    return model


def pre_activations(model: OPTForCausalLM, ids: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """What fc1 of every layer returns in transformers, float32 [tokens, F], sequences end to end.

    Sequences may differ in length: each is run alone.
    """
    seen: list[list[torch.Tensor]] = [[] for _ in model.model.decoder.layers]
    hooks = [
        layer.fc1.register_forward_hook(lambda _module, _args, out, into=into: into.append(out))
        for layer, into in zip(model.model.decoder.layers, seen, strict=True)
    ]
    try:
        with torch.inference_mode():
            for sequence in ids:
                model.model(input_ids=torch.tensor([list(sequence)]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat([part.reshape(-1, part.shape[-1]) for part in parts]) for parts in seen]


def byte_level_vocabulary(merges: Sequence[tuple[str, str]] = ()) -> dict[str, int]:
    """OPT's four special tokens, the 256 bytes and the results of ``merges``, in this order."""
    tokens = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [left + right for left, right in merges]
    return {token: index for index, token in enumerate(tokens)}


MERGES = (("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("Ġ", "a"), ("in", "g"), ("o", "n"))


def write_tokenizer(directory: Path, *, form: str = "json") -> Tokenizer:
    """Write a byte-level BPE of 267 tokens (ids as OPT's: 0..3 special) and return it.

    ``form`` is "json" (tokenizer.json) or "bpe" (vocab.json and merges.txt). The vocabulary does
    not fit the default `BASE` model: pass ``vocab_size=267`` or more to `make`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = byte_level_vocabulary(MERGES)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if form == "json":
        tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
        tokenizer.save(str(directory / "tokenizer.json"))
    else:
        text = json.dumps(vocabulary, ensure_ascii=False)
        (directory / "vocab.json").write_text(text, encoding="utf-8")
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in MERGES)]
        (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer.encode_special_tokens = True
    return tokenizer
