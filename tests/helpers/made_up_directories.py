"""Run directories of any size without a model: random counters that do not contradict each other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import made_up_runs
from pyneurons import Scan, result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCRIPT = "<script>alert(1)</script>"
OTHERS = (SCRIPT, "<b>", "</script>", "&amp;", '"', "'", "\\", "\u2028", "=1+1")
Rows = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """How much of everything."""

    layers: int = 3
    neurons: int = 300
    context: int = 160
    sequences: int = 64  # of each domain, all of them full
    vocabulary: int = 500
    domains: tuple[str, ...] = ("code", "prose")
    name: str = "made up"
    distinct: int = 8  # layers that differ; the others repeat them
    listed: int = 8  # n-grams of a neuron and n
    contexts: int = 8
    seed: int = 0

    def strings(self) -> list[str | None]:
        known = [*OTHERS, *made_up_runs.WORDS]
        words = [f" w{i}" if i % 3 else f"w{i}" for i in range(self.vocabulary)]
        words[4 : 4 + len(known)] = known
        return ["<s>", "<pad>", "</s>", "<unk>", *words[4:-1], None]


OF_125M = Shape(layers=12, neurons=3072, context=2048, vocabulary=50272, sequences=50, name="125m")
OF_66B = Shape(
    layers=64, neurons=36864, context=256, vocabulary=50272, sequences=50, name="66b", distinct=2
)  # fmt: skip


def write(directory: Path, shape: Shape = Shape()) -> Scan:
    """Write a run of this shape, and return it."""
    directory.mkdir(parents=True)
    corpus = _Corpus(shape)
    layers = [_layer(shape, corpus, number) for number in range(min(shape.distinct, shape.layers))]
    kept: list[tuple[int, dict[str, Rows]]] = []
    for layer in range(shape.layers):
        counts, tables = layers[layer % len(layers)]
        result.write_counts(directory / result.counts_file(layer), counts)
        kept.append((layer, tables))
    for name in result.LAYER_TABLES:
        result.write_table(directory / f"{name}.parquet", _of_layers(kept, name))
    result.write_arrays(directory / "corpus.safetensors", corpus.arrays())
    strings = shape.strings()
    tokens = {
        "id": np.arange(shape.vocabulary, dtype=np.int32),
        "string": np.array(strings, dtype=object),
        "count": np.bincount(corpus.ids, minlength=shape.vocabulary),
    }
    result.write_table(directory / "tokens.parquet", [result.table(tokens)])
    text = json.dumps(_manifest(shape, corpus))
    (directory / "manifest.json").write_text(text, encoding="utf-8")
    scan = Scan(result.Run.open(directory))
    rows = scan.neuron_table()
    width = shape.neurons
    result.write_table(
        directory / "neurons.parquet",
        (rows.slice(layer * width, width) for layer in range(shape.layers)),
    )
    return Scan(result.Run.open(directory))


def _of_layers(kept: list[tuple[int, dict[str, Rows]]], name: str) -> Iterator[result.Table]:
    for layer, tables in kept:
        rows = tables[name]
        own = np.full(len(rows["neuron"]), layer, dtype=np.int32)
        yield result.table({"layer": own, **rows})


class _Corpus:
    def __init__(self, shape: Shape) -> None:
        rng = np.random.default_rng([shape.seed, 1])
        number = shape.sequences * len(shape.domains)
        ids = 4 + (rng.random((number, shape.context)) ** 3 * (shape.vocabulary - 5)).astype(int)
        ids[:, 0] = 2
        self.shape, self.ids = shape, ids.reshape(-1)
        self.domain = np.repeat(np.arange(len(shape.domains), dtype=np.int32), shape.sequences)
        self.starts = np.arange(number + 1, dtype=np.int64) * shape.context

    def arrays(self) -> dict[str, np.ndarray]:
        out = {
            "ids": self.ids.astype(np.uint16),
            "starts": self.starts,
            "sequence_domain": self.domain,
        }
        inner = self.ids.reshape(-1, self.shape.context)[:, 1:].astype(np.int64)
        for n in (1, 2, 3):
            width = inner.shape[1] - n + 1
            keys = sum(inner[:, i : i + width] << (17 * i) for i in range(n))
            occurrences, number = np.unique(
                np.unique(keys, return_counts=True)[1], return_counts=True
            )
            out[f"spectrum_{n}_occurrences"], out[f"spectrum_{n}_number"] = occurrences, number
        return out


def _layer(
    shape: Shape, corpus: _Corpus, number: int
) -> tuple[dict[str, np.ndarray], dict[str, Rows]]:
    rng = np.random.default_rng([shape.seed, 2, number])
    F, T, D = shape.neurons, shape.context, len(shape.domains)
    rates = rng.beta(0.4, 6, F)
    dead = rng.random(F) < 0.3
    rates[dead] = 0
    curves = np.empty((D, T, F), dtype=np.uint16)
    waves = ~dead & (rng.random(F) < 0.02)
    swing = (np.sin(8 * np.pi * np.arange(T) / T) > 0)[:, None]
    for d in range(D):
        for first in range(0, T, 128):
            part = np.broadcast_to(rates, (min(128, T - first), F)).copy()
            part[:, waves] = swing[first : first + 128]
            curves[d, first : first + 128] = rng.binomial(shape.sequences, part)
    by_position = curves.sum(axis=0, dtype=np.int64)
    fires = by_position.sum(axis=0)
    z_sup = np.where(fires == 0, rng.normal(2, 1.5, F), np.abs(rng.normal(6, 1, F)) + 1)
    margin = np.full(F, 0.05)
    counts = {
        "fires": fires,
        "bos_fires": by_position[0],
        "separator_fires": np.zeros(F, dtype=np.int64),
        "domain_fires": curves.sum(axis=1, dtype=np.int64),
        "position_fires": curves,
        "first_fire": np.where(fires > 0, rng.integers(0, 100, F), -1),
        "z_max": np.where(fires > 0, rng.gamma(2, 0.2, F), -rng.gamma(2, 0.2, F)).astype(
            np.float32
        ),
        "z_sup": z_sup,
        "z_inf": -np.abs(rng.normal(6, 2, F)) - 1,
        "margin": margin,
        "provably_dead": z_sup + margin <= 0,
        "provably_on": np.zeros(F, dtype=np.bool_),
    }
    of = np.where(rng.random(F) < 0.03, rng.integers(1, 4, F), 0)  # n of a detector, or 0
    parts = []
    for n in (1, 2, 3):
        total = by_position[n:].sum(axis=0)
        counts[f"ngram_fires_{n}"] = total
        rows, covering = _ngrams(rng, shape, total, n, np.flatnonzero((of == n) & (total > 40)))
        counts[f"coverage_{n}"] = covering
        parts.append(rows)
    ngrams = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    tables = {
        "ngrams": ngrams,
        "suppression": _suppression(rng, shape, ngrams),
        "vocabulary": _vocabulary(rng, shape),
        "examples": _examples(rng, shape, corpus, np.flatnonzero(fires)),
    }
    return counts, tables


def _ngrams(
    rng: np.random.Generator, shape: Shape, total: np.ndarray, n: int, detecting: np.ndarray
) -> tuple[Rows, np.ndarray]:
    """N-grams of every neuron: those of a detector hold all of its fires, the others few."""
    least = 6 if n == 1 else 51
    covering = np.where(total > 0, rng.integers(least, 5000, total.size), 0)
    others = np.setdiff1d(np.flatnonzero(total), detecting)
    k = shape.listed
    shares = 1 / np.arange(2, k + 2) ** 2
    fires = np.maximum((total[others, None] * shares / 2).astype(np.int64), 0)
    neuron, rank = np.repeat(others, k), np.tile(np.arange(k), others.size)
    fires = fires.reshape(-1)
    keep = fires > 0
    neuron, rank, fires = neuron[keep], rank[keep], fires[keep]
    occurrences = fires + rng.integers(0, 40, fires.size)
    complete = np.zeros(fires.size, dtype=np.bool_)
    own = [(f, r) for f in detecting for r in range(1 + f % 4)]
    own_fires = [
        total[f] // (1 + f % 4) + (total[f] % (1 + f % 4) if r == 0 else 0) for f, r in own
    ]
    covering[detecting] = 1 + detecting % 4
    rows = {
        "neuron": np.concatenate([neuron, [f for f, _ in own]]).astype(np.int32),
        "rank": np.concatenate([rank, [r for _, r in own]]).astype(np.int32),
        "fires": np.concatenate([fires, own_fires]).astype(np.int64),
        "occurrences": np.concatenate([occurrences, own_fires]).astype(np.int64),
        "complete": np.concatenate([complete, np.ones(len(own), dtype=np.bool_)]),
    }
    size = rows["neuron"].size
    for i in range(3):
        drawn = 4 + (rng.random(size) ** 2 * (shape.vocabulary - 5)).astype(np.int32)
        if i == 0 and own:
            drawn[-len(own) :] = 4 + np.arange(len(own)) % 20
        rows[f"t{i}"] = drawn if i < n else np.full(size, -1, dtype=np.int32)
    rows["n"] = np.full(size, n, dtype=np.int8)
    rows["covered"] = 20 * rows["fires"] >= 19 * rows["occurrences"]
    order = np.lexsort((rows["rank"], rows["neuron"]))
    names = ("neuron", "n", "t0", "t1", "t2", "fires", "occurrences", "rank", "covered", "complete")
    return {name: rows[name][order] for name in names}, covering


def _suppression(rng: np.random.Generator, shape: Shape, ngrams: Rows) -> Rows:
    at = np.flatnonzero(ngrams["complete"])
    n, size = ngrams["n"][at], at.size
    last = np.select([n == 1, n == 2], [ngrams["t0"][at], ngrams["t1"][at]], ngrams["t2"][at])
    rows: Rows = {
        "neuron": ngrams["neuron"][at],
        "n": n.astype(np.int32),
        "token": last.astype(np.int32),
        "score": rng.normal(-0.1, 0.2, size).astype(np.float32),
        "centred": rng.normal(-0.1, 0.2, size).astype(np.float32),
        "rank": rng.integers(0, shape.vocabulary - 1, size).astype(np.int32),
    }
    for who, number in (("random", 1000), ("matched", 40)):
        rows[f"{who}_tokens"] = np.full(size, number, dtype=np.int32)
        for end in ("", "_centred"):
            rows[f"{who}_mean{end}"] = rng.normal(0, 0.1, size).astype(np.float32)
            rows[f"{who}_negative{end}"] = rng.integers(0, number, size).astype(np.int32)
    return rows


def _vocabulary(rng: np.random.Generator, shape: Shape) -> Rows:
    rows: Rows = {"neuron": np.arange(shape.neurons, dtype=np.int32)}
    for name, sign in (("promoted", 1), ("suppressed", -1)):
        drawn = rng.integers(4, shape.vocabulary - 1, (shape.neurons, 10))
        rows[name] = drawn.astype(np.int32)
        scores = np.sort(np.abs(rng.normal(0, 0.3, (shape.neurons, 10))), axis=1)[:, ::-1]
        rows[f"{name}_scores"] = (sign * scores).astype(np.float32)
    rows["mean_score"] = rng.normal(0, 0.01, shape.neurons).astype(np.float32)
    return rows


def _examples(rng: np.random.Generator, shape: Shape, corpus: _Corpus, alive: np.ndarray) -> Rows:
    neuron = np.repeat(alive, shape.contexts)
    sequence = rng.integers(0, corpus.domain.size, neuron.size)
    position = rng.integers(0, shape.context, neuron.size)
    row = sequence * shape.context + position
    return {
        "neuron": neuron.astype(np.int32),
        "row": row,
        "sequence": sequence,
        "position": position.astype(np.int32),
        "token": corpus.ids[row].astype(np.int32),
        "domain": corpus.domain[sequence],
    }


def _manifest(shape: Shape, corpus: _Corpus) -> dict[str, Any]:
    each = shape.sequences * shape.context
    number = corpus.domain.size
    return {
        "format": result.FORMAT,
        "pyneurons": "0",
        "layers": list(range(shape.layers)),
        "model": {
            "name": shape.name,
            "given": shape.name,
            "directory": None,
            "fingerprint": "",
            "dtype": "float16",
            "n_layers": shape.layers,
            "hidden_size": shape.neurons // 4,
            "ffn_dim": shape.neurons,
            "vocab_size": shape.vocabulary,
            "max_position_embeddings": shape.context,
            "do_layer_norm_before": True,
        },
        "corpus": {
            "sources": [],
            "packing": "pack",
            "attention_crosses_documents": True,
            "context": shape.context,
            "vocab_size": shape.vocabulary,
            "boundary_id": 2,
            "domains": list(shape.domains),
            "domain_tokens": dict.fromkeys(shape.domains, each),
            "tokens": corpus.ids.size,
            "corpus_tokens": corpus.ids.size - number,
            "bos": number,
            "separators": 0,
            "sequences": number,
            "full_sequences": number,
            "left_out": {},
        },
        "settings": {
            "context": shape.context,
            "packing": "pack",
            "ngrams": [1, 2, 3],
            "list_limit": 200,
            "projection": "dot",
            "flip_sample": 0,
            "keep_bits": False,
            "shuffle_seed": None,
            "max_tokens": corpus.ids.size,
        },
        "numeric": {"mode": "float32", "residual": "float32", "flips": None},
        "plan": {"predicted_peak_bytes": 1, "residual": "memory", "mask": "memory"},
        "timing": {"total_s": 1.0, "tokens_per_s": 1.0, "peak_resident_bytes": 1},
    }
