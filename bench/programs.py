"""What users run today, on transformers: the forward pass alone, counting hooks, n-gram statistics.

Each takes rows of token ids [sequences, context] of one checkpoint, and does its work in the plain
way: a forward hook behind every fc1, tensors of torch and arrays of NumPy.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import OPTForCausalLM

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BATCH_TOKENS = 2048
"""Short sequences go together, as many as make one long one."""


class Program:
    """transformers' OPT without its head, in one dtype; nothing is hooked."""

    def __init__(self, directory: Path | str, dtype: torch.dtype) -> None:
        self.model = OPTForCausalLM.from_pretrained(directory, dtype=dtype).eval()
        self.layers = self.model.model.decoder.layers

    def run(self, rows: np.ndarray) -> None:
        """Run the decoder on every row."""
        together = max(1, BATCH_TOKENS // rows.shape[1])
        with torch.inference_mode():
            for start in range(0, len(rows), together):
                ids = torch.from_numpy(rows[start : start + together]).long()
                self.model.model(input_ids=ids, use_cache=False)


class CountingHooks(Program):
    """Counts z > 0 behind every fc1, and nothing else.

    ``as_float`` adds float32 instead of bool, which torch does three times as fast; exact, for
    batches are far below 2**24 rows.
    """

    def __init__(
        self, directory: Path | str, dtype: torch.dtype, *, as_float: bool = False
    ) -> None:
        super().__init__(directory, dtype)
        self.as_float = as_float
        self.counts = [torch.zeros(layer.fc1.out_features).long() for layer in self.layers]
        for i, layer in enumerate(self.layers):
            layer.fc1.register_forward_hook(self._counter(i))

    def _counter(self, layer: int) -> Callable[..., None]:
        def count(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            fires = (output > 0).reshape(-1, output.shape[-1])
            self.counts[layer] += (fires.float() if self.as_float else fires).sum(dim=0).long()

        return count

    def fires(self, rows: np.ndarray) -> np.ndarray:
        """Return how often each neuron fires on these rows alone, [L, F]."""
        for counts in self.counts:
            counts.zero_()
        self.run(rows)
        return np.stack([counts.numpy().copy() for counts in self.counts])


class LargestPreactivations(Program):
    """Keeps the largest z of every neuron."""

    def __init__(self, directory: Path | str, dtype: torch.dtype) -> None:
        super().__init__(directory, dtype)
        self.largest: dict[int, torch.Tensor] = {}
        for i, layer in enumerate(self.layers):
            layer.fc1.register_forward_hook(self._keeper(i))

    def _keeper(self, layer: int) -> Callable[..., None]:
        def keep(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            here = output.reshape(-1, output.shape[-1]).amax(dim=0)
            self.largest[layer] = torch.maximum(self.largest.get(layer, here), here)

        return keep

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return the largest z on these rows, [L, F]."""
        self.largest.clear()
        self.run(rows)
        return torch.stack([self.largest[i] for i in range(len(self.layers))]).numpy()


class NgramHooks(Program):
    """Exact n-gram statistics as one would write them: count (neuron, n-gram) pairs.

    A hook lists where z > 0. For every n, each of these fires is a pair of its neuron and the
    n-gram that ends at its position; `np.unique` counts the pairs of a batch, and in the end those
    of all batches. Then, for every neuron: the histogram of counts and the covering number.
    ``statistics_s`` is the time that all this takes beside the forward pass.
    """

    def __init__(self, directory: Path | str, dtype: torch.dtype, orders: tuple[int, ...]) -> None:
        super().__init__(directory, dtype)
        self.orders = orders
        self.statistics_s = 0.0
        self._grams: dict[int, np.ndarray] = {}
        self._pairs: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)
        self._row = 0
        for i, layer in enumerate(self.layers):
            layer.fc1.register_forward_hook(self._counter(i))

    def run(self, rows: np.ndarray) -> None:
        """Run the decoder; the answers of these rows replace older ones."""
        self.statistics_s = 0.0
        began = time.perf_counter()
        self._grams = {n: ngrams_of(rows, n) for n in self.orders}
        self._pairs.clear()
        self._row = 0
        self.statistics_s += time.perf_counter() - began
        super().run(rows)
        began = time.perf_counter()
        neurons = self.layers[0].fc1.out_features
        self.answers = {
            (layer, n): covering(pairs, neurons) for (layer, n), pairs in self._pairs.items()
        }
        self.statistics_s += time.perf_counter() - began

    def _counter(self, layer: int) -> Callable[..., None]:
        def count(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            began = time.perf_counter()
            fires = (output > 0).reshape(-1, output.shape[-1])
            row, neuron = fires.nonzero().numpy().T
            for n in self.orders:
                self._pairs[layer, n].append(
                    pairs_of(self._grams[n][self._row + row], neuron, fires.shape[1])
                )
            if layer + 1 == len(self.layers):
                self._row += len(fires)
            self.statistics_s += time.perf_counter() - began

        return count


def ngrams_of(rows: np.ndarray, n: int) -> np.ndarray:
    """Return which n-gram ends at each position, flat; -1 where one would hold the BOS."""
    sequences, context = rows.shape
    windows = np.lib.stride_tricks.sliding_window_view(rows[:, 1:], n, axis=1).reshape(-1, n)
    _, which = np.unique(windows, axis=0, return_inverse=True)
    grams = np.full((sequences, context), -1, dtype=np.int64)
    grams[:, n:] = which.reshape(sequences, context - n)
    return grams.reshape(-1)


def pairs_of(gram: np.ndarray, neuron: np.ndarray, neurons: int) -> np.ndarray:
    """Return the (n-gram, neuron) pairs of fires and how often each comes, [2, k]."""
    keep = gram >= 0
    return np.stack(np.unique(gram[keep] * neurons + neuron[keep], return_counts=True))


def covering(pairs: list[np.ndarray], neurons: int) -> dict[str, np.ndarray]:
    """Add up the pairs of all batches; return what they say of every neuron.

    ``fires`` [F], ``covering`` [F]: the least number of n-grams that hold 95 % of them; and the
    histogram of counts as rows (neuron, count, number of n-grams).
    """
    keys, counts = np.concatenate(pairs, axis=1)
    keys, place = np.unique(keys, return_inverse=True)
    total = np.zeros(keys.size, dtype=np.int64)
    np.add.at(total, place, counts)
    neuron = keys % neurons
    order = np.lexsort((-total, neuron))
    neuron, total = neuron[order], total[order]
    fires = np.bincount(neuron, weights=total, minlength=neurons).astype(np.int64)
    first = np.searchsorted(neuron, np.arange(neurons))
    so_far = np.cumsum(total)
    before = np.concatenate([[0], so_far])[first]
    enough = 20 * (so_far - before[neuron]) >= 19 * fires[neuron]
    short = np.bincount(neuron[~enough], minlength=neurons)
    largest = int(total.max(initial=0)) + 1
    cell, number = np.unique(neuron * largest + total, return_counts=True)
    return {
        "fires": fires,
        "covering": np.where(fires > 0, short + 1, 0),
        "histogram": np.stack([cell // largest, cell % largest, number], axis=1),
    }
