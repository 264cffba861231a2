"""Runs made up for the figures: curves, detectors and dead neurons of known number."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyneurons.analysis import ensemble, positional
from pyneurons.analysis.detectors import ExpectedDetectors

WORDS = [
    " import", " the", "\n", "\n\n", " $", "_x", "é", "日本", "\u200b", " return", " ==", "\tdef",
    "'s", " and", " of", "ation", " 1", "0", "{", "}}", " —", "\x07", "🙂", "א", "%", "&amp;",
]  # fmt: skip


@dataclass
class MadeUp:
    """A run as `pyneurons.report` reads it, with as much of everything as asked for."""

    name: str = "made up"
    n_model_layers: int = 12
    neurons: int = 768
    hidden_size: int = 192
    context: int = 512
    full_sequences: int = 400
    ngrams: tuple[int, ...] = (1, 2, 3)
    seed: int = 0
    most_dead: float = 0.4
    most_detectors: int = 30
    positional_counts: dict[str, int] = field(
        default_factory=lambda: {"oscillatory": 12, "both": 8, "one": 9, "other": 4}
    )
    layers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.layers = self.layers or list(range(self.n_model_layers))
        rng = np.random.default_rng(self.seed)
        shape = (len(self.layers), self.neurons)
        depth = np.array(self.layers)[:, None] / self.n_model_layers
        self.dead = rng.random(shape) < self.most_dead * np.exp(-(((depth - 0.2) / 0.15) ** 2))
        self.frequency = rng.beta(0.4, 6, shape) * (0.3 + depth) * ~self.dead
        spread = 10 ** (rng.normal(1.2 + 3 * depth, 1.0, shape))
        self._covering = np.clip(spread, 0, 3e5).astype(np.int64) * ~self.dead
        self._curves: dict[int, np.ndarray] = {}
        self._tables: dict[Any, Any] = {}

    @property
    def manifest(self) -> dict[str, Any]:
        model = {
            "n_layers": self.n_model_layers,
            "hidden_size": self.hidden_size,
            "ffn_dim": self.neurons,
        }
        return {"settings": {"ngrams": list(self.ngrams)}, "model": model}

    def exact(self, n: int) -> np.ndarray:  # noqa: ARG002
        return np.ones(self.dead.shape, dtype=bool)

    def coverage(self, n: int) -> np.ndarray:
        return self._covering * n**2

    def detectors(self, n: int) -> dict[str, Any]:
        if n not in self._tables:
            rng = np.random.default_rng([self.seed, n])
            rows: dict[str, list[Any]] = {
                name: []
                for name in ("layer", "neuron", "ngram_fires", "support", "covered", "strings")
            }
            for layer in self.layers:
                depth = layer / self.n_model_layers
                number = int(self.most_detectors * np.exp(-(((depth - 0.25) / 0.15) ** 2)))
                for neuron in np.sort(rng.choice(self.neurons, number, replace=False)):
                    size = int(rng.integers(1, 5))
                    grams = (rng.random((size, n)) ** 3 * 2000).astype(int).tolist()
                    fires = int(10 ** rng.uniform(0, 4))
                    rows["layer"].append(layer)
                    rows["neuron"].append(int(neuron))
                    rows["ngram_fires"].append(fires)
                    rows["support"].append(fires if fires > 10 else 0)
                    rows["covered"].append(grams)
                    rows["strings"].append(
                        ["".join(WORDS[t % len(WORDS)] for t in gram) for gram in grams]
                    )
            exact = np.ones(len(rows["layer"]), dtype=bool)
            self._tables[n] = {"exact": exact} | {
                name: column if name in ("covered", "strings") else np.array(column, int)
                for name, column in rows.items()
            }
        return self._tables[n]

    def detected(self, n: int) -> dict[str, Any]:
        return ensemble.detected(self.detectors(n), self.layers)

    def expected_detectors(self, n: int) -> ExpectedDetectors:
        every = (
            np.linspace(4, 1, len(self.layers)) * n
            if self.most_detectors
            else self.dead.sum(1) * 0.0
        )
        return ExpectedDetectors(every, every / 9, every * 0, every * 0, 1.0, 1.0, 0.0, 0.0, 1)

    def position_fires(self, layer: int) -> np.ndarray:
        if layer not in self._curves:
            rng = np.random.default_rng([self.seed, layer])
            rates = np.repeat(rng.beta(0.4, 6, (self.neurons, 1)), self.context, axis=1)
            u = np.arange(self.context) / self.context
            f = 0
            scale = np.exp(-3 * layer / self.n_model_layers)
            for kind, most in self.positional_counts.items():
                for i in range(round(most * scale)):
                    high, low = (1.0, 0.0) if i % 3 else (0.9, 0.04)
                    wave = np.sin(2 * np.pi * (4.4 * u + i / max(round(most * scale), 1)))
                    shape = {
                        "oscillatory": np.clip(3 * wave - 1.4 + i % 3, 0, 1),
                        "both": np.clip((u - 0.1 - 0.06 * i) * 6, 0, 1),
                        "one": 0.6 * np.clip((u - 0.1 * (i % 8)) * 4, 0, 1),
                        "other": 0.12 + 0.75 * u,
                    }[kind]
                    rates[f] = low + (high - low) * shape
                    f += 1
            rates[: self.neurons // 2, 0] = 1
            self._curves[layer] = rng.binomial(self.full_sequences, rates)
        return self._curves[layer]

    def positional(self) -> dict[str, Any]:
        if "positional" not in self._tables:
            parts = [
                positional.positional(layer, self.position_fires(layer), self.full_sequences)
                for layer in self.layers
            ]
            self._tables["positional"] = {
                name: np.concatenate([part[name] for part in parts]) for name in parts[0]
            }
        return self._tables["positional"]

    def vocabulary(
        self, layer: int, neuron: int
    ) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
        rng = np.random.default_rng([layer, neuron])
        order = rng.permutation(len(WORDS))
        scores = np.sort(np.abs(rng.normal(0, 1, 20)))[::-1]
        return (
            [(WORDS[t], float(s)) for t, s in zip(order[:10], scores, strict=False)],
            [(WORDS[t], -float(s)) for t, s in zip(order[10:20], scores, strict=False)],
        )
