"""Whether neurons push their own triggers out of the residual stream: scores, beside baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyneurons import _core
from pyneurons.observers.unembedding import NEURON_BLOCK

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor

    from pyneurons.corpus import Corpus
    from pyneurons.observers.unembedding import Unembedding

RANDOM_TOKENS = 1000
MATCHED_TOKENS = 40
SEED = 20230909

# More than are compared, because triggers are left out; few neurons have triggers that fill 3/4
# of a text, and then fewer than 1,000 remain, which `random_tokens` tells.
_DRAWN_TOKENS = 4 * RANDOM_TOKENS
_GROUPS = 32


@dataclass(frozen=True)
class Baselines:
    """Tokens that a detector's triggers are compared with (fixed seed).

    Tokens are columns, counted among the allowed ids: those with a tokenizer entry.
    """

    column_of: np.ndarray  # int32 [V], of each id, -1 for ids that are not allowed
    drawn: np.ndarray  # int32, at random rows of the corpus that hold no boundary
    by_count: np.ndarray  # int32 [V'], in order of corpus count, ties in a fixed random order
    place: np.ndarray  # int32 [V'], of each token in by_count
    count: np.ndarray  # int64 [V'], in the corpus

    @classmethod
    def of(cls, corpus: Corpus, allowed: np.ndarray) -> Baselines:
        """Draw from a corpus: see `build`."""
        return cls.build(corpus.ids, corpus.token_counts, allowed, corpus.boundary_id)

    @classmethod
    def build(
        cls, ids: np.ndarray, token_counts: np.ndarray, allowed: np.ndarray, boundary_id: int
    ) -> Baselines:
        """Draw the random tokens and sort the allowed ids, which ascend."""
        generator = np.random.default_rng(SEED)
        drawn: list[int] = []
        # Rejection instead of an index of all countable rows, which would cost 8 bytes a row.
        for _ in range(64):
            tokens = np.asarray(ids[generator.integers(0, ids.size, size=RANDOM_TOKENS)])
            drawn.extend(tokens[tokens != boundary_id].tolist())
            if len(drawn) >= _DRAWN_TOKENS:
                break
        column_of = np.full(token_counts.size, -1, dtype=np.int32)
        column_of[allowed] = np.arange(allowed.size)
        columns = column_of[np.array(drawn[:_DRAWN_TOKENS], dtype=np.int64)]
        count = token_counts[allowed].astype(np.int64)
        by_count = generator.permutation(allowed.size).astype(np.int32)
        by_count = by_count[np.argsort(count[by_count], kind="stable")]
        place = np.empty_like(by_count)
        place[by_count] = np.arange(allowed.size)
        return cls(column_of, columns[columns >= 0], by_count, place, count)


COLUMNS: dict[str, type] = {
    "neuron": np.int32,
    "n": np.int32,
    "token": np.int32,
    "score": np.float32,
    "centred": np.float32,
    "rank": np.int32,
    "random_tokens": np.int32,
    "random_mean": np.float32,
    "random_negative": np.int32,
    "random_mean_centred": np.float32,
    "random_negative_centred": np.int32,
    "matched_tokens": np.int32,
    "matched_mean": np.float32,
    "matched_negative": np.int32,
    "matched_mean_centred": np.float32,
    "matched_negative_centred": np.int32,
}


def suppression(
    fc2_weight: torch.Tensor,
    unembedding: Unembedding,
    triggers: Mapping[str, np.ndarray],
    baselines: Baselines,
    pool: Executor,
) -> dict[str, np.ndarray]:
    """Score the triggers of possible detectors in their own updates, beside other tokens.

    score(n, v) = <fc2[:, n], E[v]>; the centred score is score minus its mean over the vocabulary.

    Parameters
    ----------
    fc2_weight : Tensor [D, F]
        On the device of ``unembedding``: scores are computed there, and compared on the host.
    unembedding, baselines
        Rows without a tokenizer entry are in neither.
    triggers : dict of arrays of one length
        ``neuron``, ``n``, ``token``: the last token of a covered n-gram of a possible detector.
        In any order; a token that comes again counts once.
    pool : Executor
        Neurons run on it; results do not depend on its size.

    Returns
    -------
    dict
        `COLUMNS`, one entry per (neuron, n, trigger), in this order: see
        `pyneurons.analysis.suppression`.

    Notes
    -----
    Cost: `Unembedding.scores` for each neuron with triggers, and `_core.trigger_baselines`; memory:
    `pyneurons.observers.vocabulary.projection_bytes`, or on a device of its own
    `pyneurons.observers.vocabulary_device.projection_bytes` and 256 rows of scores on the host.
    """
    neuron, n, token, column = _distinct(triggers, baselines.column_of)
    group, offsets = _runs(neuron, n)
    detectors = np.unique(neuron)
    of_group = np.searchsorted(detectors, neuron[offsets[:-1]])
    score = np.empty(column.size, dtype=np.float32)
    rank = np.empty(column.size, dtype=np.int32)
    mean = np.empty(detectors.size)
    random, matched = _Totals.empty(of_group.size), _Totals.empty(column.size)
    buffer = torch.empty(min(NEURON_BLOCK, detectors.size), unembedding.ids.size)
    there = buffer if unembedding.threaded else torch.empty_like(buffer, device=fc2_weight.device)
    for start in range(0, detectors.size, NEURON_BLOCK):
        some = detectors[start : start + NEURON_BLOCK]
        chosen = torch.from_numpy(some).to(fc2_weight.device)
        directions = unembedding.directions(fc2_weight[:, chosen].T)
        unembedding.scores(directions, there[: some.size], pool)
        if there is not buffer:
            buffer[: some.size].copy_(there[: some.size])
        held = buffer[: some.size].numpy()
        mean[start : start + some.size] = unembedding.means(directions).cpu().numpy()

        def compare(first: int, stop: int, start: int = start, scores: np.ndarray = held) -> None:
            begin, end = offsets[first], offsets[stop]
            row = of_group[first:stop] - start
            score[begin:end] = scores[row[group[begin:end] - first], column[begin:end]]
            _core.trigger_baselines(
                scores,
                mean[start : start + len(scores)],
                (row, offsets[first : stop + 1] - begin, column[begin:end]),
                (baselines.drawn, baselines.by_count, baselines.place, baselines.count),
                RANDOM_TOKENS,
                MATCHED_TOKENS,
                rank[begin:end],
                random.of(slice(first, stop)),
                matched.of(slice(begin, end)),
            )

        first, last = np.searchsorted(of_group, [start, start + some.size])
        starts = range(first, last, _GROUPS)
        list(pool.map(compare, starts, [min(last, begin + _GROUPS) for begin in starts]))
    mean = mean[of_group]
    found: dict[str, Any] = {
        "neuron": neuron,
        "n": n,
        "token": token,
        "score": score,
        "centred": score.astype(np.float64) - mean[group],
        "rank": rank,
        **{name: values[group] for name, values in random.columns("random", mean).items()},
        **matched.columns("matched", mean[group]),
    }
    return {name: found[name].astype(dtype) for name, dtype in COLUMNS.items()}


def _distinct(
    triggers: Mapping[str, np.ndarray], column_of: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return neuron, n, token and column of the triggers that have a column, sorted, each once."""
    neuron, n, token = (triggers[name].astype(np.int64) for name in ("neuron", "n", "token"))
    column = column_of[token]
    order = np.lexsort((column, n, neuron))
    order = order[column[order] >= 0]
    neuron, n, token, column = neuron[order], n[order], token[order], column[order]
    new = np.ones(order.size, dtype=np.bool_)
    new[1:] = (np.diff(neuron) != 0) | (np.diff(n) != 0) | (np.diff(column) != 0)
    return neuron[new], n[new], token[new], column[new]


def _runs(neuron: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which group each trigger is in, those of one (neuron, n), and their bounds."""
    new = np.flatnonzero((np.diff(neuron) != 0) | (np.diff(n) != 0)) + 1
    offsets = np.concatenate([[0], new, [neuron.size]] if neuron.size else [[0]]).astype(np.int64)
    return np.repeat(np.arange(offsets.size - 1), np.diff(offsets)), offsets


@dataclass(frozen=True)
class _Totals:
    """Scores of baseline tokens, summed up: see `_core.trigger_baselines`."""

    sum: np.ndarray  # float64
    counts: np.ndarray  # int32 [, 3] tokens, negative, negative when centred

    @classmethod
    def empty(cls, size: int) -> _Totals:
        return cls(np.empty(size), np.empty((size, 3), dtype=np.int32))

    def of(self, part: slice) -> tuple[np.ndarray, np.ndarray]:
        return self.sum[part], self.counts[part]

    def columns(self, name: str, mean: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of one baseline; ``mean`` is that of all scores of each row."""
        tokens, negative, negative_centred = self.counts.T
        with np.errstate(invalid="ignore"):  # no others, no mean
            average = self.sum / tokens
        return {
            f"{name}_tokens": tokens,
            f"{name}_mean": average,
            f"{name}_negative": negative,
            f"{name}_mean_centred": average - mean,
            f"{name}_negative_centred": negative_centred,
        }
