"""Train the demo model: ``python -m pyneurons.demo.train --out DIR --tokens 20000000``.

A small OPT and its tokenizer are trained on the train split of the demo corpus, on the CPU, from
one seed. The result is an ordinary Hugging Face directory, with ``training.json`` beside the
weights: the loss curve, the data and every setting. A stopped run goes on with ``--resume``.

This file needs torch, transformers, tokenizers and safetensors, and is not part of the wheel.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pyneurons.demo.corpus import DOMAINS, Split, documents

Ids = npt.NDArray[np.uint16]

SPECIAL_TOKENS: Final = ("<s>", "<pad>", "</s>", "<unk>")
SEPARATOR: Final = 2
# Read by libraries before `main` runs. glibc gives freed blocks of this size back to the system after
# every step and faults them in again in the next; keeping them is worth a fifth of the time. Threads
# that spin while they wait take the other's core when anything else runs: 3 times slower beside one
# other job, on 2 cores.
ENVIRONMENT: Final = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 26),
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
}


@dataclass(frozen=True)
class Settings:
    """Everything that decides what comes out."""

    tokens: int = 18_432_000
    seed: int = 0
    vocabulary: int = 4096
    context: int = 256
    hidden: int = 192
    layers: int = 6
    heads: int = 6
    ffn: int = 768
    batch: int = 16
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-4
    warm_up: int = 150
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.98
    clip: float = 1.0
    # A fire costs (see `penalty`): large models grow sparse by themselves, a run this short needs a
    # push to get as far. In the first layer, which sees little but single tokens, the price rises
    # with the neuron's index by so many octaves, so that one model shows what a price does.
    firing_cost: float = 1e-3
    firing_scale: float = 0.1
    first_layer_cost: float = 3e-3
    first_layer_octaves: float = 7.0
    firing_from: float = 0.05
    firing_full: float = 0.5
    # The first layer's attention decays this fast. Left to itself it grows until hardly a neuron of
    # that layer fires on a token whatever stands before it: after 26M tokens the layer had no token
    # detector with more than one fire.
    first_attention_decay: float = 50.0
    # Positions begin as waves, of 1/2 to `position_waves / 2` periods over the context, and learn
    # slowly: packed text gives a model of this size little use for positions, and random ones, as
    # OPT's own, would be noise in every direction of the residual stream.
    position_waves: int = 8
    position_amplitude: float = 0.2
    position_rate: float = 0.1
    # From this share of the run on positions are louder, once, by this factor, and the cheapest of
    # the first layer's neurons fire freely: a neuron that fires at every third position is the
    # dearest of all, and few were left (12 of 4,608, 43 token detectors).
    release_from: float = 0.6
    position_gain: float = 2.0
    first_layer_free: float = 0.25
    weight_std: float = 0.02
    share_code: float = 0.40
    share_prose: float = 0.30
    share_arithmetic: float = 0.30
    precision: str = "bfloat16"

    def shares(self) -> list[float]:
        """Probability of each domain, in the order of `DOMAINS`."""
        return [self.share_code, self.share_prose, self.share_arithmetic]


# --- tokenizer ------------------------------------------------------------------------------------


def train_tokenizer(directory: Path, vocabulary: int, context: int) -> None:
    """Train the byte-level BPE on the train split and write it as Hugging Face does.

    Parameters
    ----------
    directory : Path
        Gets ``tokenizer.json`` and ``tokenizer_config.json``.
    vocabulary : int
        Number of ids, special tokens and the 256 bytes included.
    context : int
        What the configuration names as the longest sequence.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Arithmetic repeats itself: a sixth of it holds every word that it has.
    texts = [text for domain in DOMAINS[:2] for text in documents(domain, "train")]
    texts += list(documents(DOMAINS[2], "train"))[::6]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "</s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
    }
    _write_json(directory / "tokenizer_config.json", configuration)


def tokenize(directory: Path, split: Split) -> dict[str, list[Ids]]:
    """Return the token ids of every document of a split, per domain."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    # A special token spelled out in a text is text.
    tokenizer.encode_special_tokens = True
    ids = {}
    for domain in DOMAINS:
        texts = list(documents(domain, split))
        encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        ids[domain] = [np.array(one.ids, dtype=np.uint16) for one in encoded]
    return ids


# --- batches --------------------------------------------------------------------------------------


def pack(texts: list[Ids], length: int, order: npt.NDArray[np.int64]) -> Ids:
    """Join documents by one separator and cut them into sequences that start with it.

    Parameters
    ----------
    texts : list of ndarray
        Token ids of the documents.
    length : int
        Length of a sequence, the separator in front included.
    order : ndarray
        Indices of the documents in the order in which they are joined.

    Returns
    -------
    ndarray of uint16, shape [sequences, length]
        Whole sequences only; the tail is dropped.
    """
    separator = np.array([SEPARATOR], dtype=np.uint16)
    parts = [part for index in order for part in (texts[index], separator)]
    stream = np.concatenate(parts)
    rows = len(stream) // (length - 1)
    body = stream[: rows * (length - 1)].reshape(rows, length - 1)
    front = np.full((rows, 1), SEPARATOR, dtype=np.uint16)
    return np.concatenate([front, body], axis=1)


class Mixture:
    """Batches whose sequences come from the domains with fixed probabilities.

    Every pass over a domain packs its documents in a new order. A batch depends on the seed and
    on the batches before it alone, so a resumed run draws them again and gets the same.
    """

    def __init__(self, texts: dict[str, list[Ids]], settings: Settings) -> None:
        self._texts = texts
        self._settings = settings
        self._random = np.random.default_rng(settings.seed)
        self._rows: dict[str, Ids] = {}
        self._next = dict.fromkeys(DOMAINS, 0)
        self.passes = dict.fromkeys(DOMAINS, 0)

    def batch(self) -> Ids:
        """Return the next batch, [batch, context]."""
        draws = self._random.choice(
            len(DOMAINS), size=self._settings.batch, p=self._settings.shares()
        )
        return np.stack([self._sequence(DOMAINS[draw]) for draw in draws])

    def _sequence(self, domain: str) -> Ids:
        if domain not in self._rows or self._next[domain] == len(self._rows[domain]):
            texts = self._texts[domain]
            rows = pack(texts, self._settings.context, self._random.permutation(len(texts)))
            self._rows[domain] = rows[self._random.permutation(len(rows))]
            self._next[domain] = 0
            self.passes[domain] += 1
        row: Ids = self._rows[domain][self._next[domain]]
        self._next[domain] += 1
        return row


# --- model ----------------------------------------------------------------------------------------


def build_model(settings: Settings) -> Any:
    """Return an untrained OPTForCausalLM."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(settings.seed)
    config = OPTConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.hidden,
        word_embed_proj_dim=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        ffn_dim=settings.ffn,
        max_position_embeddings=settings.context,
        do_layer_norm_before=True,
        activation_function="relu",
        dropout=0.0,
        attention_dropout=0.0,
        layerdrop=0.0,
        init_std=settings.weight_std,
        tie_word_embeddings=True,
        bos_token_id=SEPARATOR,
        eos_token_id=SEPARATOR,
        pad_token_id=1,
    )
    model = OPTForCausalLM(config)
    positions = model.model.decoder.embed_positions
    waves = settings.position_waves
    phase = torch.arange(settings.context)[:, None] * math.pi / settings.context
    phase = phase * torch.arange(1, waves + 1)
    with torch.no_grad():
        positions.weight.zero_()
        positions.weight[positions.offset :, :waves] = settings.position_amplitude * phase.sin()
        positions.weight[positions.offset :, waves : 2 * waves] = (
            settings.position_amplitude * phase.cos()
        )
    return model


def parameter_groups(model: Any, settings: Settings) -> list[dict[str, Any]]:
    """Return what AdamW is given: gains, biases and embeddings are not decayed."""
    first_attention, matrices, positions, others = [], [], [], []
    for name, parameter in model.named_parameters():
        if "embed_positions" in name:
            positions.append(parameter)
        elif parameter.ndim != 2 or "embed" in name:
            others.append(parameter)
        elif ".layers.0.self_attn.v_proj" in name or ".layers.0.self_attn.out_proj" in name:
            first_attention.append(parameter)
        else:
            matrices.append(parameter)
    return [
        {"params": matrices, "weight_decay": settings.weight_decay, "rate": 1.0},
        {"params": first_attention, "weight_decay": settings.first_attention_decay, "rate": 1.0},
        {"params": positions, "weight_decay": 0.0, "rate": settings.position_rate},
        {"params": others, "weight_decay": 0.0, "rate": 1.0},
    ]


def mean_loss(model: Any, ids: Any, precision: str) -> Any:
    """Return the mean loss of the next token over a batch of sequences."""
    import torch

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, :-1])
    return torch.nn.functional.cross_entropy(
        logits.float().reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1)
    )


def collect_activations(model: Any) -> list[Any]:
    """Return a list to which every forward pass in training appends each layer's activations."""
    activations: list[Any] = []

    def collect(module: Any, _inputs: Any, output: Any) -> None:
        if module.training:
            activations.append(output)

    for layer in model.model.decoder.layers:
        layer.activation_fn = type(layer.activation_fn)()  # a module of its own for each layer
        layer.activation_fn.register_forward_hook(collect)
    return activations


def held_out_losses(
    model: Any, texts: dict[str, list[Ids]], settings: Settings, sequences: int = 64
) -> dict[str, float]:
    """Return the loss per domain on documents that are not trained on."""
    import torch

    losses = {}
    model.eval()
    with torch.no_grad():
        for domain, ids in texts.items():
            rows = pack(ids, settings.context, np.arange(len(ids)))
            rows = rows[:: max(1, len(rows) // sequences)][:sequences].astype(np.int64)
            parts = [
                mean_loss(model, torch.from_numpy(part), settings.precision).item()
                for part in np.array_split(rows, max(1, len(rows) // settings.batch))
            ]
            losses[domain] = round(sum(parts) / len(parts), 4)
    model.train()
    return losses


def learning_rate(step: int, steps: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine down to the final rate."""
    if step < settings.warm_up:
        return settings.learning_rate * (step + 1) / settings.warm_up
    share = (step - settings.warm_up) / max(1, steps - settings.warm_up)
    low, high = settings.final_learning_rate, settings.learning_rate
    return low + 0.5 * (high - low) * (1 + math.cos(math.pi * share))


def prices(progress: float, settings: Settings) -> list[Any]:
    """Return what a fire of each neuron costs at this share of the run, one tensor per layer."""
    import torch

    full = (progress - settings.firing_from) / (settings.firing_full - settings.firing_from)
    full = min(1.0, max(0.0, full))
    first = settings.first_layer_cost * torch.logspace(
        0, settings.first_layer_octaves, settings.ffn, base=2.0
    )
    if progress >= settings.release_from:
        first[: int(settings.first_layer_free * settings.ffn)] = 0
    above = torch.full((settings.ffn,), settings.firing_cost)
    return [full * price for price in (first, *[above] * (settings.layers - 1))]


def penalty(activations: list[Any], progress: float, settings: Settings) -> Any:
    """Return what the activations of one batch cost, a mean over its tokens.

    ``price * scale * log(1 + activation / scale)`` asks for fewer fires and hardly for weaker ones;
    a plain sum makes activations smaller and leaves the weak ones that blur what a neuron fires on.

    Parameters
    ----------
    activations : list of Tensor
        What the ReLU of each layer gave, [batch, context, ffn].
    progress : float
        Share of the run that is done, 0 to 1.
    settings : Settings
        The weights.

    Returns
    -------
    Tensor
        A scalar to be added to the loss.
    """
    import torch

    tokens = activations[0].numel() // settings.ffn
    scale = settings.firing_scale
    costs = [
        (price * torch.log1p(one.float() / scale)).sum()
        for price, one in zip(prices(progress, settings), activations, strict=True)
    ]
    return scale * sum(costs) / tokens


def export(model: Any, directory: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` in float16, the tied head once.

    Parameters
    ----------
    model : OPTForCausalLM
        The model in float32.
    directory : Path
        Where to.
    """
    import torch
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    partial = directory / "model.safetensors.partial"
    save_file(tensors, str(partial), metadata={"format": "pt"})
    partial.replace(directory / "model.safetensors")
    config = model.config.to_dict() | {"dtype": "float16", "architectures": ["OPTForCausalLM"]}
    for key in ("torch_dtype", "_name_or_path", "transformers_version"):
        config.pop(key, None)
    _write_json(directory / "config.json", dict(sorted(config.items())))


# --- the run --------------------------------------------------------------------------------------


def train(out: Path, settings: Settings, threads: int, minutes: float, resume: bool) -> None:
    """Train the tokenizer and the model and write both, with ``training.json``.

    Parameters
    ----------
    out : Path
        The model's directory. Its folder ``checkpoint`` holds the state of the run.
    settings : Settings
        Everything that decides what comes out.
    threads : int
        CPU threads.
    minutes : float
        Time between checkpoints.
    resume : bool
        Go on from the last checkpoint of this directory, if it has one.
    """
    import torch
    import transformers

    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    state_path = out / "checkpoint" / "state.pt"
    state_path.parent.mkdir(exist_ok=True)
    resumed = resume and state_path.exists()
    if not resumed:
        train_tokenizer(out, settings.vocabulary, settings.context)
    train_ids, held_out_ids = tokenize(out, "train"), tokenize(out, "held_out")
    data = {
        domain: {
            split: {"documents": len(ids[domain]), "tokens": int(sum(map(len, ids[domain])))}
            for split, ids in (("train", train_ids), ("held_out", held_out_ids))
        }
        for domain in DOMAINS
    }
    print("data", json.dumps(data), flush=True)

    model = build_model(settings)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        fused=True,
    )
    per_step = settings.batch * settings.context
    steps = math.ceil(settings.tokens / per_step)
    log: dict[str, Any] = {"train": [], "held_out": [], "seconds": 0.0, "step": 0}
    if resumed:
        state = torch.load(state_path, weights_only=False)
        if state["settings"] != asdict(settings):
            message = f"{state_path} was written with other settings: {state['settings']}"
            raise ValueError(message)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        log = state["log"]
    mixture = Mixture(train_ids, settings)
    for _ in range(log["step"]):
        mixture.batch()

    def save() -> None:
        partial = state_path.with_suffix(".partial")
        state = {
            "settings": asdict(settings),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "log": log,
        }
        torch.save(state, partial)
        partial.replace(state_path)
        export(model, out)
        seconds = log["seconds"]
        _write_json(
            out / "training.json",
            {
                "tokens": log["step"] * per_step,
                "steps": log["step"],
                "finished": log["step"] == steps,
                "seconds": round(seconds, 1),
                "tokens_per_second": round(log["step"] * per_step / max(seconds, 1e-9), 1),
                "parameters": sum(p.numel() for p in model.parameters()),
                "settings": asdict(settings),
                "threads": threads,
                "source": "the standard library of CPython, its documentation topics, and "
                "generated arithmetic; see pyneurons/demo/corpus.py",
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "machine": platform.machine(),
                "data": data,
                "passes": mixture.passes,
                "loss": log["train"],
                "held_out_loss": log["held_out"],
            },
        )

    def evaluate() -> None:
        losses = held_out_losses(model, held_out_ids, settings)
        row = {"step": log["step"], "tokens": log["step"] * per_step, **losses}
        log["held_out"].append(row)
        print("held out", json.dumps(row), flush=True)

    activations = collect_activations(model)
    model.train()
    if not log["held_out"]:
        evaluate()
    began, saved, running = time.monotonic(), time.monotonic(), []
    before, tokens_before = log["seconds"], log["step"] * per_step
    next_evaluation = (log["step"] * per_step // 1_000_000 + 1) * 1_000_000
    for step in range(log["step"], steps):
        if step == math.ceil(settings.release_from * steps):
            with torch.no_grad():
                model.model.decoder.embed_positions.weight.mul_(settings.position_gain)
        ids = torch.from_numpy(mixture.batch().astype(np.int64))
        rate = learning_rate(step, steps, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        activations.clear()
        loss = mean_loss(model, ids, settings.precision)
        cost = penalty(activations, step / steps, settings)
        (loss + cost).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        running.append((loss.item(), cost.item()))
        log["step"] = step + 1
        tokens = log["step"] * per_step
        log["seconds"] = before + time.monotonic() - began
        if log["step"] % 40 == 0 or log["step"] == steps:
            mean, costs = (
                round(sum(column) / len(running), 4) for column in zip(*running, strict=True)
            )
            running = []
            log["train"].append(
                {"step": log["step"], "tokens": tokens, "loss": mean, "penalty": costs}
            )
            speed = (tokens - tokens_before) / (time.monotonic() - began)
            print(
                f"step {log['step']}/{steps}  tokens {tokens:,}  loss {mean:.4f}  penalty {costs:.4f}  lr {rate:.2e}  "
                f"{speed:,.0f} tokens/s",
                flush=True,
            )
        if tokens >= next_evaluation or log["step"] == steps:
            evaluate()
            next_evaluation += 1_000_000
        if time.monotonic() - saved > 60 * minutes or log["step"] == steps:
            save()
            saved = time.monotonic()


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        prog="python -m pyneurons.demo.train", description="Train the demo model on the CPU."
    )
    parser.add_argument("--out", type=Path, required=True, help="the model's directory")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=3.0, help="between checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args(arguments))
    run = {key: options.pop(key) for key in ("out", "threads", "minutes", "resume")}
    if arguments is None and any(os.environ.get(k) != value for k, value in ENVIRONMENT.items()):
        command = [sys.executable, "-m", "pyneurons.demo.train", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **ENVIRONMENT})
    train(run["out"], Settings(**options), run["threads"], run["minutes"], run["resume"])


if __name__ == "__main__":
    main()
