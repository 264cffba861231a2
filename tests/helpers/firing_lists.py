"""Random tokens and firing neurons, and their n-gram statistics counted one by one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np


def made_up(
    rng: np.random.Generator, rows: int = 400, neurons: int = 24, vocabulary: int = 30
) -> tuple[list[int], np.ndarray]:
    """Return tokens with a long-tailed distribution, and bits [rows, neurons].

    A third of the neurons fire on a few tokens, with some misses and some stray fires; a third on
    a few pairs of tokens; the others at random rates, and the last never.
    """
    weights = 1.0 / np.arange(1, vocabulary + 1)
    tokens = rng.choice(vocabulary, size=rows, p=weights / weights.sum())
    bits = np.zeros((rows, neurons), dtype=bool)
    for f in range(neurons - 1):
        own = rng.choice(vocabulary, size=int(rng.integers(1, 8)), replace=False)
        if f % 3 == 0:
            bits[:, f] = np.isin(tokens, own)
        elif f % 3 == 1:
            after = np.isin(tokens, own)
            bits[1:, f] = after[1:] & np.isin(tokens[:-1], own)
        else:
            bits[:, f] = rng.random(rows) < rng.choice([0.005, 0.05, 0.5])
        if f % 2 and f % 3 < 2:
            bits[:, f] &= rng.random(rows) < 0.97
            bits[:, f] |= rng.random(rows) < 0.003
    return tokens.tolist(), bits


def count(tokens: list[int], bits: np.ndarray, n: int, layer: int = 0) -> dict[str, Any]:
    """Return the complete lists of every neuron, as the columns of a run's table."""
    ends = range(n - 1, len(tokens))
    grams = {row: tuple(tokens[row - n + 1 : row + 1]) for row in ends}
    occurrences = Counter(grams.values())
    identity = {gram: g for g, gram in enumerate(sorted(occurrences))}
    columns: dict[str, list[int]] = {
        name: [] for name in ("layer", "neuron", "fires", "occurrences", "rank", "complete")
    }
    columns |= {f"t{j}": [] for j in range(n)}
    for f in range(bits.shape[1]):
        held = Counter(gram for row, gram in grams.items() if bits[row, f])
        for gram, fires in held.items():
            values = (layer, f, fires, occurrences[gram], identity[gram], 1, *gram)
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
    table: dict[str, Any] = {name: np.array(column, int) for name, column in columns.items()}
    table["complete"] = table["complete"].astype(bool)
    return table


def totals(table: dict[str, Any], neurons: int) -> np.ndarray:
    """Return A_n [neurons]."""
    return np.bincount(table["neuron"], weights=table["fires"], minlength=neurons).astype(np.int64)


def histograms(table: dict[str, Any], neurons: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (offsets, count, number): how many n-grams of a neuron have which count."""
    offsets, counts, numbers = [0], [], []
    for f in range(neurons):
        seen = Counter(table["fires"][table["neuron"] == f].tolist())
        for value in sorted(seen):
            counts.append(value)
            numbers.append(seen[value])
        offsets.append(len(counts))
    return np.array(offsets, int), np.array(counts, int), np.array(numbers, int)


def spectrum(tokens: list[int], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (occurrences, number): how many n-grams occur how often."""
    grams = Counter(tuple(tokens[row - n + 1 : row + 1]) for row in range(n - 1, len(tokens)))
    seen = Counter(grams.values())
    return np.array(sorted(seen), int), np.array([seen[m] for m in sorted(seen)], int)
