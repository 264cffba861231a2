"""One layer's counters: checked against each other, then written to the run directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyneurons.conservation import broken_laws
from pyneurons.errors import IntegrityError
from pyneurons.observers import suppression, vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from concurrent.futures import Executor

    import torch

    from pyneurons.corpus import Corpus
    from pyneurons.corpus.ngram_index import KeptIndex
    from pyneurons.model.source import WeightSource
    from pyneurons.observers.ngram import NgramCounts
    from pyneurons.observers.unembedding import Unembedding
    from pyneurons.run_writer import RunWriter

COVERING_LIMITS = {1: 5}
COVERING_LIMIT = 50

Updates = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


def check(
    layer: int,
    arrays: Mapping[str, np.ndarray],
    ngrams: Mapping[int, NgramCounts],
    tokens: int,
) -> None:
    """Stop the run when the counters of a layer contradict each other.

    Raises
    ------
    IntegrityError
        Names the layer, the first neuron and the statement that does not hold.
    """
    histograms = {n: ((c.offsets, c.count, c.number), c.ngram_fires) for n, c in ngrams.items()}
    for statement, wrong in broken_laws(arrays, histograms, tokens).items():
        neuron = int(np.argwhere(wrong)[0][-1])
        message = f"layer {layer}, neuron {neuron}: the counters contradict the statement "
        message += f"'{statement}' ({int(wrong.sum())} cases); this is a fault of the program"
        raise IntegrityError(message)


@dataclass(frozen=True)
class Recorder:
    """Writes what the observers found of one layer."""

    checkpoint: WeightSource
    corpus: Corpus
    writer: RunWriter
    orders: tuple[int, ...]
    unembedding: Unembedding
    baselines: suppression.Baselines

    def write(
        self,
        layer: int,
        arrays: Mapping[str, np.ndarray],
        ngrams: Mapping[int, NgramCounts],
        updates: Updates,
    ) -> None:
        """Write counters, lists, examples and vocabulary scores of one layer."""
        stored = dict(arrays)
        write_examples(self.writer, self.corpus, layer, stored.pop("examples"))
        for counts in ngrams.values():
            stored |= ngram_arrays(counts)
            write_ngrams(self.writer, self.orders, layer, counts)
        for name, columns in zip(("vocabulary", "suppression"), updates, strict=True):
            self.writer.append(name, of_layer(layer, columns), layer)
        self.writer.write_layer(layer, stored)

    def updates(
        self,
        layer: int,
        ngrams: Mapping[int, NgramCounts],
        pool: Executor,
        fc2: torch.Tensor | None = None,
    ) -> Updates:
        """Project the layer's updates; score the triggers of every possible detector.

        ``fc2`` is the layer's weight [D, F] on the device of the unembedding; without it, it is read
        again.
        """
        if fc2 is None:
            # Read again rather than kept since the forward pass: 1/3 of a layer of memory.
            fc2 = self.checkpoint.read_fc2(layer).to(self.unembedding.rows.device)
        return (
            vocabulary.extremes(fc2, self.unembedding, pool),
            trigger_scores(fc2, ngrams, self.unembedding, self.baselines, pool),
        )


def of_layer(layer: int, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return columns with that of the layer in front."""
    size = next(iter(columns.values())).shape[0]
    return {"layer": np.full(size, layer, dtype=np.int32), **columns}


def trigger_scores(
    fc2: torch.Tensor,
    ngrams: Mapping[int, NgramCounts],
    unembedding: Unembedding,
    baselines: suppression.Baselines,
    pool: Executor,
) -> dict[str, np.ndarray]:
    """Score the triggers of every possible detector in its update.

    Possible: a covering number between 1 and K, whatever the covered n-grams hold.
    """
    none = np.zeros(0, dtype=np.int64)
    found: dict[str, list[np.ndarray]] = {"neuron": [none], "n": [none], "token": [none]}
    for n, counts in ngrams.items():
        limit = COVERING_LIMITS.get(n, COVERING_LIMIT)
        candidate = (counts.coverage >= 1) & (counts.coverage <= limit)
        rows = counts.rows
        keep = rows["covered"] & candidate[rows["neuron"]]
        found["neuron"].append(rows["neuron"][keep])
        found["n"].append(np.full(np.count_nonzero(keep), n))
        found["token"].append(rows["tokens"][keep, -1])
    triggers = {name: np.concatenate(columns) for name, columns in found.items()}
    return suppression.suppression(fc2, unembedding, triggers, baselines, pool)


def corpus_arrays(corpus: Corpus, indices: Iterable[KeptIndex]) -> dict[str, np.ndarray]:
    """Return what ``corpus.safetensors`` holds."""
    arrays = {
        "ids": np.asarray(corpus.ids),
        "starts": corpus.starts,
        "sequence_domain": corpus.sequence_domain,
    }
    for index in indices:
        occurrences, number = index.spectrum
        arrays[f"spectrum_{index.n}_occurrences"] = occurrences
        arrays[f"spectrum_{index.n}_number"] = number
    return arrays


def ngram_arrays(counts: NgramCounts) -> dict[str, np.ndarray]:
    """Return the arrays of one layer and one n."""
    n = counts.n
    return {
        f"ngram_fires_{n}": counts.ngram_fires,
        f"coverage_{n}": counts.coverage,
        f"histogram_{n}_offsets": counts.offsets,
        f"histogram_{n}_count": counts.count,
        f"histogram_{n}_number": counts.number,
    }


def write_examples(writer: RunWriter, corpus: Corpus, layer: int, examples: np.ndarray) -> None:
    """Write the rows [16, F] at which the neurons of a layer fire, with where they are."""
    neuron, place = np.nonzero(examples.T >= 0)
    rows = examples.T[neuron, place]
    sequence = np.searchsorted(corpus.starts, rows, side="right") - 1
    columns = {
        "layer": np.full(rows.size, layer, dtype=np.int32),
        "neuron": neuron.astype(np.int32),
        "row": rows,
        "sequence": sequence,
        "position": (rows - corpus.starts[sequence]).astype(np.int32),
        "token": np.asarray(corpus.ids[rows]).astype(np.int32),
        "domain": corpus.sequence_domain[sequence].astype(np.int32),
    }
    writer.append("examples", columns, layer)


def write_ngrams(
    writer: RunWriter, orders: tuple[int, ...], layer: int, counts: NgramCounts
) -> None:
    """Write the listed n-grams of a layer; ``fires_most`` is there in merged runs."""
    rows = counts.rows
    size = rows["neuron"].size
    columns: dict[str, np.ndarray] = {
        "layer": np.full(size, layer, dtype=np.int32),
        "neuron": rows["neuron"],
        "n": np.full(size, counts.n, dtype=np.int8),
    }
    for i in range(max(3, *orders)):
        absent = np.full(size, -1, dtype=np.int32)
        columns[f"t{i}"] = rows["tokens"][:, i].astype(np.int32) if i < counts.n else absent
    for name in ("fires", "occurrences", "rank", "covered", "complete", "fires_most"):
        if name in rows:
            columns[name] = rows[name]
    writer.append("ngrams", columns, layer)


def write_tokens(writer: RunWriter, corpus: Corpus) -> None:
    """Write the table of all token ids."""
    counts, strings = corpus.token_counts, corpus.strings
    known = list(strings[: counts.size]) + [None] * (counts.size - len(strings))
    ids = np.arange(counts.size, dtype=np.int32)
    writer.append("tokens", {"id": ids, "string": known, "count": counts})
